"""Exports and imports in SQL: the same bytes from every store, all or nothing in steps, and what others do meanwhile."""

import io
import itertools
import threading
from datetime import datetime, timedelta

import pytest

from asm.adapters import InMemorySessionStore, SqlSessionStore
from asm.adapters.sql import imports, upkeep
from asm.testing.samples import at, event, refused, run, session


@pytest.fixture
def store(url, monkeypatch):
    monkeypatch.setattr(imports, "BATCH", 7)
    with SqlSessionStore(url=url) as made:
        yield made


def fill(store, events=30):
    """Store a session with gaps, and runs that are not in the order of their ids; return its export."""
    store.save_session(session(id="ses", tags=["x"], metadata={"b": 1.0, "a": [None, {"\0ключ": 2**62}]}))
    for number in range(5):
        usage = {"total_tokens": number, "details": {"cached": 0.5}}
        store.save_run(run("ses", id=f"run {number}", started_at=at(-number), token_usage=usage, cost_usd=0.25))
    store.append_events(
        [event("ses", id=f"evt {number}", timestamp=at(number), data={"n": number}) for number in range(events)]
    )
    store.delete_events("ses", through=3)
    return exported(store)


def exported(store, session_id="ses"):
    with store.export_session(session_id) as file:
        return file.read()


def events_left(store):
    """How many rows of events there are, deleted or not."""
    return store._database.read(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM asm_events").scalar())


def there_is_nothing(store, session_id="ses"):
    with refused("session_not_found"):
        store.get_session(session_id)
    assert store.list_runs(session_id) == store.get_events(session_id) == []
    assert store.get_latest_sequence(session_id) == store.count_events(session_ids=session_id) == 0


def test_an_export_goes_through_every_store_unchanged(store):
    data = fill(store)
    with InMemorySessionStore() as memory:
        assert memory.import_session(data) == "ses"
        assert exported(memory) == data
        store.delete_session("ses")
        assert store.import_session(io.BytesIO(exported(memory))) == "ses"
    assert exported(store) == data
    assert [item.sequence_number for item in store.get_events("ses")] == list(range(4, 31))
    assert store.get_latest_sequence("ses") == 30
    assert store.append_event_with_sequence(event("ses")).sequence_number == 31
    assert store.search_runs(order="-tokens", limit=1).items == [store.get_run("run 4")]


def test_what_is_not_saved_is_exported_too(store):
    store.append_events([event("log", id="evt")])
    store.save_run(run("runs", id="run"))
    store.save_session(session(id="empty"))
    store.append_events([event("gone"), event("gone")])
    store.delete_events("gone", through=2)
    for session_id in ("log", "runs", "empty", "gone"):
        data, latest = exported(store, session_id), store.get_latest_sequence(session_id)
        store.delete_session(session_id)
        assert store.import_session(data) == session_id
        assert (exported(store, session_id), store.get_latest_sequence(session_id)) == (data, latest)
    with refused("session_not_found"):
        store.export_session("none")


def test_what_is_there_is_not_imported_over(store):
    data = fill(store)
    with refused("already_exists", session_id="ses"):
        store.import_session(data)
    store.delete_session("ses")
    for made in (
        lambda: store.save_session(session(id="ses")),
        lambda: store.save_run(run("ses")),
        lambda: store.append_event(event("ses")),
    ):
        made()
        with refused("already_exists", session_id="ses"):
            store.import_session(data)
        store.delete_session("ses")
    store.import_session(data)
    assert exported(store) == data


def test_ids_of_other_sessions_are_not_taken(store):
    data = fill(store)
    store.delete_session("ses")
    store.append_event(event("other", id="evt 25"))
    with refused("session_mismatch", event_id="evt 25"):
        store.import_session(data)
    there_is_nothing(store)
    store.delete_session("other")
    store.save_run(run("other", id="run 2"))
    with refused("session_mismatch", run_id="run 2"):
        store.import_session(data)
    there_is_nothing(store)
    assert events_left(store) == 0
    store.delete_session("other")
    store.import_session(data)
    assert exported(store) == data


@pytest.mark.parametrize("kind", ["event", "run"])
def test_an_id_that_comes_twice_is_told_with_its_line(store, kind):
    lines = fill(store).splitlines(keepends=True)
    store.delete_session("ses")
    at_line = len(lines) - 2 if kind == "event" else 6
    lines[at_line - 1] = lines[at_line - 1].replace(b"evt 28", b"evt 4").replace(b"run 1", b"run 4")
    with refused("invalid_format", line=at_line):
        store.import_session(lines)
    there_is_nothing(store)


def test_a_broken_export_leaves_nothing(store):
    lines = fill(store).splitlines(keepends=True)
    store.delete_session("ses")
    for broken in (lines[:-1], [*lines[:-1], b"{}\n"], [*lines[:20], b"{", *lines[20:]]):
        with refused("invalid_format"):
            store.import_session(broken)
        there_is_nothing(store)
        assert events_left(store) == 0
    with pytest.raises(ConnectionResetError):
        store.import_session(itertools.chain(lines[:25], failing()))
    there_is_nothing(store)
    assert events_left(store) == 0


def failing():
    raise ConnectionResetError
    yield


class Interrupted:
    """An export that comes in pieces, with something that is done when a part of it has come."""

    def __init__(self, data, between):
        self.lines, self.between = data.splitlines(keepends=True), between

    def __iter__(self):
        yield from self.lines[:25]
        self.between()
        yield from self.lines[25:]


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda store: store.append_event(event("ses")),
        lambda store: store.save_session(session(id="ses")),
        lambda store: store.save_run(run("ses")),
        lambda store: store.append_event(event("other", id="evt 8")),
        lambda store: store.delete_session("ses"),
    ],
)
def test_others_who_do_something_meanwhile_win(store, meanwhile):
    data = fill(store)
    store.delete_session("ses")
    with refused("already_exists"):
        store.import_session(Interrupted(data, lambda: meanwhile(store)))
    assert len(store.get_events("ses")) == store.get_latest_sequence("ses") <= 1
    store.delete_session("ses")
    store.delete_session("other")
    store.import_session(data)
    assert exported(store) == data


