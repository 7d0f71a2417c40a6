"""A supervised tree, as a program of its own: children that hang, what may be asked of it, and what a service manager hears."""

import contextlib
import os
import signal
import socket

import psutil
import pytest
from supervisor_harness import PATIENCE, Tree, ask, wait_gone


def test_a_child_that_makes_no_progress_is_killed_and_restarted(tmp_path):
    specs = [
        {"name": "a", "target": "beat", "heartbeat_timeout": 1.2},
        {"name": "b", "target": "beat", "heartbeat_timeout": 1.2, "kwargs": {"beats": 2}},
    ]
    with Tree(tmp_path, *specs) as tree:
        tree.up()
        assert tree.wait_for(child="b", state="backoff")["reason"] == "made no progress for 1.2 s"
        tree.wait_for(child="b", state="ready")
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert [name for name, state in tree.states() if state == "backoff"].count("a") == 0


def test_a_child_that_is_stopped_is_killed_and_restarted(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "beat", "heartbeat_timeout": 1.2}) as tree:
        pid = tree.up()["a"]
        os.kill(pid, signal.SIGSTOP)
        assert tree.wait_for(child="a", state="backoff")["reason"] == "made no progress for 1.2 s"
        assert not psutil.pid_exists(pid)
        tree.wait_for(child="a", state="ready")


def test_a_child_is_not_expected_to_beat_before_it_is_ready(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "never_ready", "heartbeat_timeout": 0.01, "start_timeout": 0.5}) as tree:
        assert tree.exit()["reason"] == "a was not ready within 0.5 s"


def test_when_everybody_was_frozen_nobody_is_blamed(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "beat", "heartbeat_timeout": 3.0}) as tree:
        pid = tree.up()["a"]
        everybody = [tree.pid, pid]
        for each in everybody:
            os.kill(each, signal.SIGSTOP)
        assert wait_gone(everybody, timeout=3.5) == set(everybody)  # longer than the limit
        os.kill(tree.pid, signal.SIGCONT)
        assert wait_gone([pid], timeout=1.5) == {pid}  # the child wakes up later, by more than an interval
        os.kill(pid, signal.SIGCONT)
        wait_for_a_beat(tree)
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert ("a", "backoff") not in tree.states()


def wait_for_a_beat(tree):
    """Wait until the child of a tree beats once more."""
    numbers = []
    while len(set(numbers)) < 2:
        tree.ask(children=None)
        ((_name, _state, stats, _history),) = tree.wait_for(done="children")["result"]
        numbers.append(stats.get("number"))


def stats(tree):
    """What the only child of a tree said with its last heartbeat, once there was one."""
    while True:
        tree.ask(children=None)
        ((_name, _state, said, _history),) = tree.wait_for(done="children")["result"]
        if said:
            return said


def test_counters_come_with_the_heartbeat_and_a_process_knows_what_it_follows(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "beat", "heartbeat_timeout": 1.2}) as tree:
        pid = tree.up()["a"]
        assert (stats(tree)["restarts"], stats(tree)["recovers"]) == (0, False)
        os.kill(pid, signal.SIGKILL)
        tree.wait_for(child="a", state="ready")
        assert (stats(tree)["restarts"], stats(tree)["recovers"]) == (1, True)
        tree.ask(restart="a")
        tree.wait_for(child="a", state="ready")
        assert (stats(tree)["restarts"], stats(tree)["recovers"]) == (2, False)


def test_a_child_is_restarted_as_asked_and_nobody_else(tmp_path):
    journal = tmp_path / "journal"
    specs = [
        {"name": name, "target": "serve", "listen": str(tmp_path / f"{name}.sock"), "kwargs": {"journal": str(journal)}}
        for name in "ab"
    ]
    with Tree(tmp_path, *specs, max_restarts=0, strategy="one_for_all") as tree:
        pids = tree.up()
        for _ in range(3):  # it counts as no death
            tree.ask(restart="a")
            assert tree.wait_for(child="a", state="backoff")["reason"] == "was stopped to be started again"
            tree.wait_for(child="a", state="ready")
        assert ask(tmp_path / "b.sock") == pids["b"]
        assert ask(tmp_path / "a.sock") != pids["a"]
        tree.ask(restart="c")
        assert tree.wait_for(refused="restart")["error"] == "KeyError"
        tree.ask(stop="somebody asked")
        end = tree.exit()
        assert (end["exit"], end["reason"]) == ("stopped", "somebody asked")
    assert journal.read_text().split("\n")[:2] == ["start a", "start b"]
    assert journal.read_text().count("stop a") == 4  # each time it had time to finish


