"""Every session store, told anything at all, answers as the contract says: as a model of it in plain lists and maps does.

The same calls in every run. With ``--campaign`` others and more of them; ``--seed`` repeats a run.
"""

import dataclasses
import io
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
from asm.core.results import Page, SessionStats, Usage
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
USAGES = st.sampled_from([{}, {"total_tokens": 3, "deep": {"a": 1}}, {"input_tokens": 1, "deep": {"a": 0.5}}])
MODELS = st.sampled_from([{}, {"model": "a"}, {"model": 1}, {"a": 1.0}])
SESSIONS = st.builds(
    session,
    IDS,
    id=IDS,
    status=st.sampled_from(SessionStatus),
    created_at=TIMES,
    updated_at=TIMES,
    deleted_at=st.none() | st.none() | TIMES,
    context=MAPS,
    metadata=MAPS,
    tags=st.lists(IDS, max_size=2),
    parent_session_id=st.none() | IDS,
)
RUNS = st.builds(
    run,
    IDS,
    id=IDS,
    status=st.sampled_from(list(RunStatus)[:3]),
    started_at=TIMES,
    provider_metadata=MODELS | MAPS,
    metadata=MODELS,
    output=MAPS,
    provider=st.none() | IDS,
    token_usage=USAGES,
    cost_usd=st.sampled_from([None, 0.5, 2.0]),
)
EVENTS = st.builds(
    event,
    IDS,
    id=st.integers(0, 15).map(str),
    type=TYPES,
    run_id=st.none() | IDS,
    timestamp=TIMES,
    data=MAPS,
    provider=st.none() | IDS,
    correlation_id=st.none() | IDS,
)
EXPECTED = st.none() | st.dictionaries(IDS, st.integers(0, 3), max_size=2)


def among(value, wanted):
    """Whether a filter lets a value pass: it is none, one, or several of which any will do."""
    return wanted is None or value in ([wanted] if isinstance(wanted, str) else wanted)


