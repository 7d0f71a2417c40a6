"""Conversations: what is said on a connection, without the connection.

    calls ──► bytes to be sent            bytes that arrived ──► calls about which there is news

Who holds a connection only reads, writes and waits. What may be said when is decided here, on plain state: which call an answer
is for, what an answer means that comes when its call was given up, how many bytes of a stream may be under way, what becomes
of the calls in flight when the connection is lost. The same bytes mean the same, however they are cut.

:class:`Caller` is the side that calls, whatever its calls are: a relay has calls of its own, which pass the bodies on.
:class:`Conversation` is that of a client: it encodes what is :class:`Outgoing`, and each :class:`Call` decodes its answer.
"""

from __future__ import annotations

import functools
import math
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from asm.core.errors import Error
from asm.operations import Operation
from asm.wire.calls import Rows, decode_result, encode_arguments
from asm.wire.frames import MAX_FRAME, FrameError, Splitter, frame, framed
from asm.wire.hello import Hello
from asm.wire.messages import (
    CANCEL,
    HELLO,
    NOTIFICATION,
    REFUSED,
    RESPONSE,
    MessageError,
    Packer,
    decode_response,
    operation_name,
    packed,
    read_head,
    read_refusal,
)
from asm.wire.scan import MAX_VALUES, values_in
from asm.wire.streams import CHUNK, MORE, Receiving, Sending, chunk, more, read_stream, streamed

__all__ = ["Broken", "Call", "Caller", "Conversation", "InFlight", "Outgoing"]

_UINT32: Final = struct.Struct("!I")
MSGIDS: Final = 2**32
NOTHING: Final[dict[str, Any]] = {}


class Broken(Exception):  # noqa: N818  # becomes an Error where the name of the store is known
    """The connection is of no use any more. What became of the calls in flight is unknown."""


class InFlight(Protocol):
    """A call in flight, as the side that called sees it."""

    def respond(self, body: bytes) -> None:
        """Take the response, after which nothing more comes.

        :raises MessageError: when it cannot be understood. The connection is lost then, and :meth:`fail` is called.
        """

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take a message of the call's stream, ``chunk`` or ``more``, whose bytes or number begin at ``rest_at``.

        :raises MessageError: when the other side may not send that.
        """

    def fail(self, error: Broken | Error) -> None:
        """Learn that the connection was lost, and why."""


C = TypeVar("C", bound=InFlight)


class Call:
    """A call of a client: what has come of its answer.

    :param upload: whether its data follows in pieces.
    :param pieces: whether its result may come in pieces.
    :param read: makes the result of what the response carries, unless that came in pieces.
    """

    __slots__ = ("_read", "answered", "error", "in_pieces", "msgid", "pieces", "receiving", "result", "sending", "waiter")

    def __init__(self, *, upload: bool = False, pieces: bool = False, read: Callable[[Any], Any] | None = None) -> None:
        self.msgid = 0
        self.answered = False
        """Whether nothing more comes of it: there is a result, or an error."""
        self.result: Any = None
        """As it travelled, if it came in pieces, or nothing reads it."""
        self.error: Broken | Error | None = None
        self.sending = Sending() if upload else None
        """Its data, if that follows in pieces."""
        self.receiving = Receiving() if pieces else None
        """Its result, if that may come in pieces, …"""
        self.in_pieces = False
        """… and whether some came. Of its pieces …"""
        self.pieces: deque[bytes] = deque()
        """… these were not taken yet."""
        self.waiter: Any = None
        """Whatever waits for news, for whoever holds the connection."""
        self._read = read

    def outcome(self) -> Any:
        """Return the result of a call that was answered.

        :raises Error: what was answered instead.
        :raises Broken: when nothing was, and nothing will be.
        """
        if self.error is not None:
            raise self.error
        return self.result

    def last_piece(self) -> bytes:
        """Return the last bytes of a result that came in pieces; the response carries them, and the size of the whole.

        :raises Error: what was answered instead; ``storage_read_failed`` when a part was lost on its way.
        :raises Broken: when nothing was answered, or no such thing.
        """
        match self.outcome():
            case [bytes() as last, int() as total]:
                received = len(last) + (self.receiving.total if self.receiving is not None else 0)
                if received != total:
                    details = {"bytes_sent": total, "bytes_received": received}
                    raise Error("storage_read_failed", f"{received} of {total} bytes arrived", details=details)
                return last
        raise Broken("the response to a call whose result comes in pieces must carry the last of them and the size of all")

    def respond(self, body: bytes) -> None:
        """Take the response."""
        try:
            _msgid, result = decode_response(body)
            self.result = result if self._read is None or self.in_pieces else self._read(result)
        except Error as error:
            self.error = error
        self.answered = True

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next bytes of the result, or let more data go."""
        carried = read_stream(body, rest_at)
        if method == CHUNK and self.receiving is not None and isinstance(carried, bytes):
            self.receiving.arrived(len(carried))
            self.pieces.append(carried)
            self.in_pieces = True
        elif method == MORE and self.sending is not None and isinstance(carried, int):
            self.sending.let(carried)
        else:
            raise MessageError(f"{method.decode()!r} for a call that does not wait for it")

    def fail(self, error: Broken | Error) -> None:
        """Let nothing more come of it."""
        self.error, self.answered = error, True


