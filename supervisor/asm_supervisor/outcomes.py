"""What a run, and a reload, came to."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Exit", "Reloaded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What ended a run."""

    kind: Literal["stopped", "start_failed", "restarts_exceeded"]
    reason: str
    """One sentence for a person, without a full stop."""
    child: str | None = None
    """The name of the child that was the cause."""
    error: Mapping[str, Any] | None = None
    """What that child said about it, if it said anything."""
    cut_short_by: signal.Signals | None = None
    """The second signal, for which every child was killed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a new description changed: names of children, in start order."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    """Described differently, so that another process is needed."""
    adjusted: tuple[str, ...]
    """Described differently, and the process stays: it was told, or only its parent is concerned."""
    removed: tuple[str, ...]
