"""Sessions with many events are deleted at once in everybody's eyes, and in steps on the disk."""

import sqlite3
import threading
from contextlib import closing

import pytest

from asm.adapters import SqlSessionStore
from asm.adapters.sql import upkeep
from asm.adapters.sql.deletions import STEP
from asm.core.errors import Error
from asm.testing.samples import at_once, event, refused, run, session

PATIENCE = 60
MANY = 5 * STEP


@pytest.fixture
def paused(monkeypatch):
    """Nothing is removed beyond the first step, until this is called."""
    go, step = threading.Event(), upkeep.Upkeep._remove
    monkeypatch.setattr(upkeep.Upkeep, "_remove", lambda self: step(self) if go.is_set() else None)
    monkeypatch.setattr(upkeep.Upkeep, "due", lambda self: 0.01 if self._removing else None)
    return go.set


def count(store):
    """How many rows there are, deleted or not."""
    return store._database.read(lambda connection: connection.exec_driver_sql("SELECT count(*) FROM asm_events").scalar())


def is_removed(store):
    left = "SELECT count(*) FROM asm_session_sequences WHERE deleted_through IS NOT NULL"
    return not store._database.read(lambda connection: connection.exec_driver_sql(left).scalar())


def wait_removed(store):
    wait_for(lambda: is_removed(store))


def wait_for(condition):
    done = threading.Event()
    for _ in range(100 * PATIENCE):
        if condition():
            return
        done.wait(0.01)
    pytest.fail("they are not removed")


def fill(store, session_id="ses", number=MANY):
    store.save_session(session(id=session_id))
    store.save_run(run(session_id, id=f"run {session_id}", status="running"))
    return store.append_events([event(session_id, run_id="run") for _ in range(number)])


def assert_gone(store, session_id="ses"):
    with refused("session_not_found"):
        store.get_session(session_id)
    assert store.list_runs(session_id) == []
    assert store.get_active_run(session_id) is None
    assert store.get_events(session_id) == []
    assert store.get_events(session_id, run_id="run") == []
    assert store.get_events(session_id, after=MANY - 5) == []
    assert store.get_latest_sequence(session_id) == 0


def test_it_is_gone_at_once_and_removed_soon(store):
    fill(store)
    kept = fill(store, "other", 3)
    store.delete_session("ses")
    assert_gone(store)
    wait_removed(store)
    assert count(store) == 3
    assert store.get_events("other") == kept
    assert_gone(store)


def test_a_small_one_leaves_nothing_to_be_done(store, paused):
    fill(store, number=STEP - 1)
    store.delete_session("ses")
    assert count(store) == 0
    assert is_removed(store)


def test_others_write_between_the_steps(store, monkeypatch):
    """Acknowledged in the order of events: the deletion, what others append, and the removal's end."""
    told, removed = [], threading.Event()
    step = upkeep.remove_some

    def remove_some(connection, **options):
        told.append("step")
        return step(connection, **options)

    monkeypatch.setattr(upkeep, "remove_some", remove_some)
    fill(store)

    def deleted(_result, _error):
        told.append("deleted")
        append()

    def append(*_):
        if is_removed(store):
            removed.set()
            return
        told.append("append")
        threading.Thread(target=store.submit, args=["append_event", {"event": event("other")}, append]).start()

    store.submit("delete_session", {"session_id": "ses"}, deleted)
    assert removed.wait(PATIENCE)
    assert told[0] == "deleted"
    first, last = told.index("step"), len(told) - 1 - told[::-1].index("step")
    assert told[first:last].count("append") >= 2
    assert store.get_latest_sequence("other") == told.count("append")


def test_a_log_begins_anew_while_the_old_one_is_removed(store, paused):
    fill(store)
    store.delete_session("ses")
    assert count(store) > STEP
    appended = store.append_events([event() for _ in range(2 * STEP)])  # more than were removed already
    assert [item.sequence_number for item in appended] == list(range(1, 2 * STEP + 1))
    assert store.get_events("ses") == appended
    one = store.append_event_with_sequence(event())
    assert one.sequence_number == 2 * STEP + 1
    paused()
    wait_removed(store)
    assert store.get_events("ses") == [*appended, one]
    assert count(store) == len(appended) + 1
    assert store.append_event_with_sequence(event()).sequence_number == 2 * STEP + 2


def test_it_may_be_deleted_again_in_between(store, paused):
    fill(store)
    store.delete_session("ses")
    fill(store, number=10)
    store.delete_session("ses")
    assert_gone(store)
    assert store.append_event_with_sequence(event()).sequence_number == 1
    paused()
    wait_removed(store)
    assert count(store) == 1


