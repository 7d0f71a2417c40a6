"""Frames: how messages are told apart in a stream of bytes.

    +--------+--------+--------+--------+------------------------+
    |   length of the body, big-endian  |  body, one message     |
    +--------+--------+--------+--------+------------------------+

This is what ``multiprocess.connection.Connection.send_bytes`` writes for bodies below 2 GiB. Its ``send`` and
``recv`` pickle, and are never used.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["MAX_FRAME", "FrameError", "Splitter", "frame"]

HEADER: Final = struct.Struct("!i")

MAX_FRAME: Final = 16 * 1024 * 1024
"""How many bytes the body of a frame may have, unless a setting says otherwise."""


class FrameError(ValueError):
    """The peer sent what is no frame, or one that is too large. Nothing after it can be understood."""


def frame(body: bytes) -> bytes:
    """Return the body with its length in front."""
    return HEADER.pack(len(body)) + body


class Splitter:
    """Splits a stream into the bodies of its frames, however the stream was cut.

    :param limit: how many bytes a body may have.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._wanted = HEADER.size

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what arrived; return the bodies that are complete.

        :raises FrameError: at the first header that announces less than one byte or more than the limit.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._wanted:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        bodies: list[bytes] = []
        start, end = 0, len(data)
        while end - start >= HEADER.size:
            (size,) = HEADER.unpack_from(data, start)
            if not 0 < size <= self._limit:
                raise FrameError(f"a frame of {size} bytes was announced; 1 to {self._limit} are allowed")
            stop = start + HEADER.size + size
            if stop > end:
                self._wanted = stop - start
                break
            bodies.append(data[start + HEADER.size : stop])
            start = stop
        else:
            self._wanted = HEADER.size
        self._rest += data[start:]
        return bodies

    @property
    def missing(self) -> int:
        """How many bytes are needed at least before the next body can be complete."""
        return self._wanted - len(self._rest)