class Model:
    """The contract of a session store, as plainly as it can be said."""

    def __init__(self):
        self.sessions, self.runs, self.logs, self.last = {}, {}, {}, {}

    # -- Sessions and runs

    def save_session(self, session, *, replacing=None):
        self.require_unchanged("session_id", replacing, self.sessions)
        self.sessions[session.id] = session

    def require_unchanged(self, field, replacing, stored):
        if replacing is not None and (current := stored.get(replacing.id)) != replacing:
            raise Error("conflict", "changed", details={field: replacing.id, "current": current and current.to_map()})

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
        self.require_unchanged("run_id", replacing, self.runs)
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

    # -- Events

    def append_event(self, event):
        self.append_events([event])

    def append_event_with_sequence(self, event):
        return self.append_events([event])[0]

    def append_events(self, events, *, expect=None):
        stored = {item.id: item for item in self.events()}
        owners = {item.id: item.session_id for item in reversed(events)} | {
            key: item.session_id for key, item in stored.items()
        }
        if any(owners[item.id] != item.session_id for item in events):
            raise Error("session_mismatch", "one of them")
        if not events or any(item.id not in stored for item in events):
            for session_id, expected in sorted((expect or {}).items()):
                if (actual := self.get_latest_sequence(session_id)) != expected:
                    details = {"session_id": session_id, "expected": expected, "actual": actual}
                    raise Error("conflict", "moved", details=details)
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

    def get_events(self, session_id, *, after=None, before=None, limit=None, last=None, **filters):
        found = [
            item
            for item in self.logs.get(session_id, [])
            if matches(item, **filters)
            and (after is None or item.sequence_number > after)
            and (before is None or item.sequence_number < before)
        ]
        return found[:limit] if last is None else found[-last:]

    def get_latest_sequence(self, session_id):
        return self.last.get(session_id, 0)

    def delete_events(self, session_id, *, through=None, **filters):
        log = self.logs.get(session_id, [])
        kept = [
            item for item in log if not matches(item, **filters) or (through is not None and item.sequence_number > through)
        ]
        self.logs[session_id] = kept
        return len(log) - len(kept)

    def events(self):
        return [item for log in self.logs.values() for item in log]

    # -- Queries. A page of any size is told from all that there is.

    def search_sessions(self, *, order="-updated_at", **filters):
        found = [item for item in self.sessions.values() if self.finds_session(item, **filters)]
        return in_order(found, order, lambda item: (getattr(item, order.removeprefix("-")), item.id))

    def finds_session(
        self,
        item,
        *,
        agent_id=None,
        status=None,
        provider=None,
        tags=None,
        parent_session_id=None,
        id_prefix="",
        metadata=None,
        include_deleted=False,
        **times,
    ):
        return (
            among(item.agent_id, agent_id)
            and among(item.status, status)
            and (provider is None or provider in [run.provider for run in self.list_runs(item.id)])
            and set(tags or []) <= set(item.tags)
            and among(item.parent_session_id, parent_session_id)
            and item.id.startswith(id_prefix or "")
            and all(key in item.metadata and text(item.metadata[key]) == text(metadata[key]) for key in metadata or {})
            and (include_deleted or item.deleted_at is None)
            and within(item, **times)
        )

    def search_runs(self, *, order="-started_at", status=None, min_tokens=None, **filters):
        found = [
            item
            for item in self.runs_of(**filters)
            if among(item.status, status) and (min_tokens is None or tokens(item) >= min_tokens)
        ]
        of = tokens if order.endswith("tokens") else lambda item: item.started_at
        return in_order(found, order, lambda item: (of(item), item.id))

    def runs_of(self, *, session_id=None, agent_id=None, provider=None, **times):
        return [
            item
            for item in self.runs.values()
            if among(item.session_id, session_id)
            and (agent_id is None or self.agent(item) == agent_id)
            and among(item.provider, provider)
            and within(item, **times)
        ]

    def agent(self, run):
        return self.sessions[run.session_id].agent_id if run.session_id in self.sessions else None

    def search_events(self, *, order="timestamp", **filters):
        found = [item for item in self.events() if matches(item, **filters)]
        return in_order(found, order, lambda item: (item.timestamp, item.session_id, item.sequence_number))

    def count_events(self, **filters):
        return len(self.search_events(**filters))

    def get_session_stats(self, session_id):
        runs, log = self.list_runs(session_id), self.logs.get(session_id, [])
        if not runs and not log:
            self.get_session(session_id)
        statuses = sorted(str(run.status) for run in runs)
        return SessionStats(
            event_count=len(log),
            run_count=len(runs),
            token_totals=totals(runs),
            cost_usd=float(sum(run.cost_usd or 0 for run in runs)),
            providers_used=sorted({item.provider for item in [*runs, *log]} - {None}),
            first_event_at=min((item.timestamp for item in log), default=None),
            last_event_at=max((item.timestamp for item in log), default=None),
            status_counts={status: statuses.count(status) for status in statuses},
        )

    def get_usage(self, *, since=None, until=None, group_by=("provider",), **filters):
        say = {
            "provider": lambda run: run.provider,
            "model": lambda run: next(
                (of["model"] for of in (run.provider_metadata, run.metadata) if isinstance(of.get("model"), str)), None
            ),
            "agent": self.agent,
            "status": lambda run: str(run.status),
            "day": lambda run: f"{run.started_at:%Y-%m-%d}",
        }
        runs = [
            run
            for run in self.runs_of(**filters)
            if (since is None or run.started_at >= since) and (until is None or run.started_at < until)
        ]
        groups = [tuple(say[name](run) for name in group_by) for run in runs] if group_by else [()]
        found = []
        for group in sorted(set(groups), key=lambda group: [(name is not None, name or "") for name in group]):
            these = [run for run in runs if tuple(say[name](run) for name in group_by) == group]
            found.append(
                Usage(
                    group=dict(zip(group_by, group, strict=True)),
                    run_count=len(these),
                    token_totals=totals(these),
                    cost_usd=float(sum(run.cost_usd or 0 for run in these)),
                    runs_without_cost=sum(run.cost_usd is None for run in these),
                )
            )
        return found

    def export_session(self, session_id):
        if not self.last.get(session_id):  # the numbers that were given are kept, too
            self.get_session_stats(session_id)
        lines = [
            {"format": "asm-session", "version": 1, "session_id": session_id, "last_sequence": self.last.get(session_id, 0)}
        ]
        if session_id in self.sessions:
            lines.append({"session": self.sessions[session_id].to_map()})
        runs, log = self.list_runs(session_id), self.logs.get(session_id, [])
        lines += [{"run": run.to_map()} for run in runs] + [{"event": item.to_map()} for item in log]
        lines.append({"end": {"runs": len(runs), "events": len(log)}})
        return io.BytesIO(
            "".join(f"{json.dumps(line, ensure_ascii=False, separators=(',', ':'))}\n" for line in lines).encode()
        )


