"""A store whose service is away: its worker serves the name, says so, and works as soon as the service is there."""

import time
from pathlib import Path

import pytest
from configurations import FILES, configuration

import asm
from asm.linked import start_link

PATIENCE = 30.0

REMOTE = 'store = "misbehaving:Remote"\nservice = "{}"'
ANYTHING = asm.Session.new(agent_id="a")


@pytest.fixture
def service(tmp_path):
    """The file that stands for a service."""
    return tmp_path / "service"


@pytest.fixture
def waiting(trees, service):
    """A tree whose session store is away."""
    return trees(configuration(REMOTE.format(service))).wait_ready()


def refused(store):
    """How a call to the session store is refused."""
    with pytest.raises(asm.Error) as caught:
        store.save_session(ANYTHING)
    return caught.value


def test_a_tree_comes_up_without_it_and_heals(waiting, service):
    waiting.wait_for("degraded: dev.sessions waits for its store: the service is out")
    assert waiting.child_status("dev.sessions").state == "waiting"
    shown = waiting.ctl("status")
    assert (shown.returncode, "dev: degraded" in shown.stdout) == (1, True)
    assert "dev.sessions waits for its store: the service is out" in shown.stdout
    with waiting.connect() as store:
        for _ in range(2):
            error = refused(store)
            assert (error.code, error.details["reason"], error.retryable) == ("storage_error", "backend_waiting", True)
            assert (error.details["backend"], error.details["operation"]) == ("dev.sessions", "save_session")
            assert "the service is out" in error.message
        store.put("k", b"the other store is there")
        with waiting.connect("dev.sessions") as directly:
            assert refused(directly).details["reason"] == "backend_waiting"
            with pytest.raises(asm.Error, match="has no operation") as caught:
                directly.put("k", b"")
            assert caught.value.code == "capability_not_supported"
        service.write_text("")
        waiting.wait_state("dev.sessions", "ready")
        store.save_session(ANYTHING)
        assert store.get_session(ANYTHING.id) == ANYTHING
    assert waiting.ctl("status").returncode == 0
    assert waiting.child_status("dev.sessions").restarts == 0


def test_a_worker_that_is_killed_while_it_waits_waits_again(waiting, service):
    waiting.child("dev.sessions").kill()
    waiting.wait_child("dev.sessions", lambda child: child.restarts == 1 and child.state == "waiting")
    service.write_text("")
    waiting.wait_state("dev.sessions", "ready")
    assert waiting.stop() == 0


def test_a_tree_that_waits_can_be_stopped(waiting):
    assert waiting.stop() == 0
    assert list(waiting.runtime_dir.iterdir()) == []


def test_a_service_that_comes_back_and_is_wrong_is_a_failure(trees, service):
    tree = trees(configuration(REMOTE.format(service), supervisor="max_restarts = 0")).wait_ready()
    service.write_text("the password is not accepted")
    failed = tree.wait_state("dev.sessions", "failed")
    assert "the password is not accepted" in failed.reason
    deadline = time.monotonic() + PATIENCE
    with tree.connect() as store:
        while (reason := refused(store).details["reason"]) != "backend_failed":  # the composite has not looked yet
            assert (reason, time.monotonic() < deadline) == ("backend_restarting", True)


def test_a_service_that_goes_away_and_comes_back_costs_no_restart(trees, service):
    service.write_text("")
    tree = trees(configuration(REMOTE.format(service))).wait_ready()
    assert tree.status().state == "ready"
    pid = tree.child("dev.sessions").pid
    service.unlink()
    with tree.connect() as store, pytest.raises(asm.Error, match="the service is out"):
        store.get_latest_sequence("s")
    child = tree.wait_state("dev.sessions", "waiting")
    assert child.reason == "waits for its store: the service is out"
    tree.wait_child("dev.sessions", lambda child: child.health == "the service is out")
    service.write_text("")
    tree.wait_status(lambda status: status.state == "ready")
    assert tree.child("dev.sessions").pid == pid


def test_a_store_that_fails_makes_the_tree_degraded_until_the_same_goes_well(trees, tmp_path):
    full = tmp_path / "full"
    full.touch()
    tree = trees(configuration(f'store = "misbehaving:Full"\nfull = "{full}"')).wait_ready()
    with tree.connect() as store:
        assert refused(store).code == "storage_write_failed"
        tree.wait_child("dev.sessions", lambda child: child.health == "there is no room")
        shown = tree.ctl("status")
        assert (shown.returncode, "dev.sessions is not well: there is no room" in shown.stdout) == (1, True)
        full.unlink()
        store.save_session(ANYTHING)
        tree.wait_status(lambda status: status.state == "ready")


def test_one_that_runs_in_the_composite_is_waited_for_too(trees, service):
    config = f"""
        [supervisor]
        name = "dev"
        [[backend]]
        name = "dev.artifacts"
        {FILES}
        [composite]
        name = "MyApp.Store"
        session_store = {{ store = "misbehaving:Remote", service = "{service}" }}
        artifact_store = "dev.artifacts"
    """
    tree = trees(config).wait_ready()
    assert tree.child_status("MyApp.Store").state == "waiting"
    with tree.connect() as store:
        assert refused(store).details["reason"] == "backend_waiting"
        store.put("k", b"")
        service.write_text("")
        tree.wait_state("MyApp.Store", "ready")
        store.save_session(ANYTHING)


def test_a_linked_store_is_not_waited_for(tmp_path, runtime_dir, monkeypatch):
    """Nobody would look after it: whoever starts it is told."""
    asm.InMemorySessionStore.start_link(runtime_dir=runtime_dir).close()
    monkeypatch.syspath_prepend(Path(__file__).parent / "stores")  # where the fork server that there is now did not look
    with pytest.raises(asm.Error, match="the service is out") as caught:
        start_link("misbehaving:Remote", {"service": str(tmp_path / "none")}, runtime_dir=runtime_dir)
    assert caught.value.code == "storage_connection_failed"
