"""A supervised tree in which somebody dies: children, the supervisor, the fork server."""

import itertools
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import PATIENCE, Program, Tree, ask, session, wait_gone

METHODS = ("forkserver", "spawn", "fork")


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_child_comes_back_on_the_same_socket(tmp_path, method):
    path = tmp_path / "b.sock"
    specs = [
        {"name": "a", "target": "serve"},
        {"name": "b", "target": "serve", "listen": str(path)},
        {"name": "c", "target": "serve"},
    ]
    with Tree(tmp_path, *specs, start_method=method) as tree, socket.socket(socket.AF_UNIX) as client:
        before = tree.up()
        os.kill(before["b"], signal.SIGSTOP)
        client.settimeout(PATIENCE)
        client.connect(str(path))  # to one who will never accept it
        os.kill(before["b"], signal.SIGKILL)
        assert tree.wait_for(child="b", state="backoff")["reason"] == "was killed by SIGKILL"
        after = tree.wait_for(child="b", state="ready")
        assert after["restarts"] == 1
        assert int(client.recv(100)) == after["pid"] != before["b"]
        assert ask(path) == after["pid"]
        tree.signal(signal.SIGTERM)
        tree.exit()
        # Nobody else was touched.
        assert [name for name, state in tree.states() if state == "starting"] == ["a", "b", "c", "b"]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_exits_is_restarted_too(tmp_path, method):
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method=method) as tree:
        os.kill(tree.up()["a"], signal.SIGTERM)
        assert tree.wait_for(child="a", state="backoff")["reason"] == "exited with status 0"
        tree.wait_for(child="a", state="ready")


def test_the_next_tree_waits_for_the_children_of_a_killed_one(tmp_path):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "block", "listen": str(tmp_path / "b.sock")},  # has two seconds after its parent's end
    ]
    with Tree(tmp_path, *specs) as tree:
        before = set(tree.up().values())
        tree.signal(signal.SIGKILL)
        with Tree(tmp_path, *specs) as second:
            second.wait_for(child="a", state="starting")
            assert wait_gone(before, timeout=0.5) == set()  # nobody is started beside those who still finish
            pids = second.up()
            assert ask(tmp_path / "a.sock") == pids["a"]
            second.signal(signal.SIGTERM)
            second.wait_for(child="b", state="stopping")
            os.kill(pids["b"], signal.SIGKILL)
            second.exit()


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_supervisor_leaves_nobody(tmp_path, method):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "block_linked", "listen": str(tmp_path / "b.sock")},
        {"name": "c", "target": "block", "stop_timeout": 0.5},
    ]
    with Tree(tmp_path, *specs, start_method=method) as tree:
        tree.up()
        everybody = session(tree.pid)
        assert len(everybody) >= 4
        tree.signal(signal.SIGKILL)
        assert wait_gone(everybody, timeout=3) == set()


@pytest.mark.parametrize("method", METHODS)
def test_a_supervisor_killed_during_the_start_leaves_nobody(tmp_path, method):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Tree(tmp_path, {"name": "a", "target": "never_ready", "kwargs": {"fifo": str(fifo)}}, start_method=method) as tree:
        assert int(fifo.read_text()) in session(tree.pid)
        everybody = session(tree.pid)
        tree.signal(signal.SIGKILL)
        assert wait_gone(everybody, timeout=3) == set()


def test_a_killed_fork_server_makes_no_twins(tmp_path):
    specs = [{"name": name, "target": "serve", "listen": str(tmp_path / f"{name}.sock")} for name in "ab"]
    with Tree(tmp_path, *specs) as tree:
        pids = tree.up()
        server = tree.fork_server()
        os.kill(server, signal.SIGKILL)
        assert not wait_gone({server})
        # Its children live, and that is seen: nobody is restarted before somebody dies.
        assert ask(tmp_path / "a.sock") == pids["a"]
        os.kill(pids["b"], signal.SIGKILL)
        assert "exit status is not known" in tree.wait_for(child="b", state="backoff")["reason"]
        second = tree.wait_for(child="b", state="ready")["pid"]
        assert ask(tmp_path / "b.sock") == second
        assert ask(tmp_path / "a.sock") == pids["a"]
        # By the new fork server, which knows how its children end.
        os.kill(second, signal.SIGKILL)
        assert tree.wait_for(child="b", state="backoff")["reason"] == "was killed by SIGKILL"
        tree.wait_for(child="b", state="ready")
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert [name for name, state in tree.states() if state == "starting"] == ["a", "b", "b", "b"]


def test_a_fork_server_that_is_stuck_holds_up_nobody_else(tmp_path):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "serve", "listen": str(tmp_path / "b.sock"), "start_timeout": 1.0},
    ]
    with Tree(tmp_path, *specs) as tree:
        pids = tree.up()
        os.kill(tree.fork_server(), signal.SIGSTOP)
        os.kill(pids["b"], signal.SIGKILL)
        tree.wait_for(child="b", state="starting")
        # The start hangs. When its time is over, the fork server is killed, and a new one starts the child.
        assert tree.wait_for(child="b", state="backoff")["reason"] == "was not ready within 1 s"
        assert ask(tmp_path / "b.sock") == tree.wait_for(child="b", state="ready")["pid"]
        assert ask(tmp_path / "a.sock") == pids["a"]
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_a_tree_stops_although_the_fork_server_is_stuck(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "serve"}, {"name": "b", "target": "serve", "stop_timeout": 0.3}) as tree:
        pids = tree.up()
        os.kill(tree.fork_server(), signal.SIGSTOP)
        os.kill(pids["b"], signal.SIGKILL)
        tree.wait_for(child="b", state="starting")
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


