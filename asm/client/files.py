"""Artifacts that are read as files, described once for both clients.

They stream from the start, in front of which stands which version was opened. Who seeks, and reads on there, begins another
stream at that place and of that version, which is refused if it is not there any more: no file is a mixture of two.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from asm.client.handles import Script, Step
from asm.core.errors import Error
from asm.wire.messages import MessageError
from asm.wire.streams import read_opened

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["File", "Reading"]


class Reading:
    """An artifact that is read, from wherever in it.

    :param key: its key; ``None`` for an export, which is no artifact, and is read from its start to its end.
    :param seconds: how many seconds each answer may take.
    :param first: the first bytes of the stream that was begun …
    :param pieces: … and what yields the others.
    :raises Error: ``storage_read_failed`` when they do not say what was opened.
    """

    def __init__(self, key: str | None, seconds: float, first: bytes, pieces: Any) -> None:
        self.position = 0
        """Where the next read begins."""
        self.seekable = key is not None
        self._key = key or ""
        self._seconds = seconds
        self._at = 0  # where in the artifact the piece begins
        self._piece = memoryview(first)
        self._pieces = pieces
        self._failure: Error | None = None
        self._size, self._version = 0, ""
        if self.seekable:
            try:
                self._size, self._version, self._piece = read_opened(first)
            except MessageError as error:
                raise Error("storage_read_failed", f"the store does not say what it opened: {error}") from error

    def read(self, size: int) -> Script[bytes]:
        """Return up to so many bytes; none at the end."""
        if self._failure is not None:
            raise self._failure  # what comes after a failure is not the end
        try:
            if not self._at <= self.position <= self._end:
                if self.position >= self._size:
                    return b""
                yield from self._begin_anew()
            while self.position == self._end:
                piece = yield _next(self._pieces)
                if piece is None:
                    return b""
                self._piece, self._at = memoryview(piece), self._end
        except Error as error:
            self._failure = error
            raise
        start = self.position - self._at
        data = bytes(self._piece[start : start + size])
        self.position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Have the next read begin somewhere else; return where that is.

        :raises ValueError: for a place before the start, and an unknown ``whence``, as from any file.
        :raises Error: why nothing can be read any more.
        """
        if self._failure is not None:
            raise self._failure
        if not self.seekable:
            raise io.UnsupportedOperation("an export is read from its start to its end")
        starts = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self._size}
        if whence not in starts:
            problem = f"whence must be 0, 1 or 2, not {whence!r}"
            raise ValueError(problem)
        if (position := starts[whence] + offset) < 0:
            problem = f"there is nothing {-position} bytes before the start"
            raise ValueError(problem)
        self.position = position
        return position

    def close(self) -> Step:
        """Refuse whatever is read from now on; return what lets go of the stream."""
        self._failure = self._failure or Error("stream_closed", "the artifact was closed; open it again")
        return _close(self._pieces)

    @property
    def _end(self) -> int:
        """Where in the artifact the piece ends, and the rest of the stream begins."""
        return self._at + len(self._piece)

    def _begin_anew(self) -> Script[None]:
        """Begin another stream at the position."""
        yield _close(self._pieces)
        first, self._pieces = yield _open_at(self._key, self.position, self._version, self._seconds)
        self._piece, self._at = memoryview(first), self.position


class File(io.RawIOBase):
    """An artifact as a file, which :class:`io.BufferedReader` reads.

    :param run: takes the steps of a script.
    :param take: takes one step.
    """

    def __init__(self, reading: Reading, run: Callable[[Script[Any]], Any], take: Callable[[Step], Any]) -> None:
        self._reading = reading
        self._run = run
        self._take = take

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say whether it can be read from anywhere."""
        return self._reading.seekable

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes; 0 at the end."""
        into = memoryview(buffer).cast("B")
        data = self._run(self._reading.read(len(into)))
        into[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Have the next read begin somewhere else; return where that is."""
        return self._reading.seek(offset, whence)

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._reading.position

    def close(self) -> None:
        """Let go of the connection, if the end was not reached."""
        if not self.closed:
            self._take(self._reading.close())
        super().close()


def _next(pieces: Generator[bytes, None, None]) -> Step:
    return lambda handle: handle._next(pieces)  # noqa: SLF001  # a step is the handle's own


def _close(pieces: Any) -> Step:
    return lambda handle: handle._close(pieces)  # noqa: SLF001  # as above


def _open_at(key: str, offset: int, version: str, seconds: float) -> Step:
    return lambda handle: handle._open_at(key, offset, version, seconds)  # noqa: SLF001  # as above
