"""What a process says on its standard output and error: never does it wait for whoever reads that.

::

    log records, warnings, tracebacks, print() ──► sys.stdout, sys.stderr ──► lines that wait ──► a thread ──► descriptor

A pipe whose reader has stopped, or a terminal with Ctrl-S, takes nothing any more, and who writes to it waits. So a thread
does that, and nobody else. When too much waits for it, lines are lost; how many, the log says as soon as somebody reads again.
The descriptors stay as they are: they are shared with other programs, which do not expect them not to block.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Outlet", "never_wait"]

_log = logging.getLogger(__name__)

ROOM: Final = 1024 * 1024
"""How many bytes may wait. A line of the log has some 200."""

PATIENCE: Final = 0.5
"""How many seconds a flush, and so the end of a process, waits for whoever reads."""


def never_wait() -> None:
    """Have nobody in this process wait for the readers of its standard output and error. A second call does nothing."""
    for name, file in (("stdout", 1), ("stderr", 2)):
        if not isinstance(getattr(getattr(sys, name), "buffer", None), Outlet):
            setattr(sys, name, Outlet(file).text())


class Outlet(io.RawIOBase):
    """A binary stream that takes whole lines to a descriptor.

    :param file: the descriptor.
    """

    _begun: bytes
    _size: int
    """Of what waits, and of what is being written."""
    _is_stuck: bool

    def __init__(self, file: int) -> None:
        self.name = self._file = file
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # what waits here is the parent's to say, and so is its thread
        atexit.register(self.flush)

    def text(self) -> io.TextIOWrapper:
        """Return a text stream that writes here."""
        return io.TextIOWrapper(self, encoding="utf-8", errors="backslashreplace", write_through=True)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._file)

    def writable(self) -> bool:
        """Say that it is."""
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take bytes. They go out as soon as their line is complete."""
        given = bytes(data)
        with self._changed:
            lines, newline, self._begun = (self._begun + given).rpartition(b"\n")
            if newline:
                self._take(lines + newline)
        return len(given)

    def flush(self) -> None:
        """Wait until everything has gone out; but not long, and not again before somebody has read something."""
        with self._changed:
            if self._begun:
                begun, self._begun = self._begun, b""
                self._take(begun)
            if not self._is_stuck and self._thread not in (None, threading.current_thread()) and not sys.is_finalizing():
                self._is_stuck = not self._changed.wait_for(lambda: self._size == 0, PATIENCE)

    def _begin(self) -> None:
        # Reentrant: what is collected as garbage in between may have something to say, too.
        self._changed = threading.Condition(threading.RLock())
        self._begun = b""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._is_stuck = False
        self._thread: threading.Thread | None = None

    def _take(self, lines: bytes) -> None:
        """Have lines written, if there is room."""
        if self._size and self._size + len(lines) > ROOM:
            self._lost += lines.count(b"\n")
            return
        self._waiting.append(lines)
        self._size += len(lines)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"output {self._file}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _work(self) -> None:
        """Write what waits, one portion at a time: other processes write to the same pipe, and lines are to stay whole."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                lines = self._waiting.popleft()
            self._write(lines)
            with self._changed:
                self._size -= len(lines)
                self._is_stuck = False
                self._changed.notify_all()
                lost = self._lost if self._size < ROOM // 2 else 0
                self._lost -= lost
            if lost:
                _log.warning("%d lines of the log were lost, because nobody read them", lost, extra={"lost": lost})

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            try:
                left = left[os.write(self._file, left) :]
            except BlockingIOError:  # some other program has set that for all who share the descriptor
                poll = select.poll()
                poll.register(self._file, select.POLLOUT)
                poll.poll()
            except OSError:  # the terminal is gone, or the reader: nobody is there who could be told
                return
