"""The runtime directory is swept while a tree runs, as at the end of a login session: names come back, and nothing is lost."""

import os
import shutil
import signal
import time

import pytest

import asm
from asm.client import control

PATIENCE = 30.0

NAMES = ["dev.sessions", "dev.artifacts", "MyApp.Store"]


def again(call):
    """Repeat a call until nobody is missing any more."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except asm.StorageError as error:
            assert time.monotonic() < deadline, error
            time.sleep(0.05)


def state(tree):
    with control.attach("dev", runtime_dir=tree.runtime_dir) as supervisor:
        return supervisor.status().state


SWEPT = {
    "sockets": lambda directory: [path.unlink() for path in directory.glob("*.sock")],
    "everything": lambda directory: [path.unlink() for path in directory.iterdir()],
    "the directory": shutil.rmtree,
}


@pytest.mark.parametrize("swept", SWEPT)
def test_a_swept_runtime_directory_is_made_again(memory_tree, swept):
    tree = memory_tree
    before = {child.name: child.pid for child in tree.status().children}
    event = asm.Event.new(type="message_sent", session_id="ses_1")
    with tree.connect() as store:
        store.append_event(event)
        SWEPT[swept](tree.runtime_dir)
        assert len(store.get_events("ses_1")) == 1  # who is connected stays so
    assert again(lambda: state(tree)) == "ready"
    for name in ("MyApp.Store", "dev.sessions"):
        events = again(lambda name=name: tree.connect(name).get_events("ses_1"))
        assert [each.id for each in events] == [event.id]  # what memory holds, too
    again(lambda: tree.connect("dev.artifacts").put("key", b""))
    status = tree.status()
    assert {child.name: (child.pid, child.restarts) for child in status.children} == {
        name: (pid, 0) for name, pid in before.items()
    }
    assert (tree.ctl("status").returncode, tree.runtime_dir.stat().st_mode & 0o777) == (0, 0o700)
    assert tree.ctl("stop", "dev").returncode == 0
    assert list(tree.runtime_dir.iterdir()) == []
    assert tree.wait() == 0


def test_a_tree_one_of_whose_names_was_taken_says_so_until_it_has_it_again(memory_tree):
    tree = memory_tree
    pid = tree.child_status("dev.artifacts").pid
    tree.signal(signal.SIGSTOP)  # so that the other one comes first
    for path in tree.runtime_dir.glob("dev.artifacts.*"):
        path.unlink()
    with asm.InMemorySessionStore.start_link(name="dev.artifacts", runtime_dir=tree.runtime_dir):
        tree.signal(signal.SIGCONT)
        tree.wait_child("dev.artifacts", lambda child: child.trouble)
        shown = tree.ctl("status")
        assert shown.returncode == 1
        assert "dev: degraded" in shown.stdout
        assert f"dev.artifacts has lost its name: cannot listen on {tree.runtime_dir}/dev.artifacts.sock" in shown.stdout
        assert f"in use by process {os.getpid()}" in shown.stdout
    tree.wait_status(lambda status: status.state == "ready")
    with tree.connect("dev.artifacts") as artifacts:
        artifacts.put("key", b"")
    assert tree.child_status("dev.artifacts").pid == pid
