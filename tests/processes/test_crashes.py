"""What callers see when a process of the tree dies, and what comes back by itself."""

import asyncio
import contextlib
import signal
import time

import psutil
import pytest
from configurations import MEMORY, configuration

import asm

PATIENCE = 30.0


def eventually(operation):
    """Repeat a call as its callers would, for as long as the error says that repeating may help."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return operation()
        except asm.Error as error:
            if not error.retryable or time.monotonic() > deadline:
                raise


def pids(tree, *names):
    return [tree.child(name).pid for name in names]


def event(session_id, content=""):
    return asm.Event.new(type="message_sent", session_id=session_id, data={"content": content})


def test_eight_puts_in_flight_are_told_that_the_artifact_worker_was_killed(tree):
    others = pids(tree, "MyApp.Store", "dev.sessions")
    worker = tree.child("dev.artifacts")
    session = asm.Session.new(agent_id="a")

    async def scenario():
        async with tree.aconnect() as store:
            await store.put("key", b"before")
            await store.save_session(session)
            worker.suspend()
            puts = [asyncio.create_task(store.put("key", b"during")) for _ in range(8)]
            # The composite takes the frames of a connection in order: when this is answered, it has passed on the puts.
            assert await store.get_session(session.id) == session
            worker.kill()
            outcomes = await asyncio.gather(*puts, return_exceptions=True)
            assert await store.get_session(session.id) == session
            return outcomes

    for outcome in asyncio.run(scenario()):
        assert isinstance(outcome, asm.StorageError)
        assert (outcome.code, outcome.retryable) == ("storage_error", True)
        assert outcome.details == {"reason": "backend_exited", "backend": "dev.artifacts", "operation": "put"}
    with tree.connect() as store:
        eventually(lambda: store.put("key", b"after"))
        assert store.get("key") == b"after"
    assert pids(tree, "MyApp.Store", "dev.sessions") == others
    assert tree.child("dev.artifacts").pid != worker.pid


def test_sessions_answer_while_the_artifact_worker_is_stopped(tree):
    worker = tree.child("dev.artifacts")
    worker.suspend()
    with tree.connect() as store, tree.connect(timeout=0.2) as impatient:
        with pytest.raises(asm.Error) as caught:
            impatient.put("another key", b"")  # it may happen yet, after what is put later
        assert caught.value.code == "timeout"
        for number in range(1, 21):
            assert store.append_event_with_sequence(event("ses_1")).sequence_number == number
        worker.resume()
        store.put("key", b"late")
        assert store.get("key") == b"late"


def test_the_session_worker_is_killed_and_nothing_acknowledged_is_lost(tree):
    others = pids(tree, "MyApp.Store", "dev.artifacts")
    with tree.connect() as store:
        for number in range(1, 11):
            eventually(lambda number=number: store.append_event(event("ses_1", str(number))))
            if number % 3 == 0:
                tree.child("dev.sessions").kill()
                store.put("meanwhile", b"artifacts notice nothing")
        stored = eventually(lambda: store.get_events("ses_1"))
    assert [item.data["content"] for item in stored] == [str(number) for number in range(1, 11)]
    assert [item.sequence_number for item in stored] == list(range(1, 11))
    assert pids(tree, "MyApp.Store", "dev.artifacts") == others


def test_while_a_backend_is_away_its_calls_are_refused_at_once(trees):
    config = configuration(MEMORY, supervisor="max_restarts = 1000")
    tree = trees(config).wait_ready()
    supervisor = psutil.Process(tree.process.pid)
    supervisor.suspend()  # so that nobody restarts the worker
    with tree.connect() as store:
        tree.child("dev.artifacts").kill()
        reasons = set()
        while "backend_restarting" not in reasons:
            with pytest.raises(asm.StorageError) as caught:
                store.get("key")
            reasons.add(caught.value.details["reason"])
            assert caught.value.details["backend"] == "dev.artifacts"
            assert caught.value.details["operation"] == "get"
        assert reasons <= {"backend_exited", "backend_restarting"}
        assert store.get_latest_sequence("ses_1") == 0
        supervisor.resume()
        eventually(lambda: store.put("key", b"back"))


def test_the_composite_is_killed_and_clients_reconnect_by_themselves(tree):
    others = pids(tree, "dev.sessions", "dev.artifacts")
    with tree.connect() as store:
        store.append_event(event("ses_1"))
        tree.child("MyApp.Store").kill()
        eventually(lambda: store.append_event(event("ses_1")))
        assert store.get_latest_sequence("ses_1") == 2
    assert pids(tree, "dev.sessions", "dev.artifacts") == others


def test_a_call_in_flight_in_a_killed_composite_raises_and_the_next_one_reconnects(tree):
    async def scenario():
        async with tree.aconnect() as store:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000))
            assert await store.get_latest_sequence("ses_1") == 0
            tree.child("MyApp.Store").kill()
            with pytest.raises(asm.Error) as caught:
                await waiting
            assert (caught.value.code, caught.value.retryable) == ("storage_connection_failed", True)
            return await store.get_latest_sequence("ses_1")

    assert asyncio.run(scenario()) == 0


@pytest.mark.parametrize("name", ["dev.sessions", "dev.artifacts", "MyApp.Store"])
def test_any_child_may_be_killed_again_and_again(tree, name):
    with tree.connect() as store:
        for round_ in range(4):
            before = tree.child(name)
            before.kill()
            eventually(lambda: store.append_event(event("ses_1")))
            eventually(lambda round_=round_: store.put("key", str(round_).encode()))
            assert store.get("key") == str(round_).encode()
            assert not before.is_running()
        assert store.get_latest_sequence("ses_1") == 4
    assert tree.stop() == 0


def test_with_too_many_restarts_the_tree_gives_up(trees):
    tree = trees(
        """
        [supervisor]
        name = "dev"
        max_restarts = 1
        [[backend]]
        name = "s"
        store = "memory"
        [[backend]]
        name = "a"
        store = "file"
        root = "artifacts"
        on_failure = "shutdown"
        [composite]
        name = "C"
        session_store = "s"
        artifact_store = "a"
        """
    ).wait_ready()
    left = tree.processes()
    with tree.connect("C") as store:
        tree.child("a").kill()
        eventually(lambda: store.put("key", b""))
        tree.child("a").kill()
        assert tree.wait() == 70
    assert any(("restart" in line and "'a'" in line) or "a " in line for line in tree.stderr)
    assert psutil.wait_procs(left, PATIENCE)[1] == []


def test_a_killed_supervisor_leaves_no_process_and_the_next_one_has_all_data(trees):
    config = configuration()
    first = trees(config).wait_ready()
    with first.connect() as store:
        stored = [store.append_event_with_sequence(event("ses_1", str(number))) for number in range(20)]
        store.put("key", b"kept")
        left = first.processes()
        assert len(left) >= 3
        first.signal(signal.SIGKILL)
        first.wait()
        assert psutil.wait_procs(left, PATIENCE)[1] == []

        trees(config).wait_ready()
        assert store.get_events("ses_1") == stored
        assert store.get("key") == b"kept"


def test_a_long_poll_ends_when_its_backend_is_killed(tree):
    async def scenario():
        async with tree.aconnect() as store:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000))
            await store.get_latest_sequence("ses_1")
            tree.child("dev.sessions").kill()
            with pytest.raises(asm.StorageError) as caught:
                await waiting
            return caught.value.details["reason"]

    assert asyncio.run(scenario()) == "backend_exited"


def serving(name, cwd):
    """Every process on the host that serves a name and was started here, whoever its parent is."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] == [f"asm: {name}"] and process.cwd() == str(cwd):
                found.append(process)
    return found


def test_a_killed_fork_server_stops_nothing_and_no_worker_exists_twice(tree, tmp_path):
    names = ["dev.sessions", "dev.artifacts", "MyApp.Store"]
    before = pids(tree, *names)
    known = {*before, tree.process.pid}
    servers = [process for process in tree.processes() if process.pid not in known]
    children = [psutil.Process(pid) for pid in before]
    with tree.connect() as store:
        for server in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                server.kill()
        store.append_event(event("ses_1"))
        children[1].kill()
        eventually(lambda: store.put("key", b"from the next one"))
        assert store.get("key") == b"from the next one"
    assert children[0].is_running()
    assert children[2].is_running()
    assert len(serving("dev.artifacts", tmp_path)) == 1
    assert tree.stop() == 0
