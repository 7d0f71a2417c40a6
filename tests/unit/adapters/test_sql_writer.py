"""Group commit: what waits is committed together, and who fails, fails alone."""

import sqlite3
import threading
import weakref
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from asm.adapters import SqlSessionStore
from asm.adapters.sql import writer
from asm.core.errors import Error
from asm.testing.samples import at, event, refused, run, session

PATIENCE = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sessions.db"


@pytest.fixture
def store(path):
    with SqlSessionStore(url=f"sqlite:///{path}") as made:
        yield made


class Outcomes:
    """What the writer told, in its order."""

    def __init__(self):
        self.told = []
        self._changed = threading.Condition()

    def ask(self, store, operation, name=None, **arguments):
        def done(result, error):
            with self._changed:
                self.told.append((operation if name is None else name, result, error))
                self._changed.notify_all()

        assert store.submit(operation, arguments, done)

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.told) >= count, PATIENCE)
        return self.told

    def codes(self, count):
        return {name: error and error.code for name, _, error in self.wait(count)}


@pytest.fixture
def outcomes():
    return Outcomes()


@contextmanager
def held(store):
    """Keep the writer busy with a write of its own, so that what is asked for meanwhile becomes one group."""
    begun, go = threading.Event(), threading.Event()

    def hold(_session_id):
        begun.set()
        assert go.wait(PATIENCE)

    unsubscribe = store.appends.subscribe(hold)
    store.submit("append_event", {"event": event("held")}, lambda *_: None)
    assert begun.wait(PATIENCE)
    unsubscribe()
    yield
    go.set()


@pytest.fixture
def commits(store):
    """How many transactions were committed, as a list that grows."""
    made = []
    sqlalchemy.event.listen(store._database._writer, "commit", made.append)
    return made


