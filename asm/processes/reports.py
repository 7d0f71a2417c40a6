"""What a process has of its parent, and what it tells it while it serves: that its event loop goes on, and what it has done.

The heartbeat is sent from the loop, and from nowhere else: a loop that is stuck sends none. An adapter's call that takes
long runs in a thread, and does not keep the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from asm.core.errors import CODES

__all__ = ["Beats", "Lifeline", "Reporter", "is_failure"]

Rebind = Callable[[socket.socket], None]
"""Takes another listening socket."""

FAILURES: Final = frozenset({"storage", "provider", "runtime"})
"""The categories of errors that mean that something is broken. The others are answers, as ``not_found`` is."""


class Reporter(Protocol):
    """The parent, as far as it wants to know."""

    @property
    def heartbeat(self) -> float | None:
        """Every how many seconds it expects a heartbeat; ``None``: never."""

    def beat(self, stats: Mapping[str, Any]) -> object:
        """Send a heartbeat, without waiting."""


class Lifeline(Reporter, Protocol):
    """What a process has of its parent."""

    @property
    def socket(self) -> socket.socket | None:
        """The listening socket that the parent handed down."""

    @property
    def restarts(self) -> int:
        """How many processes served the name before this one."""

    settings: Mapping[str, Any]
    """What the parent said last of how the process is to be."""
    on_settings: Callable[[Mapping[str, Any]], None] | None
    """Called with new ones."""
    on_socket: Rebind | None
    """Called with another listening socket, when the one before was lost."""

    @property
    def recovers(self) -> bool:
        """Whether a process that served the name before this one had come up, and died."""

    def fileno(self) -> int:
        """Return what becomes readable when the parent is gone."""

    def ready(self) -> None:
        """Say that the process serves."""

    def waiting(self, info: Mapping[str, Any]) -> None:
        """Say that the process serves its name, and that its store is away."""

    def failed(self, error: dict[str, Any]) -> None:
        """Say why the process cannot come up."""

    def stop_requested(self) -> bool:
        """Whether the parent is gone, or wants the process to go."""

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone."""


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