def test_the_ids_of_what_is_deleted_are_free(store, paused):
    """For the same session and for others."""
    old = fill(store)
    store.delete_session("ses")
    again = store.append_events([old[-1], old[5], event("other", id=old[-2].id)])
    assert [(item.session_id, item.sequence_number) for item in again] == [("ses", 1), ("ses", 2), ("other", 1)]
    assert store.get_events("ses") == again[:2]
    paused()
    wait_removed(store)
    assert store.get_events("ses") == again[:2]
    assert store.get_events("other") == again[2:]
    assert count(store) == 3


def test_it_goes_on_after_a_restart(url, paused):
    with SqlSessionStore(url=url) as store:
        fill(store)
        store.delete_session("ses")
    paused()
    with SqlSessionStore(url=url) as store:
        assert_gone(store)
        wait_removed(store)
        assert count(store) == 0


def test_many_at_once(store):
    names = [f"ses {number}" for number in range(20)]
    for name in names:
        fill(store, name, 30)
    left = threading.Semaphore(0)
    for name in names:
        store.submit("delete_session", {"session_id": name}, lambda _, error: left.release() if error is None else None)
    for _ in names:
        assert left.acquire(timeout=PATIENCE)
    assert store.list_sessions() == []
    wait_removed(store)
    assert count(store) == 0


def test_a_deletion_needs_no_more_room_than_an_append(start, tmp_path):
    """On a disk on which small writes go on, because what they write twice is written to its place."""
    program = """
    import resource
    from pathlib import Path
    with SqlSessionStore(url=sys.argv[1]) as store:
        for _ in range(40):
            store.append_events([Event.new(type="message_sent", session_id="ses", data={"x": "y" * 500}) for _ in range(500)])
        store._database.make_room()  # all of it has its place
        most = 8_000_000  # no file may grow beyond
        assert Path(sys.argv[2]).stat().st_size < most
        database = Path(sys.argv[2].removesuffix("-wal")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(database, most), resource.RLIM_INFINITY))
        store.append_event(Event.new(type="message_sent", session_id="other"))
        store.delete_session("ses")
        left = "SELECT count(*) FROM asm_events"
        while store._database.read(lambda connection: connection.exec_driver_sql(left).scalar()) > 1:
            pass
        say(len(store.get_events("ses")), len(store.get_events("other")))
    """
    path = tmp_path / "sessions.db"
    assert start(program, f"sqlite:///{path}", f"{path}-wal").hear() == ["0", "1"]


# -- The log of SQLite ------------------------------------------------------------------------------------------------


def test_the_write_ahead_log_is_cut_when_a_long_reader_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "IDLE", 0.05)
    path, log = tmp_path / "sessions.db", tmp_path / "sessions.db-wal"
    with SqlSessionStore(url=f"sqlite:///{path}") as store:
        store.append_event(event())
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM asm_events").fetchall()
            while log.stat().st_size <= 2 * upkeep.WAL_BYTES:
                store.append_events([event(data={"text": "x" * 10_000}) for _ in range(500)])
            reader.execute("COMMIT")
        waiting = threading.Event()
        for _ in range(100 * PATIENCE):
            if log.stat().st_size <= upkeep.WAL_BYTES:
                break
            waiting.wait(0.01)
        assert log.stat().st_size <= upkeep.WAL_BYTES
        store.append_event(event())


def test_a_run_and_an_event_of_another_session_fail_alone(store):
    """In a group with others, and whoever has the id."""
    store.save_run(run("owner", id="run", output={"secret": "x"}))
    store.append_event(event("owner", id="evt", data={"secret": "x"}))
    begun, go = threading.Event(), threading.Event()

    def hold(_session_id):
        begun.set()
        assert go.wait(PATIENCE)

    unsubscribe = store.appends.subscribe(hold)
    store.submit("append_event", {"event": event("held")}, lambda *_: None)
    assert begun.wait(PATIENCE)
    unsubscribe()
    told, changed = {}, threading.Semaphore(0)

    def ask(name, operation, **arguments):
        def done(_result, error):
            told[name] = error
            changed.release()

        store.submit(operation, arguments, done)

    ask("fine", "append_event", event=event("a"))
    ask("event", "append_event", event=event("thief", id="evt"))
    ask("run", "save_run", run=run("thief", id="run"))
    ask("first", "save_run", run=run("a", id="new"))
    ask("second", "save_run", run=run("b", id="new"))
    ask("also fine", "save_session", session=session(id="a"))
    go.set()
    for _ in range(6):
        assert changed.acquire(timeout=PATIENCE)
    refusals = {name: error.code for name, error in told.items() if error}
    assert refusals == dict.fromkeys(("event", "run", "second"), "session_mismatch")
    assert "secret" not in "".join(f"{error} {error.details}" for error in told.values() if isinstance(error, Error))
    assert "owner" not in f"{told['event']} {told['event'].details} {told['run']} {told['run'].details}"
    assert store.get_run("new").session_id == "a"
    assert store.get_run("run").session_id == "owner"
    assert store.get_latest_sequence("thief") == 0


# -- Events -----------------------------------------------------------------------------------------------------------


