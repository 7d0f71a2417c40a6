"""What there is to know about a tree at one moment: the values that a supervisor answers ``status`` with."""

from __future__ import annotations

from dataclasses import dataclass
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

    def to_map(self) -> dict[str, Any]:
        """Return it as a map of JSON values."""
        return {"at": self.at.isoformat(timespec="milliseconds"), "reason": self.reason}

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> RestartStatus:
        """Rebuild it from :meth:`to_map`."""
        return cls(at=datetime.fromisoformat(data["at"]).astimezone(UTC), reason=str(data["reason"]))


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
    """How often it was started again."""
    history: tuple[RestartStatus, ...]
    """The last of these restarts, the oldest first."""
    reason: str
    """In words that follow its name: what it waits for; else how its last process ended; empty when none has."""
    calls: int
    errors: int
    """How many of these calls were answered with an error."""
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
        return cls(**{name: data[name] for name in cls.__slots__} | {"history": history})


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
    children: tuple[ChildStatus, ...]

    @property
    def state(self) -> str:
        """``ready`` when every child is, and every store is well; else ``degraded``."""
        return READY if all(child.state == READY and not child.health for child in self.children) else DEGRADED

    def to_map(self) -> dict[str, Any]:
        """Return it as a map of JSON values, with its state."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"state": self.state, "children": [child.to_map() for child in self.children]}

    @classmethod
    def from_map(cls, data: dict[str, Any]) -> TreeStatus:
        """Rebuild it from :meth:`to_map`. What a newer version added is left out.

        :raises ValidationError: when ``data`` is no map of a status.
        """
        try:
            children = tuple(ChildStatus.from_map(item) for item in data["children"])
            return cls(**{name: data[name] for name in cls.__slots__} | {"children": children})
        except (KeyError, TypeError, ValueError) as cause:
            raise Error("validation_error", f"this is no map of a status: {cause!r}") from cause
