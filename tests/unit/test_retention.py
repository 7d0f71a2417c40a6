"""Retention: what goes, what stays, and that it may end anywhere and is run again."""

import functools
from datetime import UTC, datetime, timedelta

import pytest

import asm
from asm import retention
from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.core.errors import Error
from asm.operations import OPERATIONS
from asm.retention import RetentionPolicy, RetentionReport
from asm.testing.samples import LONGEST_IDS, event, refused, run, session

NOW = datetime.now(UTC)
HEX = "0123456789abcdef" * 2


def ago(days):
    return NOW - timedelta(days=days)


def old(name, *, days=100, deleted=None, **fields):
    """A session that ended so many days ago, and was deleted so many days ago."""
    deleted_at = None if deleted is None else ago(deleted)
    return session(**{"id": name, "status": "completed", "created_at": ago(days), "deleted_at": deleted_at, **fields})


class Both:
    """Two stores as a composite has them.

    :param before: called before each call, with the name of the operation and its arguments.
    """

    def __init__(self, sessions, artifacts, before=lambda *_: None):
        self.stores = {"artifact": artifacts}
        self.sessions = sessions
        self.before = before

    def __getattr__(self, name):
        if name not in OPERATIONS:
            raise AttributeError(name)
        method = getattr(self.stores.get(OPERATIONS[name].contract, self.sessions), name)

        @functools.wraps(method)
        def call(*args, **kwargs):
            self.before(name, args)
            return method(*args, **kwargs)

        return call


@pytest.fixture
def make(tmp_path):
    """A function that makes an empty store."""
    opened = []

    def making(before=lambda *_: None):
        opened.append(InMemorySessionStore())
        opened.append(FileArtifactStore(root=tmp_path / str(len(opened))))
        return Both(*opened[-2:], before)

    yield making
    for store in opened:
        store.close()


@pytest.fixture
def store(make):
    return make()


def fill(store, name, *, events=3, artifacts=2, runs=1, **fields):
    """Save a session with what belongs to it."""
    store.save_session(saved := old(name, **fields))
    for number in range(runs):
        store.save_run(run(name, id=f"{name[-900:]} run {number}", started_at=ago(1)))
    store.append_events([event(name, id=f"{name[-900:]} {number}", timestamp=ago(2)) for number in range(events)])
    for number in range(artifacts):
        store.put(f"{name[:900]}/{number}", b"data")
    return saved


def keys(store):
    return [info.key for info in store.list()]


def contents(store):
    """All that there is, but for the moments at which sessions were deleted just now."""
    sessions = [
        item.changed(deleted_at=item.deleted_at and ago(0), updated_at=ago(0))
        for item in store.search_sessions(include_deleted=True, order="created_at", limit=1000)
    ]
    events = store.search_events(limit=1000).items
    return sessions, store.search_runs(limit=1000).items, events, {key: store.get(key) for key in keys(store)}


def figures(report):
    """What a report counts, but for the time."""
    return {name: getattr(report, name) for name in RetentionReport.__slots__ if name not in ("duration_ms", "errors")}


def test_what_is_old_and_done_goes_and_all_else_stays(store):
    for name, fields in {
        "ended": {},
        "ended lately": {"days": 80},
        "deleted": {"deleted": 31},
        "deleted lately": {"deleted": 29},
        "pinned": {"tags": ["pinned"], "deleted": 31},
        "active": {"status": "active", "days": 1000},
    }.items():
        fill(store, name, **fields)
    store.put("patch-1", b"kept")
    exported = store.export_session("deleted").read()
    report = retention.apply(store, RetentionPolicy(archive=True))
    assert not report.errors
    assert figures(report) == {
        "sessions_soft_deleted": 1,
        "sessions_deleted": 1,
        "sessions_archived": 1,
        "events_deleted": 3,
        "artifacts_deleted": 2,
    }
    assert store.get_session("ended").deleted_at >= NOW
    for name in ("ended", "ended lately", "deleted lately", "pinned", "active"):
        assert (len(store.get_events(name)), len(store.list_runs(name)), len(store.list(prefix=f"{name}/"))) == (3, 1, 2)
    with refused("session_not_found"):
        store.get_session_stats("deleted")
    assert store.list(prefix="deleted/") == []
    assert store.get("patch-1") == b"kept"
    (archive,) = store.list(prefix="archive/")
    assert archive.key.startswith("archive/deleted/")
    assert store.get(archive.key) == exported
    assert store.import_session(store.open(archive.key)) == "deleted"
    assert store.export_session("deleted").read() == exported


def test_there_is_nothing_to_do_twice(store):
    fill(store, "ended")
    fill(store, "deleted", deleted=31)
    fill(store, "chatty", status="active", events=9)
    policy = RetentionPolicy(max_events_per_session=3, archive=True)
    assert any(figures(retention.apply(store, policy)).values())
    before = contents(store)
    assert not any(figures(retention.apply(store, policy)).values())
    assert contents(store) == before


