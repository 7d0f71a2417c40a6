"""The two contracts: what a session store and an artifact store are.

Each operation is spelled out here and nowhere else. The checks of its arguments, the proxies of the clients,
the routing of the composite and the dispatch of the workers follow from these signatures
(:mod:`asm.operations`).

Guarantees, in every implementation and through the composite:

1. Appended events never change and never move. A sequence number, once answered, is that event's for good.
2. Sequences are per session, start at 1 and have no gap and no duplicate, however many processes and hosts append at once.
3. Read after write: what a call acknowledged, every later call by anyone sees.
4. A call that returns normally is durable to the degree the store promises.
5. A call that raises has changed nothing, unless its time was up or the way to the store was lost in the middle of it: the
   outcome of ``timeout``, of ``storage_connection_failed``, and of a ``storage_error`` with the reason ``backend_exited`` or
   ``shutting_down`` is unknown. Appends, puts and deletes are idempotent: repeating them is safe. Repeating a ``save_*`` may
   undo what somebody else saved in between.
6. Events need no saved session, and a run no saved session: the stores do not enforce that relation.
7. Writing is strict, and reading is tolerant: what a caller gives is checked before anything is done, and what is stored comes
   back as it is, also what another version stored. A type or status that is not known is a string then.

In every store alike an id, and an ``agent_id``, ``run_id``, ``provider``, ``correlation_id`` or ``parent_session_id``, has at
most 1,024 bytes of UTF-8 and no NUL; a free-form map nests at most 64 levels deep and has at most 1,000,000 values (keys,
elements, maps and lists counted). So has one call as a whole when the store is in another process, and at most 16 MiB.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, BinaryIO, Protocol, TypedDict, runtime_checkable

from asm.core import checks
from asm.core.values import ArtifactInfo, Event, EventType, Run, RunStatus, Session, SessionStatus

__all__ = ["ArtifactStore", "Data", "ExecutionResult", "SessionStore"]

Id = Annotated[str, checks.identifier]
Key = Id
Text = Annotated[str, checks.text]
Count = Annotated[int, checks.count]
OptionalId = Annotated[str | None, checks.optional(checks.identifier)]
OptionalCount = Annotated[int | None, checks.optional(checks.count)]
OptionalText = Annotated[str | None, checks.optional(checks.text)]
OptionalTime = Annotated[datetime | None, checks.optional(checks.utc_time)]
Limit = Annotated[int | None, checks.optional(checks.limit)]
# What filters by a status or type has two checks: of what a caller gives, and of what may come from a later version.
SessionStatuses = Annotated[
    SessionStatus | str | Iterable[SessionStatus | str] | None,
    checks.members(checks.member(SessionStatus, "invalid_status")),
    checks.members(checks.named(SessionStatus, "invalid_status")),
]
RunStatuses = Annotated[
    RunStatus | str | Iterable[RunStatus | str] | None,
    checks.members(checks.member(RunStatus, "invalid_status")),
    checks.members(checks.named(RunStatus, "invalid_status")),
]
EventTypes = Annotated[
    EventType | str | Iterable[EventType | str] | None,
    checks.members(checks.member(EventType, "invalid_event_type", own=True)),
    checks.members(checks.named(EventType, "invalid_event_type")),
]

ArtifactInfos = list[ArtifactInfo]
"""Has a name, because within :class:`ArtifactStore` ``list`` is an operation."""

Data = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
"""What an artifact can be put from: bytes, a readable binary file, or an iterable of bytes."""


class ExecutionResult(TypedDict, total=False):
    """What :meth:`SessionStore.flush` stores at once. ``session``, ``run`` and ``events`` are required."""

    session: Session
    run: Run
    events: list[Event]
    provider_metadata: dict[str, object]
    """Merged into the run's ``provider_metadata``."""


