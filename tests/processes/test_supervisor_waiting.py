"""A child that serves its name while what it needs is away: it counts as up, and comes and goes without a restart."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import PATIENCE, Tree


def tell(path, *words):
    """Have the child say something of itself."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(" ".join(words).encode())


@pytest.fixture
def waiting(tmp_path):
    """Return the description of a child that comes up waiting, and the path at which it is told what to say."""
    path = tmp_path / "a.sock"
    kwargs = {"first": ["waiting", "no", "database"]}
    return {"name": "a", "target": "say_as_told", "listen": str(path), "kwargs": kwargs}, path


def test_a_tree_comes_up_with_a_child_that_waits_and_follows_it(tmp_path, waiting):
    spec, path = waiting
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(str(tmp_path / "notify"))
        with Tree(
            tmp_path, spec, {"name": "b", "target": "serve"}, variables={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        ) as tree:
            begun = tree.wait_for(child="a", state="waiting")
            assert begun["reason"] == "waits for its store: no database"
            assert tree.wait_for(child="b", state="ready")
            pids = tree.up()
            said = [manager.recv(1000)]
            while said[-1] != b"STATUS=1 of 2 ready: a waiting":
                said.append(manager.recv(1000))
            assert b"READY=1" in said
            for word in ("ready", "waiting", "ready"):
                tell(path, word, "again")
                now = tree.wait_for(child="a", state=word)
                assert (now["pid"], now["restarts"]) == (pids["a"], 0)
                assert now["reason"] == ("waits for its store: again" if word == "waiting" else "")
            tree.signal(signal.SIGTERM)
            assert tree.exit()["exit"] == "stopped"
    log = tree.stderr.read_text()
    assert "a: waiting: waits for its store: no database" in log
    assert "tree: all children are up; a waiting" in log


@pytest.mark.parametrize("fate", ["killed", "failed"])
def test_a_child_that_waited_is_restarted_when_it_dies(tmp_path, waiting, fate):
    """Also before the tree is up as a whole: it had come up itself."""
    spec, path = waiting
    blocker = {"name": "b", "target": "say_as_told", "listen": str(tmp_path / "b.sock"), "kwargs": {"first": []}}
    with Tree(tmp_path, spec, blocker) as tree:
        pid = tree.wait_for(child="a", state="waiting")["pid"]
        tree.wait_for(child="b", state="starting")
        if fate == "killed":
            os.kill(pid, signal.SIGKILL)
        else:
            tell(path, "failed", "no", "such", "database")
        died = tree.wait_for(child="a", state="backoff")
        assert died["reason"] == ("was killed by SIGKILL" if fate == "killed" else "could not start: no such database")
        assert tree.wait_for(child="a", state="waiting")["restarts"] == 1
        tell(tmp_path / "b.sock", "ready")
        tree.up()
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


def test_a_child_that_waits_must_beat(tmp_path, waiting):
    spec, _path = waiting
    with Tree(tmp_path, {**spec, "heartbeat_timeout": 0.2}) as tree:
        tree.wait_for(child="a", state="waiting")
        assert tree.wait_for(child="a", state="backoff")["reason"] == "made no progress for 0.2 s"
