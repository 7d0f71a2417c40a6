"""Sessions, runs and events in the memory of this process, for tests and for work that may be lost.

Reads cost what they return: what is asked for stands in sorted lists (:mod:`asm.adapters.memory.tables`,
:mod:`asm.adapters.memory.logs`). What is filtered otherwise, by a text or by metadata, is looked for along these.
"""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import threading
from datetime import UTC, datetime
from itertools import islice
from typing import ClassVar, cast

from asm.adapters.appends import flushed_run, require_unchanged
from asm.adapters.memory.logs import Filter
from asm.adapters.memory.queries import Queries
from asm.core.arguments import EventTypes, Expected, RunStatuses, SessionStatuses
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.options import options
from asm.core.policies import RetentionPolicy
from asm.core.values import Event, Run, RunStatus, Session
from asm.operations import implements
from asm.ports import ExecutionResult, Maintenance, SessionQueries, SessionStore

__all__ = ["InMemorySessionStore"]


@implements(SessionStore, SessionQueries, Maintenance)
class InMemorySessionStore(Queries):
    """A session store that lives as long as its process. Any number of threads may use it."""

    blocking: ClassVar[bool] = False

    @options
    def __init__(self) -> None:
        super().__init__()
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
        with self._held() as contents:
            if replacing is not None:
                require_unchanged(replacing, contents.sessions.get(session.id))
            contents.sessions.put(session)

    def get_session(self, session_id: str) -> Session:
        with self._held() as contents:
            return contents.session(session_id)

    def list_sessions(
        self, *, status: SessionStatuses = None, agent_id: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[Session]:
        statuses = cast("tuple[str, ...] | None", status)
        with self._held() as contents:
            if agent_id is not None:
                of_agent = contents.sessions.select(("agent", agent_id))
                found = of_agent if statuses is None else (session for session in of_agent if session.status in statuses)
            elif statuses is not None:
                found = contents.sessions.select(*(("status", item) for item in statuses))
            else:
                found = contents.sessions.select("all")
            return list(islice(islice(found, offset, None), limit))

    def delete_session(self, session_id: str) -> None:
        with self._held() as contents:
            contents.delete_session(session_id)

    # -- Runs -----------------------------------------------------------------------------------------------------

    def save_run(self, run: Run, *, replacing: Run | None = None) -> None:
        with self._held() as contents:
            contents.require_own(run)
            if replacing is not None:
                require_unchanged(replacing, contents.runs.get(run.id))
            contents.runs.put(run)

    def get_run(self, run_id: str) -> Run:
        with self._held() as contents:
            if run := contents.runs.get(run_id):
                return run
        raise Error("run_not_found", f"there is no run {run_id!r}", details={"run_id": run_id})

    def list_runs(self, session_id: str, *, status: RunStatuses = None, limit: int | None = None) -> list[Run]:
        statuses = cast("tuple[str, ...] | None", status)
        groups = [("session", session_id)] if statuses is None else [("session", session_id, item) for item in statuses]
        with self._held() as contents:
            return list(islice(contents.runs.select(*groups), limit))

    def get_active_run(self, session_id: str) -> Run | None:
        with self._held() as contents:
            return contents.runs.last(("session", session_id, RunStatus.RUNNING))

    # -- Events ---------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        self._append_one(event)

    def append_event_with_sequence(self, event: Event) -> Event:
        return self._append_one(event)

    def _append_one(self, event: Event) -> Event:
        with self._lock:
            self.require_open()
            stored = self._contents.append_one(event)
        self.appends.announce((event.session_id,))
        return stored

    def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]:
        with self._held() as contents:
            stored = contents.append(events, expect)
        self.appends.announce(event.session_id for event in events)
        return stored

    def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]:
        session, run, events = result.get("session"), flushed_run(result), result.get("events", [])
        with self._held() as contents:
            if run is not None:
                contents.require_own(run)
            stored = contents.append(events, expect)  # it may be refused, and what follows cannot
            if session is not None:
                contents.sessions.put(session)
            if run is not None:
                contents.runs.put(run)
        self.appends.announce(event.session_id for event in events)
        return stored

    def get_events(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: EventTypes = None,  # noqa: A002  # the field's own name
        correlation_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        last: int | None = None,
        wait_timeout_ms: int | None = None,
    ) -> list[Event]:
        wanted = Filter(
            run_ids=None if run_id is None else (run_id,),
            types=cast("tuple[str, ...] | None", type),
            correlation_id=correlation_id,
            since=since,
            until=until,
        )

        def query() -> list[Event]:
            with self._lock:
                self.require_open()
                log = self._contents.logs.get(session_id)
                return [] if log is None else log.select(wanted, after=after, before=before, limit=limit, last=last)

        return self.appends.wait(session_id, query, wait_timeout_ms)

    def get_latest_sequence(self, session_id: str) -> int:
        with self._held() as contents:
            return contents.latest(session_id)

    def delete_events(
        self,
        session_id: str,
        *,
        through: int | None = None,
        run_id: str | None = None,
        type: EventTypes = None,  # noqa: A002
    ) -> int:
        wanted = Filter(run_ids=None if run_id is None else (run_id,), types=cast("tuple[str, ...] | None", type))
        with self._held() as contents:
            return contents.delete_events(session_id, wanted, through)

    # -- Maintenance ----------------------------------------------------------------------------------------------

    def health_check(self) -> list[str]:
        with self._held():
            return []  # nothing in memory is ever torn

    def compact(self) -> int:
        with self._held():
            return 0

    def expired(self, policy: RetentionPolicy, *, limit: int) -> list[Session]:
        now, most = datetime.now(UTC), policy.max_events_per_session
        with self._held() as contents:

            def is_due(session: Session) -> bool:
                if policy.due(session, now) is not None:
                    return True
                log = contents.logs.get(session.id)
                return most is not None and log is not None and len(log.events) > most and not policy.exempts(session)

            return contents.sessions.search("updated_at", limit, is_due, ways=[["all"]])
