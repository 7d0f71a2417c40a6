"""Sessions, runs, events, and what is known of an artifact.

All of them are immutable. They change by methods that return a new value. ``to_map`` and ``from_map`` convert to and from plain
JSON maps and round-trip exactly.
"""

from __future__ import annotations

import dataclasses
import operator
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from asm.core import checks, sums
from asm.core.fields import (
    Count,
    Id,
    Map,
    OptionalMap,
    OptionalName,
    OptionalTime,
    Time,
    Value,
    fields_of,
    keywords,
    optional,
    put,
)
from asm.core.frozen import FrozenList, FrozenMap

__all__ = ["ArtifactInfo", "Event", "EventType", "Run", "RunStatus", "Session", "SessionStatus", "Value"]


class SessionStatus(StrEnum):
    """What a session is doing."""

    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """What a run is doing."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def terminal(self) -> bool:
        """Whether a run with this status has ended."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class EventType(StrEnum):
    """What an event says. Types of one's own are strings with a dot in them."""

    SESSION_CREATED = "session_created"
    SESSION_STARTED = "session_started"
    SESSION_PAUSED = "session_paused"
    SESSION_RESUMED = "session_resumed"
    SESSION_COMPLETED = "session_completed"
    SESSION_FAILED = "session_failed"
    SESSION_CANCELLED = "session_cancelled"
    RUN_STARTED = "run_started"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_TIMEOUT = "run_timeout"
    MESSAGE_SENT = "message_sent"
    MESSAGE_RECEIVED = "message_received"
    MESSAGE_STREAMED = "message_streamed"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    TOOL_CALL_FAILED = "tool_call_failed"
    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    TOKEN_USAGE_UPDATED = "token_usage_updated"  # noqa: S105  # a type of event
    TURN_COMPLETED = "turn_completed"
    WORKSPACE_SNAPSHOT_TAKEN = "workspace_snapshot_taken"
    WORKSPACE_DIFF_COMPUTED = "workspace_diff_computed"
    POLICY_VIOLATION = "policy_violation"
    TOOL_APPROVAL_REQUESTED = "tool_approval_requested"
    TOOL_APPROVAL_GRANTED = "tool_approval_granted"
    TOOL_APPROVAL_DENIED = "tool_approval_denied"


def _statuses(kinds: type[StrEnum]) -> tuple[checks.Check, ...]:
    return checks.member(kinds, "invalid_status"), checks.named(kinds, "invalid_status"), checks.held_kind(kinds)


