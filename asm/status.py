"""What there is to know about a tree at one moment: the values that a supervisor answers ``status`` with."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final

from asm.core.errors import Error

__all__ = ["CONTROL", "DEGRADED", "READY", "ChildStatus", "RestartStatus", "TreeStatus"]

CONTROL: Final = "control"
"""The contract that a supervisor names in its answer to ``hello``."""

READY: Final = "ready"
"""The state of a child that serves, and of a tree whose children all do."""
DEGRADED: Final = "degraded"
"""The state of any other tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartStatus:
    """One restart of a child."""

    at: datetime
    reason: str
    """How the process before had ended, in words that follow the child's name."""
    kind: str = "crash"
    """``crash``; or ``asked``, by an operator or a reload; or ``needed``, as with ``one_for_all`` when another child died."""

    def to_map(self) -> dict[str, Any]:
        """Return it as a map of JSON values."""
        return {"at": self.at.isoformat(timespec="milliseconds"), "reason": self.reason, "kind": self.kind}

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> RestartStatus:
        """Rebuild it from :meth:`to_map`."""
        return cls(
            at=datetime.fromisoformat(data["at"]).astimezone(UTC),
            reason=str(data["reason"]),
            kind=str(data.get("kind", "crash")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStatus:
    """One child of a tree. What is counted, is counted by its current process, and at most a second old."""

    name: str
    description: str
    """What it is, in a few words for people."""
    state: str
    """``starting``, ``ready``, ``waiting``, ``backoff``, ``stopping``, ``failed``, ``ended`` or ``stopped``. One that waits
    serves its name, and its store is away."""
    pid: int | None
    """Its process, if it has one."""
    uptime_seconds: float | None
    """For how long that has been there."""
    restarts: int
    """How often it crashed and was started again."""
    history: tuple[RestartStatus, ...]
    """The last of its restarts, of every kind, the oldest first."""
    reason: str
    """In words that follow its name: what it waits for; else how its last process ended; empty when none has."""
    trouble: str = ""
    """Why it cannot be reached by its name, in words that follow that; empty when it can."""
    due_in_seconds: float | None = None
    """In how many seconds the next process is started, while it is ``backoff`` or ``failed``; ``None``: none is."""
    calls: int
    errors: int
    """How many of these calls failed: the store or the way to it was broken. ``not_found`` and the like are answers."""
    in_flight: int
    """How many of them are not answered yet."""
    health: str
    """What is wrong with its store, as that said when it was asked last, or as its last calls failed; empty when it is well."""
    memory_bytes: int | None
    """Its share of the memory of the machine (PSS), where pages that processes share count in parts."""

    def to_map(self) -> dict[str, Any]:
        """Return it as a map of JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"history": [item.to_map() for item in self.history]}

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> ChildStatus:
        """Rebuild it from :meth:`to_map`. What a newer version added is left out."""
        history = tuple(RestartStatus.from_map(item) for item in data["history"])
        return cls(**_fields(cls, data) | {"history": history})


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeStatus:
    """A tree and its children, in the order in which they start."""

    name: str
    pid: int
    """The supervisor's process."""
    version: str
    config: str
    """The configuration, as it was given."""
    uptime_seconds: float
    trouble: str = ""
    """Why its own name is not safe, in words that follow that; empty when it is."""
    children: tuple[ChildStatus, ...]

    @property
    def state(self) -> str:
        """``ready`` when every child is, can be reached by its name, and has a store that is well; else ``degraded``."""
        if self.trouble or any(child.trouble or child.health for child in self.children):
            return DEGRADED
        return READY if all(child.state == READY for child in self.children) else DEGRADED

    def to_map(self) -> dict[str, Any]:
        """Return it as a map of JSON values, with its state."""
        own = {name: getattr(self, name) for name in self.__slots__}
        return own | {"state": self.state, "children": [child.to_map() for child in self.children]}

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> TreeStatus:
        """Rebuild it from :meth:`to_map`. What a newer version added is left out.

        :raises ValidationError: when ``data`` is no map of a status.
        """
        try:
            children = tuple(ChildStatus.from_map(item) for item in data["children"])
            return cls(**_fields(cls, data) | {"children": children})
        except (KeyError, TypeError, ValueError) as cause:
            raise Error("validation_error", f"this is no map of a status: {cause!r}") from cause


def _fields(kind: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return what a map has of the fields of a kind. What an older version does not tell, has a default."""
    return {field.name: data[field.name] for field in fields(kind) if field.name in data or field.default is MISSING}
