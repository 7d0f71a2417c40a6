"""The event loop of our processes: what is sent in one turn goes out at its end, with one write a connection.

    turn:  wait for events ──► take in messages, send, send, send ──► flush ──► wait for events …

asyncio has no end of a turn. What is put off with ``call_soon`` waits for a whole turn more, which costs more than all the rest
of passing a message on; what is written at once wakes up the other side for each message. But a turn of asyncio begins with its
selector, which we may choose: ours flushes before it waits. And before it sleeps it looks for a moment whether the next message
comes: a process that has to be woken first takes up to twice as long for a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from asm.processes.accounts import Account

__all__ = ["Loop", "Sender", "in_daemon", "run"]

T = TypeVar("T")

RECEIVE_BYTES: Final = 256 * 1024
"""How much is read from a connection at once."""

EARLY: Final = 32
"""With this many parts to send, the end of the turn is not waited for: the other side begins while this one goes on."""

LARGE: Final = 64 * 1024
"""From how many bytes on copying a part costs more than another system call."""

LOOK_SECONDS: Final = 150e-6
"""How long a process that has sent something looks for what comes next before it sleeps: about what the others on the way of a
call take. Where nothing comes that fast, as the last sleep tells, it does not look."""


class Sender(asyncio.BaseProtocol):
    """The half of a connection that sends: all frames of one turn of the loop are written at once.

    :param account: what is known of the connection: here, what is there for the other side, and whether it is slow to take it.
    """

    def __init__(self, account: Account) -> None:
        self.account = account
        self._loop = Loop.running()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes | memoryview] = []
        self._written = 0
        """How many bytes went so far."""

    def send(self, *parts: bytes | memoryview) -> int:
        """Send frames, which are made of these parts.

        :return: how many bytes that is.
        """
        size = sum(map(len, parts))
        transport = self._transport
        if size and transport is not None and not transport.is_closing():
            outgoing = self._outgoing
            if not outgoing:
                self._loop.unflushed.append(self)
            outgoing += parts
            self.account.queued += size
            if len(outgoing) > EARLY:
                self.flush()
        return size

    def flush(self) -> None:
        """Write what waits, in few parts: small ones are put together, and large ones are not copied."""
        transport, account = self._transport, self.account
        if not self._outgoing or transport is None:
            return
        parts, self._outgoing = self._outgoing, []
        size, account.queued = account.queued, 0
        self._written += size
        if size < LARGE:
            transport.write(b"".join(parts))
        else:
            for is_large, group in itertools.groupby(parts, lambda part: len(part) >= LARGE):
                for part in group if is_large else (b"".join(group),):
                    transport.write(part)
        if account.is_slow or account.waiting:
            self.flushed()

    def flushed(self) -> None:
        """Learn that what waited was written, on a connection that is slow, or whose calls wait for their turn."""
        self.note()

    @property
    def unsent(self) -> int:
        """How many bytes wait to be taken by the other side."""
        return self.account.queued + self.account.unsent

    def note(self, *, is_slow: bool | None = None) -> None:
        """Count what the other side has not taken."""
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        self.lies(unsent, is_slow=self.account.is_slow if is_slow is None else is_slow)

    def lies(self, unsent: int, *, is_slow: bool) -> None:
        """Learn how many bytes lie there for the other side, and whether it takes them slower than they come."""
        self.account.unsent, self.account.is_slow = unsent if is_slow else 0, is_slow

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport

    def pause_writing(self) -> None:
        """Learn that the other side is slow."""
        self.note(is_slow=True)

    def resume_writing(self) -> None:
        """Learn that it is not any more."""
        self.note(is_slow=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._outgoing.clear()
        self.account.peer = None  # in a circle it would stay, with all that it holds, until circles are looked for


class Loop(asyncio.SelectorEventLoop):
    """An event loop that flushes those who asked for it at the end of each turn."""

    def __init__(self) -> None:
        self.unflushed: list[Sender] = []
        """Who has something to send in this turn. Whoever begins to have adds itself."""
        self.received = memoryview(bytearray(RECEIVE_BYTES))
        """Where every connection receives: what is there is taken in at once. A new buffer for each read costs more than it."""
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_told = False
        super().__init__(_Selector(self))

    @classmethod
    def running(cls) -> Loop:
        """Return the loop that runs, which must be of this kind."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, cls)
        return loop

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function called soon, from any thread. Of many such calls only the first one wakes the loop.

        :raises RuntimeError: when the loop is closed.
        """
        self._posted.append((function, args))
        if not self._is_told:
            self._is_told = True
            self.call_soon_threadsafe(self._take_posted)

    def _take_posted(self) -> None:
        self._is_told = False  # first: what is posted from now on may come too late for this turn
        while self._posted:
            function, args = self._posted.popleft()
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001  # a defect, of which those behind it must not suffer
                self.call_exception_handler({"message": f"{function!r} failed", "exception": error})


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of this kind, as ``asyncio.run`` does in one of its own."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


async def in_daemon(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own, and return its result. The end of the process does not wait for it."""
    loop = Loop.running()
    outcome: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  # whoever waits for it is told
            loop.post(_settle, outcome, error, None)
        else:
            loop.post(_settle, outcome, None, result)

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            call()

    threading.Thread(target=run, daemon=True).start()
    return await outcome


def _settle(outcome: asyncio.Future[T], error: Exception | None, result: T) -> None:
    if outcome.done():  # who waited for it has been cancelled
        return
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(result)


class _Selector(selectors.EpollSelector):
    """Flushes before it waits, and looks for a moment before it sleeps."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self._loop = loop
        self._has_sent = False
        self._answers_are_quick = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Flush; then wait, unless somebody may have something to do because of that."""
        loop = self._loop
        if loop.unflushed:
            senders, loop.unflushed = loop.unflushed, []
            for sender in senders:
                sender.flush()
            self._has_sent = True
            timeout = 0
        if timeout == 0:
            return super().select(0)
        if self._has_sent and self._answers_are_quick and (found := self._look()):
            return found
        began = time.monotonic()
        found = super().select(timeout)
        self._has_sent = False
        self._answers_are_quick = time.monotonic() - began < LOOK_SECONDS
        return found

    def _look(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Look for what comes next without sleeping, and let others have the processor in between."""
        end = time.monotonic() + LOOK_SECONDS
        while not (found := super().select(0)) and time.monotonic() < end:
            os.sched_yield()
        return found
