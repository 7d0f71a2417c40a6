"""Messages: the bodies of frames, in MessagePack-RPC.

    request       [0, msgid, method, [meta, arguments]]
    response      [1, msgid, error, result]
    notification  [2, method, params]

``msgid`` is an unsigned integer of 32 bits that its sender chooses and that is unique among its requests in flight.
We always write it in five bytes, so that a process that passes a message on can put its own in that place and
leave the rest alone: a :class:`Head` says where the rest begins. Of a request it may also read the meta, which concerns the
call and not the store, and so stands in front (:func:`read_meta`); nothing behind it is decoded.
"""

from __future__ import annotations

import struct
import threading
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgpack

from asm.core.checks import LEAST, MOST
from asm.core.errors import Error
from asm.wire.scan import MessageError, check

__all__ = [
    "CANCEL",
    "HELLO",
    "MALFORMED",
    "NIL",
    "NOTIFICATION",
    "PROTOCOL",
    "REFUSED",
    "REQUEST",
    "RESPONSE",
    "WAITS",
    "Head",
    "MessageError",
    "array_head",
    "decode",
    "decode_checked",
    "decode_response",
    "error_code",
    "operation_name",
    "packed",
    "read_meta",
    "read_msgid",
    "read_refusal",
    "read_uint",
    "request_head",
    "response_head",
    "result_head",
]

PROTOCOL: Final = 2
"""The version of the protocol that this is."""

REQUEST: Final = 0
RESPONSE: Final = 1
NIL: Final = b"\xc0"
"""What stands in a response for its error when there is none."""
NOTIFICATION: Final = 2

HELLO: Final = b"hello"
"""Request: who are you? The answer names the store and the contracts that it serves."""
CANCEL: Final = b"cancel"
"""Notification to a server, ``[msgid]``: nobody waits for this call any more."""
MALFORMED: Final = b"malformed"
"""Notification to a relay, ``[msgid]``: what you passed on under this id cannot be decoded."""
WAITS: Final = b"waits"
"""Notification to a relay, ``[msgid]``: this call waits for what may not happen for long, and keeps no other waiting."""
REFUSED: Final = b"refused"
"""Notification of a server, ``[error]``, before it closes a connection of which it takes nothing."""

MAX_META: Final = 4096
"""How many bytes the meta of a request may have."""

SLICE: Final = 128 * 1024
"""How many bytes are decoded at once. No other thread of the process goes on meanwhile, the event loop's neither."""

_HEAD: Final = struct.Struct("!BBBI")
_UINT32: Final = struct.Struct("!I")
_UINTS: Final = {0xCC: struct.Struct("!B"), 0xCD: struct.Struct("!H"), 0xCE: _UINT32}


class Head(NamedTuple):
    """The beginning of a message, up to what a relay does not look at."""

    kind: int
    msgid: int
    """0 for a notification."""
    method: bytes
    """Empty for a response."""
    method_at: int
    """Where in the body the method begins (in a response: the error)."""
    params_at: int
    """Where in the body the params begin (in a response: the error)."""


def operation_name(method: bytes) -> str:
    """Return the name of an operation without that of its contract."""
    return method.rpartition(b".")[2].decode(errors="replace")


def request_head(msgid: int) -> bytes:
    """Return the beginning of a request; the method follows."""
    return _HEAD.pack(0x94, REQUEST, 0xCE, msgid)


def response_head(msgid: int) -> bytes:
    """Return the beginning of a response; the error follows."""
    return _HEAD.pack(0x94, RESPONSE, 0xCE, msgid)


class _Packers(threading.local):
    """A packer for each thread: making one costs more than most values."""

    def __init__(self) -> None:
        packer = msgpack.Packer(datetime=True, use_bin_type=True)
        self.pack, self.array = packer.pack, packer.pack_array_header


_packers: Final = _Packers()


def packed(value: Any) -> bytes:
    """Encode one value."""
    encoded: bytes = _packers.pack(value)
    return encoded


def array_head(count: int) -> bytes:
    """Return what stands before the encoded elements of an array of so many."""
    head: bytes = _packers.array(count)
    return head


def result_head(msgid: int) -> bytes:
    """Return the beginning of a response to a call that went well; the result follows."""
    return response_head(msgid) + b"\xc0"


def request(msgid: int, method: str, arguments: dict[str, Any], meta: dict[str, Any] | None = None) -> bytes:
    """Return the body of a request."""
    return call(msgid, method, packed(meta or {}), arguments)


def call(msgid: int, method: str, meta: bytes, arguments: dict[str, Any]) -> bytes:
    """Return the body of a request whose meta is encoded already: that of many is the same."""
    pack = _packers.pack
    return b"".join((request_head(msgid), pack(method), b"\x92", meta, pack(arguments)))


def result(msgid: int, value: Any) -> bytes:
    """Return the body of a response to a call that went well."""
    return result_head(msgid) + packed(value)


def error(msgid: int, cause: Error) -> bytes:
    """Return the body of a response to a call that failed."""
    return response_head(msgid) + failed(cause)


def failed(cause: Error) -> bytes:
    """Return what stands in such a response behind the msgid."""
    return packed(_fields(cause)) + NIL


def refusal(cause: Error) -> bytes:
    """Return the body of the notification that says why a connection is refused."""
    return notification(REFUSED, [_fields(cause)])