def test_without_a_wait_it_is_done_in_one_go(store):
    fill(store, "ended")
    report = retention.apply(store, RetentionPolicy(hard_delete_after_days=0))
    assert (report.sessions_soft_deleted, report.sessions_deleted, report.sessions_archived) == (1, 1, 0)
    assert contents(store) == ([], [], [], {})


def test_a_dry_run_tells_and_changes_nothing(store):
    for number in range(7):
        fill(store, f"ended {number}")
        fill(store, f"deleted {number}", deleted=31)
        fill(store, f"chatty {number}", status="paused", events=9)
    policy = RetentionPolicy(max_events_per_session=5, archive=True, batch_size=2, exempt_statuses=["active"])
    before = contents(store)
    told = retention.apply(store, policy, dry_run=True)
    assert contents(store) == before
    assert figures(told) == figures(retention.apply(store, policy))
    assert (told.sessions_deleted, told.events_deleted, told.artifacts_deleted) == (7, 7 * (3 + 4), 14)


# -- The number of events ----------------------------------------------------------------------------------------------


def test_the_oldest_events_go_of_a_session_that_has_too_many(store, monkeypatch):
    monkeypatch.setattr(retention, "STEP", 2)
    fill(store, "ses", status="pending", events=9)
    store.delete_events("ses", through=1)  # 2 to 9 are left
    exported = store.export_session("ses").read()
    policy = RetentionPolicy(max_events_per_session=3, archive=True)
    report = retention.apply(store, policy)
    assert [item.sequence_number for item in store.get_events("ses")] == [7, 8, 9]
    assert (report.events_deleted, report.sessions_archived, report.sessions_deleted) == (5, 1, 0)
    assert store.get_latest_sequence("ses") == 9
    (archive,) = store.list(prefix="archive/")
    assert archive.key.endswith("-through-6.jsonl")
    assert store.get(archive.key) == exported
    store.append_event(event("ses"))
    assert retention.apply(store, policy).events_deleted == 1
    assert len(store.list(prefix="archive/")) == 2
    assert store.get(archive.key) == exported


@pytest.mark.parametrize("fields", [{"status": "active"}, {"tags": ["pinned"]}], ids=str)
def test_of_an_exempt_session_no_event_goes(store, fields):
    fill(store, "ses", events=9, **fields)
    assert retention.apply(store, RetentionPolicy(max_events_per_session=3)).events_deleted == 0


# -- Artifacts ---------------------------------------------------------------------------------------------------------


def test_artifacts_of_sessions_that_are_gone_go_and_no_others(store, monkeypatch):
    gone, living, unsaved = (f"ses_{letter * 32}" for letter in "abc")
    store.save_session(session(id=living))
    store.append_event(event(unsaved))
    kept = [
        "patch-1",
        "a directory/file",
        f"patch-{gone}/file",
        f"ses_{HEX[:31]}/file",
        f"ses_{HEX}0/file",
        f"ses_{HEX.upper()}/file",
        f"ses_{HEX}",
        f"x/{gone}/file",
        f"archive/{gone}/file",
        f"{living}/file",
        f"{unsaved}/file",
    ]
    for key in [*kept, *(f"{gone}/{number}" for number in range(5)), f"ses_{HEX}/a/b"]:
        store.put(key, b"")
    monkeypatch.setattr(retention, "STEP", 3)
    assert (
        retention.apply(store, RetentionPolicy()).artifacts_deleted == 0
    )  # these may be of a session that is about to be saved
    monkeypatch.setattr(retention, "GRACE", timedelta(0))
    assert retention.apply(store, RetentionPolicy(), dry_run=True).artifacts_deleted == 6
    assert retention.apply(store, RetentionPolicy()).artifacts_deleted == 6
    assert keys(store) == sorted(kept)


def test_a_session_takes_no_artifacts_of_others_with_it(store):
    for name in ("a", "archive", "archive/b"):
        fill(store, name, deleted=31)
    fill(store, "a/b")  # the artifacts of this one begin with the id of the other
    store.put("a/c", b"")
    store.put("ab/c", b"")
    report = retention.apply(store, RetentionPolicy())
    assert (report.sessions_deleted, report.errors) == (3, ())
    assert keys(store) == ["a/b/0", "a/b/1", "ab/c", "archive/0", "archive/1", "archive/b/0", "archive/b/1"]


@pytest.mark.parametrize("name", LONGEST_IDS)
def test_an_archive_has_a_key_whatever_the_session_is_called(store, name):
    store.save_session(old(name, deleted=31))
    report = retention.apply(store, RetentionPolicy(archive=True))
    assert (report.sessions_deleted, report.sessions_archived, report.errors) == (1, 1, ())
    assert store.import_session(store.get(keys(store)[0])) == name


def test_each_session_that_bore_an_id_has_an_archive_of_its_own(store):
    for days in (200, 100):
        fill(store, "ses", days=days, deleted=31)
        retention.apply(store, RetentionPolicy(archive=True))
    assert len(store.list(prefix="archive/ses/")) == 2


