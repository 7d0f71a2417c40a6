"""What a process tells its parent while it serves: that its event loop goes on, and what it has done.

The heartbeat is sent from the loop, and from nowhere else: a loop that is stuck sends none. An adapter's call that takes
long runs in a thread, and does not keep the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from asm.core.errors import CODES

__all__ = ["Beats", "Reporter", "is_failure"]

FAILURES: Final = frozenset({"storage", "provider", "runtime"})
"""The categories of errors that mean that something is broken. The others are answers, as ``not_found`` is."""


class Reporter(Protocol):
    """The parent, as far as it wants to know."""

    @property
    def heartbeat(self) -> float | None:
        """Every how many seconds it expects a heartbeat; ``None``: never."""

    def beat(self, stats: Mapping[str, Any]) -> object:
        """Send a heartbeat, without waiting."""


def is_failure(code: str) -> bool:
    """Whether an error of this code means that something is broken; of one that is not known, it does."""
    kind = CODES.get(code)
    return kind is None or kind.category in FAILURES


class Beats:
    """Heartbeats, one at each interval, from now on until :meth:`stop`.

    :param reporter: who expects them.
    :param stats: returns the counters that go with each.
    """

    def __init__(self, reporter: Reporter, stats: Callable[[], Mapping[str, Any]]) -> None:
        self._reporter = reporter
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None
        self._beat()

    def stop(self) -> None:
        """Send no more."""
        if self._next is not None:
            self._next.cancel()

    def _beat(self) -> None:
        if self._reporter.heartbeat is not None:
            self._reporter.beat(self._stats())
            self._next = self._loop.call_later(self._reporter.heartbeat, self._beat)
