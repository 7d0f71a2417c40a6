"""What a memory store holds, and how that changes. Whoever calls holds the store's lock."""

from __future__ import annotations

from collections.abc import Sequence

from asm.adapters.appends import numbered, require_same_session
from asm.adapters.memory.logs import Filter, Log, Timeline
from asm.adapters.memory.tables import Table
from asm.adapters.totals import tokens
from asm.core.arguments import Expected
from asm.core.errors import Error
from asm.core.values import Event, Run, Session

__all__ = ["Contents"]


class Contents:
    """Sessions, runs and events."""

    def __init__(self) -> None:
        self.sessions: Table[Session] = Table(
            {"created_at": lambda session: session.created_at, "updated_at": lambda session: session.updated_at},
            lambda session: ("all", ("agent", session.agent_id), ("status", session.status)),
            lambda session: [("parent", session.parent_session_id), *(("tag", tag) for tag in set(session.tags))],
        )
        self.runs: Table[Run] = Table(
            {"started_at": lambda run: run.started_at, "tokens": lambda run: tokens(run.token_usage)},
            lambda run: ("all", ("session", run.session_id), ("status", run.status), ("provider", run.provider)),
            lambda run: (("session", run.session_id, run.status), ("session of", run.session_id, run.provider)),
        )
        self.events: dict[str, Event] = {}
        self.logs: dict[str, Log] = {}
        self.timeline = Timeline(self.events)

    # -- Sessions and runs ------------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> Session:
        """Return a session.

        :raises Error: ``session_not_found``.
        """
        found = self.sessions.get(session_id)
        if found is None:
            raise Error("session_not_found", f"there is no session {session_id!r}", details={"session_id": session_id})
        return found

    def delete_session(self, session_id: str) -> None:
        """Delete a session with its runs and events."""
        self.sessions.remove(session_id)
        for run in list(self.runs.select(("session", session_id))):
            self.runs.remove(run.id)
        if log := self.logs.pop(session_id, None):
            self._forget(log.events)

    def require_own(self, run: Run) -> None:
        """Refuse a run whose id another session has.

        :raises Error: ``session_mismatch``.
        """
        if (stored := self.runs.get(run.id)) is not None:
            require_same_session("run", run, stored)

    # -- Events -----------------------------------------------------------------------------------------------------------

    def log(self, session_id: str) -> Log:
        """Return the log of a session, which begins with this."""
        log = self.logs.get(session_id)
        if log is None:
            log = self.logs[session_id] = Log()
        return log

    def latest(self, session_id: str) -> int:
        """Return the greatest number that was given in a session."""
        log = self.logs.get(session_id)
        return 0 if log is None else log.last

    def append_one(self, event: Event) -> Event:
        """Store an event, unless it is, as :meth:`append` would, in a third of the time."""
        if (stored := self.events.get(event.id)) is not None:
            require_same_session("event", event, stored)
            return stored
        log = self.log(event.session_id)
        stored = event.sequenced(log.last + 1)
        self._store(log, stored)
        return stored

    def append(self, events: Sequence[Event], expect: Expected) -> list[Event]:
        """Store the new ones of the events; return all as they are stored.

        :raises Error: ``session_mismatch`` or ``conflict``; then nothing is stored.
        """
        new = numbered(events, self.events, self.latest, expect)
        for event in new.values():
            self._store(self.log(event.session_id), event)
        return [self.events[event.id] for event in events]

    def restore(
        self, session_id: str, last: int, session: Session | None, runs: Sequence[Run], events: Sequence[Event]
    ) -> None:
        """Store what was exported of a session.

        :param last: the greatest number that was given in it.
        :raises Error: ``already_exists`` when there is something of it; ``session_mismatch`` for the id of a run or event that
            another session has. Then nothing is stored.
        """
        if self.sessions.get(session_id) or self.runs.count(("session", session_id)) or self.latest(session_id):
            problem = f"there is something under the id {session_id!r} already; delete that session first"
            raise Error("already_exists", problem, details={"session_id": session_id})
        for run in runs:
            self.require_own(run)
        for event in events:
            if (stored := self.events.get(event.id)) is not None:
                require_same_session("event", event, stored)
        if session is not None:
            self.sessions.put(session)
        for run in runs:
            self.runs.put(run)
        if last:
            log = self.log(session_id)
            for event in events:
                self._store(log, event)
            log.last = last

    def delete_events(self, session_id: str, wanted: Filter, through: int | None) -> int:
        """Delete events of a session, and return how many."""
        log = self.logs.get(session_id)
        gone = [] if log is None else log.select(wanted, before=None if through is None else through + 1)
        if log is not None and gone:
            log.remove(gone)
            self._forget(gone)
        return len(gone)

    def _store(self, log: Log, event: Event) -> None:
        self.events[event.id] = event
        log.append(event)
        self.timeline.append(event)

    def _forget(self, gone: Sequence[Event]) -> None:
        for event in gone:
            del self.events[event.id]
        self.timeline.forget(len(gone))
