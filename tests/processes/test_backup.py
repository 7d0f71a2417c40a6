"""A backup that is taken from a tree at work, exactly as the README says, and restored into another one."""

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from configurations import configuration

import asm

README = Path(__file__).parents[2] / "README.md"
PATIENCE = 60.0


@pytest.fixture
def commands():
    """What to type, to back up and to restore, where the data is in ``var``."""
    section = README.read_text().split("### Backing up and restoring\n")[1]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[:2]
    return [block.replace("var/dev", "var") for block in blocks]


def run(command, cwd):
    return subprocess.run(["bash", "-e", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


class Writer(threading.Thread):
    """Puts artifacts, and appends an event that names each, until it is told to end."""

    def __init__(self, tree, name):
        super().__init__()
        self._tree, self._name = tree, name
        self.acknowledged = []
        self.ended = threading.Event()
        self.start()

    def run(self):
        with self._tree.connect(timeout=PATIENCE) as store:
            number = 0
            while not self.ended.is_set():
                key = f"{self._name}/{number}"
                store.put(key, key.encode() * 1000)
                given = asm.Event.new(type="message_sent", session_id=f"ses {self._name}", data={"artifact": key})
                self.acknowledged.append(store.append_event_with_sequence(given))
                number += 1

    def wait_for(self, count):
        """Wait until so many more events were acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            assert self.is_alive()
            self.ended.wait(0.01)


def test_a_backup_of_a_tree_at_work(trees, tmp_path, commands):
    back_up, restore = commands
    tree = trees(configuration()).wait_ready()
    writers = [Writer(tree, name) for name in "abc"]
    try:
        for writer in writers:
            writer.wait_for(20)
        before = [event for writer in writers for event in list(writer.acknowledged)]
        done = run(back_up, tmp_path)
        assert all("artifacts/tmp/" in line for line in done.stderr.splitlines()), done.stderr
        for writer in writers:
            writer.wait_for(5)
    finally:
        for writer in writers:
            writer.ended.set()
            writer.join(PATIENCE)
    after = {event.id for writer in writers for event in writer.acknowledged[-1:]}
    assert tree.stop() == 0
    done = run(restore, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    restored = trees(configuration()).wait_ready()
    with restored.connect(timeout=PATIENCE) as store:
        events = {event.id: event for name in "abc" for event in store.get_events(f"ses {name}")}
        for event in before:
            assert events[event.id] == event
        assert not after & events.keys()
        for event in events.values():
            key = event.data["artifact"]
            assert store.get(key) == key.encode() * 1000
        for name in "abc":
            last = store.get_latest_sequence(f"ses {name}")
            assert [event.sequence_number for event in store.get_events(f"ses {name}")] == list(range(1, last + 1))
            given = asm.Event.new(type="message_sent", session_id=f"ses {name}")
            assert store.append_event_with_sequence(given).sequence_number == last + 1
    shutil.rmtree(tmp_path / "backup")


def test_a_database_that_is_removed_under_a_tree(trees, tmp_path):
    """Nothing more is acknowledged, the rest of the tree goes on, and with a stop and a start there is a database again."""
    tree = trees(configuration()).wait_ready()
    with tree.connect(timeout=PATIENCE) as store:
        store.append_event(asm.Event.new(type="message_sent", session_id="ses"))
        pid = tree.child("dev.sessions").pid
        for path in (tmp_path / "var").glob("asm.db*"):
            path.unlink()
        calls = [lambda: store.append_event(asm.Event.new(type="message_sent", session_id="ses")), store.list_sessions]
        for call in calls:
            with pytest.raises(asm.StorageError) as caught:
                call()
            assert caught.value.details["reason"] == "database_replaced"
        store.put("key", b"artifact")
        assert tree.child("dev.sessions").pid == pid
    assert tree.stop() == 0
    again = trees(configuration()).wait_ready()
    with again.connect(timeout=PATIENCE) as store:
        assert store.get_latest_sequence("ses") == 0
        assert store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses")).sequence_number == 1
        assert store.get("key") == b"artifact"


def test_no_store_is_made_in_the_place_of_one_that_is_away(trees, tmp_path):
    """Not by a worker that is started after a crash. Whoever wants to begin anew says so: with ``asmctl restart``."""
    tree = trees(configuration()).wait_ready()
    volume, away = tmp_path / "var", tmp_path / "away"
    event = asm.Event.new(type="message_sent", session_id="ses")
    with tree.connect(timeout=PATIENCE) as store:
        store.append_event(event)
        store.put("key", b"artifact")
        volume.rename(away)
        for name, call in (("dev.sessions", store.list_sessions), ("dev.artifacts", lambda: store.get("key"))):
            tree.child(name).kill()
            tree.wait_child(name, lambda child: (child.state, child.restarts) == ("waiting", 1))
            with pytest.raises(asm.StorageError) as caught:
                call()
            assert caught.value.details["reason"] == "backend_waiting"
        assert not volume.exists()
        away.rename(volume)
        for name in ("dev.sessions", "dev.artifacts"):
            tree.wait_state(name, "ready")
        assert [found.id for found in store.get_events("ses")] == [event.id]
        assert store.get("key") == b"artifact"
        for path in volume.glob("asm.db*"):
            path.unlink()
        tree.child("dev.sessions").kill()
        tree.wait_child("dev.sessions", lambda child: (child.state, child.restarts) == ("waiting", 2))
        assert "asm.db is not there" in tree.child_status("dev.sessions").reason
        assert tree.ctl("restart", "dev.sessions").returncode == 0
        tree.wait_state("dev.sessions", "ready")
        assert store.get_latest_sequence("ses") == 0
    assert tree.stop() == 0
