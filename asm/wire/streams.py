"""Streams: how the bytes of an artifact travel within a call, in pieces, with flow control.

    request   [0, 7, "put", [{"key": …, "data": nil}, {"stream": true}]]
    sender    [2, "chunk", [7, bin]] …                                     at most WINDOW bytes ahead of the receiver
              [2, "chunk", [7, n]]                                         the end: n bytes were sent
    receiver  [2, "more", [7, n]] …                                        n more bytes may come: so many were taken
    response  [1, 7, nil, nil]

A ``get`` or ``open`` whose meta says ``stream`` is answered the same way in the other direction, with the last bytes and
their number in all, ``[bin, n]``, as the result: what fits into one chunk comes in the response itself. In front of the
bytes stands what was opened, if the meta says ``info``, so that another stream can be had of the same. Who receives counts: a
stream of which a part was lost on its way must not pass for a whole. A stream is a call in flight like any other:
cancelling the call, closing the connection, and the end of a process end it.

:class:`Sending` and :class:`Receiving` count the bytes at either end of a stream, on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgpack

from asm.wire import messages
from asm.wire.messages import MessageError, decode_checked, packed, read_uint

__all__ = [
    "CHUNK",
    "MORE",
    "PIECE",
    "WINDOW",
    "Receiving",
    "Sending",
    "chunk",
    "counted",
    "more",
    "opened",
    "read_opened",
    "read_stream",
    "relayed",
    "streamed",
]

CHUNK: Final = b"chunk"
"""Notification with the next bytes of a stream; at its end, with the number of all of them."""
MORE: Final = b"more"
"""Notification of the receiver: so many bytes more may come."""

PIECE: Final = 256 * 1024
"""How many bytes a chunk has at the most."""
WINDOW: Final = 1024 * 1024
"""How many bytes may be under way before the receiver said ``more``."""


class Sending:
    """The end of a stream that sends: how many bytes may go."""

    __slots__ = ("room", "total")

    def __init__(self) -> None:
        self.room = WINDOW
        """So many may go now …"""
        self.total = 0
        """… and so many went."""

    def sent(self, size: int) -> None:
        """Count bytes that go. Whoever sends looks at :attr:`room` before."""
        self.room -= size
        self.total += size

    def let(self, size: int) -> None:
        """Learn that so many bytes more may go."""
        self.room = min(self.room + size, WINDOW)

    def hear(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Learn it from a message, whose number begins at ``rest_at``.

        :raises MessageError: when it says something else.
        """
        size = read_stream(body, rest_at)
        if method != MORE or not isinstance(size, int):
            raise MessageError("who sends a stream takes numbers of bytes that may come")
        self.let(size)


class Receiving:
    """The end of a stream that receives: how many bytes may come."""

    __slots__ = ("has_ended", "room", "taken", "total")

    def __init__(self) -> None:
        self.room = WINDOW
        """So many may come now …"""
        self.total = 0
        """… so many came …"""
        self.taken = 0
        """… and so many of these were taken since the other side last heard of it."""
        self.has_ended = False
        """Whether the other side has said that there is no more, or nobody wants it."""

    def arrived(self, size: int) -> None:
        """Count bytes that came.

        :raises MessageError: when they were not to come yet.
        """
        if size > self.room:
            raise MessageError(f"{size} bytes of a stream came, and {self.room} might")
        self.room -= size
        self.total += size

    def hear(self, method: bytes, body: bytes, rest_at: int) -> bytes | int:
        """Return the next bytes, or at the end how many there were, from a message in which they begin at ``rest_at``.

        :raises MessageError: for what is neither, for more than may come, or after the end.
        """
        carried: bytes | int = read_stream(body, rest_at)
        if method != CHUNK or self.has_ended:
            raise MessageError("who receives a stream takes chunks, and nothing after its end")
        if isinstance(carried, bytes):
            self.arrived(len(carried))
        else:
            self.has_ended = True
        return carried

    def take(self, size: int) -> int:
        """Count bytes that were taken; return how many more to let come, and 0 while that is not worth a message."""
        self.taken += size
        if self.taken < WINDOW // 4:
            return 0
        size, self.taken = self.taken, 0
        self.room += size
        return size