def test_one_that_waits_for_its_restart_is_restarted_at_once_when_asked(tmp_path):
    spec = {"name": "a", "target": "ready_once", "kwargs": {"marker": str(tmp_path / "m")}}
    with Tree(tmp_path, spec, backoff={"first": 1000, "cap": 1000}) as tree:
        os.kill(tree.up()["a"], signal.SIGKILL)
        tree.wait_for(child="a", state="backoff")  # at once
        tree.wait_for(child="a", state="backoff")  # for a quarter of an hour
        (tmp_path / "m").unlink()
        tree.ask(restart="a")
        tree.wait_for(child="a", state="ready")


def test_a_reload_changes_what_is_described_differently_and_nothing_else(tmp_path):
    def spec(name, **more):
        return {"name": name, "target": "serve", "listen": str(tmp_path / f"{name}.sock"), **more}

    with Tree(tmp_path, spec("a"), spec("b"), spec("c")) as tree:
        pids = tree.up()
        tree.ask(reload=[spec("a"), spec("d"), spec("c", kwargs={"ready": True})])
        result = tree.wait_for(done="reload")["result"]
        assert result == "Reloaded(added=('d',), changed=('c',), adjusted=(), removed=('b',))"
        tree.wait_for(child="b", state="stopped")
        # Who is new comes up and who changed comes back before the one goes that nobody needs any more.
        assert {("d", "ready"), ("c", "ready")} <= set(tree.states()[-6:])
        assert ask(tmp_path / "a.sock") == pids["a"]
        assert ask(tmp_path / "c.sock") != pids["c"]
        tree.ask(children=None)
        assert [child[:2] for child in tree.wait_for(done="children")["result"]] == [[name, "ready"] for name in "adc"]
        assert not list(tmp_path.glob("b.sock*"))
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert [name for name, state in tree.states()[-6:] if state == "stopped"] == ["c", "d", "a"]


OF_THE_PARENT = {
    "description": "another one",
    "restart": "transient",
    "on_failure": "degrade",
    "retry_after": 5.0,
    "start_timeout": 5.0,
    "stop_timeout": 5.0,
    "heartbeat_timeout": 50.0,
}


def test_what_concerns_only_the_parent_and_what_can_be_told_restarts_nobody(tmp_path):
    spec = {"name": "a", "target": "follow_settings", "settings": {"level": 1}, "heartbeat_timeout": 100.0}
    with Tree(tmp_path, spec, {"name": "b", "target": "serve"}) as tree:
        ready = tree.wait_for(ready=...)
        assert ready["info"][0] == {"level": 1}
        for change in ({"settings": {"level": 2}}, *({name: value} for name, value in OF_THE_PARENT.items())):
            spec |= change
            tree.ask(reload=[{"name": "b", "target": "serve"}, spec])  # another order changes nothing, either
            result = tree.wait_for(done="reload")["result"]
            assert result == "Reloaded(added=(), changed=(), adjusted=('a',), removed=())"
            if "settings" in change:  # the child may have been quicker than the answer
                told = [event for event in tree.events if event.get("message") == "told"] or [tree.wait_for(message="told")]
                assert [event["body"] for event in told] == [{"level": 2}]
        assert len(tree.states()) == 4  # both were started, and nothing else
        os.kill(ready["ready"]["a"], signal.SIGKILL)  # the next process begins with them
        tree.wait_for(child="a", state="ready")
        tree.ask(reload=[spec | {"settings": {"level": 3}}])
        assert tree.wait_for(message="told")["body"] == {"level": 3}
        tree.signal(signal.SIGTERM)
        tree.exit()


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_a_child_that_is_being_restarted_when_a_reload_takes_it_out_just_goes(tmp_path, strategy):
    others = [{"name": name, "target": "serve", "listen": str(tmp_path / f"{name}.sock")} for name in "ab"]
    slow = {"name": "x", "target": "block", "listen": str(tmp_path / "x.sock"), "stop_timeout": 1.0}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(str(tmp_path / "notify"))
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Tree(tmp_path, others[0], slow, others[1], strategy=strategy, variables=variables) as tree:
            pids = tree.up()
            tree.ask(restart="x")
            tree.wait_for(child="x", state="stopping")
            tree.ask(reload=others)
            assert tree.wait_for(done="reload")["result"] == "Reloaded(added=(), changed=(), adjusted=(), removed=('x',))"
            while not manager.recv(4096).startswith(b"RELOADING=1"):
                pass
            while manager.recv(4096) != b"READY=1":
                pass
            assert ("x", "stopped") in tree.states() or tree.wait_for(child="x", state="stopped")
            assert [ask(tmp_path / f"{name}.sock") for name in "ab"] == [pids[name] for name in "ab"]
            assert not list(tmp_path.glob("x.sock*"))
            tree.signal(signal.SIGTERM)
            tree.exit()
            assert not {("a", "backoff"), ("b", "backoff")} & set(tree.states())


