"""A supervised tree, as a program of its own: who is restarted with whom, who is restarted at all, and who is given up."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import Tree, ask


def since(tree, mark):
    """The states since a moment of the tree's history."""
    return tree.states()[mark:]


def settle(tree):
    """Stop the tree, so that everything which follows from what was done before has happened."""
    tree.signal(signal.SIGTERM)
    return tree.exit()


@pytest.mark.parametrize(("strategy", "again"), [("one_for_one", "b"), ("rest_for_one", "bc"), ("one_for_all", "abc")])
def test_who_is_restarted_with_one_that_died(tmp_path, strategy, again):
    journal = tmp_path / "journal"
    specs = [{"name": name, "target": "serve", "kwargs": {"journal": str(journal)}} for name in "abc"]
    with Tree(tmp_path, *specs, strategy=strategy) as tree:
        pids = tree.up()
        mark = len(tree.states())
        os.kill(pids["b"], signal.SIGKILL)
        tree.wait_for(child=again[-1], state="ready")
        states = since(tree, mark)
        others = again.replace("b", "")
        # Those that live are stopped in reverse order, before the first is started, and all are started in order.
        expected = [("b", "backoff")]
        for name in reversed(others):
            expected += [(name, "stopping"), (name, "backoff")]
        for name in again:
            expected += [(name, "starting"), (name, "ready")]
        assert states == expected
        settle(tree)
    started = [f"start {name}" for name in "abc"]
    stopped = [f"stop {name}" for name in reversed(others)]
    restarted = [f"start {name}" for name in again]
    assert journal.read_text().split("\n")[:-1] == [*started, *stopped, *restarted, "stop c", "stop b", "stop a"]


@pytest.mark.parametrize("strategy", ["rest_for_one", "one_for_all"])
def test_with_another_that_died_a_transient_one_is_restarted_and_a_temporary_one_never(tmp_path, strategy):
    """As with OTP, which restarts all children but temporary ones."""
    specs = [
        {"name": "a", "target": "serve"},
        {"name": "temporary", "target": "serve", "restart": "temporary"},
        {"name": "transient", "target": "serve", "restart": "transient"},
        {"name": "done", "target": "end_when_told", "kwargs": {"journal": None}, "restart": "transient"},
        {"name": "b", "target": "serve"},
    ]
    with Tree(tmp_path, *specs, strategy=strategy) as tree:
        pids = tree.up()
        os.kill(pids["done"], signal.SIGTERM)
        tree.wait_for(child="done", state="ended")
        os.kill(pids["a"], signal.SIGKILL)
        mark = len(tree.states())
        tree.wait_for(child="b", state="ready")
        states = since(tree, mark)
        assert [name for name, state in states if state == "stopping"] == ["b", "transient", "temporary"]
        assert [name for name, state in states if state == "ready"] == ["a", "transient", "done", "b"]
        assert [name for name, state in states if state == "ended"] == ["temporary"]
        # Who asks for it gets it.
        tree.ask(restart="temporary")
        tree.wait_for(child="temporary", state="ready")
        assert settle(tree)["exit"] == "stopped"


def test_two_that_die_at_once_are_both_restarted_in_order(tmp_path):
    specs = [{"name": name, "target": "serve"} for name in "abcd"]
    with Tree(tmp_path, *specs, strategy="rest_for_one") as tree:
        pids = tree.up()
        os.kill(pids["d"], signal.SIGSTOP)  # so that d is still there when b is found dead
        for name in "cb":
            os.kill(pids[name], signal.SIGKILL)
        os.kill(pids["d"], signal.SIGCONT)
        mark = len(tree.states())
        tree.wait_for(child="d", state="ready")
        ready = [name for name, state in since(tree, mark) if state == "ready"]
        assert ready[-3:] == ["b", "c", "d"]
        assert "a" not in ready
        settle(tree)


def test_sigterm_while_others_are_being_stopped_for_a_restart(tmp_path):
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "block", "stop_timeout": 1.0}]
    with Tree(tmp_path, *specs, strategy="one_for_all") as tree:
        os.kill(tree.up()["a"], signal.SIGKILL)
        tree.wait_for(child="b", state="stopping")
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"
        assert tree.states()[-2:] == [("a", "stopped"), ("b", "stopped")]


@pytest.mark.parametrize(
    ("restart", "status", "state"),
    [
        ("permanent", 0, "backoff"),
        ("permanent", 3, "backoff"),
        ("transient", 0, "ended"),
        ("transient", 3, "backoff"),
        ("temporary", 0, "ended"),
        ("temporary", 3, "ended"),
    ],
)
def test_who_is_restarted_after_which_end(tmp_path, restart, status, state):
    journal = tmp_path / "journal"
    spec = {"name": "a", "target": "end_when_told", "kwargs": {"journal": str(journal), "status": status}, "restart": restart}
    with Tree(tmp_path, spec, {"name": "b", "target": "serve"}) as tree:
        os.kill(tree.up()["a"], signal.SIGTERM)
        assert tree.wait_for(child="a", state=state)["reason"] == f"exited with status {status}"
        if state == "backoff":
            tree.wait_for(child="a", state="ready")
        settle(tree)
    assert journal.read_text().count("start") == (2 if state == "backoff" else 1)