@pytest.fixture
def explosive(store, path):
    """The store, whose database refuses events of one type, whatever else is in the transaction."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TRIGGER explode BEFORE INSERT ON asm_events WHEN new.type = 'error_occurred'"
            " BEGIN SELECT RAISE(ABORT, 'boom'); END"
        )
    return store


# -- Groups ---------------------------------------------------------------------------------------------------------


def test_what_waits_is_one_transaction(store, outcomes, commits):
    with held(store):
        for number in range(10):
            outcomes.ask(store, "append_event_with_sequence", event=event("a" if number % 2 else "b"))
        outcomes.ask(store, "save_session", session=session(id="a"))
        outcomes.ask(store, "append_events", events=[event("a"), event("b")])
        before = len(commits)
    told = outcomes.wait(12)
    assert len(commits) == before + 1
    assert [result.sequence_number for _, result, _ in told[:10]] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [item.sequence_number for item in told[11][1]] == [6, 6]
    assert store.get_session("a").id == "a"


def test_they_are_answered_in_their_order_after_the_commit(store, outcomes):
    seen = []

    def done(number):
        return lambda _result, _error: seen.append((number, store.get_latest_sequence("ses")))

    with held(store):
        for number in range(5):
            store.submit("append_event", {"event": event("ses")}, done(number))
        outcomes.ask(store, "append_event", event=event("ses"))
    outcomes.wait(1)
    assert seen == [(number, 6) for number in range(5)]


def test_the_outcome_is_that_of_one_after_the_other(store, outcomes):
    twice = event("ses", id="evt")
    with held(store):
        outcomes.ask(store, "save_session", session=session(id="ses", status="active"))
        outcomes.ask(store, "append_event", event=event("ses"))
        outcomes.ask(store, "append_event_with_sequence", event=twice)
        outcomes.ask(store, "append_event_with_sequence", event=twice)
        outcomes.ask(store, "save_session", session=session(id="ses", status="completed"))
        outcomes.ask(store, "save_run", run=run("ses", id="run"))
        outcomes.ask(store, "delete_session", session_id="ses")
        outcomes.ask(store, "delete_session", session_id="nobody")
        outcomes.ask(store, "append_event_with_sequence", event=event("ses", id="new"))
        outcomes.ask(store, "save_session", session=session(id="ses", status="paused"))
        outcomes.ask(store, "save_session", session=session(id="ses", status="failed"))
    told = outcomes.wait(11)
    assert not [error for _, _, error in told if error]
    assert [result.sequence_number for _, result, _ in told if result] == [2, 2, 1]
    assert [item.id for item in store.get_events("ses")] == ["new"]
    assert store.get_session("ses").status == "failed"
    assert store.list_runs("ses") == []


def test_groups_are_bounded(store, outcomes, commits, monkeypatch):
    monkeypatch.setattr(writer, "MOST_WRITES", 4)
    monkeypatch.setattr(writer, "MOST_EVENTS", 6)
    with held(store):
        for _ in range(8):
            outcomes.ask(store, "append_event", event=event())
        for _ in range(3):
            outcomes.ask(store, "append_events", events=[event() for _ in range(4)])
        outcomes.ask(store, "append_events", events=[event() for _ in range(9)])
        before = len(commits)
    outcomes.wait(12)
    assert len(commits) == before + 2 + 3 + 1
    assert store.get_latest_sequence("ses") == 8 + 12 + 9


def test_threads_that_wait_share_commits(store, commits):
    with held(store):
        threads = [threading.Thread(target=store.append_event, args=[event()]) for _ in range(20)]
        for thread in threads:
            thread.start()
        queued = store._writer._queue
        with store._writer._changed:
            assert store._writer._changed.wait_for(lambda: len(queued) == 20, PATIENCE)
        before = len(commits)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(commits) == before + 1
    assert [item.sequence_number for item in store.get_events("ses")] == list(range(1, 21))


def test_an_append_in_a_group_needs_few_statements(store, outcomes):
    sent = []
    with held(store):
        for number in range(50):
            outcomes.ask(store, "append_event", event=event(f"ses {number % 5}"))
        sqlalchemy.event.listen(store._database._writer, "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    outcomes.wait(50)
    assert sent == ["BEGIN", "INSERT", "INSERT"]


def test_reads_are_not_queued(store):
    def done(_result, _error):
        raise AssertionError

    assert not store.submit("get_session", {"session_id": "ses"}, done)
    assert not store.submit("get_events", {"session_id": "ses"}, done)


# -- Who is refused -------------------------------------------------------------------------------------------------


def test_who_is_refused_costs_the_others_nothing(store, outcomes, commits):
    """All that the contract refuses, in one group with what it does not: one transaction, after one that was given up."""
    saved, changed = session(id="ses"), session(id="ses", status="active")
    store.save_session(saved)
    store.save_run(run("a", id="run"))
    store.append_event(event("a", id="evt"))
    with held(store):
        outcomes.ask(store, "append_events", name="first", events=[event("x"), event("x")], expect={"x": 0})
        outcomes.ask(store, "append_events", name="late", events=[event("x")], expect={"x": 0})
        outcomes.ask(store, "append_events", name="next", events=[event("x")], expect={"x": 2, "nobody": 0})
        outcomes.ask(store, "save_session", name="replaces", session=changed, replacing=saved)
        outcomes.ask(store, "save_session", name="replaces what was", session=saved, replacing=saved)
        outcomes.ask(store, "save_session", name="replaces nothing", session=session(id="new"), replacing=session(id="new"))
        outcomes.ask(store, "save_run", name="of another", run=run("b", id="run"))
        outcomes.ask(store, "append_event", name="of another, too", event=event("b", id="evt"))
        outcomes.ask(store, "flush", name="flush", result={"run": run("y"), "events": [event("y")]}, expect={"y": 1})
        outcomes.ask(store, "append_event_with_sequence", name="last", event=event("x"))
        before = len(commits)
    told = {name: (result, error) for name, result, error in outcomes.wait(10)}
    assert len(commits) == before + 1
    assert {name: error.code for name, (_, error) in told.items() if error} == {
        "late": "conflict",
        "replaces what was": "conflict",
        "replaces nothing": "conflict",
        "of another": "session_mismatch",
        "of another, too": "session_mismatch",
        "flush": "conflict",
    }
    assert told["late"][1].details == {"session_id": "x", "expected": 0, "actual": 2}
    assert told["replaces what was"][1].details == {"session_id": "ses", "current": changed.to_map()}
    assert told["replaces nothing"][1].details == {"session_id": "new", "current": None}
    assert told["flush"][1].details == {"session_id": "y", "expected": 1, "actual": 0}
    assert [item.sequence_number for item in store.get_events("x")] == [1, 2, 3, 4]
    assert told["last"][0].sequence_number == 4
    assert store.get_session("ses") == changed
    assert (store.list_runs("y"), store.get_events("y"), store.get_events("b")) == ([], [], [])


def test_an_append_where_it_is_expected_needs_no_more_statements(store):
    store.append_event(event())
    sent = []
    sqlalchemy.event.listen(store._database._writer, "before_cursor_execute", lambda *args: sent.append(args[2].split()[0]))
    store.append_events([event()], expect={"ses": 1, "nobody": 0})  # whose counter is not kept
    store.append_events([event()], expect={"ses": 2})
    assert sent == ["BEGIN", "INSERT", "DELETE", "INSERT", "BEGIN", "INSERT", "INSERT"]


def test_who_is_refused_leaves_no_counter(store, path):
    with refused("conflict"):
        store.append_events([event("a")], expect={"a": 1, "b": 0})
    with refused("conflict"):
        store.flush({"session": session()}, expect={"c": 7})
    store.flush({"session": session()}, expect={"d": 0})
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM asm_session_sequences").fetchall() == []


def test_a_repeated_append_comes_back_whatever_is_expected(store):
    given = [event(), event()]
    stored = store.append_events(given, expect={"ses": 0})
    assert store.append_events(given, expect={"ses": 0}) == stored
    assert store.flush({"events": given}, expect={"other": 9}) == stored
    with refused("conflict", session_id="ses", expected=0, actual=2):
        store.append_events([*given, event()], expect={"ses": 0})
    assert store.get_latest_sequence("ses") == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": {"b": 1, "a": [1.0, 0.1 + 0.2, -0.0, 2**63 - 1, 1e300, None, True, {"": "\u0000'\""}]}},
        {"tags": ["x", "", "é"], "created_at": datetime(1, 1, 1, tzinfo=UTC), "deleted_at": at(1.000001)},
        {"updated_at": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
    ],
)
def test_what_was_read_can_be_given_back(store, fields):
    """It is what is stored, to the last digit, whatever order its maps are in."""
    store.save_session(session(id="ses", **fields))
    read = store.get_session("ses")
    store.save_session(read.update_status("active"), replacing=read)
    with refused("conflict", current=store.get_session("ses").to_map()):
        store.save_session(read, replacing=read)
    turned = session(id="turned", metadata={"a": {"x": 1, "y": 2}, "b": 0})
    store.save_session(turned)
    store.save_session(turned, replacing=turned.changed(metadata={"b": 0, "a": {"y": 2, "x": 1}}, updated_at=turned.updated_at))


# -- Who fails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 3, 7])
def test_one_that_fails_takes_no_other_with_it(explosive, outcomes, position):
    with held(explosive):
        for number in range(8):
            kind = "error_occurred" if number == position else "message_sent"
            outcomes.ask(explosive, "append_event", name=number, event=event("ses", type=kind))
    codes = outcomes.codes(8)
    assert [number for number, code in codes.items() if code] == [position]
    assert codes[position] == "storage_write_failed"
    assert list(codes) == list(range(8))
    assert [item.sequence_number for item in explosive.get_events("ses")] == list(range(1, 8))


def test_several_that_fail_are_told_each_of_its_own(explosive, outcomes):
    with held(explosive):
        for number in range(8):
            kind = "error_occurred" if number % 2 else "message_sent"
            outcomes.ask(explosive, "append_event", name=number, event=event("ses", type=kind))
    told = outcomes.wait(8)
    errors = [error for _, _, error in told if error]
    assert len({id(error) for error in errors}) == len(errors) == 4
    assert all("boom" in str(error) for error in errors)


def test_all_of_a_failed_flush_is_undone_though_others_succeed(explosive, outcomes):
    bad = {"session": session(id="bad"), "run": run("bad"), "events": [event("bad"), event("bad", type="error_occurred")]}
    with held(explosive):
        outcomes.ask(explosive, "flush", name="bad", result=bad)
        outcomes.ask(explosive, "save_session", name="good", session=session(id="good"))
    assert outcomes.codes(2) == {"bad": "storage_write_failed", "good": None}
    assert [item.id for item in explosive.list_sessions()] == ["good"]
    assert explosive.get_events("bad") == []


def test_what_is_stored_but_no_event_fails_only_who_meets_it(store, outcomes, path):
    store.append_event(broken := event("a"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE asm_events SET data = '[]'")
    with held(store):
        outcomes.ask(store, "append_event", name="broken", event=broken)
        outcomes.ask(store, "append_event", name="fine", event=event("b"))
    assert outcomes.codes(2) == {"broken": "storage_read_failed", "fine": None}


def test_a_commit_that_fails_fails_the_group_and_the_next_one_goes_on(store, outcomes, path):
    """A foreign key that is checked at the commit makes SQLite refuse just that."""

    def check_at_commit(connection):
        driver = connection.connection.driver_connection
        driver.execute("PRAGMA defer_foreign_keys = ON")
        driver.execute("INSERT INTO orphans VALUES ('nobody')")

    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orphans (id TEXT REFERENCES asm_sessions (id) DEFERRABLE INITIALLY DEFERRED)")
    with store._database._writer.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA foreign_keys = ON")
    with held(store):
        outcomes.ask(store, "append_event", name=1, event=event())
        outcomes.ask(store, "save_session", name=2, session=session(id="ses"))
        sqlalchemy.event.listen(store._database._writer, "begin", check_at_commit)
    told = outcomes.wait(2)
    sqlalchemy.event.remove(store._database._writer, "begin", check_at_commit)
    assert [error.code for _, _, error in told] == ["storage_write_failed"] * 2
    assert all("FOREIGN KEY" in error.details["cause"] for _, _, error in told)
    assert store.list_sessions() == []
    assert store.append_event_with_sequence(event()).sequence_number == 1


def test_who_waited_long_enough_for_a_lock_is_told(path, outcomes):
    with SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=0.05) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            with held(store):
                other.execute("BEGIN IMMEDIATE")
                for number in range(3):
                    outcomes.ask(store, "append_event", name=number, event=event())
            assert outcomes.codes(3) == dict.fromkeys(range(3), "storage_error")
            assert all(error.details["reason"] == "database_locked" for _, _, error in outcomes.told)
            other.execute("ROLLBACK")
        assert store.append_event_with_sequence(event()).sequence_number == 1


def test_and_who_came_later_waits_on(path, outcomes):
    with SqlSessionStore(url=f"sqlite:///{path}", busy_timeout=PATIENCE) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            with held(store):
                other.execute("BEGIN IMMEDIATE")
                outcomes.ask(store, "append_event", name="early", event=event())
                next(iter(store._writer._queue.values())).since -= PATIENCE
                outcomes.ask(store, "append_event", name="late", event=event())
            assert outcomes.codes(1) == {"early": "storage_error"}
            other.execute("ROLLBACK")
        assert outcomes.codes(2) == {"early": "storage_error", "late": None}


def test_what_nobody_foresaw_is_told_and_the_thread_lives_on(store, outcomes, monkeypatch):
    performed = writer.perform

    def perform(connection, writes, *, again):
        if any(write.session for write in writes):
            raise RuntimeError("a bug")
        return performed(connection, writes, again=again)

    monkeypatch.setattr(writer, "perform", perform)
    with held(store):
        outcomes.ask(store, "append_event", name="fine", event=event())
        outcomes.ask(store, "save_session", name="bug", session=session())
    told = {name: error for name, _, error in outcomes.wait(2)}
    assert told["fine"] is None
    assert isinstance(told["bug"], RuntimeError)
    with pytest.raises(RuntimeError, match="a bug"):
        store.save_session(session())


def test_one_who_cannot_be_told_keeps_nobody_waiting(store, outcomes, caplog):
    def broken(_result, _error):
        raise RuntimeError("gone")

    with held(store):
        store.submit("append_event", {"event": event()}, broken)
        outcomes.ask(store, "append_event", event=event())
    assert outcomes.codes(1) == {"append_event": None}
    assert store.get_latest_sequence("ses") == 2
    assert "could not be told" in caplog.text


def test_what_is_dropped_before_it_begins_is_not_written_and_not_held(store, outcomes):
    given, told = event(), Outcomes()
    kept = weakref.ref(told)
    with held(store):
        outcomes.ask(store, "append_event", name="first", event=event())
        drop = store.submit("append_event", {"event": given}, told.ask)
        outcomes.ask(store, "append_event", name="last", event=event())
        del told
        assert kept() is not None
        drop()
        drop()
        assert kept() is None
    assert outcomes.codes(2) == {"first": None, "last": None}
    drop()
    assert given.id not in [item.id for item in store.get_events("ses")]
    assert store.get_latest_sequence("ses") == 2


# -- A commit in doubt ----------------------------------------------------------------------------------------------


@pytest.fixture
def break_commits(store, monkeypatch):
    """A function that makes the next commits break the connection, before or after they have taken place."""

    def arrange(count, *, committed):
        driver_commit = store._database._writer.dialect.do_commit
        left = [count]

        def do_commit(connection):
            if committed or not left[0]:
                driver_commit(connection)
            if left[0]:
                left[0] -= 1
                raise sqlite3.OperationalError("server closed the connection")

        monkeypatch.setattr(store._database._writer.dialect, "do_commit", do_commit)
        monkeypatch.setattr(store._database._writer.dialect, "is_disconnect", lambda error, *_: "server closed" in str(error))
        known = writer.Database.trouble

        def trouble(database, error):
            lost = isinstance(error, OperationalError) and error.connection_invalidated
            return writer.Trouble.LOST if lost else known(database, error)

        monkeypatch.setattr(writer.Database, "trouble", trouble)

    return arrange


@pytest.mark.parametrize("committed", [False, True])
def test_events_are_appended_again_and_the_others_told_that_nobody_knows(store, outcomes, break_commits, committed):
    with held(store):
        outcomes.ask(store, "append_event_with_sequence", name="event", event=event("ses"))
        outcomes.ask(store, "save_session", name="session", session=session(id="ses"))
        outcomes.ask(store, "append_events", name="events", events=[event("ses"), event("ses")])
        break_commits(1, committed=committed)
    told = {name: (result, error) for name, result, error in outcomes.wait(3)}
    assert told["event"][0].sequence_number == 1
    assert [item.sequence_number for item in told["events"][0]] == [2, 3]
    assert told["session"][1].details["outcome"] == "unknown"
    assert store.get_latest_sequence("ses") == 3
    assert len(store.list_sessions()) == committed


@pytest.mark.parametrize("committed", [False, True])
def test_what_replaced_something_tells_whether_it_took_place(store, outcomes, break_commits, committed):
    first, second = session(id="ses"), session(id="ses", status="active")
    store.save_session(first)
    with held(store):
        outcomes.ask(store, "save_session", name="replaced", session=second, replacing=first)
        outcomes.ask(store, "save_run", name="saved", run=run("ses", id="run"))
        outcomes.ask(store, "flush", name="flushed", result={"run": run("ses", id="done"), "events": [event()]})
        outcomes.ask(store, "flush", name="silent", result={"run": run("ses", id="none"), "events": []})
        outcomes.ask(store, "append_events", name="expected", events=[event()], expect={"ses": 1})
        outcomes.ask(store, "append_events", name="refused", events=[event()], expect={"ses": 1})
        break_commits(1, committed=committed)
    told = {name: (result, error) for name, result, error in outcomes.wait(6)}
    assert {name for name, (_, error) in told.items() if error is None} == {"replaced", "flushed", "expected"}
    assert {told[name][1].details["outcome"] for name in ("saved", "silent")} == {"unknown"}
    assert told["refused"][1].details == {"session_id": "ses", "expected": 1, "actual": 2}
    assert [item.sequence_number for name in ("flushed", "expected") for item in told[name][0]] == [1, 2]
    assert store.get_session("ses") == second
    assert store.get_run("done").id == "done"


def test_what_was_replaced_again_meanwhile_is_not_known(store, outcomes, break_commits, monkeypatch):
    first, second, third = (session(id="ses", status=status) for status in ("pending", "active", "paused"))
    store.save_session(first)

    def meddle(database, error):
        trouble = known(database, error)
        if trouble is writer.Trouble.LOST:
            with closing(sqlite3.connect(database._files._path)) as connection, connection:
                connection.execute("UPDATE asm_sessions SET status = 'paused'")
        return trouble

    with held(store):
        outcomes.ask(store, "save_session", name="replaced", session=second, replacing=first)
        break_commits(1, committed=True)
        known = writer.Database.trouble
        monkeypatch.setattr(writer.Database, "trouble", meddle)
    ((_, _, error),) = outcomes.wait(1)
    assert (error.code, error.details["outcome"]) == ("storage_connection_failed", "unknown")
    assert store.get_session("ses").status == third.status


def test_a_connection_that_breaks_every_time_is_given_up(store, outcomes, break_commits):
    with held(store):
        outcomes.ask(store, "append_event", event=event("ses"))
        break_commits(100, committed=False)
    ((_, _, error),) = outcomes.wait(1)
    assert error.code == "storage_write_failed"
    assert "server closed the connection" in error.details["cause"]


# -- Closing --------------------------------------------------------------------------------------------------------


def test_closing_commits_what_is_queued_and_ends_the_thread(path, outcomes):
    store = SqlSessionStore(url=f"sqlite:///{path}")
    thread = store._writer._thread
    with held(store):
        for number in range(3):
            outcomes.ask(store, "append_event", name=number, event=event())
        closing_thread = threading.Thread(target=store.close)
        closing_thread.start()
    closing_thread.join(PATIENCE)
    assert not thread.is_alive()
    assert outcomes.codes(3) == dict.fromkeys(range(3))
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        assert store.get_latest_sequence("ses") == 3


def test_a_store_that_is_closed_takes_nothing(path, outcomes):
    store = SqlSessionStore(url=f"sqlite:///{path}")
    store.close()
    outcomes.ask(store, "append_event", event=event())
    ((_, result, error),) = outcomes.told
    assert (result, error.details["reason"]) == (None, "closed")
    with refused("storage_error", reason="closed"):
        store.append_event(event())
    with pytest.raises(Error):
        store._writer.write("append_event", {"event": event()})