def matches(
    item,
    *,
    session_ids=None,
    run_ids=None,
    run_id=None,
    type=None,  # noqa: A002
    provider=None,
    correlation_id=None,
    text=None,
    **times,
):
    """Whether an event passes filters."""
    since, until = times.get("since"), times.get("until")
    return (
        among(item.session_id, session_ids)
        and among(item.run_id, run_ids)
        and among(item.run_id, run_id)
        and among(item.type, type)
        and among(item.provider, provider)
        and among(item.correlation_id, correlation_id)
        and (since is None or item.timestamp >= since)
        and (until is None or item.timestamp < until)
        and (text is None or any(text.casefold() in string.casefold() for string in ["", *strings(item.data)]))
    )


def strings(value):
    """All keys and texts in a value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *(string for item in value.values() for string in strings(item))]
    return [string for item in value for string in strings(item)] if isinstance(value, list) else []


def within(item, **times):
    """Whether a value passes filters such as ``created_after``."""
    found = {name: (getattr(item, name.split("_")[0] + "_at"), bound) for name, bound in times.items() if bound is not None}
    return all(time > bound if name.endswith("after") else time < bound for name, (time, bound) in found.items())


def in_order(found, order, place):
    return sorted(found, key=place, reverse=order.startswith("-"))


def tokens(run):
    return run.token_usage.get("total_tokens", run.token_usage.get("input_tokens", 0))


def totals(runs):
    """Sums of what the maps below have in them."""
    found = {}
    for item in runs:
        for key, number in item.token_usage.items():
            if isinstance(number, dict):
                inside = found.setdefault(key, {})
                inside.update({name: inside.get(name, 0) + part for name, part in number.items()})
            else:
                found[key] = found.get(key, 0) + number
    return found


def text(value):
    """What a value is to JSON, where 1 is 1.0."""
    return json.dumps(value, sort_keys=True).replace(".0", "").replace("-0", "0")


def answer(store, name, *args, **kwargs):
    """What a call comes to."""
    try:
        return told(getattr(store, name)(*args, **kwargs), None)
    except Error as error:
        return told(None, error)


def told(result, error):
    """A result, or the code of an error and what a conflict is with; to the last digit, so that 1 is not 1.0."""
    if error is not None:
        return (error.code, json.dumps(error.details, sort_keys=True)) if error.code == "conflict" else error.code
    if isinstance(result, io.IOBase):
        with result:
            return result.read()
    return json.dumps(result, default=Value.to_map, sort_keys=True)


def pages(search, filters, limit):
    """All that a search finds, page by page."""
    page, found = Page([], None), []
    while not found or page.cursor:
        page = search(**filters, limit=limit, cursor=page.cursor)
        assert len(page.items) == limit if page.cursor else len(page.items) <= limit
        found += page
        if page.cursor is None:
            break
    return found


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

    @rule(value=EVENTS)
    def append_event(self, value):
        self.agree("append_event", value)

    @rule(value=EVENTS)
    def append_event_with_sequence(self, value):
        self.agree("append_event_with_sequence", value)

    @rule(values=st.lists(EVENTS, max_size=6))
    def append_events(self, values):
        self.agree("append_events", values)

    @rule(saved=SESSIONS, done=RUNS, values=st.lists(EVENTS, max_size=3), beside=MAPS)
    def flush(self, saved, done, values, beside):
        self.agree("flush", {"session": saved, "run": done, "events": values, "provider_metadata": beside})

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


class Written(Agreement):
    """The rest of what is written."""

    @rule(value=SESSIONS, change=SESSIONS, really=st.booleans())
    def replace_session(self, value, change, really):
        stored = self.model.sessions.get(change.id, value) if really else value
        self.agree("save_session", change, replacing=dataclasses.replace(stored, id=change.id))

    @rule(value=RUNS, change=RUNS, really=st.booleans())
    def replace_run(self, value, change, really):
        stored = self.model.runs.get(change.id, value) if really else value
        self.agree("save_run", change, replacing=dataclasses.replace(stored, id=change.id))

    @rule(values=st.lists(EVENTS, max_size=4), expect=EXPECTED)
    def append_events_if(self, values, expect):
        self.agree("append_events", values, expect=expect)

    @rule(
        result=st.fixed_dictionaries(
            {}, optional={"session": SESSIONS, "run": RUNS, "events": st.lists(EVENTS, max_size=3)}
        ).filter(bool),
        expect=EXPECTED,
    )
    def flush_some(self, result, expect):
        self.agree("flush", result, expect=expect)

    @rule(
        session_id=IDS,
        condition=st.fixed_dictionaries(
            {}, optional={"through": st.integers(0, 9), "run_id": IDS, "type": TYPES | st.lists(TYPES, max_size=2)}
        ).filter(bool),
    )
    def delete_events(self, session_id, condition):
        self.agree("delete_events", session_id, **condition)
        self.agree("get_latest_sequence", session_id)


class Together(Written):
    """The same, where all that is written up to the next look at the store waits for one commit."""

    def __init__(self, store):
        super().__init__(store)
        self.waiting, self.over = [], False

    @rule(values=st.lists(EVENTS, max_size=4), offsets=st.dictionaries(IDS, st.sampled_from([0, 0, 1, -1]), max_size=2))
    def append_events_where_they_stand(self, values, offsets):
        """Or not far from there."""
        expect = {name: max(0, self.model.get_latest_sequence(name) + offset) for name, offset in offsets.items()}
        self.agree("append_events", values, expect=expect)

    def agree(self, name, *args, **kwargs):
        if name in WRITES:
            given = OPERATIONS[name].bind(args, kwargs)
            self.waiting.append((name, given, answer(self.model, name, *args, **kwargs)))
        elif name == "get_active_run" or self.over:  # it does not look every time
            self.write()
            super().agree(name, *args, **kwargs)

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

    def teardown(self):
        self.over = True
        super().teardown()


class Complete(Written):
    """Whatever else is read, and the queries."""

    @rule(
        session_id=IDS,
        filters=st.fixed_dictionaries(
            {},
            optional={
                "run_id": IDS,
                "type": TYPES,
                "correlation_id": IDS,
                "since": TIMES,
                "until": TIMES,
                "after": COUNTS,
                "before": COUNTS,
                "last": st.integers(1, 4),
            },
        ),
    )
    def get_last_events(self, session_id, filters):
        self.agree("get_events", session_id, **filters)

    @rule(
        filters=st.fixed_dictionaries(
            {},
            optional={
                "agent_id": IDS,
                "status": st.sampled_from(SessionStatus) | st.lists(st.sampled_from(SessionStatus), max_size=3),
                "provider": IDS,
                "tags": st.lists(IDS, max_size=2),
                "parent_session_id": IDS,
                "id_prefix": IDS,
                "metadata": MAPS,
                "created_after": TIMES,
                "created_before": TIMES,
                "updated_after": TIMES,
                "updated_before": TIMES,
                "include_deleted": st.booleans(),
                "order": st.sampled_from(["created_at", "-created_at", "updated_at", "-updated_at"]),
            },
        ),
        limit=st.integers(1, 4),
    )
    def search_sessions(self, filters, limit):
        self.find("search_sessions", filters, limit)

    @rule(
        filters=st.fixed_dictionaries(
            {},
            optional={
                "session_id": IDS,
                "agent_id": IDS,
                "status": st.sampled_from(RunStatus),
                "provider": IDS,
                "started_after": TIMES,
                "started_before": TIMES,
                "min_tokens": st.integers(0, 4),
                "order": st.sampled_from(["started_at", "-started_at", "tokens", "-tokens"]),
            },
        ),
        limit=st.integers(1, 4),
    )
    def search_runs(self, filters, limit):
        self.find("search_runs", filters, limit)

    @rule(
        filters=st.fixed_dictionaries(
            {},
            optional={
                "session_ids": IDS | st.lists(IDS, max_size=3),
                "run_ids": IDS | st.lists(IDS, max_size=3),
                "type": TYPES | st.lists(TYPES, max_size=2),
                "provider": IDS,
                "correlation_id": IDS,
                "text": st.sampled_from(["", "A", "ключ", "'\"", "КЛЮ", "1", "null", "%", "_"]),
                "since": TIMES,
                "until": TIMES,
            },
        ),
        order=st.sampled_from(["timestamp", "-timestamp"]),
        limit=st.integers(1, 4),
    )
    def search_events(self, filters, order, limit):
        self.find("search_events", {**filters, "order": order}, limit)
        self.agree("count_events", **filters)

    def find(self, name, filters, limit):
        assert texts(pages(getattr(self.store, name), filters, limit)) == texts(getattr(self.model, name)(**filters))

    @rule(session_id=IDS)
    def get_session_stats(self, session_id):
        self.agree("get_session_stats", session_id)

    @rule(
        filters=st.fixed_dictionaries(
            {}, optional={"session_id": IDS, "agent_id": IDS, "provider": IDS, "since": TIMES, "until": TIMES}
        ),
        group_by=st.lists(st.sampled_from(["provider", "model", "agent", "status", "day"]), unique=True, max_size=3),
    )
    def get_usage(self, filters, group_by):
        self.agree("get_usage", **filters, group_by=tuple(group_by))

    @rule(session_id=IDS, deleted=st.booleans())
    def export_and_import(self, session_id, deleted):
        exported = answer(self.model, "export_session", session_id)
        assert answer(self.store, "export_session", session_id) == exported
        if isinstance(exported, bytes):
            if deleted:
                self.store.delete_session(session_id)
            assert answer(self.store, "import_session", exported) == (json.dumps(session_id) if deleted else "already_exists")
            assert answer(self.store, "export_session", session_id) == exported

    def teardown(self):
        super().teardown()
        for name in NAMES:
            self.get_session_stats(name)
            self.export_and_import(name, deleted=False)
        for name in ("search_sessions", "search_runs", "search_events"):
            self.find(name, {}, 3)


def texts(values):
    return [json.dumps(value.to_map(), sort_keys=True) for value in values]


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


@pytest.mark.parametrize(("kind", "examples"), [(memory, 80), (sqlite, 20), (postgres, 12)])
def test_a_session_store_keeps_the_contract(request, kind, examples, explore):
    empty = kind(request)
    explore(lambda: Complete(empty()), examples=examples, steps=30)


@pytest.mark.parametrize(("kind", "examples"), [(sqlite, 30), (postgres, 12)])
def test_what_is_written_together_comes_to_the_same_as_one_after_the_other(request, kind, examples, explore):
    empty = kind(request)
    explore(lambda: Together(empty()), examples=examples, steps=40)
