"""What is particular to sessions in SQL: files and connections, what is stored, locks, and what goes wrong."""

import importlib.util
import os
import shutil
import sqlite3
import sys
import threading
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy

from asm.adapters import SqlSessionStore
from asm.adapters.sql import sqlite, tables, writer
from asm.adapters.sql.engine import ATTEMPTS, Database
from asm.adapters.sql.urls import parse_url
from asm.core.errors import Error
from asm.testing.samples import MOMENTS, at, event, refused, run, session


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path):
    with SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=0) as made:
        yield made


@contextmanager
def raw(path):
    """A connection of somebody else's, without transactions of its own."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as connection:
        yield connection


def pragma(engine, name):
    with engine.connect() as connection:
        return connection.connection.driver_connection.execute(f"PRAGMA {name}").fetchone()[0]


# -- The URL --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (None, "is required"),
        ("", "is required"),
        (5, "must be a string"),
        ("app.db", "is no URL"),
        ("sqlite", "is no URL"),
        ("postgresql://user:secret@host:port/db", "is no URL"),
        ("mysql://host/db", "is not supported; use one of: sqlite"),
        ("sqlite+aiosqlite:///app.db", "is not supported"),
        ("nonsense://x", "is not supported"),
        ("sqlite://", 'use the store "memory"'),
        ("sqlite:///", 'use the store "memory"'),
        ("sqlite:///:memory:", 'use the store "memory"'),
        ("sqlite:///file::memory:?cache=shared&uri=true", 'use the store "memory"'),
        ("sqlite://app.db", "after the third slash"),
        ("sqlite:///app.db?timeout=5", "without parameters"),
        ("sqlite:///file:app.db", "without parameters"),
        ("sqlite:///x?y.db", "without parameters"),
        ("sqlite:///x.db?", "without parameters"),
        ("sqlite:///a%20b.db", "write the character itself"),
        ("sqlite:///a%3Fb.db", "write the character itself"),
        ("sqlite:////dev/null/app.db", "cannot be used"),
        ("sqlite:////tmp", "names /tmp, which is no file"),
    ],
    ids=repr,
)
def test_a_url_that_can_never_work_is_refused(url, text):
    for refuses in (SqlSessionStore.preflight, SqlSessionStore):
        with pytest.raises(Error, match=text) as caught:
            refuses(url=url)
        assert caught.value.code == "validation_error"
        assert caught.value.details["field"] == "url"


@pytest.mark.parametrize("bad", [-1, "5", None, True, float("nan")], ids=repr)
def test_a_busy_timeout_is_a_number_of_seconds(path, bad):
    with refused("validation_error", field="busy_timeout"):
        SqlSessionStore.preflight(url=f"sqlite:///{path}", busy_timeout=bad)


def test_a_missing_driver_is_named_and_no_password_shown(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Error, match="needs the package 'psycopg'") as caught:
        parse_url("postgresql://user:secret@host/db")
    assert caught.value.code == "dependency_not_available"
    assert "secret" not in f"{caught.value} {caught.value.details} {caught.value.__cause__}"


def test_a_driver_without_its_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with refused("dependency_not_available", package="psycopg"):
        parse_url("postgresql://user:secret@host/db")


@pytest.mark.parametrize(
    "url", ["postgresql://user:secret@host:port/db", "mysql://user:secret@host/db", "sqlite://user:secret@host/db"]
)
def test_a_refused_url_is_not_shown(url):
    with pytest.raises(Error) as caught:
        SqlSessionStore.preflight(url=url)
    error = caught.value
    assert "secret" not in f"{error} {error.details} {error.__cause__!r} {error.__context__!r}"


def test_the_store_shows_its_database(store, path):
    assert repr(store) == f"SqlSessionStore(url='sqlite+pysqlite:///{path}')"


# -- Files and connections ------------------------------------------------------------------------------------------


def test_a_database_is_made_with_its_directories_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "new" / "deep" / "sessions.db"
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.save_session(session())
        modes = {item.name: item.stat().st_mode & 0o777 for item in path.parent.iterdir()}
        assert modes == {"sessions.db": 0o600, "sessions.db-wal": 0o600, "sessions.db-shm": 0o600}
        assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "new/deep")] == [0o700, 0o700]
    assert [item.name for item in path.parent.iterdir()] == ["sessions.db"]  # closing tidies up


@pytest.mark.parametrize("name", ["a#b.db", "a b.db", "100%.db", "a@b:c.db", "ключ.db", "a+b&c=d.db"])
def test_a_path_is_the_file_that_it_names(tmp_path, name):
    with SqlSessionStore(url=f"sqlite:///{tmp_path}/{name}") as store:
        store.append_event(event())
    assert [item.name for item in tmp_path.iterdir()] == [name]


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SqlSessionStore(url="sqlite:///app.db") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.save_session(session())
        assert len(store.list_sessions()) == 1
    assert (tmp_path / "app.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_settings_of_the_connections(store):
    assert pragma(store._database._readers, "journal_mode") == "wal"
    assert pragma(store._database._readers, "query_only") == 1
    assert pragma(store._database._writer, "journal_mode") == "wal"
    assert pragma(store._database._writer, "synchronous") == 2  # FULL
    assert pragma(store._database._writer, "busy_timeout") == 100
    assert pragma(store._database._writer, "query_only") == 0


def test_transactions_are_ours(store):
    statements = []
    sqlalchemy.event.listen(store._database._writer, "before_cursor_execute", lambda *args: statements.append(args[2]))
    store.append_event(event())
    assert statements[0] == "BEGIN IMMEDIATE"
    with store._database._writer.connect() as connection:
        assert connection.connection.driver_connection.isolation_level is None


def test_what_was_stored_is_there_after_a_restart(path):
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.save_session(saved := session())
        appended = store.append_events([event(saved.id), event(saved.id)])
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        assert store.list_sessions() == [saved]
        assert store.get_events(saved.id) == appended
        assert store.append_event_with_sequence(event(saved.id)).sequence_number == 3


def test_reads_run_beside_a_write(store):
    store.append_event(event())
    with store._database._writer.begin() as connection:
        connection.exec_driver_sql("DELETE FROM asm_events")
        assert len(store.get_events("ses")) == 1
    assert store.get_events("ses") == []


def test_tables_beside_ours_are_left_alone(path):
    with raw(path) as connection:
        connection.execute("CREATE TABLE users (name)")
        connection.execute("INSERT INTO users VALUES ('somebody')")
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.save_session(session())
    with raw(path) as connection:
        assert connection.execute("SELECT * FROM users").fetchall() == [("somebody",)]


def test_the_tables_are_those_of_the_contract(store, path):
    with raw(path) as connection:
        columns = {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
    assert columns == {
        "asm_schema_version": ["version_num"],
        "asm_sessions": list(session().to_fields()),
        "asm_runs": [*run().to_fields(), "tokens"],
        "asm_events": list(event().to_fields()),
        "asm_session_sequences": [
            "session_id",
            "last_sequence",
            "updated_at",
            "removed_through",
            "deleted_through",
            "deleted_events",
        ],
        "asm_event_deletions": ["session_id", "id", "through", "run_id", "type"],
        "asm_artifacts": [
            "id",
            "session_id",
            "run_id",
            "key",
            "content_type",
            "byte_size",
            "checksum_sha256",
            "storage_backend",
            "storage_ref",
            "metadata",
            "created_at",
            "deleted_at",
        ],
    }


def test_a_sequence_and_an_artifacts_key_are_unique(store, path):
    store.append_event(event())
    with raw(path) as connection:
        connection.execute("INSERT INTO asm_artifacts (id, key, created_at) VALUES ('a', 'key', '')")
        with pytest.raises(sqlite3.IntegrityError, match=r"asm_artifacts\.key"):
            connection.execute("INSERT INTO asm_artifacts (id, key, created_at) VALUES ('b', 'key', '')")
        with pytest.raises(sqlite3.IntegrityError, match=r"asm_events\.session_id, asm_events\.sequence_number"):
            connection.execute(
                "INSERT INTO asm_events (id, type, timestamp, session_id, sequence_number, schema_version)"
                " SELECT 'other', type, timestamp, session_id, sequence_number, 1 FROM asm_events"
            )


# -- Files that are taken away --------------------------------------------------------------------------------------


def remove(path):
    for item in path.parent.glob(f"{path.name}*"):
        item.unlink()


def put_back(path):
    """An older copy under another name, moved into its place."""
    shutil.copy(path.with_name("older.db"), path.with_name("moved.db"))
    path.with_name("moved.db").rename(path)


def copy_over(path):
    """An older copy written into the very file that is open."""
    shutil.copyfile(path.with_name("older.db"), path)


@pytest.mark.parametrize(
    "take_away",
    [
        remove,
        put_back,
        copy_over,
        lambda path: path.unlink(),
        lambda path: path.with_name(f"{path.name}-wal").unlink(),
        lambda path: path.with_name(f"{path.name}-shm").unlink(),
        lambda path: path.write_bytes(b""),
    ],
    ids=["rm *", "mv", "cp", "rm", "rm -wal", "rm -shm", "truncate"],
)
def test_nothing_is_acknowledged_by_a_database_that_was_replaced(tmp_path, take_away):
    path, older = tmp_path / "sessions.db", tmp_path / "older.db"
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.append_event(event())
        with raw(path) as connection, closing(sqlite3.connect(older)) as copy:
            connection.backup(copy)
        store.append_events([event(data={"text": "x" * 1000}) for _ in range(3000)])  # more than stays in the log
        store.ping()
        take_away(path)
        for _ in range(2):
            with pytest.raises(Error, match="was replaced while it was open") as caught:
                store.append_event(event())
            assert (caught.value.code, caught.value.details["reason"]) == ("storage_write_failed", "database_replaced")
            assert "away" not in caught.value.details
        for call in (store.list_sessions, lambda: store.get_events("ses", limit=1), store.ping):
            with refused("storage_read_failed", reason="database_replaced"):
                call()
    if take_away in (remove, put_back):
        remove(tmp_path / "sessions.db-")
        with SqlSessionStore(url=f"sqlite:///{path}") as store:
            assert store.get_latest_sequence("ses") == (take_away is put_back)


def test_a_commit_that_went_to_a_file_without_a_name_is_not_acknowledged(store, path, monkeypatch):
    """It is taken away in the middle of the transaction."""
    performed = writer.perform

    def perform(*args, **kwargs):
        results = performed(*args, **kwargs)
        remove(path)
        return results

    told = []
    store.appends.subscribe(told.append)
    monkeypatch.setattr(writer, "perform", perform)
    with refused("storage_write_failed", reason="database_replaced"):
        store.append_events([event(), event()])
    assert told == []


def test_a_file_that_comes_back_is_the_one_that_was_opened(store, path):
    store.append_event(event())
    moved = path.with_name("moved")
    path.rename(moved)
    with refused("storage_read_failed", reason="database_replaced"):
        store.get_events("ses")
    moved.rename(path)
    assert store.append_event_with_sequence(event()).sequence_number == 2


def test_others_who_write_and_tidy_up_replace_nothing(store, path):
    for number in range(1, 4):
        with raw(path) as other:
            other.execute("CREATE TABLE IF NOT EXISTS users (name)")
            other.execute("INSERT INTO users VALUES (randomblob(100000))")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.execute("VACUUM")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert store.append_event_with_sequence(event()).sequence_number == number
        assert len(store.get_events("ses")) == number


def test_a_log_without_its_database_is_not_thrown_away(store, path):
    store.append_event(event())
    log = path.with_name(f"{path.name}-wal")
    saved = log.read_bytes()
    store.close()
    path.unlink()
    log.write_bytes(saved)
    with pytest.raises(Error, match=r"is gone, and .* is still there") as caught:
        SqlSessionStore(url=f"sqlite:///{path}")
    assert caught.value.details["reason"] == "database_missing"
    assert log.read_bytes() == saved
    log.unlink()
    SqlSessionStore(url=f"sqlite:///{path}").close()


# -- What is stored -------------------------------------------------------------------------------------------------


def test_values_are_stored_in_a_form_that_others_can_read(store, path):
    store.save_session(
        session("agent", id="ses", status="active", tags=["a", "ключ"], metadata={"a": [1, "é"]}, created_at=at(0))
    )
    store.save_run(run(cost_usd=0.5, input=None, output={}))
    with raw(path) as connection:
        stored = connection.execute("SELECT status, tags, metadata, created_at, deleted_at FROM asm_sessions").fetchone()
        assert stored == ("active", '["a","ключ"]', '{"a":[1,"é"]}', "2026-01-02T03:04:05.678901", None)
        assert connection.execute("SELECT input, output, cost_usd FROM asm_runs").fetchone() == (None, "{}", 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.678901",
        "2026-01-02 03:04:05.678901",
        "2026-01-02T03:04:05.678901Z",
        "2026-01-02 05:04:05.678901+02:00",
    ],
)
def test_times_are_read_in_the_forms_of_others(store, path, text):
    store.save_session(session(id="ses"))
    with raw(path) as connection:
        connection.execute("UPDATE asm_sessions SET created_at = ?", [text])
    found = store.get_session("ses").created_at
    assert found == datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    assert found.tzinfo is UTC


def test_stored_times_sort_as_the_moments_do():
    column = tables.events.c.timestamp.type
    stored = [column.process_bind_param(moment, sqlalchemy.dialects.sqlite.dialect()) for moment in MOMENTS]
    assert stored == sorted(stored)
    assert len({len(text) for text in stored}) == 1


def test_a_database_of_the_original_may_hold_nulls(store, path):
    with raw(path) as connection:
        connection.execute(
            "INSERT INTO asm_sessions (id, agent_id, status, created_at, updated_at) VALUES ('ses', 'a', 'active', ?, ?)",
            ["2026-01-01T00:00:00.000000"] * 2,
        )
    found = store.get_session("ses")
    assert (found.metadata, found.context, found.tags) == ({}, {}, [])


@pytest.mark.parametrize(
    ("column", "value"), [("created_at", "yesterday"), ("metadata", "{"), ("metadata", "[1]"), ("tags", '{"a": 1}')]
)
def test_a_row_that_holds_no_value_keeps_none_beside_it_from_being_read(store, path, caplog, column, value):
    store.save_session(session(id="ses"))
    store.save_session(other := session(id="other"))
    with raw(path) as connection:
        connection.execute(f"UPDATE asm_sessions SET {column} = ? WHERE id = 'ses'", [value])
    with refused("storage_read_failed", reason="malformed_row", id="ses"):
        store.get_session("ses")
    assert store.list_sessions() == [other]
    assert "holds as 'ses' is no Session" in caplog.text


@pytest.mark.parametrize(("column", "value"), [("status", "flying"), ("agent_id", ""), ("agent_id", "x" * 5000)])
def test_what_a_later_version_stored_is_read_as_it_is(store, path, column, value):
    store.save_session(session(id="ses"))
    with raw(path) as connection:
        connection.execute(f"UPDATE asm_sessions SET {column} = ?", [value])
    assert [getattr(item, column) for item in store.list_sessions()] == [value]


def test_a_type_of_event_and_a_column_that_are_not_known_are_passed_over(store, path):
    stored = store.append_events([event(), event(), event()])
    with raw(path) as connection:
        connection.execute("ALTER TABLE asm_events ADD COLUMN mood TEXT")
        connection.execute("UPDATE asm_events SET type = 'thought_of', mood = 'good' WHERE sequence_number = 2")
    found = store.get_events("ses")
    assert [item.type for item in found] == [stored[0].type, "thought_of", stored[2].type]
    assert store.append_events(stored)[1].type == "thought_of"


# -- All or nothing -------------------------------------------------------------------------------------------------


@pytest.fixture
def explosive(store, path):
    """A store whose database refuses events of one type, whatever else is in the transaction."""
    with raw(path) as connection:
        connection.execute(
            "CREATE TRIGGER explode BEFORE INSERT ON asm_events WHEN new.type = 'error_occurred'"
            " BEGIN SELECT RAISE(ABORT, 'boom'); END"
        )
    return store


def test_a_batch_that_fails_in_the_middle_stores_nothing(explosive):
    explosive.append_event(event("a"))
    with pytest.raises(Error, match="boom") as caught:
        explosive.append_events([event("a"), event("b"), event("b", type="error_occurred"), event("a")])
    assert caught.value.code == "storage_write_failed"
    assert isinstance(caught.value.__cause__, sqlalchemy.exc.IntegrityError)
    assert [explosive.get_latest_sequence(item) for item in ("a", "b")] == [1, 0]
    assert [item.sequence_number for item in explosive.append_events([event("b"), event("a")])] == [1, 2]


def test_a_flush_that_fails_at_its_events_stores_nothing(explosive):
    explosive.save_session(saved := session(status="active"))
    explosive.save_run(started := run(saved.id, status="running"))
    with refused("storage_write_failed"):
        explosive.flush(
            {
                "session": saved.update_status("completed"),
                "run": started.set_output({}),
                "events": [event(saved.id), event(saved.id, type="error_occurred")],
            }
        )
    assert explosive.get_session(saved.id) == saved
    assert explosive.get_run(started.id) == started
    assert explosive.get_events(saved.id) == []


def test_who_waits_is_told_after_the_commit_and_not_of_what_failed(explosive):
    told = []
    explosive.appends.subscribe(lambda session_id: told.append((session_id, explosive.get_latest_sequence(session_id))))
    with refused("storage_write_failed"):
        explosive.append_event(event("a", type="error_occurred"))
    explosive.append_events([event("b"), event("b")])
    explosive.save_session(session("c"))
    assert told == [("b", 2)]


def test_a_conflict_with_another_process_is_tried_again(store):
    store.append_event(stored := event())
    calls = []

    def write(connection):
        calls.append(None)
        if len(calls) <= ATTEMPTS:
            connection.exec_driver_sql("INSERT INTO asm_session_sequences SELECT * FROM asm_session_sequences")
        return "written"

    assert store._database.write(write) == "written"
    assert len(calls) == ATTEMPTS + 1
    assert store.append_event_with_sequence(stored).sequence_number == 1


def test_what_users_store_is_not_in_tracebacks(explosive):
    with pytest.raises(Error) as caught:
        explosive.append_event(event(type="error_occurred", data={"password": "secret"}))
    assert "secret" not in f"{caught.value!r} {caught.value.details} {caught.value.__cause__}"


def test_what_another_process_appends_is_found_when_the_time_is_up(store, path, monkeypatch):
    look = store._database.read
    with SqlSessionStore(url=f"sqlite:///{path}") as other:

        def look_then_append(function):
            found = look(function)
            other.append_event(event(id="evt"))
            return found

        monkeypatch.setattr(store._database, "read", look_then_append)
        assert [item.id for item in store.get_events("ses", wait_timeout_ms=1)] == ["evt"]


# -- Locks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def refusals(monkeypatch):
    """Set after a lock was refused once."""
    refused_once, sleep = threading.Event(), time.sleep

    def noticed(seconds):
        refused_once.set()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noticed)
    return refused_once


def test_a_lock_of_somebody_elses_is_waited_for(path, refusals):
    with SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=60) as store, raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=store.append_event, args=[event()])
        thread.start()
        assert refusals.wait(60)
        assert store.get_events("ses") == []  # readers need no lock
        other.execute("ROLLBACK")
        thread.join(60)
        assert len(store.get_events("ses")) == 1


def test_a_lock_that_is_not_given_back_is_named(store, path):
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Error, match="is locked by another process") as caught:
            store.append_event(event())
        assert caught.value.code == "storage_error"
        assert caught.value.details["reason"] == "database_locked"
        assert caught.value.details["cause"] == "database is locked"
        assert isinstance(caught.value.__cause__, sqlalchemy.exc.OperationalError)
        assert not caught.value.retryable
        other.execute("ROLLBACK")
    assert store.append_event_with_sequence(event()).sequence_number == 1


def test_a_new_database_that_is_locked_is_waited_for(path, refusals):
    made = []
    with raw(path) as other:
        other.execute("CREATE TABLE users (name)")
        other.execute("BEGIN EXCLUSIVE")
        thread = threading.Thread(target=lambda: made.append(SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=60)))
        thread.start()
        assert refusals.wait(60)  # the switch to WAL needs the lock itself
        other.execute("ROLLBACK")
        thread.join(60)
    with made[0] as store:
        store.append_event(event())


def test_a_new_database_that_stays_locked_is_named(path):
    with raw(path) as other:
        other.execute("CREATE TABLE users (name)")
        other.execute("BEGIN EXCLUSIVE")
        with refused("storage_error", reason="database_locked"):
            SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=0)
        other.execute("ROLLBACK")


def test_an_existing_database_that_is_being_written_to_can_be_opened(store, path):
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=0) as second:
            assert second.list_sessions() == []
        other.execute("ROLLBACK")


# -- What goes wrong ------------------------------------------------------------------------------------------------


def test_what_is_no_database(path):
    path.write_bytes(b"this is some text, and it is long enough to be taken for a header of a database" * 100)
    with pytest.raises(Error, match="is no SQLite database") as caught:
        SqlSessionStore(url=f"sqlite:///{path}")
    assert caught.value.code == "storage_read_failed"
    assert caught.value.details["reason"] == "not_a_database"


def test_a_damaged_database(path):
    SqlSessionStore(url=f"sqlite:///{path}").close()
    sound = path.stat().st_size  # so much tells what tables there are; without that, nothing starts
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.append_events([event(data={"number": number, "text": "x" * 500}) for number in range(100)])
    content = bytearray(path.read_bytes())
    content[sound:] = b"\xff" * (len(content) - sound)
    path.write_bytes(content)
    with SqlSessionStore(url=f"sqlite:///{path}") as store, refused("storage_read_failed", reason="corrupt"):
        store.get_events("ses")


def test_a_full_database(store):
    store.append_event(event())
    with store._database._writer.connect() as connection:
        driver = connection.connection.driver_connection
        pages = driver.execute("PRAGMA page_count").fetchone()[0]
        driver.execute(f"PRAGMA max_page_count = {pages}")
    with refused("storage_write_failed", reason="disk_full"):
        store.append_events([event(data={"text": "x" * 100_000}), event()])
    assert store.get_latest_sequence("ses") == 1
    with store._database._writer.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA max_page_count = 1000000")
    assert store.append_event_with_sequence(event()).sequence_number == 2


def test_a_database_that_may_not_be_written_to(store, path):
    """As long as its header says so. What a connection learnt of that when it was made, it would never look up again."""

    def allow(version):
        with path.open("r+b") as file:
            file.seek(18)
            file.write(bytes([version]))

    store.append_event(event())
    store.close()
    allow(3)
    with SqlSessionStore(url=f"sqlite:///{path}") as reader:
        with refused("storage_write_failed", reason="read_only"):
            reader.append_event(event())
        assert len(reader.get_events("ses")) == 1
        allow(2)
        assert reader.append_event_with_sequence(event()).sequence_number == 2


def test_a_file_whose_mode_keeps_writers_out_for_a_while(start):
    """Made read-only before the store is opened, and given back while it runs."""
    program = """
    import os, tempfile
    directory = tempfile.mkdtemp()
    path = f"{directory}/sessions.db"
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.append_event(Event.new(type="message_sent", session_id="ses"))
    if os.geteuid() == 0:  # whom no mode keeps out
        for item in (directory, path):
            os.chown(item, 65534, 65534)
        os.setgid(65534)
        os.setuid(65534)
    os.chmod(path, 0o400)
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        try:
            store.append_event(Event.new(type="message_sent", session_id="ses"))
        except Error as error:
            say(error.code, error.details["reason"], len(store.get_events("ses")))
        os.chmod(path, 0o600)
        say(store.append_event_with_sequence(Event.new(type="message_sent", session_id="ses")).sequence_number)
    os.unlink(path)
    os.rmdir(directory)
    """
    reader = start(program)
    assert reader.hear() == ["storage_write_failed", "read_only", "1"]
    assert reader.hear() == ["2"]


def test_a_file_that_cannot_be_opened(tmp_path):
    with refused("storage_connection_failed", reason="cannot_open"):
        Database(sqlalchemy.URL.create("sqlite+pysqlite", database=str(tmp_path)), 0)


def test_a_file_that_cannot_be_made(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with refused("storage_connection_failed", reason="cannot_open"):
        SqlSessionStore(url=f"sqlite:///{tmp_path}/link/app.db")


def test_tables_that_are_missing_or_of_another_version(store, path):
    with raw(path) as connection:
        connection.execute("ALTER TABLE asm_runs RENAME COLUMN turn_count TO turns")
        connection.execute("DROP TABLE asm_session_sequences")
    with refused("migration_required"):
        store.get_run("run")
    with refused("migration_required"):
        store.save_run(run())
    with refused("migration_required"):
        store.append_event(event())


@pytest.mark.parametrize(
    ("code", "writing", "expected"),
    [
        (sqlite3.SQLITE_BUSY, True, ("storage_error", "database_locked")),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, True, ("storage_error", "database_locked")),
        (sqlite3.SQLITE_LOCKED, False, ("storage_error", "database_locked")),
        (sqlite3.SQLITE_FULL, True, ("storage_write_failed", "disk_full")),
        (sqlite3.SQLITE_READONLY_DBMOVED, True, ("storage_write_failed", "read_only")),
        (sqlite3.SQLITE_IOERR_WRITE, True, ("storage_write_failed", "io_error")),
        (sqlite3.SQLITE_IOERR_FSYNC, True, ("storage_write_failed", "io_error")),
        (sqlite3.SQLITE_IOERR_READ, False, ("storage_read_failed", "io_error")),
        (sqlite3.SQLITE_CORRUPT_INDEX, False, ("storage_read_failed", "corrupt")),
        (sqlite3.SQLITE_NOTADB, False, ("storage_read_failed", "not_a_database")),
        (sqlite3.SQLITE_CANTOPEN_ISDIR, True, ("storage_connection_failed", "cannot_open")),
    ],
)
def test_every_result_code_has_a_meaning(code, writing, expected):
    error = sqlalchemy.exc.OperationalError("statement", {}, sqlite3.OperationalError("text"))
    error.orig.sqlite_errorcode = code
    assert sqlite.failure(error, writing=writing)[:2] == expected


def test_any_other_error_is_a_failure_to_read_or_write(store):
    with refused("storage_read_failed", reason="refused"):
        store._database.read(lambda connection: connection.exec_driver_sql("this is no SQL"))
    with refused("storage_write_failed", reason="refused"):
        store._database.write(lambda connection: connection.exec_driver_sql("this is no SQL"))


def test_an_error_of_ours_rolls_back_and_comes_through(store):
    def write(connection):
        connection.exec_driver_sql(
            "INSERT INTO asm_session_sequences (session_id, last_sequence, updated_at) VALUES ('ses', 5, '')"
        )
        raise Error("cancelled", "enough")

    with refused("cancelled"):
        store._database.write(write)
    assert store.get_latest_sequence("ses") == 0


def test_a_database_without_wal_is_refused(path, monkeypatch):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name)")

    class NoWal(sqlite3.Connection):
        def execute(self, sql, *args):
            return super().execute(sql.replace("journal_mode = WAL", "journal_mode = DELETE"), *args)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=NoWal))
    monkeypatch.setattr(sqlite3.dbapi2, "connect", sqlite3.connect)
    with refused("storage_error", reason="no_wal"):
        SqlSessionStore(url=f"sqlite:///{path}")


def test_a_store_that_could_not_start_holds_nothing_open(path):
    path.write_bytes(b"no database" * 1000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with refused("storage_read_failed"):
            SqlSessionStore(url=f"sqlite:///{path}")
    assert len(os.listdir("/proc/self/fd")) == before