def notification(method: bytes, params: list[Any]) -> bytes:
    """Return the body of a notification."""
    return b"\x93\x02" + packed(method.decode()) + packed(params)


def stream_head(method: bytes, msgid: int) -> bytes:
    """Return the beginning of a stream's message; what it carries follows."""
    return b"\x93\x02" + bytes((0xA0 + len(method),)) + method + b"\x92\xce" + _UINT32.pack(msgid)


def stream(method: bytes, msgid: int, carried: bytes | memoryview | int) -> bytes:
    """Return the body of a stream's message."""
    return stream_head(method, msgid) + packed(carried)


def read_uint(body: bytes, at: int) -> tuple[int, int]:
    """Read an unsigned integer of at most 32 bits in any of its encodings; return it and where it ends.

    :raises IndexError, KeyError, struct.error: when there is none.
    """
    first = body[at]
    if first < 0x80:
        return first, at + 1
    layout = _UINTS[first]
    return layout.unpack_from(body, at + 1)[0], at + 1 + layout.size


def decode(data: bytes | memoryview) -> Any:
    """Decode one MessagePack value; times become ``datetime`` in UTC.

    What comes from a peer whom we need not trust goes through :func:`decode_checked`.

    :raises MessageError: when it is none, or more than one.
    """
    try:
        return msgpack.unpackb(data, timestamp=3) if len(data) <= SLICE else _decode_in_slices(data)
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MessageError(f"the message is no MessagePack: {type(error).__name__}: {error}") from error


def _decode_in_slices(data: bytes | memoryview) -> Any:
    view, unpacker = memoryview(data), msgpack.Unpacker(timestamp=3, max_buffer_size=len(data))
    for at in range(0, len(view), SLICE):
        unpacker.feed(view[at : at + SLICE])
        try:
            value = unpacker.unpack()
        except msgpack.OutOfData:
            continue
        if unpacker.tell() < len(view):
            raise ValueError("there is something behind it")
        return value
    raise ValueError("it ends too early")


def decode_checked(body: bytes, at: int) -> Any:
    """Decode what begins at a place in a message, after it was made sure that it costs no more than it should.

    :raises MessageError: when it is no value, is nested too deeply, or would take far more memory than its bytes.
    """
    check(body, at)
    return decode(memoryview(body)[at:])


def read_meta(body: bytes, head: Head) -> dict[str, Any]:
    """Decode the meta of a request, and nothing behind it.

    :raises MessageError: when there is none, or it is larger than :data:`MAX_META`.
    """
    start = head.params_at + 1
    if body[head.params_at] != 0x92 or not 0x80 <= body[start] < 0x90:
        raise MessageError("the params of a request must be two maps: meta and arguments")
    reader = msgpack.Unpacker(timestamp=3, max_buffer_size=MAX_META, read_size=MAX_META)
    try:
        reader.feed(memoryview(body)[start : start + MAX_META])
        meta = reader.unpack()
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MessageError(f"the meta of a request cannot be decoded: {type(error).__name__}: {error}") from error
    assert isinstance(meta, dict)
    return meta


def decode_response(body: bytes) -> tuple[int, Any]:
    """Decode a response to its msgid and result.

    :raises MessageError: when it is none.
    :raises Error: the error that it carries, raised by the caller of this function as its own.
    """
    message = decode(body)
    if type(message) is not list or len(message) != 4 or message[0] != RESPONSE:
        raise MessageError("the message is no response")
    _kind, msgid, error, result = message
    if error is not None:
        raise Error.from_map(error)
    return msgid, result


def error_code(body: bytes, at: int) -> str | None:
    """Return the code of a response's error, and decode nothing else of it; ``None`` when there is no error.

    :param at: where the error begins.
    """
    if body[at : at + 1] == NIL:
        return None
    error = msgpack.Unpacker(read_size=MAX_META)
    error.feed(memoryview(body)[at:])
    try:
        for _ in range(error.read_map_header()):
            if error.unpack() == "code":
                return str(error.unpack())
            error.skip()
    except (ValueError, TypeError, msgpack.UnpackException):
        pass
    return ""


def read_refusal(body: bytes, at: int) -> Error:
    """Read why a connection is refused; return that.

    :param at: where the params of the notification begin.
    :raises MessageError: when they are something else.
    """
    match decode_checked(body, at):
        case [dict() as fields]:
            return Error.from_map(fields)
    raise MessageError("refused takes [error]")


def read_msgid(body: bytes, at: int) -> int:
    """Read the msgid that is all that a notification says; return that.

    :param at: where its params begin.
    :raises MessageError: when they are something else.
    """
    params = decode_checked(body, at)
    if type(params) is list and len(params) == 1 and type(params[0]) is int:
        return params[0]
    raise MessageError("the params must be [msgid]")


def _fields(error: Error) -> dict[str, Any]:
    """Return an error as it travels."""
    return {**_sendable(error.to_map()), "timestamp": error.timestamp}


def _sendable(value: Any, depth: int = 16) -> Any:
    """Return a part of an error as it can be sent: what its details should not hold is shown, rather than the error lost."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return str.__str__(value).encode(errors="backslashreplace").decode()
    if isinstance(value, int) and LEAST <= value <= MOST:
        return int(value)
    if depth and isinstance(value, dict):
        return {_sendable(str(key)): _sendable(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_sendable(item, depth - 1) for item in value]
    return _sendable(value.isoformat() if isinstance(value, datetime) else repr(value))
