"""What there is to know about a child at one moment, for whoever shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asm_supervisor.restarts import Restart
from asm_supervisor.states import State

__all__ = ["Snapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What there is to know about a child at one moment."""

    name: str
    description: str
    state: State
    since: float
    """When it came into this state, by ``time.monotonic``."""
    pid: int | None
    started_at: float | None
    """When its process was started, by ``time.monotonic``; ``None`` when it has none."""
    restarts: int
    """How often it died and was started again."""
    history: tuple[Restart, ...]
    """The last of its restarts, those that were asked for among them, the oldest first."""
    reason: str
    """In words that follow its name: what it waits for; else how its last process ended; empty when none has."""
    listen: Path | None
    info: Mapping[str, Any]
    """What it said when it became ready, or began to wait."""
    stats: Mapping[str, Any]
    """What it said with its last heartbeat."""
    trouble: str
    """Why it cannot be reached by its name, in words that follow that; empty when it can."""
    due_at: float | None
    """When its next process is due, by ``time.monotonic``; ``None`` when none is."""
    beat_at: float | None
    """When that was, by ``time.monotonic``; ``None`` when its process has not beaten yet."""
