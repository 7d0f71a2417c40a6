"""The session store: sessions, runs and events."""

from __future__ import annotations

from typing import Protocol, TypedDict, runtime_checkable

from asm.core.arguments import (
    Count,
    EventTypes,
    Expected,
    Id,
    OptionalCount,
    OptionalId,
    OptionalLimit,
    OptionalNumber,
    OptionalTime,
    RunStatuses,
    SessionStatuses,
)
from asm.core.values import Event, Run, Session

__all__ = ["ExecutionResult", "SessionStore"]


class ExecutionResult(TypedDict, total=False):
    """What :meth:`SessionStore.flush` stores at once: at least one of these."""

    session: Session
    run: Run
    events: list[Event]
    provider_metadata: dict[str, object]
    """Merged into the ``provider_metadata`` of ``run``, without which it means nothing."""


@runtime_checkable
class SessionStore(Protocol):
    """Sessions, runs and events: structured data that is queried.

    A filter that is ``None`` does not filter. Every operation raises ``validation_error``, ``invalid_status`` or
    ``invalid_event_type`` for arguments that can never be accepted, before anything is changed.
    """

    def save_session(self, session: Session, *, replacing: Session | None = None) -> None:
        """Insert the session, or replace the one with its id.

        :param replacing: what is expected to be stored under the id: only then it is replaced.
        :raises Error: ``conflict`` when something else is, or nothing; ``details["current"]`` is the map of what is.
        """

    def get_session(self, session_id: Id) -> Session:
        """Return the session with this id.

        :raises Error: ``session_not_found``.
        """
        ...

    def list_sessions(
        self, *, status: SessionStatuses = None, agent_id: OptionalId = None, limit: OptionalLimit = None, offset: Count = 0
    ) -> list[Session]:
        """Return sessions, oldest ``created_at`` first, those of the same moment by id.

        :param status: one status, or several of which any will do.
        :param limit: how many to return at the most.
        :param offset: how many to pass over first.
        """
        ...

    def delete_session(self, session_id: Id) -> None:
        """Delete the session with its runs, events and sequence counter, all at once. An absent one is no error.

        Artifacts stay.
        """

    def save_run(self, run: Run, *, replacing: Run | None = None) -> None:
        """Insert the run, or replace the one with its id.

        :param replacing: what is expected to be stored under the id: only then it is replaced.
        :raises Error: ``session_mismatch`` when what is stored belongs to another session; ``conflict`` as for a session.
        """

    def get_run(self, run_id: Id) -> Run:
        """Return the run with this id.

        :raises Error: ``run_not_found``.
        """
        ...

    def list_runs(self, session_id: Id, *, status: RunStatuses = None, limit: OptionalLimit = None) -> list[Run]:
        """Return the runs of a session, oldest ``started_at`` first, those of the same moment by id.

        :param status: one status, or several of which any will do.
        :param limit: how many to return at the most.
        """
        ...

    def get_active_run(self, session_id: Id) -> Run | None:
        """Return the session's run whose status is ``running``: the latest started, if there are several."""
        ...

    def append_event(self, event: Event) -> None:
        """Append as :meth:`append_event_with_sequence` does, without returning the event."""

    def append_event_with_sequence(self, event: Event) -> Event:
        """Append the event and return it with its session's next ``sequence_number``: 1, 2, 3, … with no gap.

        An event whose id is already stored in its session is not stored again: the stored one is returned.

        :raises Error: ``session_mismatch`` when the id is stored in another session, of which nothing is told. Ids are yours to
            give, and unique in all sessions; those of :meth:`asm.Event.new` are.
        """
        ...

    def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]:
        """Append all of the events or none, in this order, without a gap within a session.

        Events of several sessions may mix. An id that is already stored, or that came before in the list,
        gives back the stored event in its place.

        :param expect: by the id of a session, the ``sequence_number`` at which it is expected to stand; 0 if it has no events
            yet. Nothing is stored unless each does. When every event is stored already they come back whatever this says, so
            that a call can be repeated whose answer was lost.
        :raises Error: ``session_mismatch`` when an id is that of another session's event; ``conflict`` with ``session_id``,
            ``expected`` and ``actual`` in its details. Then none is stored.
        """
        ...

    def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]:
        """Store what a run brought about, all of it or none of it: its session, the run itself, and its events.

        :param expect: as :meth:`append_events` has it.
        :return: the events as they are stored.
        :raises Error: as :meth:`save_run` and :meth:`append_events`.
        """
        ...

    def get_events(
        self,
        session_id: Id,
        *,
        run_id: OptionalId = None,
        type: EventTypes = None,  # noqa: A002  # the field's own name
        correlation_id: OptionalId = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
        after: OptionalCount = None,
        before: OptionalCount = None,
        limit: OptionalLimit = None,
        last: OptionalNumber = None,
        wait_timeout_ms: OptionalCount = None,
    ) -> list[Event]:
        """Return the events of a session by ``sequence_number``, ascending. An unknown session has none.

        :param type: one type, or several of which any will do; also types of one's own.
        :param since: events whose ``timestamp`` is this or later.
        :param until: events whose ``timestamp`` is earlier.
        :param after: events whose ``sequence_number`` is greater.
        :param before: events whose ``sequence_number`` is smaller.
        :param limit: how many to return at the most, from the beginning …
        :param last: … or from the end: as many of the newest that match, ascending. Neither with ``limit`` nor with
            ``wait_timeout_ms``.
        :param wait_timeout_ms: with nothing to return, how many milliseconds to wait for an event that matches.
        """
        ...

    def get_latest_sequence(self, session_id: Id) -> int:
        """Return the greatest ``sequence_number`` that was given in the session; 0 if none was."""
        ...

    def delete_events(
        self,
        session_id: Id,
        *,
        through: OptionalCount = None,
        run_id: OptionalId = None,
        type: EventTypes = None,  # noqa: A002
    ) -> int:
        """Delete the events of a session that match, and return how many. At least one condition is needed.

        Their numbers are never given again, and :meth:`get_latest_sequence` stays.

        :param through: events whose ``sequence_number`` is this or smaller.
        :param type: one type, or several of which any will do.
        """
        ...
