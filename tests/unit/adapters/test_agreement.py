"""Every session store, told anything at all, answers as the contract says: as a model of it in plain lists and maps does.

The same calls in every run. With ``--campaign`` others and more of them; ``--seed`` repeats a run.
"""

import dataclasses
import json
import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from asm.adapters import InMemorySessionStore, SqlSessionStore
from asm.adapters.sql.tables import METADATA
from asm.adapters.sql.writes import WRITES
from asm.core.errors import Error
from asm.core.values import EventType, RunStatus, SessionStatus, Value
from asm.operations import OPERATIONS
from asm.testing.samples import at, event, run, session

PATIENCE = 60

NAMES = ["a", "A", "b", "é", "%"]
IDS = st.sampled_from(NAMES)
TIMES = st.integers(-2, 2).map(at)
TYPES = st.sampled_from([*list(EventType)[:2], "myapp.thought"])
COUNTS = st.none() | st.integers(0, 6)
LIMITS = st.none() | st.integers(1, 4)
MAPS = st.sampled_from([{}, {"a": 1}, {"a": 1.0}, {"a": -0.0}, {"": [None, {"ключ": "\0'\""}]}])
SESSIONS = st.builds(session, IDS, id=IDS, status=st.sampled_from(SessionStatus), created_at=TIMES, context=MAPS)
RUNS = st.builds(
    run, IDS, id=IDS, status=st.sampled_from(list(RunStatus)[:3]), started_at=TIMES, provider_metadata=MAPS, output=MAPS
)
EVENTS = st.builds(event, IDS, id=st.integers(0, 15).map(str), type=TYPES, run_id=st.none() | IDS, timestamp=TIMES, data=MAPS)

RESULTS = st.fixed_dictionaries(
    {}, optional={"session": SESSIONS, "run": RUNS, "events": st.lists(EVENTS, max_size=3), "provider_metadata": MAPS}
).filter(lambda result: result and ("run" in result or "provider_metadata" not in result))
"""What is flushed."""
OFFSETS = st.dictionaries(IDS, st.sampled_from([0, 0, 0, 1, -1]), max_size=2)
"""How far from where sessions stand they are expected to."""
CONDITIONS = st.fixed_dictionaries(
    {}, optional={"through": st.integers(0, 6), "run_id": IDS, "type": TYPES | st.lists(TYPES, min_size=1, max_size=2)}
).filter(bool)
"""Which events are deleted."""


def among(value, wanted):
    """Whether a filter lets a value pass: it is none, one, or several of which any will do."""
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)


