"""The maintenance of the SQL store, beside its contract: what is wrong behind its back, and room on the disk."""

import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from asm.adapters import SqlSessionStore
from asm.core.policies import RetentionPolicy
from asm.testing.samples import event, run, session

# -- Health -----------------------------------------------------------------------------------------------------------


def test_what_was_deleted_explains_gaps(store):
    store.save_session(session(id="ses", tags=["x"]))
    store.save_run(run("ses"))
    store.append_events([event("ses", run_id=f"run {number % 2}") for number in range(1000)])
    store.delete_events("ses", through=10)
    store.delete_events("ses", run_id="run 1")
    store.append_events([event("gone"), event("gone"), event("empty"), event("left")])
    store.delete_session("gone")
    store.append_event(event("gone"))
    store.delete_events("empty", through=1)
    store.import_session(store.export_session("left").read().replace(b'"left"', b'"copy"').replace(b"evt_", b"evx_"))
    assert store.health_check() == []


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM asm_events WHERE sequence_number = 2", "has 2 events and 0 were deleted, which does not explain its 3"),
        ("DELETE FROM asm_events", "session 'ses' has 0 events and 0 were deleted, which does not explain its 3 numbers"),
        ("UPDATE asm_session_sequences SET last_sequence = 2", "'ses' stands at 2, and it has an event with the number 3"),
        ("DELETE FROM asm_session_sequences", "session 'ses' has 3 events and no counter"),
        ("UPDATE asm_events SET data = '[1]' WHERE id = 'evt 1'", "holds as 'evt 1' is no Event"),
        ("UPDATE asm_runs SET token_usage = '5'", "holds as 'run' is no Run"),
        ("UPDATE asm_sessions SET metadata = '\"x\"'", "holds as 'ses' is no Session"),
    ],
)
def test_what_is_wrong_is_said(store, behind, statement, said):
    store.save_session(session(id="ses"))
    store.save_run(run("ses", id="run"))
    store.append_events([event("ses", id=f"evt {number}") for number in range(3)])
    assert store.health_check() == []
    behind(statement)
    (problem,) = store.health_check()
    assert said in problem


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE asm_sessions SET tags = '{'", "is no Session"),
        ("UPDATE asm_sessions SET created_at = 'yesterday'", "is no Session"),
        ("UPDATE asm_runs SET metadata = '{'", "is no Run"),
        ("UPDATE asm_runs SET turn_count = 'many'", "is no Run"),
        ("UPDATE asm_events SET timestamp = '2026-99-99T00:00:00.000000' WHERE id = 'evt 1'", "is no Event"),
    ],
)
def test_what_only_sqlite_lets_in_is_said(store, behind, statement, said):
    test_what_is_wrong_is_said(store, behind, statement, said)


def test_a_damaged_file_is_said(tmp_path):
    path = tmp_path / "sessions.db"
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.append_events([event("ses") for _ in range(50)])
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        other = "CREATE INDEX asm_events_by_timestamp ON asm_events (type)"
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'asm_events_by_timestamp'", [other])
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        assert any(problem.startswith("SQLite: ") and "by_timestamp" in problem for problem in store.health_check())


# -- Room on the disk -------------------------------------------------------------------------------------------------


def test_room_is_given_back(store):
    store.append_events([event("kept") for _ in range(20)])
    for _ in range(10):
        store.append_events([event("ses", data={"text": os.urandom(1000).hex()}) for _ in range(300)])
    store.delete_session("ses")
    assert store.compact() >= 4_000_000
    assert store.compact() < 100_000
    assert len(store.get_events("kept")) == 20
    assert store.health_check() == []
    assert store.append_event_with_sequence(event("ses")).sequence_number == 1


def test_a_file_of_an_earlier_version_is_written_anew_once(tmp_path):
    path = tmp_path / "sessions.db"
    with SqlSessionStore(url=f"sqlite:///{path}"):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        test_room_is_given_back(store)
        assert store._database.read(lambda connection: connection.exec_driver_sql("PRAGMA auto_vacuum").scalar()) == 2


# -- Retention --------------------------------------------------------------------------------------------------------


def test_what_is_due_is_found_oldest_first(store):
    now = datetime.now(UTC)

    def save(name, days, **fields):
        store.save_session(session(id=name, created_at=now - timedelta(days=days), **fields))

    for number, status in enumerate(["completed", "failed", "cancelled", "pending", "active", "paused"]):
        save(f"old {status}", 200 + number, status=status)
        save(f"new {status}", 1, status=status)
    save("pinned", 300, status="completed", tags=["x", "pinned"])
    save("gone", 250, status="completed", deleted_at=now - timedelta(days=31))
    save("going", 260, status="completed", deleted_at=now - timedelta(days=29))
    store.append_events([event("new completed") for _ in range(4)])
    store.append_events([event("new failed") for _ in range(6)])
    store.delete_events("new failed", through=4)

    def expired(limit=50, **policy):
        return [item.id for item in store.expired(RetentionPolicy(**policy), limit=limit)]

    assert expired() == ["gone", "old cancelled", "old failed", "old completed"]
    assert expired(limit=2) == ["gone", "old cancelled"]
    assert expired(max_age_days=100) == ["gone", "old pending", "old cancelled", "old failed", "old completed"]
    assert expired(max_age_days=100, exempt_statuses=[])[1:3] == ["old paused", "old active"]
    assert expired(exempt_tags=[])[0] == "pinned"
    assert expired(max_completed_age_days=None, hard_delete_after_days=10) == ["going", "gone"]
    assert expired(max_completed_age_days=None, hard_delete_after_days=None) == []
    assert expired(max_completed_age_days=None, hard_delete_after_days=None, max_events_per_session=3) == ["new completed"]
    assert expired(max_completed_age_days=10**9) == ["gone"]