def test_one_that_ended_refuses_connections_and_can_be_started_again(tmp_path):
    path = tmp_path / "a.sock"
    with Tree(tmp_path, {"name": "a", "target": "serve", "listen": str(path), "restart": "temporary"}) as tree:
        os.kill(tree.up()["a"], signal.SIGKILL)
        tree.wait_for(child="a", state="ended")
        tree.ask(children=None)
        assert tree.wait_for(done="children")["result"][0][1] == "ended"  # the turn of the loop is over
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
        tree.ask(restart="a")
        assert tree.wait_for(child="a", state="ready")["pid"] == ask(path)
        os.kill(ask(path), signal.SIGKILL)
        tree.wait_for(child="a", state="ended")
        tree.ask(reload=[{"name": "a", "target": "serve", "listen": str(path)}])  # permanent, and so it is to be there
        assert tree.wait_for(child="a", state="ready")["pid"] == ask(path)
        settle(tree)
    assert list(tmp_path.glob("a.sock*")) == []


def test_a_tree_goes_on_without_one_that_may_be_given_up(tmp_path):
    path = tmp_path / "b.sock"
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "serve", "listen": str(path), "on_failure": "degrade"},
    ]
    with Tree(tmp_path, *specs, max_restarts=2, max_seconds=1000, backoff={"first": 0}) as tree:
        pids = tree.up()
        pid = pids["b"]
        for _ in range(2):
            os.kill(pid, signal.SIGKILL)
            pid = tree.wait_for(child="b", state="ready")["pid"]
        os.kill(pid, signal.SIGKILL)
        tree.wait_for(child="b", state="failed")
        assert ask(tmp_path / "a.sock") == pids["a"]
        # What one child needed does not count for another.
        os.kill(pids["a"], signal.SIGKILL)
        again = tree.wait_for(child="a", state="ready")["pid"]
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
        # Asked for, it comes back on its old name, with its history forgotten.
        tree.ask(restart="b")
        assert tree.wait_for(child="b", state="ready")["pid"] == ask(path)
        os.kill(ask(path), signal.SIGKILL)
        assert tree.wait_for(child="b", state="ready")["pid"] == ask(path)
        assert ask(tmp_path / "a.sock") == again
        assert settle(tree)["exit"] == "stopped"


def test_one_that_failed_is_tried_again_until_it_comes_up(tmp_path):
    path, marker = tmp_path / "a.sock", tmp_path / "marker"
    marker.touch()
    spec = {"name": "a", "target": "serve_while_there_is", "listen": str(path), "kwargs": {"marker": str(marker)}}
    again = {"on_failure": "degrade", "retry_after": 0.2}
    with Tree(tmp_path, {**spec, **again}, {"name": "b", "target": "serve"}, max_restarts=1, backoff={"first": 0}) as tree:
        pids = tree.up()
        marker.unlink()
        os.kill(pids["a"], signal.SIGKILL)
        for _ in range(3):  # it died too often, and is tried twice
            tree.wait_for(child="a", state="starting")
            assert tree.wait_for(child="a", state="failed")["reason"] == "exited with status 7 before it was ready"
        marker.touch()
        assert tree.wait_for(child="a", state="ready")["pid"] == ask(path)
        os.kill(ask(path), signal.SIGKILL)  # it was restarted once already, but its history begins anew
        tree.wait_for(child="a", state="backoff")
        assert tree.wait_for(child="a", state="ready")["pid"] == ask(path)
        marker.unlink()
        os.kill(ask(path), signal.SIGKILL)
        tree.wait_for(child="a", state="failed")
        tree.wait_for(child="a", state="starting")
        tree.signal(signal.SIGTERM)  # also while it is tried
        assert tree.exit()["exit"] == "stopped"
    log = tree.stderr.read_text()
    assert log.count("tree: goes on without a") == 2  # once each time it failed, and not at each try


def test_a_tree_with_one_given_up_stops_well(tmp_path):
    specs = [{"name": "a", "target": "serve", "on_failure": "degrade"}, {"name": "b", "target": "serve"}]
    with Tree(tmp_path, *specs, max_restarts=0) as tree:
        os.kill(tree.up()["a"], signal.SIGKILL)
        tree.wait_for(child="a", state="failed")
        assert settle(tree)["exit"] == "stopped"
