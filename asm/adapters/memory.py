"""Sessions, runs and events in the memory of this process, for tests and for work that may be lost.

Reads cost what they return. Sessions and runs stand in sorted lists, one for each thing that they are asked for by;
the events of a session stand in a list in which an event's place is its ``sequence_number`` - 1, and beside it the
numbers of each type and each run. A filter by ``since`` is the exception: timestamps order nothing, so it looks at every
event between ``after`` and ``before``.
"""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import bisect
import heapq
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import ClassVar, Generic, TypeVar

from asm.adapters.appends import Appends, flushed_run, numbered, require_same_session
from asm.adapters.base import Adapter
from asm.core.arguments import EventTypes, Expected
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.values import Event, EventType, Run, RunStatus, Session, SessionStatus
from asm.operations import implements
from asm.ports import ExecutionResult, SessionStore

__all__ = ["InMemorySessionStore"]

V = TypeVar("V", Session, Run)
Position = tuple[datetime, str]
"""Where a value stands in its order: its time, then its id."""


@implements(SessionStore)
class InMemorySessionStore(Adapter):
    """A session store that lives as long as its process. Any number of threads may use it."""

    blocking: ClassVar[bool] = False

    def __init__(self) -> None:
        self.appends = Appends()
        self._lock = threading.Lock()
        self._sessions: _Table[Session] = _Table(
            lambda session: (session.created_at, session.id),
            lambda session: ("all", ("agent", session.agent_id), ("status", session.status)),
        )
        self._runs: _Table[Run] = _Table(
            lambda run: (run.started_at, run.id),
            lambda run: (run.session_id, (run.session_id, run.status)),
        )
        self._events: dict[str, Event] = {}
        self._logs: dict[str, _Log] = {}
        tell_of_forks(self)

    def close(self) -> None:
        """Refuse further calls, and end those that wait."""
        super().close()
        self.appends.announce(None)

    def _forked(self) -> None:
        super()._forked()
        self._lock = threading.Lock()  # the old one may be held by a thread that is not here

    # -- Sessions -------------------------------------------------------------------------------------------------

    def save_session(self, session: Session, *, replacing: Session | None = None) -> None:
        if replacing is not None:
            raise Error("capability_not_supported", "not yet")
        with self._lock:
            self.require_open()
            self._sessions.put(session)

    def get_session(self, session_id: str) -> Session:
        with self._lock:
            self.require_open()
            if session := self._sessions.get(session_id):
                return session
        raise Error("session_not_found", f"there is no session {session_id!r}", details={"session_id": session_id})

    def list_sessions(
        self,
        *,
        status: tuple[SessionStatus | str, ...] | None = None,
        agent_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Session]:
        with self._lock:
            self.require_open()
            if agent_id is None:
                found = self._sessions.select("all" if status is None else [("status", item) for item in status])
            else:
                of_agent = self._sessions.select(("agent", agent_id))
                found = of_agent if status is None else (session for session in of_agent if session.status in status)
            return list(islice(islice(found, offset, None), limit))

    def delete_session(self, session_id: str) -> None:
        with self._lock:
            self.require_open()
            self._sessions.remove(session_id)
            for run in list(self._runs.select(session_id)):
                self._runs.remove(run.id)
            if log := self._logs.pop(session_id, None):
                for event in log.events:
                    del self._events[event.id]

    # -- Runs -----------------------------------------------------------------------------------------------------

    def save_run(self, run: Run, *, replacing: Run | None = None) -> None:
        if replacing is not None:
            raise Error("capability_not_supported", "not yet")
        with self._lock:
            self.require_open()
            self._require_own(run)
            self._runs.put(run)

    def get_run(self, run_id: str) -> Run:
        with self._lock:
            self.require_open()
            if run := self._runs.get(run_id):
                return run
        raise Error("run_not_found", f"there is no run {run_id!r}", details={"run_id": run_id})

    def list_runs(
        self, session_id: str, *, status: tuple[RunStatus | str, ...] | None = None, limit: int | None = None
    ) -> list[Run]:
        with self._lock:
            self.require_open()
            found = self._runs.select(session_id if status is None else [(session_id, item) for item in status])
            return list(islice(found, limit))

    def get_active_run(self, session_id: str) -> Run | None:
        with self._lock:
            self.require_open()
            return self._runs.last((session_id, RunStatus.RUNNING))

    # -- Events ---------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        self._append_one(event)

    def append_event_with_sequence(self, event: Event) -> Event:
        return self._append_one(event)

    def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]:
        if expect is not None:
            raise Error("capability_not_supported", "not yet")
        with self._lock:
            self.require_open()
            self._append(events)
            stored = [self._events[event.id] for event in events]
        self.appends.announce({event.session_id for event in events})
        return stored

    def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]:
        if expect is not None:
            raise Error("capability_not_supported", "not yet")
        session, run, events = result.get("session"), flushed_run(result), result.get("events", [])
        with self._lock:
            self.require_open()
            if run is not None:
                self._require_own(run)
            self._append(events)  # first: it may be refused
            stored = [self._events[event.id] for event in events]
            if session is not None:
                self._sessions.put(session)
            if run is not None:
                self._runs.put(run)
        self.appends.announce(event.session_id for event in events)
        return stored

    def get_events(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: tuple[EventType | str, ...] | None = None,  # noqa: A002  # the field's own name
        correlation_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        last: int | None = None,
        wait_timeout_ms: int | None = None,
    ) -> list[Event]:
        if correlation_id is not None or until is not None or last is not None:
            raise Error("capability_not_supported", "not yet")

        def query() -> list[Event]:
            with self._lock:
                self.require_open()
                log = self._logs.get(session_id)
                if log is None:
                    return []
                return log.select(run_id=run_id, types=type, since=since, after=after, before=before, limit=limit)

        return self.appends.wait(session_id, query, wait_timeout_ms)

    def delete_events(
        self,
        session_id: str,
        *,
        through: int | None = None,
        run_id: str | None = None,
        type: EventTypes = None,  # noqa: A002
    ) -> int:
        raise Error("capability_not_supported", "not yet")

    def get_latest_sequence(self, session_id: str) -> int:
        with self._lock:
            self.require_open()
            log = self._logs.get(session_id)
            return 0 if log is None else len(log.events)

    def _require_own(self, run: Run) -> None:
        """Refuse a run whose id another session has. Called with the lock held."""
        if (stored := self._runs.get(run.id)) is not None:
            require_same_session("run", run, stored)

    def _append_one(self, event: Event) -> Event:
        """Store an event, unless it is, as :meth:`_append` would, in a third of the time."""
        with self._lock:
            self.require_open()
            if (stored := self._events.get(event.id)) is not None:
                require_same_session("event", event, stored)
                return stored
            log = self._log(event.session_id)
            stored = self._events[event.id] = event.sequenced(len(log.events) + 1)
            log.append(stored)
        self.appends.announce((event.session_id,))
        return stored

    def _append(self, events: list[Event]) -> None:
        """Store the new ones of the events. Called with the lock held."""
        new = numbered(events, self._events, lambda needs: {name: len(self._log(name).events) + 1 for name in needs})
        self._events.update(new)
        for event in new.values():
            self._log(event.session_id).append(event)

    def _log(self, session_id: str) -> _Log:
        log = self._logs.get(session_id)
        if log is None:
            log = self._logs[session_id] = _Log()
        return log