class Caller(Generic[C]):
    """One connection, as the side that calls sees it.

    :param hello: with what to ask who the other side is, in front of the first call; ``None`` for not at all. Nobody waits for
        the answer; it is looked at when it comes.
    """

    def __init__(self, hello: dict[str, Any] | None = NOTHING) -> None:
        self.calls: dict[int, C | Hello] = {}
        """What is in flight, by msgid."""
        self.lost: Broken | Error | None = None
        """Why the connection is of no use any more: what broke it, or what the other side said."""
        self.packer = Packer()
        self._splitter = Splitter()
        self._msgid = 0
        self._greeting = b""
        if hello is not None:
            self._greeting = frame(self.packer.request(self.number(Hello()), HELLO.decode(), hello))

    @property
    def missing(self) -> int:
        """How many bytes of a message that has begun to arrive have not."""
        return self._splitter.missing

    def number(self, call: C | Hello) -> int:
        """Take a call in; return its msgid.

        :raises Broken, Error: why the connection is lost.
        """
        if self.lost is not None:
            raise self.lost
        msgid = self._msgid = (self._msgid + 1) % MSGIDS
        self.calls[msgid] = call
        return msgid

    def greeting(self) -> bytes:
        """Return what asks the other side who it is, the first time: to be sent in front of anything else."""
        greeting, self._greeting = self._greeting, b""
        return greeting

    def give_up(self, msgid: int) -> bytes:
        """Forget a call; return what tells the other side, if it was not answered. An answer that comes later is dropped."""
        if self.calls.pop(msgid, None) is None or self.lost is not None:
            return b""
        return frame(self.packer.notification(CANCEL, [msgid]))

    def receive(self, data: bytes | memoryview) -> list[C]:
        """Take in what arrived; return the calls about which there is news, in its order.

        What cannot be understood ends the connection; what came before it counts.
        """
        news: list[C] = []
        if self.lost is not None:
            return news
        try:
            bodies, cut = self._splitter.feed(data), None
        except FrameError as error:
            bodies, cut = error.bodies, error
        try:
            for body in bodies:
                call = self._take(body)
                if call is not None:
                    news.append(call)
            if cut is not None:
                raise cut
        except (FrameError, MessageError) as error:
            news += self.end(Broken(str(error)))
        except Error as error:
            news += self.end(error)
        return news

    def end(self, error: Broken | Error) -> list[C]:
        """Learn that the connection is lost; return the calls that were in flight, which failed with it."""
        self.lost = self.lost or error
        left, self.calls = self.calls, {}
        for call in left.values():
            call.fail(self.lost)
        return [call for call in left.values() if not isinstance(call, Hello)]

    def _take(self, body: bytes) -> C | None:
        """Give a message to its call, and return that; ``None`` for what nobody waits for, or what is for all.

        :raises MessageError: for what the other side may not say.
        :raises Error: for what it says of itself, after which it is of no use.
        """
        if body[:3] == b"\x94\x01\xce" and len(body) > 7:
            (msgid,) = _UINT32.unpack_from(body, 3)
            method = b""
        else:
            head = read_head(body)
            msgid, method = head.msgid, head.method
            if head.kind == NOTIFICATION:
                if method == REFUSED and (refusal := read_refusal(body)) is not None:
                    raise refusal
                if method not in (CHUNK, MORE):
                    return None  # a later version may say more than we know
                msgid, rest_at = streamed(body, head.params_at)
            elif head.kind != RESPONSE:
                raise MessageError("the side that is called makes no requests")
        call = self.calls.get(msgid)
        if call is None:
            if not 0 <= (self._msgid - msgid) % MSGIDS < MSGIDS // 2:
                raise MessageError(f"a message for the call {msgid}, which was never made")
            return None  # it was given up, or answered
        if method:
            call.carry(method, body, rest_at)
        else:
            call.respond(body)
            self.calls.pop(msgid, None)
        return None if isinstance(call, Hello) else call


