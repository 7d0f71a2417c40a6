"""Sessions, runs, events, and what is known of an artifact.

All of them are immutable. They change by methods that return a new value. ``to_map`` and ``from_map`` convert to and from plain
JSON maps and round-trip exactly.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

from asm.core import checks, sums
from asm.core.fields import (
    Count,
    Given,
    Id,
    Map,
    OptionalMap,
    OptionalName,
    OptionalTime,
    Time,
    Value,
    fields_of,
    optional,
    put,
)
from asm.core.forms import EventForm, RunForm, SessionForm
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.kinds import AnyEventType, AnyRunStatus, AnySessionStatus, EventType, LaterStatus, RunStatus, SessionStatus
from asm.core.making import changing, fresh_id, made, now

__all__ = ["ArtifactInfo", "Event", "EventType", "Run", "RunStatus", "Session", "SessionStatus", "Value"]


def _statuses(kinds: type[StrEnum]) -> tuple[checks.Check, ...]:
    return checks.member(kinds, "invalid_status"), checks.named(kinds, "invalid_status"), checks.held_kind(kinds)


_types: Final = (
    checks.member(EventType, "invalid_event_type", own=True),
    checks.named(EventType, "invalid_event_type"),
    checks.held_kind(EventType),
)


@changing({"updated_at": now})
@made({"id": fresh_id("ses"), "created_at": now}, like={"updated_at": "created_at"})
@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Session(SessionForm, Value):
    """One conversation of an agent: what runs and events belong to.

    :param agent_id: which agent it belongs to; required and not empty.
    """

    id: Id
    agent_id: Id
    status: Annotated[SessionStatus | LaterStatus, Given(AnySessionStatus), *_statuses(SessionStatus)] = SessionStatus.PENDING
    parent_session_id: OptionalName = None
    metadata: Map = field(default_factory=FrozenMap)
    context: Map = field(default_factory=FrozenMap)
    tags: Annotated[list[str], Given(list[str] | None), checks.tags, checks.held_tags] = field(default_factory=FrozenList)
    created_at: Time
    updated_at: Time
    deleted_at: OptionalTime = None

    def update_status(self, status: AnySessionStatus) -> Session:
        """Return the session with another status, updated now.

        :raises Error: ``invalid_status``.
        """
        return self.changed(status=status)

    def __hash__(self) -> int:
        """Hash by id; equal sessions have equal ids."""
        return hash(self.id)


@changing({})
@made({"id": fresh_id("run"), "started_at": now})
@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Run(RunForm, Value):
    """One execution within a session: from an input to an output or an error.

    :param session_id: which session it belongs to; required and not empty.
    """

    id: Id
    session_id: Id
    status: Annotated[RunStatus | LaterStatus, Given(AnyRunStatus), *_statuses(RunStatus)] = RunStatus.PENDING
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

    def update_status(self, status: AnyRunStatus) -> Run:
        """Return the run with another status; a terminal one sets ``ended_at``, too.

        :raises Error: ``invalid_status``.
        """
        known: RunStatus = checks.member(RunStatus, "invalid_status")(status, "Run.status")
        return self.changed(status=known, ended_at=now() if known.terminal else self.ended_at)

    def set_output(self, output: Mapping[str, Any]) -> Run:
        """Return the run completed with this output, ended now.

        :raises Error: ``validation_error``.
        """
        return self.changed(status=RunStatus.COMPLETED, output=checks.json_map(output, "Run.output"), ended_at=now())

    def set_error(self, error: Mapping[str, Any]) -> Run:
        """Return the run failed with this error, ended now.

        :raises Error: ``validation_error``.
        """
        return self.changed(status=RunStatus.FAILED, error=checks.json_map(error, "Run.error"), ended_at=now())

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


@made({"id": fresh_id("evt"), "timestamp": now})
@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Event(EventForm, Value):
    """Something that happened in a session. Once stored it never changes; its ``sequence_number`` orders it.

    :param type: what it says: an :class:`EventType`, or one of your own, which has a dot, such as ``myapp.thought``.
    :param session_id: which session it belongs to; required and not empty.
    :param sequence_number: given by the store when it appends the event; leave it out.
    """

    id: Id
    type: Annotated[EventType | str, Given(AnyEventType), *_types]
    timestamp: Time
    session_id: Id
    run_id: OptionalName = None
    data: Map = field(default_factory=FrozenMap)
    metadata: Map = field(default_factory=FrozenMap)
    sequence_number: Annotated[int | None, *optional(checks.limit, checks.held_int)] = None
    schema_version: Annotated[int, checks.limit, checks.held_int] = 1
    provider: OptionalName = None
    correlation_id: OptionalName = None

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