def test_an_import_that_waits_is_seen_by_nobody_and_holds_up_nobody(store, url):
    data = fill(store)
    store.delete_session("ses")

    def look():
        there_is_nothing(store)
        store.append_event(event("other"))
        with SqlSessionStore(url=url) as second:  # which removes what is left of deletions
            second.delete_session("other")
            with refused("already_exists"):
                second.import_session(data)
        there_is_nothing(store)

    store.import_session(Interrupted(data, look))
    assert exported(store) == data


def test_who_waits_for_events_hears_of_an_import(store):
    data = fill(store)
    store.delete_session("ses")
    found = []
    waiting = threading.Thread(target=lambda: found.extend(store.get_events("ses", wait_timeout_ms=60_000)))
    waiting.start()
    store.import_session(data)
    waiting.join(60)
    assert len(found) == 27


def test_what_an_import_left_is_removed_when_its_time_is_up(store, url, monkeypatch):
    data = fill(store)
    store.delete_session("ses")
    monkeypatch.setattr(imports.Import, "_give_up", lambda _: None)
    monkeypatch.setattr(imports, "LEASE", timedelta(seconds=1))
    monkeypatch.setattr(upkeep, "IMPORTING", 0.1)
    with pytest.raises(ConnectionResetError):
        store.import_session(itertools.chain(data.splitlines(keepends=True)[:25], failing()))
    assert events_left(store) == 14
    there_is_nothing(store)
    with SqlSessionStore(url=url) as second:
        for _ in range(1000):
            if not events_left(second):
                break
            threading.Event().wait(0.02)
        assert events_left(second) == 0
        second.import_session(data)
        assert exported(second) == data


KILLED = """
import os, signal
from asm.adapters.sql import imports
from asm.adapters.sql.engine import Database

imports.BATCH = 7
write, left = Database.write, int(sys.argv[3])

def writing(database, function):
    def attempt(connection):
        global left
        result = function(connection)
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return write(database, attempt)

with SqlSessionStore(url=sys.argv[1]) as store, open(sys.argv[2], "rb") as data:
    Database.write = writing
    say(store.import_session(data))
"""


def test_an_import_that_is_killed_before_a_commit_is_seen_by_nobody(store, url, start, tmp_path, monkeypatch):
    data = fill(store)
    (tmp_path / "export").write_bytes(data)
    store.delete_session("ses")
    for commits in itertools.count():
        program = start(KILLED, url, tmp_path / "export", commits).process
        if program.communicate(timeout=60)[0]:
            break
        there_is_nothing(store)
        with monkeypatch.context() as patch:  # as time would
            patch.setattr(imports, "datetime", Later)
            store.import_session(data)
        assert exported(store) == data
        store.delete_session("ses")
    assert commits == 6
    assert exported(store) == data


class Later(datetime):
    """A clock that is an hour ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(hours=1)