class Outgoing(NamedTuple):
    """A call of an operation, ready to begin on a connection, and on another one if that turns out to be closed."""

    operation: Operation
    given: dict[str, Any]
    """Its arguments."""
    pieces: Iterator[memoryview | int] | None
    """The data that follows the request piece by piece, if it is too much for one message; last comes its size."""
    seconds: float
    """How long each answer, and each step of a stream, may take."""
    part: tuple[int, str] | None = None
    """From which byte on to read an artifact, and of which version, where another stream of it was begun before."""
    info: bool = False
    """Whether to be told in front of an artifact which version of it comes."""

    def row(self, rows: Rows | None, piece: bytes) -> Rows:
        """Take the next bytes of a result that comes in pieces; return what holds them.

        :raises Broken: when they make no sense.
        """
        rows = rows or Rows(self.operation, self.given)
        try:
            rows.feed(piece)
        except MessageError as error:
            raise Broken(str(error)) from error
        return rows

    def result(self, call: Call, rows: Rows | None) -> Any:
        """Return the result of a call that was answered.

        :param rows: what came before the answer, if anything did.
        :raises Error: what was answered instead.
        :raises Broken: why nothing was, or what was makes no sense.
        """
        if rows is None:
            return call.outcome()
        try:
            rows.feed(call.last_piece())
            return rows.end()
        except MessageError as error:
            raise Broken(str(error)) from error


class Conversation(Caller[Call]):
    """One connection, as a client sees it."""

    def begin(self, outgo: Outgoing) -> tuple[Call, bytes]:
        """Begin a call of an operation; return it as it is in flight from now on, and what is to be sent.

        Raises as :meth:`request`.
        """
        operation, given, upload = outgo.operation, outgo.given, outgo.pieces is not None
        pieces = operation.returns_data or operation.returns_rows
        read = None if operation.returns_data else functools.partial(decode_result, operation, sent=given)
        call = Call(upload=upload, pieces=pieces, read=read)
        meta = _meta(
            math.ceil(outgo.seconds * 1000),
            stream=upload or pieces,
            numbers=operation.sent_events is not None,
            waits=bool(given.get("wait_timeout_ms")),
            info=outgo.info,
            part=outgo.part,
        )
        return call, self.request(call, operation.method, meta, encode_arguments(operation, given))

    def request(self, call: Call, method: str, meta: bytes, arguments: dict[str, Any]) -> bytes:
        """Begin a call; return what is to be sent.

        :param meta: encoded.
        :raises Error: ``validation_error`` when it is too large for a frame, or has too many values. Nothing has begun then.
        :raises Broken, Error: why the connection is lost.
        """
        msgid = self.number(call)
        body = self.packer.call(msgid, method, meta, arguments)
        if len(body) > MAX_VALUES and (error := _too_much(method, body)):
            del self.calls[msgid]
            raise error
        call.msgid = msgid
        return self.greeting() + frame(body) if self._greeting else frame(body)

    def upload(self, call: Call, piece: memoryview | int) -> bytes:
        """Return what carries the next bytes of a call's data, or says at their end how many there were.

        Not to be called while there is less :attr:`Sending.room` than bytes, nor once the call was answered: the other side
        does not want them then, whatever it answered.
        """
        assert call.sending is not None
        if not isinstance(piece, int):
            call.sending.sent(len(piece))
        return b"".join(framed(*chunk(self.packer, call.msgid, piece)))

    def take(self, call: Call) -> tuple[bytes, bytes]:
        """Return the next of a call's :attr:`Call.pieces`, and what is to be sent for having taken it."""
        piece = call.pieces.popleft()
        assert call.receiving is not None
        size = call.receiving.take(len(piece))
        if not size or call.answered:
            return piece, b""
        return piece, frame(more(self.packer, call.msgid, size))


@functools.lru_cache(maxsize=256)
def _meta(timeout_ms: int, *, part: tuple[int, str] | None, **wishes: bool) -> bytes:
    """Return the meta of a request, encoded."""
    meta: dict[str, Any] = {"timeout_ms": timeout_ms} | {name: True for name, wanted in wishes.items() if wanted}
    if part is not None:
        meta |= {"offset": part[0], "version": part[1]}
    return packed(meta)


def _too_much(method: str, body: bytes) -> Error | None:
    """Say that no server takes a request. One with fewer bytes than values are allowed need not be looked at."""
    operation = operation_name(method.encode())
    if len(body) > MAX_FRAME:
        return Error(
            "validation_error",
            f"{operation} would send {len(body)} bytes at once; at most {MAX_FRAME} are possible: split it",
            details={"operation": operation, "byte_size": len(body), "limit": MAX_FRAME},
        )
    if (values := values_in(body, read_head(body).params_at)) > MAX_VALUES:
        return Error(
            "validation_error",
            f"{operation} would send {values:,} values at once (each key, element, map and list counted); "
            f"at most {MAX_VALUES:,} are possible: split it",
            details={"operation": operation, "values": values, "limit": MAX_VALUES},
        )
    return None
