"""Frames: how messages are told apart in a stream of bytes.

    +--------+--------+--------+--------+------------------------+
    |   length of the body, big-endian  |  body, one message     |
    +--------+--------+--------+--------+------------------------+

This is what ``multiprocess.connection.Connection.send_bytes`` writes for bodies below 2 GiB. Its ``send`` and
``recv`` pickle, and are never used.
"""

from __future__ import annotations

import io
import struct
from collections import deque
from typing import Final

__all__ = ["MAX_FRAME", "Splitter", "frame", "framed"]

HEADER: Final = struct.Struct("!i")

MAX_FRAME: Final = 16 * 1024 * 1024
"""How many bytes the body of a frame may have, unless a setting says otherwise."""


def frame(body: bytes) -> bytes:
    """Return the body with its length in front."""
    return HEADER.pack(len(body)) + body


def framed(*parts: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """Return the parts of a body with its length in front."""
    return HEADER.pack(sum(map(len, parts))), *parts


class Splitter:
    """Splits a stream into the bodies of its frames, however the stream was cut.

    :param limit: how many bytes a body may have.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.limit = limit
        self.arrived: deque[bytes] = deque()
        """The bodies that are complete, for whoever takes them out. One without a byte is the last: there is no such frame, and
        it stands for what was none …"""
        self.trouble = ""
        """… for this reason. Nothing is taken in any more."""
        self._header = b""
        """What has arrived of a header that was cut."""
        self._body = io.BytesIO()
        """What has arrived of a body that was cut …"""
        self.missing = 0
        """… and how many bytes of it have not."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take in what arrived. Each body is copied once, and nothing of ``data`` is kept."""
        if self.trouble:
            return
        start = 0
        if self.missing:
            start = min(self.missing, len(data))
            self._body.write(data[:start] if start < len(data) else data)
            self.missing -= start
            if self.missing:
                return
            self.arrived.append(self._body.getvalue())
            self._body = io.BytesIO()
        elif self._header:
            data, self._header = self._header + bytes(data), b""
        end = len(data)
        while end - start >= HEADER.size:
            (size,) = HEADER.unpack_from(data, start)
            if not 0 < size <= self.limit:
                self.trouble = f"a frame of {size} bytes was announced; 1 to {self.limit} are allowed"
                self.arrived.append(b"")
                return
            start += HEADER.size
            if size > end - start:
                self.missing = size - self._body.write(data[start:])
                return
            self.arrived.append(bytes(data[start : start + size]))
            start += size
        self._header = bytes(data[start:])

    def stop(self, why: str) -> None:
        """Forget what has arrived, and take nothing in any more."""
        self.trouble = why
        self.arrived.clear()
        self._body, self.missing = io.BytesIO(), 0

    @property
    def held(self) -> int:
        """How many bytes of a body that has not arrived in full are held here."""
        return self._body.tell() if self.missing else 0
