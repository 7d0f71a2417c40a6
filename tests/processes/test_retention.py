"""Retention against a real tree: killed at any moment and run again, it ends as one that was not killed."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import retained

from asm import retention
from asm.testing.samples import event, run, session

PATIENCE = 30

PROGRAM = Path(retained.__file__)

NOW = datetime.now(UTC)


def ago(days):
    return NOW - timedelta(days=days)


def fill(store, count):
    """Save so many sessions of each kind, with runs, events and artifacts."""
    kinds = {
        "ended": {"status": "completed"},
        "deleted": {"status": "failed", "deleted_at": ago(31)},
        "chatty": {"status": "pending"},
        "active": {"status": "active"},
        "pinned": {"status": "completed", "deleted_at": ago(31), "tags": ["pinned"]},
    }
    for number in range(count):
        for kind, fields in kinds.items():
            name = f"{kind} {number}"
            store.flush(
                {
                    "session": session(id=name, created_at=ago(100), **fields),
                    "run": run(name, id=f"run of {name}", started_at=ago(100)),
                    "events": [event(name, id=f"{name}, {index}", timestamp=ago(100)) for index in range(9)],
                }
            )
            for index in range(3):
                store.put(f"{name}/{index}", b"data")
        store.put(f"ses_{number:032x}/of a session that is gone", b"data")
        store.put(f"patch-{number}", b"of no session")


def contents(store):
    """All that there is, but for the moments at which sessions were deleted just now."""
    sessions = store.search_sessions(include_deleted=True, order="created_at", limit=1000).items
    found = {}
    for item in sessions:
        still = item.changed(deleted_at=item.deleted_at and NOW, updated_at=NOW)
        found[item.id] = (still, store.list_runs(item.id), store.get_events(item.id), store.get_latest_sequence(item.id))
    moments = re.compile(rb'"(updated|deleted)_at":"[^"]*"')
    return found, {info.key: moments.sub(b"", store.get(info.key)) for info in store.list()}


def empty(store):
    for item in store.list_sessions():
        store.delete_session(item.id)
    for info in store.list():
        store.delete(info.key)


def apply(tree, steps=None):
    """Have another process apply it, and kill that after so many steps; return whether it came to its end before."""
    command = [sys.executable, PROGRAM, str(tree.runtime_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "done\n":
                return process.wait(PATIENCE) == 0
            steps = None if steps is None else steps - 1
            if steps == 0:
                process.kill()
        assert process.wait(PATIENCE) == -9, "it failed"
    return False


@pytest.mark.timeout(300)
def test_killed_and_run_again_it_ends_as_one_that_was_not(memory_tree, chance, campaign):
    kills, count = (20, 12) if campaign else (4, 2)
    with memory_tree.connect(timeout=PATIENCE) as store:
        fill(store, count)
        for kill in range(kills):
            assert not apply(memory_tree, chance.randint(1, 8)), f"it came to its end after {kill} of {kills} kills"
        assert apply(memory_tree)
        killed = contents(store)
        empty(store)
        assert contents(store) == ({}, {})
        fill(store, count)
        assert apply(memory_tree)
        assert contents(store) == killed
        assert not store.health_check()


def test_it_takes_any_handle(memory_tree):
    with memory_tree.connect(timeout=PATIENCE) as store:
        fill(store, 1)
        exported = store.export_session("deleted 0").read()
        told = retention.apply(store, retained.POLICY, dry_run=True)
        assert store.export_session("deleted 0").read() == exported
        report = retention.apply(store, retained.POLICY)
        for found in (told, report):
            assert found.errors == ()
            assert (found.sessions_soft_deleted, found.sessions_deleted, found.sessions_archived) == (1, 1, 3)
            assert (found.events_deleted, found.artifacts_deleted) == (9 + 5 + 5, 3)
        (archive,) = store.list(prefix="archive/deleted 0/")
        assert store.get(archive.key) == exported
        with store.open(archive.key) as data:
            assert store.import_session(data) == "deleted 0"
        assert store.export_session("deleted 0").read() == exported