def test_a_child_that_is_stopped_in_the_middle_of_a_message_holds_up_nobody(tmp_path):
    specs = [{"name": "a", "target": "half_a_frame", "stop_timeout": 0.3}, {"name": "b", "target": "serve"}]
    with Tree(tmp_path, *specs) as tree:
        os.kill(tree.up()["b"], signal.SIGKILL)
        tree.wait_for(child="b", state="ready")
        tree.signal(signal.SIGTERM)
        tree.exit()


@pytest.mark.parametrize(
    ("target", "reason"), [("babble", "broke the protocol of the lifeline"), ("become_another", "closed its lifeline")]
)
def test_a_child_that_cannot_be_watched_is_killed_and_restarted(tmp_path, target, reason):
    with Tree(tmp_path, {"name": "a", "target": target}) as tree:
        pid = tree.wait_for(child="a", state="ready")["pid"]
        assert reason in tree.wait_for(child="a", state="backoff")["reason"]
        assert not psutil.pid_exists(pid)
        assert tree.wait_for(child="a", state="ready")["restarts"] == 1


def test_sigterm_during_the_backoff(tmp_path):
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "ready_once", "kwargs": {"marker": str(tmp_path / "m")}}]
    with Tree(tmp_path, *specs, backoff={"first": 1000, "cap": 1000}) as tree:
        os.kill(tree.up()["b"], signal.SIGKILL)
        tree.wait_for(child="b", state="backoff")  # at once
        tree.wait_for(child="b", state="starting")
        tree.wait_for(child="b", state="backoff")  # for a quarter of an hour
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"
        assert tree.states()[-3:] == [("b", "stopped"), ("a", "stopping"), ("a", "stopped")]


def test_a_death_during_the_start_of_another_is_a_restart(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "never_ready", "kwargs": {"fifo": str(fifo)}}]
    with Tree(tmp_path, *specs) as tree:
        first = tree.wait_for(child="a", state="ready")["pid"]
        fifo.read_text()
        os.kill(first, signal.SIGKILL)
        assert tree.wait_for(child="a", state="ready")["pid"] != first


def test_too_many_restarts_end_the_run(tmp_path):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "ready_once", "kwargs": {"marker": str(tmp_path / "m")}},
    ]
    with Tree(tmp_path, *specs, max_restarts=3, max_seconds=1000, backoff={"first": 0.01}) as tree:
        os.kill(tree.up()["b"], signal.SIGKILL)
        end = tree.exit()
        assert (end["exit"], end["child"]) == ("restarts_exceeded", "b")
        assert end["reason"] == (
            "more than 3 restarts within 1000 s: b was killed by SIGKILL; b exited with status 7 before it was ready (3 times)"
        )
        assert tree.states()[-3:] == [("b", "failed"), ("a", "stopping"), ("a", "stopped")]
        assert [state for name, state in tree.states() if name == "b"].count("starting") == 4
    assert list(tmp_path.glob("*.sock*")) == []


def test_restarts_wait_longer_each_time(tmp_path):
    spec = {"name": "b", "target": "ready_once", "kwargs": {"marker": str(tmp_path / "m")}}
    with Tree(tmp_path, spec, max_restarts=3, max_seconds=1000, backoff={"first": 0.2, "jitter": 0, "cap": 10}) as tree:
        os.kill(tree.up()["b"], signal.SIGKILL)
        tree.exit()
        since = [event["since"] for event in tree.events if event.get("state") == "starting"]
        gaps = [later - earlier for earlier, later in itertools.pairwise(since)]
        assert gaps[1] >= 0.2
        assert gaps[2] >= 0.4


def test_a_script_without_a_guard_is_not_run_again_in_children(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import json, os, sys
from pathlib import Path
import supervisor_targets
from asm_supervisor import ChildSpec, Supervisor

with open({str(tmp_path / "runs")!r}, "a") as runs:
    runs.write("x")

class Point:
    "Defined here, and carried into the child."
    def __init__(self, x):
        self.x = x
    def __repr__(self):
        return f"Point {{self.x}}"

for method in ("forkserver", "spawn"):
    tree = Supervisor(
        [ChildSpec(name="a", target=supervisor_targets.tell_surroundings, kwargs={{"point": Point(3)}})],
        name="tree",
        start_method=method,
        on_ready=lambda children: (print(json.dumps(dict(children[0].info)), flush=True), os.kill(os.getpid(), 15)),
    )
    print(json.dumps({{"end": tree.run().kind}}), flush=True)
sys.stdin.read()
"""
    )
    with Program(tmp_path, str(script)) as run:
        for _ in range(2):
            assert run.wait_for(kwargs=...)["kwargs"] == '{"point": "Point 3"}'
            run.wait_for(end="stopped")
        assert (tmp_path / "runs").read_text() == "x"
        assert run.children() == set()


def test_a_supervisor_killed_while_the_fork_server_imports_leaves_nobody(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    settings = {"preload": ["supervisor_slow_import"], "variables": {"SLOW_IMPORT_FIFO": str(fifo)}}
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method="forkserver", **settings) as tree:
        assert int(fifo.read_text()) in session(tree.pid)
        everybody = session(tree.pid)
        tree.signal(signal.SIGKILL)
        assert wait_gone(everybody, timeout=3) == set()
