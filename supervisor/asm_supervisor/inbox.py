"""Calls from other threads, which a loop makes when it is ready for them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from asm_supervisor import forks

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox:
    """Functions to call in the thread of a loop. While there are any, :meth:`fileno` is readable."""

    def __init__(self) -> None:
        with forks.guard:
            self._wakeup: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            forks.close_in_forks(self)
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._posting = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        assert self._wakeup is not None
        return self._wakeup

    def post(self, function: Callable[[], T]) -> Future[T]:
        """Have a function called, from any thread; return what tells its result. It is cancelled when the loop has ended."""
        future: Future[T] = Future()
        with self._posting:
            if self._wakeup is None:
                future.cancel()
            else:
                self._waiting.append((function, future))
                os.eventfd_write(self._wakeup, 1)
        return future

    def serve(self) -> None:
        """Call what waits, in the loop."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fileno())
        while self._waiting:
            function, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:  # noqa: BLE001  # whoever posted it is told
                    future.set_exception(error)

    def close(self) -> None:
        """Take no more; cancel what waits."""
        with self._posting:
            self.abandon()
            while self._waiting:
                self._waiting.popleft()[1].cancel()

    def abandon(self) -> None:
        """Close a fork's copy."""
        wakeup, self._wakeup = self._wakeup, None
        if wakeup is not None:
            os.close(wakeup)
