"""Streams: how the bytes of an artifact travel within a call, in pieces, with flow control.

    request   [0, 7, "put", [{"key": …, "data": nil}, {"stream": true}]]
    sender    [2, "chunk", [7, bin]] …, and an empty one at the end        at most WINDOW bytes ahead of the receiver
    receiver  [2, "more", [7, n]] …                                        n more bytes may come: so many were taken
    response  [1, 7, nil, nil]

A ``get`` or ``open`` whose meta says ``stream`` is answered the same way in the other direction; what fits into one chunk
comes in the response itself. A stream is a call in flight like any other: cancelling the call, closing the connection, and
the end of a process end it.
"""

from __future__ import annotations

from typing import Any, Final

from asm.wire.messages import MessageError, Packer, decode, read_uint

__all__ = ["CHUNK", "MORE", "PIECE", "WINDOW", "chunk", "more", "read_stream", "relayed", "streamed"]

CHUNK: Final = b"chunk"
"""Notification with the next bytes of a stream; without any at its end."""
MORE: Final = b"more"
"""Notification of the receiver: so many bytes more may come."""

PIECE: Final = 256 * 1024
"""How many bytes a chunk has at the most."""
WINDOW: Final = 1024 * 1024
"""How many bytes may be under way before the receiver said ``more``."""


def chunk(packer: Packer, msgid: int, data: bytes | memoryview) -> bytes:
    """Return the body that carries the next bytes of a stream."""
    return packer.stream(CHUNK, msgid, data)


def more(packer: Packer, msgid: int, size: int) -> bytes:
    """Return the body that lets more bytes come."""
    return packer.stream(MORE, msgid, size)


def relayed(method: bytes, msgid: int, body: bytes, rest_at: int) -> tuple[bytes, bytes]:
    """Return the parts of a stream's message with another msgid; ``rest_at`` is where the rest begins in ``body``."""
    return Packer.stream_head(method, msgid), body[rest_at:]


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
    rest = decode(memoryview(body)[rest_at:])
    if isinstance(rest, bytes) or (type(rest) is int and rest >= 0):
        return rest
    raise MessageError("a stream carries bytes, or lets a number of them come")