class Model:
    """The contract of a session store, as plainly as it can be said."""

    def __init__(self):
        self.sessions, self.runs, self.logs, self.last = {}, {}, {}, {}

    def save_session(self, session, *, replacing=None):
        self.require_unchanged("session", self.sessions.get(session.id), replacing)
        self.sessions[session.id] = session

    def require_unchanged(self, kind, stored, replacing):
        if replacing is not None and stored != replacing:
            raise Error("conflict", "changed", details={f"{kind}_id": replacing.id, "current": stored and stored.to_map()})

    def get_session(self, session_id):
        if session_id not in self.sessions:
            raise Error("session_not_found", session_id)
        return self.sessions[session_id]

    def list_sessions(self, *, status=None, agent_id=None, limit=None, offset=0):
        found = [item for item in self.sessions.values() if among(item.status, status) and among(item.agent_id, agent_id)]
        return sorted(found, key=lambda item: (item.created_at, item.id))[offset:][:limit]

    def delete_session(self, session_id):
        self.sessions.pop(session_id, None)
        self.logs.pop(session_id, None)
        self.last.pop(session_id, None)
        self.runs = {name: run for name, run in self.runs.items() if run.session_id != session_id}

    def save_run(self, run, *, replacing=None):
        self.require_own_run(run)
        self.require_unchanged("run", self.runs.get(run.id), replacing)
        self.runs[run.id] = run

    def require_own_run(self, run):
        if run.id in self.runs and self.runs[run.id].session_id != run.session_id:
            raise Error("session_mismatch", run.id)

    def get_run(self, run_id):
        if run_id not in self.runs:
            raise Error("run_not_found", run_id)
        return self.runs[run_id]

    def list_runs(self, session_id, *, status=None, limit=None):
        found = [item for item in self.runs.values() if item.session_id == session_id and among(item.status, status)]
        return sorted(found, key=lambda item: (item.started_at, item.id))[:limit]

    def get_active_run(self, session_id):
        return (self.list_runs(session_id, status="running") or [None])[-1]

    def append_event(self, event):
        self.append_events([event])

    def append_event_with_sequence(self, event):
        return self.append_events([event])[0]

    def append_events(self, events, *, expect=None):
        stored = {item.id: item for log in self.logs.values() for item in log}
        owners = {item.id: item.session_id for item in reversed(events)} | {
            key: item.session_id for key, item in stored.items()
        }
        if any(owners[item.id] != item.session_id for item in events):
            raise Error("session_mismatch", "one of them")
        if not events or any(item.id not in stored for item in events):
            for session_id, expected in sorted((expect or {}).items()):
                actual = self.get_latest_sequence(session_id)
                if actual != expected:
                    details = {"session_id": session_id, "expected": expected, "actual": actual}
                    raise Error("conflict", "elsewhere", details=details)
        for item in events:
            if item.id not in stored:
                number = self.last[item.session_id] = self.get_latest_sequence(item.session_id) + 1
                stored[item.id] = dataclasses.replace(item, sequence_number=number)
                self.logs.setdefault(item.session_id, []).append(stored[item.id])
        return [stored[item.id] for item in events]

    def flush(self, result, *, expect=None):
        run = result.get("run")
        if run is not None:
            self.require_own_run(run)
        stored = self.append_events(result.get("events", []), expect=expect)
        if "session" in result:
            self.save_session(result["session"])
        if run is not None:
            merged = {**run.provider_metadata, **result.get("provider_metadata", {})}
            self.save_run(dataclasses.replace(run, provider_metadata=merged))
        return stored

    def delete_events(self, session_id, *, through=None, run_id=None, type=None):  # noqa: A002
        log = self.logs.get(session_id, [])
        self.logs[session_id] = [
            item
            for item in log
            if not (
                (through is None or item.sequence_number <= through) and among(item.run_id, run_id) and among(item.type, type)
            )
        ]
        return len(log) - len(self.logs[session_id])

    def get_events(self, session_id, *, run_id=None, type=None, since=None, after=None, before=None, limit=None):  # noqa: A002
        return [
            item
            for item in self.logs.get(session_id, [])
            if among(item.run_id, run_id)
            and among(item.type, type)
            and (since is None or item.timestamp >= since)
            and (after is None or item.sequence_number > after)
            and (before is None or item.sequence_number < before)
        ][:limit]

    def get_latest_sequence(self, session_id):
        return self.last.get(session_id, 0)


def answer(store, name, *args, **kwargs):
    """What a call comes to."""
    try:
        return told(getattr(store, name)(*args, **kwargs), None)
    except Error as error:
        return told(None, error)


def told(result, error):
    """A result, or the code of an error and what a conflict is with; to the last digit, so that 1 is not 1.0."""
    shown = error.details if error and error.code == "conflict" else result
    return error and error.code, json.dumps(shown, default=Value.to_map, sort_keys=True)


