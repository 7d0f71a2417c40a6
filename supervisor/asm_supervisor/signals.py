"""Signals that wake a loop: the handlers only enqueue, and the loop takes them when it is ready for them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from asm_supervisor import forks

__all__ = ["Signals", "blocked"]


class Signals:
    """While this context lasts, these signals are queued, and :meth:`fileno` is readable when there are any.

    Also those that whoever started this program has blocked, which it inherits.

    :param numbers: the signals.
    :param last: whether the program ends afterwards. Then nobody hears those that come late, as ``timeout`` and terminals send
        several; else they find the handlers that were there before.
    :raises ValueError: on entering in another thread than the main one, which Python does not allow.
    """

    def __init__(self, *numbers: signal.Signals, last: bool = False) -> None:
        self._numbers = numbers
        self._last = last
        self._arrived: deque[signal.Signals] = deque()
        self._handlers: dict[signal.Signals, Any] = {}
        self._blocked: set[int] = set()
        self._pipe: tuple[int, int] | None = None
        self._old_wakeup = -1

    def __enter__(self) -> Self:
        with forks.guard:
            self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            forks.close_in_forks(self)
        # The byte that Python writes into the pipe only wakes. Which signal it was, the handler says: a fork of ours that
        # gets a signal before it has reset its handlers writes into the same pipe, and that signal is none of ours.
        self._old_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in self._numbers:
            self._handlers[number] = signal.signal(number, self._handle)
        self._blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, self._numbers) & set(self._numbers)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        if self._last:
            self._handlers |= dict.fromkeys(set(self._numbers) - {signal.SIGCHLD}, signal.SIG_IGN)
        self.abandon()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are signals to take."""
        assert self._pipe is not None
        return self._pipe[0]

    def take(self) -> list[signal.Signals]:
        """Return the signals that have arrived, in their order."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fileno(), 4096):
                pass
        arrived = []
        while self._arrived:
            arrived.append(self._arrived.popleft())
        return arrived

    def abandon(self) -> None:
        """Put everything back as it was; also in a fork, whose signals are its own. A second call does nothing."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)
        for number, handler in self._handlers.items():
            # None: a handler that was not set by Python, and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._old_wakeup)
        for file in pipe:
            os.close(file)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._arrived.append(signal.Signals(number))


@contextlib.contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back in this thread, and in the processes that it starts meanwhile, until those let them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