@runtime_checkable
class SessionStore(Protocol):
    """Sessions, runs and events: structured data that is queried.

    A filter that is ``None`` does not filter. Every operation raises ``validation_error``, ``invalid_status`` or
    ``invalid_event_type`` for arguments that can never be accepted, before anything is changed.
    """

    def save_session(self, session: Session) -> None:
        """Insert the session, or replace the one with its id."""

    def get_session(self, session_id: Id) -> Session:
        """Return the session with this id.

        :raises Error: ``session_not_found``.
        """
        ...

    def list_sessions(
        self, *, status: SessionStatuses = None, agent_id: OptionalId = None, limit: Limit = None, offset: Count = 0
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

    def save_run(self, run: Run) -> None:
        """Insert the run, or replace the one with its id.

        :raises Error: ``session_mismatch`` when that belongs to another session.
        """

    def get_run(self, run_id: Id) -> Run:
        """Return the run with this id.

        :raises Error: ``run_not_found``.
        """
        ...

    def list_runs(self, session_id: Id, *, status: RunStatuses = None, limit: Limit = None) -> list[Run]:
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

    def append_events(self, events: list[Event]) -> list[Event]:
        """Append all of the events or none, in this order, without a gap within a session.

        Events of several sessions may mix. An id that is already stored, or that came before in the list,
        gives back the stored event in its place.

        :raises Error: ``session_mismatch`` when that belongs to another session. Then none is stored.
        """
        ...

    def flush(self, result: ExecutionResult) -> None:
        """Store what a run brought about, all of it or none of it: its session, the run itself, and its events.

        :raises Error: ``session_mismatch``, as :meth:`save_run` and :meth:`append_events`.
        """

    def get_events(
        self,
        session_id: Id,
        *,
        run_id: OptionalId = None,
        type: EventTypes = None,  # noqa: A002  # the field's own name
        since: OptionalTime = None,
        after: OptionalCount = None,
        before: OptionalCount = None,
        limit: Limit = None,
        wait_timeout_ms: OptionalCount = None,
    ) -> list[Event]:
        """Return the events of a session by ``sequence_number``, ascending. An unknown session has none.

        :param type: one type, or several of which any will do; also types of one's own.
        :param since: events whose ``timestamp`` is this or later.
        :param after: events whose ``sequence_number`` is greater.
        :param before: events whose ``sequence_number`` is smaller.
        :param limit: how many to return at the most.
        :param wait_timeout_ms: with nothing to return, how many milliseconds to wait for an event that matches.
        """
        ...

    def get_latest_sequence(self, session_id: Id) -> int:
        """Return the greatest ``sequence_number`` of the session; 0 if it has no events."""
        ...


@runtime_checkable
class ArtifactStore(Protocol):
    """Artifacts: opaque bytes, of any size, under a key.

    A key is any non-empty text of at most 1,024 bytes of UTF-8 without NUL. ``../x``, ``a/b``, ``ключ`` and two keys
    that differ only in case are all different keys.
    """

    def put(self, key: Key, data: Data) -> None:
        """Store the bytes under the key, at once and whole, in place of what it held.

        A reader sees the old bytes or the new, never a part; a ``put`` that fails leaves the old.
        """

    def get(self, key: Key) -> bytes:
        """Return the bytes under the key.

        :raises Error: ``not_found``; ``storage_read_failed`` when they are not what was put.
        """
        ...

    def delete(self, key: Key) -> None:
        """Delete the key. An absent one is no error."""

    def open(self, key: Key) -> BinaryIO:
        """Return the bytes under the key as a readable binary file, which the caller closes.

        :raises Error: ``not_found``, and while reading ``storage_read_failed`` when they are not what was put.
        """
        ...

    def stat(self, key: Key) -> ArtifactInfo:
        """Return size, checksum and time of the key.

        :raises Error: ``not_found``.
        """
        ...

    def list(self, *, prefix: Text = "", after: OptionalText = None, limit: Limit = None) -> ArtifactInfos:
        """Return what is known of the artifacts, by key, ascending.

        :param prefix: keys that begin so.
        :param after: keys greater than this one.
        :param limit: how many to return at the most.
        """
        ...