_types: Final = (
    checks.member(EventType, "invalid_event_type", own=True),
    checks.named(EventType, "invalid_event_type"),
    checks.held_kind(EventType),
)


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Value):
    """One conversation of an agent: what runs and events belong to."""

    id: Id
    agent_id: Id
    status: Annotated[SessionStatus | str, *_statuses(SessionStatus)] = SessionStatus.PENDING
    parent_session_id: OptionalName = None
    metadata: Map = field(default_factory=FrozenMap)
    context: Map = field(default_factory=FrozenMap)
    tags: Annotated[list[str], checks.tags, checks.held_tags] = field(default_factory=FrozenList)
    created_at: Time
    updated_at: Time
    deleted_at: OptionalTime = None

    @classmethod
    @keywords
    def new(
        cls,
        *,
        agent_id: str,
        id: str | None = None,  # noqa: A002  # the field's own name
        status: SessionStatus | str = SessionStatus.PENDING,
        parent_session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        tags: list[str] | None = None,
        created_at: datetime | None = None,
        updated_at: datetime | None = None,
        deleted_at: datetime | None = None,
    ) -> Self:
        """Make a session, with a fresh id and the present time where none is given.

        :param agent_id: which agent it belongs to; required and not empty.
        :raises Error: ``validation_error`` or ``invalid_status``.
        """
        created_at = _now() if created_at is None else created_at
        return cls(
            id=_new_id("ses") if id is None else id,
            agent_id=agent_id,
            status=status,
            parent_session_id=parent_session_id,
            metadata=metadata,  # type: ignore[arg-type]
            context=context,  # type: ignore[arg-type]
            tags=tags,  # type: ignore[arg-type]
            created_at=created_at,
            updated_at=created_at if updated_at is None else updated_at,
            deleted_at=deleted_at,
        )

    def update_status(self, status: SessionStatus | str) -> Session:
        """Return the session with another status, updated now.

        :raises Error: ``invalid_status``.
        """
        return self.changed(status=status)

    def changed(self, **fields: Any) -> Session:
        """Return the session with other fields, updated now unless ``updated_at`` is one of them.

        :raises Error: ``validation_error`` or ``invalid_status``.
        """
        return self._changed(**{"updated_at": _now()} | fields)

    def __hash__(self) -> int:
        """Hash by id; equal sessions have equal ids."""
        return hash(self.id)


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Value):
    """One execution within a session: from an input to an output or an error."""

    id: Id
    session_id: Id
    status: Annotated[RunStatus | str, *_statuses(RunStatus)] = RunStatus.PENDING
    input: OptionalMap = None
    output: OptionalMap = None
    error: OptionalMap = None
    metadata: Map = field(default_factory=FrozenMap)
    turn_count: Count = 0
    token_usage: Map = field(default_factory=FrozenMap)
    cost_usd: Annotated[float | None, *optional(checks.amount, checks.held_amount)] = None
    started_at: Time
    ended_at: OptionalTime = None
    provider: OptionalName = None
    provider_metadata: Map = field(default_factory=FrozenMap)

    @classmethod
    @keywords
    def new(
        cls,
        *,
        session_id: str,
        id: str | None = None,  # noqa: A002
        status: RunStatus | str = RunStatus.PENDING,
        input: Mapping[str, Any] | None = None,  # noqa: A002
        output: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        turn_count: int = 0,
        token_usage: Mapping[str, Any] | None = None,
        cost_usd: float | None = None,
        started_at: datetime | None = None,
        ended_at: datetime | None = None,
        provider: str | None = None,
        provider_metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a run, with a fresh id and the present time where none is given.

        :param session_id: which session it belongs to; required and not empty.
        :raises Error: ``validation_error`` or ``invalid_status``.
        """
        return cls(
            id=_new_id("run") if id is None else id,
            session_id=session_id,
            status=status,
            input=input,
            output=output,
            error=error,
            metadata=metadata,  # type: ignore[arg-type]
            turn_count=turn_count,
            token_usage=token_usage,  # type: ignore[arg-type]
            cost_usd=cost_usd,
            started_at=_now() if started_at is None else started_at,
            ended_at=ended_at,
            provider=provider,
            provider_metadata=provider_metadata,  # type: ignore[arg-type]
        )

    def update_status(self, status: RunStatus | str) -> Run:
        """Return the run with another status; a terminal one sets ``ended_at``, too.

        :raises Error: ``invalid_status``.
        """
        known: RunStatus = checks.member(RunStatus, "invalid_status")(status, "Run.status")
        return self.changed(status=known, ended_at=_now() if known.terminal else self.ended_at)

    def changed(self, **fields: Any) -> Run:
        """Return the run with other fields.

        :raises Error: ``validation_error`` or ``invalid_status``.
        """
        return self._changed(**fields)

    def set_output(self, output: Mapping[str, Any]) -> Run:
        """Return the run completed with this output, ended now.

        :raises Error: ``validation_error``.
        """
        return self.changed(status=RunStatus.COMPLETED, output=checks.json_map(output, "Run.output"), ended_at=_now())

    def set_error(self, error: Mapping[str, Any]) -> Run:
        """Return the run failed with this error, ended now.

        :raises Error: ``validation_error``.
        """
        return self.changed(status=RunStatus.FAILED, error=checks.json_map(error, "Run.error"), ended_at=_now())

    def increment_turn(self) -> Run:
        """Return the run with one more turn counted."""
        return self.changed(turn_count=self.turn_count + 1)

    def update_token_usage(self, usage: Mapping[str, Any]) -> Run:
        """Return the run with ``usage`` added to its own, number by number, also in nested maps.

        :raises Error: ``validation_error`` when ``usage`` has something else in it, or the run has under one of its keys.
        """
        usage, total = checks.json_map(usage, "usage"), dict(self.token_usage)
        sums.require_addable(total, usage)
        sums.add(total, usage)
        return self.changed(token_usage=total)

    def __hash__(self) -> int:
        """Hash by id; equal runs have equal ids."""
        return hash(self.id)


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Value):
    """Something that happened in a session. Once stored it never changes; its ``sequence_number`` orders it."""

    id: Id
    type: Annotated[EventType | str, *_types]
    timestamp: Time
    session_id: Id
    run_id: OptionalName = None
    data: Map = field(default_factory=FrozenMap)
    metadata: Map = field(default_factory=FrozenMap)
    sequence_number: Annotated[int | None, *optional(checks.limit, checks.held_int)] = None
    schema_version: Annotated[int, checks.limit, checks.held_int] = 1
    provider: OptionalName = None
    correlation_id: OptionalName = None

    @classmethod
    @keywords
    def new(
        cls,
        *,
        type: EventType | str,  # noqa: A002
        session_id: str,
        id: str | None = None,  # noqa: A002
        timestamp: datetime | None = None,
        run_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        sequence_number: int | None = None,
        schema_version: int = 1,
        provider: str | None = None,
        correlation_id: str | None = None,
    ) -> Self:
        """Make an event, with a fresh id and the present time where none is given.

        :param type: what it says: an :class:`EventType`, or one of your own, which has a dot, such as ``myapp.thought``.
        :param session_id: which session it belongs to; required and not empty.
        :param sequence_number: given by the store when it appends the event; leave it out.
        :raises Error: ``validation_error`` or ``invalid_event_type``.
        """
        return cls(
            id=_new_id("evt") if id is None else id,
            type=type,
            timestamp=_now() if timestamp is None else timestamp,
            session_id=session_id,
            run_id=run_id,
            data=data,  # type: ignore[arg-type]
            metadata=metadata,  # type: ignore[arg-type]
            sequence_number=sequence_number,
            schema_version=schema_version,
            provider=provider,
            correlation_id=correlation_id,
        )

    def sequenced(self, number: int) -> Event:
        """Return the event with the sequence number that a store gave it."""
        # Everything else was checked when this event was made; checking it again would be a large part of an append.
        numbered = object.__new__(Event)
        for name, value in zip(self._names, self._get(self), strict=True):
            put(numbered, name, value)
        put(numbered, "sequence_number", checks.limit(number, "Event.sequence_number"))
        return numbered

    def is_sequenced_from(self, other: Event) -> bool:
        """Tell whether this is what :meth:`sequenced` of the other event returned: its fields are the very same objects."""
        # Being equal would not do: 1, 1.0 and True are.
        return all(map(operator.is_, _all_but_number(self), _all_but_number(other)))

    def __hash__(self) -> int:
        """Hash by id; equal events have equal ids."""
        return hash(self.id)


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactInfo(Value):
    """What a store knows of an artifact without reading it."""

    key: Id
    byte_size: Count
    checksum_sha256: Id
    updated_at: Time


_all_but_number: Final = operator.attrgetter(
    *(item.name for item in dataclasses.fields(Event) if item.name != "sequence_number")
)


def _new_id(prefix: str) -> str:
    """Return a fresh id: a UUID of version 7 (RFC 9562).

    It begins with the time, so what is made together stands together in the index of a database. With random ids each event
    of a batch would change a page of its own there.
    """
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return f"{prefix}_{number & ~_FIXED | _VERSION_7:032x}"


_FIXED: Final = 0xF << 76 | 0b11 << 62
_VERSION_7: Final = 7 << 76 | 0b10 << 62
"""The bits of a UUID that say how it was made."""


def _now() -> datetime:
    return datetime.now(UTC)