def test_a_child_that_comes_back_before_it_has_gone_is_started_again(tmp_path):
    slow = {"name": "x", "target": "block", "stop_timeout": 0.5}
    with Tree(tmp_path, {"name": "a", "target": "serve"}, slow) as tree:
        pids = tree.up()
        tree.ask(reload=[{"name": "a", "target": "serve"}])
        tree.wait_for(done="reload")
        tree.ask(reload=[{"name": "a", "target": "serve"}, slow])
        assert tree.wait_for(done="reload")["result"] == "Reloaded(added=(), changed=('x',), adjusted=(), removed=())"
        assert tree.wait_for(child="x", state="ready")["pid"] != pids["x"]
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"name": "a", "target": "serve", "stop_timeout": -1}, "SpecError"),
        ({"name": "a", "target": "serve", "listen": "elsewhere.sock"}, "SpecError"),
        ({"name": "b", "target": "serve", "listen": "taken.sock"}, "ListenError"),
    ],
)
def test_a_bad_reload_changes_nothing(tmp_path, spec, error):
    (tmp_path / "taken.sock").write_text("precious")
    if "listen" in spec:
        spec = {**spec, "listen": str(tmp_path / spec["listen"])}
    good = {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")}
    other = {"name": "z", "target": "serve", "listen": str(tmp_path / "z.sock")}
    with Tree(tmp_path, good) as tree:
        pids = tree.up()
        tree.ask(reload=[other, spec])
        assert tree.wait_for(refused="reload")["error"] == error
        assert ask(tmp_path / "a.sock") == pids["a"]
        assert not list(tmp_path.glob("z.sock*"))
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert tree.states() == [("a", state) for state in ("starting", "ready", "stopping", "stopped")]


def test_one_that_a_reload_adds_and_that_does_not_come_up_ends_nothing(tmp_path):
    good = {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")}
    bad = {"name": "b", "target": "exit_early", "kwargs": {"status": 3}, "on_failure": "degrade"}
    with Tree(tmp_path, good, max_restarts=1, backoff={"first": 0}) as tree:
        pids = tree.up()
        tree.ask(reload=[good, bad])
        tree.wait_for(child="b", state="failed")
        assert ask(tmp_path / "a.sock") == pids["a"]
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


def test_a_hangup_is_told_and_ends_nothing(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "serve"}) as tree:
        tree.up()
        tree.signal(signal.SIGHUP)
        tree.wait_for(hangup=True)
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


def test_a_service_manager_hears_how_the_tree_is(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(str(tmp_path / "manager"))

        def hear(wanted):
            heard = []
            while wanted not in heard:
                heard.append(manager.recv(4096).decode())
            return heard

        variables = {"NOTIFY_SOCKET": str(tmp_path / "manager"), "WATCHDOG_USEC": "200000"}
        with Tree(tmp_path, {"name": "a", "target": "tell_surroundings"}, variables=variables) as tree:
            assert "STATUS=0 of 1 ready: a starting" in hear("READY=1")
            pids = tree.up()
            hear("STATUS=1 of 1 ready")
            for _ in range(3):
                hear("WATCHDOG=1")
            os.kill(pids["a"], signal.SIGKILL)
            hear("STATUS=1 of 1 ready")
            tree.ask(reload=[{"name": "b", "target": "serve"}])
            heard = hear("READY=1")
            assert any(message.startswith("RELOADING=1\nMONOTONIC_USEC=") for message in heard)
            assert "STATUS=1 of 2 ready: a stopping" in heard  # the new one is up, and the old one goes
            hear("STATUS=1 of 1 ready")
            tree.signal(signal.SIGTERM)
            hear("STOPPING=1")
            tree.exit()


def test_who_adopts_orphans_reaps_them(tmp_path):
    spec = {"name": "a", "target": "with_a_grandchild"}
    with Tree(tmp_path, spec, program="supervisor_subreaper.py") as tree:
        ready = tree.wait_for(ready=...)
        child, grandchild = ready["ready"]["a"], ready["info"][0]["grandchild"]
        server = tree.fork_server()
        os.kill(server, signal.SIGKILL)  # its children become ours
        os.kill(child, signal.SIGKILL)
        tree.wait_for(child="a", state="ready")
        for pid in (server, child, grandchild):  # gone from the process table, too
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).wait(PATIENCE)
        while len(tree.children()) > 2:  # the grandchild of the second one ends by itself, too
            assert tree.process.poll() is None
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_one_that_outlives_its_supervisor_against_all_rules_has_no_twin(tmp_path):
    spec = {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")}
    with Tree(tmp_path, spec) as tree:
        pid = tree.up()["a"]
        os.kill(pid, signal.SIGSTOP)  # so it does not see the end of its parent
        tree.signal(signal.SIGKILL)
        with Tree(tmp_path, spec) as second:
            assert second.up()["a"] == ask(tmp_path / "a.sock")
            assert wait_gone([pid], timeout=1) == set()
            second.signal(signal.SIGTERM)
            second.exit()