class Agreement(RuleBasedStateMachine):
    """Calls of a store and of the model.

    :param store: the store, empty.
    """

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.model = Model()

    def agree(self, name, *args, **kwargs):
        assert answer(self.store, name, *args, **kwargs) == answer(self.model, name, *args, **kwargs)

    @rule(value=SESSIONS)
    def save_session(self, value):
        self.agree("save_session", value)

    @rule(value=RUNS)
    def save_run(self, value):
        self.agree("save_run", value)

    @rule(value=SESSIONS, other=SESSIONS, right=st.booleans())
    def replace_session(self, value, other, right):
        stored = self.model.sessions.get(value.id) if right else None
        self.agree("save_session", value, replacing=stored or dataclasses.replace(other, id=value.id))

    @rule(value=RUNS, other=RUNS, right=st.booleans())
    def replace_run(self, value, other, right):
        stored = self.model.runs.get(value.id) if right else None
        self.agree("save_run", value, replacing=stored or dataclasses.replace(other, id=value.id))

    @rule(value=EVENTS)
    def append_event(self, value):
        self.agree("append_event", value)

    @rule(value=EVENTS)
    def append_event_with_sequence(self, value):
        self.agree("append_event_with_sequence", value)

    def expected(self, offsets):
        """Where sessions are expected to stand: where they do, or not far from it."""
        return {name: max(0, self.model.get_latest_sequence(name) + offset) for name, offset in offsets.items()}

    @rule(values=st.lists(EVENTS, max_size=6), offsets=OFFSETS)
    def append_events(self, values, offsets):
        self.agree("append_events", values, expect=self.expected(offsets))

    @rule(result=RESULTS, offsets=OFFSETS)
    def flush(self, result, offsets):
        self.agree("flush", result, expect=self.expected(offsets))

    @rule(session_id=IDS, condition=CONDITIONS)
    def delete_events(self, session_id, condition):
        self.agree("delete_events", session_id, **condition)

    @rule(session_id=IDS)
    def delete_session(self, session_id):
        self.agree("delete_session", session_id)

    @rule(name=IDS)
    def get_one(self, name):
        self.agree("get_session", name)
        self.agree("get_run", name)

    @rule(
        status=st.none() | st.sampled_from(SessionStatus) | st.lists(st.sampled_from(SessionStatus), max_size=3),
        agent_id=st.none() | IDS,
        limit=LIMITS,
        offset=st.integers(0, 3),
    )
    def list_sessions(self, **filters):
        self.agree("list_sessions", **filters)

    @rule(session_id=IDS, status=st.none() | st.lists(st.sampled_from(RunStatus), max_size=3), limit=LIMITS)
    def list_runs(self, session_id, **filters):
        self.agree("list_runs", session_id, **filters)
        self.agree("get_active_run", session_id)

    @rule(
        session_id=IDS,
        run_id=st.none() | IDS,
        type=st.none() | TYPES | st.lists(TYPES, max_size=2),
        since=st.none() | TIMES,
        after=COUNTS,
        before=COUNTS,
        limit=LIMITS,
    )
    def get_events(self, session_id, **filters):
        self.agree("get_events", session_id, **filters)
        self.agree("get_latest_sequence", session_id)

    def teardown(self):
        """Compare all that there is in the end."""
        self.agree("list_sessions")
        for name in NAMES:
            self.get_one(name)
            self.list_runs(name)
            self.get_events(name)


class Together(Agreement):
    """The same, where all that is written up to the next look at the store waits for one commit."""

    def __init__(self, store):
        super().__init__(store)
        self.waiting, self.over = [], False

    def agree(self, name, *args, **kwargs):
        if name in WRITES:
            given = OPERATIONS[name].bind(args, kwargs)
            self.waiting.append((name, given, answer(self.model, name, *args, **kwargs)))
        elif name == "get_active_run" or self.over:  # it does not look every time
            self.write()
            super().agree(name, *args, **kwargs)

    def teardown(self):
        self.over = True
        super().teardown()

    def write(self):
        group, answers, answered = self.waiting, {}, threading.Semaphore(0)
        self.waiting = []
        with self.store._writer._changed:
            for number, (name, given, _) in enumerate(group):

                def done(result, error, number=number):
                    answers[number] = told(result, error)
                    answered.release()

                self.store.submit(name, given, done)
        for _ in group:
            assert answered.acquire(timeout=PATIENCE)
        assert answers == {number: expected for number, (_, _, expected) in enumerate(group)}


# -- The stores -----------------------------------------------------------------------------------------------------------


def memory(_request):
    """A function that returns an empty store, like those that follow."""
    return InMemorySessionStore


def sqlite(request):
    path = request.getfixturevalue("tmp_path") / "sessions.db"
    store = request.getfixturevalue("opened")(f"sqlite:///{path}")

    def empty():
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in METADATA.tables:
                connection.execute(f"DELETE FROM {table}")
        return store

    return empty


def postgres(request):
    url = request.getfixturevalue("postgres_url")
    store = request.getfixturevalue("opened")(url)

    def empty():
        request.getfixturevalue("postgres").empty(url)
        return store

    return empty


@pytest.fixture
def opened():
    """A function that opens an SQL store for as long as the test lasts."""
    stores = []

    def open_store(url):
        stores.append(SqlSessionStore(url=url))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.mark.parametrize(("kind", "examples"), [(memory, 60), (sqlite, 30), (postgres, 20)])
def test_a_session_store_keeps_the_contract(request, kind, examples, explore):
    empty = kind(request)
    explore(lambda: Agreement(empty()), examples=examples, steps=25)


@pytest.mark.parametrize(("kind", "examples"), [(sqlite, 60), (postgres, 20)])
def test_what_is_written_together_comes_to_the_same_as_one_after_the_other(request, kind, examples, explore):
    empty = kind(request)
    explore(lambda: Together(empty()), examples=examples, steps=40)