class _Table(Generic[V]):
    """Values by id, and sorted lists of the values that share something.

    :param position: where a value stands in every list that it is in.
    :param groups: the lists that a value is in.
    """

    def __init__(self, position: Callable[[V], Position], groups: Callable[[V], tuple[Hashable, ...]]) -> None:
        self._position: Callable[[V], Position] = position
        self._groups: Callable[[V], tuple[Hashable, ...]] = groups
        self._values: dict[str, V] = {}
        self._lists: dict[Hashable, list[Position]] = {}

    def get(self, key: str) -> V | None:
        return self._values.get(key)

    def put(self, value: V) -> None:
        position, groups = self._position(value), self._groups(value)
        before = self._values.get(value.id)
        if before is None or (self._position(before), self._groups(before)) != (position, groups):
            self.remove(value.id)
            for group in groups:
                bisect.insort(self._lists.setdefault(group, []), position)
        self._values[value.id] = value

    def remove(self, key: str) -> None:
        value = self._values.pop(key, None)
        if value is None:
            return
        position = self._position(value)
        for group in self._groups(value):
            positions = self._lists[group]
            del positions[bisect.bisect_left(positions, position)]
            if not positions:
                del self._lists[group]

    def select(self, groups: Hashable | list[Hashable]) -> Iterator[V]:
        """Yield the values of one list, or of several merged, in order."""
        lists = [self._lists.get(group, []) for group in (groups if isinstance(groups, list) else [groups])]
        merged: Iterable[Position] = lists[0] if len(lists) == 1 else heapq.merge(*lists)
        return (self._values[key] for _, key in merged)

    def last(self, group: Hashable) -> V | None:
        """Return the last value of a list."""
        positions = self._lists.get(group)
        return self._values[positions[-1][1]] if positions else None


class _Log:
    """The events of one session, and where those of each type and each run are."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._types: dict[EventType | str, list[int]] = {}
        self._runs: dict[str | None, list[int]] = {}

    def append(self, event: Event) -> None:
        place = len(self.events)
        self.events.append(event)
        self._types.setdefault(event.type, []).append(place)
        self._runs.setdefault(event.run_id, []).append(place)

    def select(
        self,
        *,
        run_id: str | None,
        types: tuple[EventType | str, ...] | None,
        since: datetime | None,
        after: int | None,
        before: int | None,
        limit: int | None,
    ) -> list[Event]:
        """Return the events that pass every filter that is not ``None``, in order."""
        start = after or 0
        stop = len(self.events) if before is None else min(max(before - 1, 0), len(self.events))
        ways = []
        if types is not None:
            ways.append([_between(self._types.get(item, []), start, stop) for item in types])
        if run_id is not None:
            ways.append([_between(self._runs.get(run_id, []), start, stop)])
        if not ways and since is None:
            return self.events[start : stop if limit is None else min(stop, start + limit)]
        places: Iterable[int] = range(start, stop)
        if ways:
            way = min(ways, key=lambda way: sum(len(span) for _, span in way))
            places = heapq.merge(*(map(of_one.__getitem__, span) for of_one, span in way))
        found = (
            event
            for event in map(self.events.__getitem__, places)
            if (types is None or event.type in types)
            and (run_id is None or event.run_id == run_id)
            and (since is None or event.timestamp >= since)
        )
        return list(islice(found, limit))


def _between(places: list[int], start: int, stop: int) -> tuple[list[int], range]:
    """Return the list, and which part of it is in ``range(start, stop)``."""
    return places, range(bisect.bisect_left(places, start), bisect.bisect_left(places, stop))
