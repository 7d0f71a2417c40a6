"""What may happen to the files of names while a tree runs: they are made again, and nobody else's are touched."""

import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import PATIENCE, Tree, ask


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "r"
    made.mkdir()
    return made


def reached(path):
    """Return the pid of who answers at a path, once somebody does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return ask(path)
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, ValueError):
            assert time.monotonic() < deadline, f"nobody answers at {path}"
            time.sleep(0.02)


def trouble(tree, is_so):
    """Return what the tree says is the matter with its only child, once that is so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        tree.ask(troubles=None)
        (said,) = tree.wait_for(done="troubles")["result"]
        if is_so(said):
            return said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def serving(path, **more):
    return {"name": "a", "target": "serve", "listen": str(path), **more}


LOST = {
    "the socket": lambda path: path.unlink(),
    "the lock": lambda path: path.with_name("a.sock.lock").unlink(),
    "both": lambda path: [file.unlink() for file in path.parent.iterdir()],
    "the directory": lambda path: shutil.rmtree(path.parent),
    "the directory, with another in its place": lambda path: [
        path.parent.rename(path.parent.with_name(f"old{time.monotonic_ns()}")),
        path.parent.mkdir(),
    ],
}


@pytest.mark.parametrize(("lost", "rebinds"), [*((lost, True) for lost in LOST), ("the socket", False)])
def test_what_is_lost_is_made_again(directory, tmp_path, lost, rebinds):
    path = directory / "a.sock"
    spec = serving(path, rebinds=rebinds)
    with Tree(tmp_path, spec, {"name": "b", "target": "serve"}, strategy="one_for_all", prepare=str(directory)) as tree:
        pids = tree.up()
        for _ in range(2):
            files = {name: os.lstat(directory / name) for name in ("a.sock", "a.sock.lock")}
            LOST[lost](path)
            while not (path.exists() and (directory / "a.sock.lock").exists()):
                time.sleep(0.02)
            pid = reached(path)
            assert (pid == pids["a"]) is rebinds  # one that cannot take another socket is restarted
            pids["a"] = pid
            assert [os.path.samestat(os.lstat(directory / name), old) for name, old in files.items()] != [True, True]
            assert trouble(tree, lambda said: not said) == ""
            os.kill(pid, signal.SIGKILL)  # the next one has the socket, too
            pids["a"] = tree.wait_for(child="a", state="ready")["pid"]
            while pids["a"] != reached(path):
                pids["a"] = tree.wait_for(child="a", state="ready")["pid"]
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"
    assert list(directory.iterdir()) == []


def test_a_name_that_another_tree_took_meanwhile_is_that_ones_until_it_goes(directory, tmp_path):
    path = directory / "a.sock"
    with Tree(tmp_path, serving(path, rebinds=True), prepare=str(directory)) as first:
        pid = first.up()["a"]
        os.kill(first.pid, signal.SIGSTOP)  # so that the other one comes first
        shutil.rmtree(directory)
        directory.mkdir()
        with Tree(tmp_path, serving(path, rebinds=True)) as second:
            other = second.up()["a"]
            os.kill(first.pid, signal.SIGCONT)
            said = trouble(first, lambda said: said)
            assert said == f"has lost its name: cannot listen on {path}: it is in use by process {second.pid}"
            assert ask(path) == other
            second.signal(signal.SIGTERM)
            second.exit()
        assert reached(path) == pid
        assert trouble(first, lambda said: not said) == ""
        first.signal(signal.SIGTERM)
        first.exit()
    assert list(directory.iterdir()) == []


def test_a_tree_that_lost_its_names_removes_nothing_of_the_one_that_has_them(directory, tmp_path):
    path = directory / "a.sock"
    with Tree(tmp_path, serving(path)) as first:
        first.up()
        os.kill(first.pid, signal.SIGSTOP)
        shutil.rmtree(directory)
        directory.mkdir()
        with Tree(tmp_path, serving(path)) as second:
            other = second.up()["a"]
            first.signal(signal.SIGTERM)
            os.kill(first.pid, signal.SIGCONT)
            assert first.exit()["exit"] == "stopped"
            assert ask(path) == other
            assert (directory / "a.sock.lock").read_text().split()[0] == str(second.pid)
            second.signal(signal.SIGTERM)
            second.exit()


@pytest.mark.parametrize("what", ["a file", "somebody's socket"])
def test_what_is_not_ours_is_left_where_it_is(directory, tmp_path, what):
    path = directory / "a.sock"
    with Tree(tmp_path, serving(path, rebinds=True)) as tree, socket.socket(socket.AF_UNIX) as somebody:
        pid = tree.up()["a"]
        os.kill(tree.pid, signal.SIGSTOP)
        path.unlink()
        if what == "a file":
            path.write_text("precious")
        else:
            somebody.bind(str(path))
            somebody.listen()
        os.kill(tree.pid, signal.SIGCONT)
        found = os.lstat(path)
        said = trouble(tree, lambda said: said)
        assert ("not a socket" if what == "a file" else "somebody else listens there") in said
        assert os.path.samestat(os.lstat(path), found)
        path.unlink()
        assert reached(path) == pid
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_a_name_whose_child_failed_goes_on_refusing(directory, tmp_path):
    path = directory / "a.sock"
    with Tree(tmp_path, serving(path, restart="temporary"), {"name": "b", "target": "serve"}) as tree:
        os.kill(tree.up()["a"], signal.SIGKILL)
        tree.wait_for(child="a", state="ended")
        for file in directory.iterdir():
            file.unlink()
        while not path.exists():
            time.sleep(0.02)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
        tree.ask(restart="a")
        assert tree.wait_for(child="a", state="ready")["pid"] == ask(path)
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_a_directory_that_cannot_be_made_is_said(directory, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(str(tmp_path / "notify"))
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Tree(tmp_path, serving(directory / "a.sock"), variables=variables) as tree:
            tree.up()
            shutil.rmtree(directory)
            said = trouble(tree, lambda said: said)
            assert "No such file or directory" in said
            status = f"STATUS=1 of 1 ready: a {said}"
            while manager.recv(4096).decode() != status:
                pass
            tree.signal(signal.SIGTERM)
            assert tree.exit()["exit"] == "stopped"
    assert tree.stderr.read_text().count("has lost its name") == 1  # not once a second
