"""Artifacts that are read as files, described once for both clients.

They stream from the start. Who seeks, and reads on there, begins another stream at that place, which is refused if the artifact
is not the one any more that it was when its size and checksum were first asked for.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from asm.client.handles import Script, Step
from asm.core import checks
from asm.core.errors import Error
from asm.operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from asm.core.values import ArtifactInfo

__all__ = ["File", "Reading"]

STAT = OPERATIONS["stat"]


class Reading:
    """An artifact that is read, from wherever in it.

    :param key: its key.
    :param seconds: how many seconds each answer may take.
    :param first: the first bytes of the stream that was begun …
    :param pieces: … and what yields the others.
    """

    def __init__(self, key: str, seconds: float, first: bytes, pieces: Any) -> None:
        self.position = 0
        """Where the next read begins."""
        self._key = key
        self._seconds = seconds
        self._info: ArtifactInfo | None = None
        self._at = 0  # where in the artifact the rest of the piece begins
        self._rest = memoryview(first)
        self._pieces = pieces
        self._failure: Error | None = None

    def read(self, size: int) -> Script[bytes]:
        """Return up to so many bytes; none at the end."""
        if self._failure is not None:
            raise self._failure  # what comes after a failure is not the end
        try:
            if not 0 <= self.position - self._at <= len(self._rest):
                yield from self._begin_anew()
            self._rest, self._at = self._rest[self.position - self._at :], self.position
            while not self._rest:
                piece = yield _next(self._pieces)
                if piece is None:
                    return b""
                self._rest = memoryview(piece)
        except Error as error:
            self._failure = error
            raise
        data = bytes(self._rest[:size])
        self._rest = self._rest[len(data) :]
        self.position = self._at = self._at + len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> Script[int]:
        """Have the next read begin somewhere else; return where that is."""
        if self._failure is not None:
            raise self._failure
        start = 0
        if whence == os.SEEK_CUR:
            start = self.position
        elif whence == os.SEEK_END:
            start = (yield from self._stat()).byte_size
        elif whence != os.SEEK_SET:
            checks.refuse("whence", f"must be 0, 1 or 2, not {whence!r}")
        if start + offset < 0:
            checks.refuse("offset", f"leads to {start + offset}, before the start")
        self.position = start + offset
        return self.position

    def close(self) -> Step:
        """Refuse whatever is read from now on; return what lets go of the stream."""
        self._failure = self._failure or Error("stream_closed", "the artifact was closed; open it again")
        return _close(self._pieces)

    def _begin_anew(self) -> Script[None]:
        """Begin another stream at the position."""
        info = yield from self._stat()
        yield _close(self._pieces)
        self._at, self._rest = self.position, memoryview(b"")
        if self.position < info.byte_size:
            first, self._pieces = yield _open_at(self._key, self.position, info.checksum_sha256, self._seconds)
            self._rest = memoryview(first)

    def _stat(self) -> Script[ArtifactInfo]:
        if self._info is None:
            self._info = yield lambda handle: handle._once(STAT, {"key": self._key}, self._seconds)  # noqa: SLF001  # a step
        return self._info


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
        """Say that it can be read from anywhere."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes; 0 at the end."""
        into = memoryview(buffer).cast("B")
        data = self._run(self._reading.read(len(into)))
        into[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Have the next read begin somewhere else; return where that is."""
        position: int = self._run(self._reading.seek(offset, whence))
        return position

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


def _open_at(key: str, offset: int, checksum: str, seconds: float) -> Step:
    return lambda handle: handle._open_at(key, offset, checksum, seconds)  # noqa: SLF001  # as above