def fill_mixed(store, session_id="ses", number=MANY):
    kinds = ["message_sent", "message_received", "myapp.thought"]
    return store.append_events([event(session_id, type=kinds[n % 3], run_id=f"run {n % 2}") for n in range(number)])


def are_gone(store):
    return not store._database.read(lambda connection: connection.exec_driver_sql("SELECT 1 FROM asm_event_deletions").first())


@pytest.mark.parametrize(
    "condition",
    [
        {"through": MANY - 3},
        {"run_id": "run 1"},
        {"type": ["message_sent", "myapp.thought"]},
        {"type": "message_sent", "run_id": "run 0", "through": 3 * MANY // 2},
    ],
)
def test_events_are_gone_at_once_and_removed_soon(store, paused, condition):
    filled, kept = fill_mixed(store, number=2 * MANY), fill_mixed(store, "other", 5)
    types = condition.get("type", [item.type for item in filled])

    def matches(item):
        own = condition.get("run_id") in (None, item.run_id) and item.type in types
        return own and item.sequence_number <= condition.get("through", 2 * MANY)

    left = [item for item in filled if not matches(item)]
    assert store.delete_events("ses", **condition) == len(filled) - len(left) > STEP
    assert store.delete_events("ses", **condition) == 0
    assert count(store) == 2 * MANY + 5
    assert store.get_events("ses") == left
    assert store.get_events("ses", limit=3, run_id="run 1") == [item for item in left if item.run_id == "run 1"][:3]
    assert store.get_latest_sequence("ses") == 2 * MANY
    appended = store.append_events([event(run_id="run 1"), event(run_id="run 0", type="myapp.thought")])
    assert [item.sequence_number for item in appended] == [2 * MANY + 1, 2 * MANY + 2]
    paused()
    wait_for(lambda: are_gone(store))
    assert count(store) == len(left) + 7
    assert store.get_events("ses") == [*left, *appended]
    assert store.get_events("other") == kept


def test_few_events_leave_nothing_to_be_done(store, paused):
    filled = fill_mixed(store, number=STEP)
    assert store.delete_events("ses", through=STEP) == STEP
    assert count(store) == 0
    assert are_gone(store)
    again = store.append_events(filled)  # their ids are free, their numbers are not
    assert [item.sequence_number for item in again] == list(range(STEP + 1, 2 * STEP + 1))


def test_deletions_of_events_may_overlap_and_each_counts_its_own(store, paused):
    filled = fill_mixed(store, number=6 * STEP)
    assert store.delete_events("ses", run_id="run 0") == 3 * STEP
    assert store.delete_events("ses", type="message_sent") == STEP
    assert store.delete_events("ses", through=3 * STEP) == STEP
    left = store.get_events("ses")
    assert left == [i for i in filled[3 * STEP :] if i.run_id != "run 0" and i.type != "message_sent"]
    paused()
    wait_for(lambda: are_gone(store))
    assert store.get_events("ses") == left
    assert count(store) == len(left)


def test_the_ids_of_events_that_are_deleted_are_free(store, paused):
    filled = fill_mixed(store)
    store.delete_events("ses", through=MANY - 1)
    again = store.append_events([filled[0], filled[-1], event("other", id=filled[1].id)])
    assert [(item.session_id, item.sequence_number) for item in again] == [("ses", MANY + 1), ("ses", MANY), ("other", 1)]
    assert store.get_events("ses") == [filled[-1], again[0]]


def test_a_session_whose_events_were_being_deleted_begins_anew(store, paused):
    fill_mixed(store)
    store.delete_events("ses", through=MANY)
    store.delete_session("ses")
    appended = fill_mixed(store, number=MANY)
    assert appended[0].sequence_number == 1
    assert store.delete_events("ses", through=MANY - 1) == MANY - 1
    assert store.get_events("ses") == appended[-1:]
    paused()
    wait_for(lambda: are_gone(store) and is_removed(store))
    assert store.get_events("ses") == appended[-1:]
    assert count(store) == 1


def test_events_are_removed_after_a_restart(url, paused):
    with SqlSessionStore(url=url) as store:
        filled = fill_mixed(store)
        store.delete_events("ses", run_id="run 0")
    paused()
    with SqlSessionStore(url=url) as store:
        assert store.get_events("ses") == filled[1::2]
        wait_for(lambda: are_gone(store))
        assert count(store) == len(filled) // 2


def test_deletions_of_events_at_once_count_every_event_once(url):
    with SqlSessionStore(url=url) as one, SqlSessionStore(url=url) as other:
        fill_mixed(one, number=4 * STEP)
        conditions = [{"run_id": "run 0"}, {"type": "message_sent"}, {"through": 3 * STEP}, {"through": 4 * STEP}]
        counts = at_once(8, lambda number: (one, other)[number % 2].delete_events("ses", **conditions[number // 2]))
        assert sum(counts) == 4 * STEP
        assert one.get_events("ses") == other.get_events("ses") == []