# -- What goes wrong, and what comes in between ------------------------------------------------------------------------


def test_one_that_fails_does_not_stop_the_others(make):
    def fail(name, args):
        if name == "delete_session" and args[0].startswith("bad"):
            raise Error("storage_write_failed", "no room", context={"where": "here"})
        if name == "export_session" and args[0] == "worse":
            raise Error("storage_read_failed", "torn")

    store = make(fail)
    for name in ("bad 1", "worse", "bad 2", "good 1", "good 2"):
        fill(store, name, deleted=31)
    policy = RetentionPolicy(archive=True, batch_size=1)
    report = retention.apply(store, policy)
    assert report.sessions_deleted == 2
    assert sorted((error.code, error.context["session_id"]) for error in report.errors) == [
        ("storage_read_failed", "worse"),
        ("storage_write_failed", "bad 1"),
        ("storage_write_failed", "bad 2"),
    ]
    assert len(store.get_events("worse")) == 3  # nothing was deleted of what could not be archived
    store.before = lambda *_: None
    assert retention.apply(store, policy).sessions_deleted == 3
    assert store.search_sessions(include_deleted=True).items == []


def test_what_keeps_it_from_looking_is_raised(make):
    def fail(name, _args):
        if name == "expired":
            raise Error("storage_connection_failed", "away")

    with refused("storage_connection_failed"):
        retention.apply(make(fail), RetentionPolicy())


@pytest.mark.parametrize("deleted", [None, 31])
def test_who_changes_a_session_meanwhile_keeps_it(make, deleted):
    sessions = []

    def change(name, _args):
        if name in ("save_session", "get_session") and sessions:
            store.sessions.save_session(sessions.pop().changed(status="active", deleted_at=None))

    store = make(change)
    sessions.append(fill(store, "ses", deleted=deleted))
    report = retention.apply(store, RetentionPolicy())
    assert (any(figures(report).values()), report.errors) == (False, ())
    assert store.get_session("ses").status == "active"


def test_who_deletes_a_session_meanwhile_is_no_trouble(make):
    def delete(name, args):
        if name == "get_session":
            store.sessions.delete_session(args[0])

    store = make(delete)
    fill(store, "ses", deleted=31, artifacts=0)
    report = retention.apply(store, RetentionPolicy())
    assert (any(figures(report).values()), report.errors) == (False, ())


class Killed(BaseException):
    """The end of the process."""


def test_killed_anywhere_and_run_again_it_ends_as_one_that_was_not(make, monkeypatch):
    monkeypatch.setattr(retention, "STEP", 2)
    monkeypatch.setattr(retention, "GRACE", timedelta(0))
    policy = RetentionPolicy(max_events_per_session=4, archive=True, batch_size=2, exempt_statuses=[], max_age_days=50)
    calls = []

    def filled(before):
        store = make()
        for name in ("ended", "ended, too"):
            fill(store, name, runs=0)
        for name in ("deleted", "deleted, too"):
            fill(store, name, deleted=31, artifacts=3)
        fill(store, "chatty", status="active", days=1, events=11)
        store.put(f"ses_{HEX}/a", b"")
        store.before = before
        return store

    whole = filled(lambda name, _args: calls.append(name))
    retention.apply(whole, policy)
    whole.before = lambda *_: None
    expected = contents(whole)
    for end in range(len(calls)):
        left = iter(range(end))

        def kill(*_, left=left):
            if next(left, None) is None:
                raise Killed

        store = filled(kill)
        with pytest.raises(Killed):
            retention.apply(store, policy)
        store.before = lambda *_: None
        assert not retention.apply(store, policy).errors
        assert contents(store) == expected, calls[end]


# -- How it is called --------------------------------------------------------------------------------------------------


def test_progress_is_told_of_each_step(store):
    for number in range(3):
        fill(store, f"deleted {number}", deleted=31)
    told = []
    report = retention.apply(store, RetentionPolicy(), progress=told.append)
    assert told[-1] == report
    assert [item.sessions_deleted for item in told] == sorted(item.sessions_deleted for item in told)
    assert {item.sessions_deleted for item in told} == {0, 1, 2, 3}
    with pytest.raises(AttributeError):
        report.sessions_deleted = 0


def test_what_is_no_store_or_no_policy_is_refused(store):
    for wrong, says in [(store.sessions, "lacks put"), (None, "lacks save_session")]:
        with pytest.raises(Error) as caught:
            retention.apply(wrong, RetentionPolicy())
        assert (caught.value.code, caught.value.details["field"]) == ("validation_error", "store")
        assert says in caught.value.message
    with refused("validation_error", field="policy"):
        retention.apply(store, {"max_age_days": 1})


def test_an_asynchronous_handle_is_refused(tmp_path):
    with refused("validation_error", field="store"):
        retention.apply(asm.aio.connect("Store", runtime_dir=tmp_path), RetentionPolicy())
