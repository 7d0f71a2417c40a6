"""What the operations of the contracts take: each type with the check of what a caller gives (:mod:`asm.core.checks`).

What filters by a status or type has two checks: of what a caller gives, and of what may come from a later version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, BinaryIO, Literal

from asm.core import checks
from asm.core.kinds import AnyEventType, AnyRunStatus, AnySessionStatus, EventType, RunStatus, SessionStatus
from asm.core.values import ArtifactInfo

__all__ = [
    "ArtifactInfos",
    "Count",
    "Data",
    "EventOrder",
    "EventTypes",
    "Expected",
    "Flag",
    "Groups",
    "Id",
    "Ids",
    "Key",
    "Limit",
    "OptionalCount",
    "OptionalId",
    "OptionalLimit",
    "OptionalMap",
    "OptionalNumber",
    "OptionalText",
    "OptionalTime",
    "RunOrder",
    "RunStatuses",
    "SessionOrder",
    "SessionStatuses",
    "Tags",
    "Text",
]

Id = Annotated[str, checks.identifier]
Key = Id
Text = Annotated[str, checks.text]
Count = Annotated[int, checks.count]
Limit = Annotated[int, checks.limit]
Flag = Annotated[bool, checks.flag]
OptionalId = Annotated[str | None, checks.optional(checks.identifier)]
OptionalCount = Annotated[int | None, checks.optional(checks.count)]
OptionalNumber = Annotated[int | None, checks.optional(checks.limit)]
OptionalText = Annotated[str | None, checks.optional(checks.text)]
OptionalTime = Annotated[datetime | None, checks.optional(checks.utc_time)]
OptionalMap = Annotated[Mapping[str, Any] | None, checks.optional(checks.json_map)]
OptionalLimit = Annotated[int | None, checks.optional(checks.limit)]
Ids = Annotated[str | Iterable[str] | None, checks.members(checks.identifier)]
Tags = Annotated[str | Iterable[str] | None, checks.members(checks.text)]
Expected = Annotated[Mapping[str, int] | None, checks.optional(checks.counts)]
SessionStatuses = Annotated[
    AnySessionStatus | Iterable[AnySessionStatus] | None,
    checks.members(checks.member(SessionStatus, "invalid_status")),
    checks.members(checks.named(SessionStatus, "invalid_status")),
]
RunStatuses = Annotated[
    AnyRunStatus | Iterable[AnyRunStatus] | None,
    checks.members(checks.member(RunStatus, "invalid_status")),
    checks.members(checks.named(RunStatus, "invalid_status")),
]
EventTypes = Annotated[
    AnyEventType | Iterable[AnyEventType] | None,
    checks.members(checks.member(EventType, "invalid_event_type", own=True)),
    checks.members(checks.named(EventType, "invalid_event_type")),
]
SessionOrder = Annotated[
    Literal["created_at", "-created_at", "updated_at", "-updated_at"],
    checks.one_of("created_at", "-created_at", "updated_at", "-updated_at"),
]
RunOrder = Annotated[
    Literal["started_at", "-started_at", "tokens", "-tokens"], checks.one_of("started_at", "-started_at", "tokens", "-tokens")
]
EventOrder = Annotated[Literal["timestamp", "-timestamp"], checks.one_of("timestamp", "-timestamp")]
Group = Literal["provider", "model", "agent", "status", "day"]
Groups = Annotated[Group | Iterable[Group], checks.members(checks.one_of("provider", "model", "agent", "status", "day"))]

ArtifactInfos = list[ArtifactInfo]
"""Has a name, because within :class:`asm.ports.ArtifactStore` ``list`` is an operation."""

Data = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
"""What bytes can be taken from: bytes, a readable binary file, or an iterable of bytes."""