def counted(pieces: Iterable[memoryview]) -> Iterator[memoryview | int]:
    """Yield the pieces of a stream, and how many bytes they were: what its ``chunk`` messages carry."""
    total = 0
    for piece in pieces:
        total += len(piece)
        yield piece
    yield total


def chunk(msgid: int, data: bytes | memoryview | int) -> tuple[bytes | memoryview, ...]:
    """Return the body that carries the next bytes of a stream, or their number at its end: its parts, the bytes uncopied."""
    if isinstance(data, int):
        return (messages.stream(CHUNK, msgid, data),)
    return messages.stream_head(CHUNK, msgid) + _bin_head(len(data)), data


def more(msgid: int, size: int) -> bytes:
    """Return the body that lets more bytes come."""
    return messages.stream(MORE, msgid, size)


def relayed(method: bytes, msgid: int, body: bytes, rest_at: int) -> tuple[bytes, memoryview]:
    """Return the parts of a stream's message with another msgid; ``rest_at`` is where the rest begins in ``body``."""
    return messages.stream_head(method, msgid), memoryview(body)[rest_at:]


def streamed(body: bytes, params_at: int) -> tuple[int, int]:
    """Read the msgid of a stream's message, and where the rest begins. The rest is not decoded.

    :raises MessageError: when its params are not ``[msgid, …]``.
    """
    try:
        if body[params_at] != 0x92:
            raise MessageError("the params of a stream's message must be [msgid, …]")
        return read_uint(body, params_at + 1)
    except (IndexError, KeyError) as error:
        raise MessageError("the message ends within its head, or is none") from error


def read_stream(body: bytes, rest_at: int) -> Any:
    """Decode the rest of a stream's message: the bytes, or the number.

    :raises MessageError: when it is neither.
    """
    rest = _read_bin(body, rest_at)
    if rest is None:
        rest = decode_checked(body, rest_at)
    if isinstance(rest, bytes) or (type(rest) is int and rest >= 0):
        return rest
    raise MessageError("a stream carries bytes, or lets a number of them come")


def opened(byte_size: int, version: str) -> bytes:
    """Return what says, in front of the bytes of an artifact, what was opened.

    :param version: tells it from what the same key holds at other times.
    """
    return packed({"byte_size": byte_size, "version": version})


def read_opened(piece: bytes) -> tuple[int, str, memoryview]:
    """Read what stands in front of the bytes of an artifact; return its size, its version, and the bytes.

    :raises MessageError: when it is nothing like that.
    """
    unpacker = msgpack.Unpacker()
    try:
        unpacker.feed(piece)
        match unpacker.unpack():
            case {"byte_size": int() as byte_size, "version": str() as version} if byte_size >= 0:
                return byte_size, version, memoryview(piece)[unpacker.tell() :]
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"what was opened is not said in MessagePack: {type(error).__name__}: {error}") from error
    raise MessageError("what was opened is said as a map with byte_size and version")


def _bin_head(size: int) -> bytes:
    """Return what stands before so many bytes in MessagePack."""
    return b"\xc4" + bytes((size,)) if size < 0x100 else b"\xc6" + size.to_bytes(4, "big")


def _read_bin(body: bytes, at: int) -> bytes | None:
    """Return the bytes that begin at a place in a message and go to its end; ``None`` when it is something else.

    A large chunk is nothing but bytes. Reading it so spares it two copies.
    """
    start = at + 5
    if body[at : at + 1] == b"\xc6" and int.from_bytes(body[at + 1 : start], "big") == len(body) - start:
        return body[start:]
    return None
