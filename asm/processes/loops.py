"""The event loop of our processes: what is sent in one turn goes out at its end, with one write a connection.

    turn:  wait for events ──► take in messages, send, send, send ──► flush ──► wait for events …

asyncio has no end of a turn. What is put off with ``call_soon`` waits for a whole turn more, which costs more than all the rest
of passing a message on; what is written at once wakes up the other side for each message. But a turn of asyncio begins with its
selector, which we may choose: ours flushes before it waits.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar

__all__ = ["Loop", "Sender", "run"]

T = TypeVar("T")

RECEIVE_BYTES: Final = 256 * 1024
"""How much is read from a connection at once."""


class Sender(Protocol):
    """Whoever has something to send at the end of a turn."""

    def flush(self) -> None:
        """Write it."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop that flushes those who asked for it at the end of each turn."""

    def __init__(self) -> None:
        self.unflushed: list[Sender] = []
        """Who has something to send in this turn. Whoever begins to have adds itself."""
        self.received = memoryview(bytearray(RECEIVE_BYTES))
        """Where every connection receives: what is there is taken in at once. A new buffer for each read costs more than it."""
        super().__init__(_Selector(self))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of this kind, as ``asyncio.run`` does in one of its own."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


class _Selector(selectors.EpollSelector):
    """Flushes before it waits."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Flush; then wait, unless somebody may have something to do because of that."""
        loop = self._loop
        if loop.unflushed:
            senders, loop.unflushed = loop.unflushed, []
            for sender in senders:
                sender.flush()
            timeout = 0
        return super().select(timeout)
