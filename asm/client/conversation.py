"""Conversations of a client: its calls, on one connection, without the connection.

    call of an operation ──► request ──► bytes to be sent       bytes that arrived ──► calls about which there is news

Both clients and the control client hold one for each connection. What may be said when is decided by the engine below
(:mod:`asm.wire.conversation`); here what is :class:`Outgoing` is encoded, and each :class:`Call` decodes what comes for it.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from asm.core.errors import Error
from asm.operations import Operation
from asm.wire import messages
from asm.wire.calls import Rows, decode_result, encode_arguments
from asm.wire.conversation import Broken, Caller, read_head
from asm.wire.frames import MAX_FRAME, frame, framed
from asm.wire.hello import Hello
from asm.wire.messages import HELLO, MessageError, decode_response, operation_name, packed
from asm.wire.scan import MAX_VALUES, values_in
from asm.wire.streams import CHUNK, MORE, Receiving, Sending, chunk, more

__all__ = ["Call", "Conversation", "Outgoing"]

NOTHING: Final[dict[str, Any]] = {}


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
        if method == CHUNK and self.receiving is not None:
            piece = self.receiving.hear(method, body, rest_at)
            if not isinstance(piece, bytes):
                raise MessageError("the response says how many bytes of an answer there were, and nothing before it")
            self.pieces.append(piece)
            self.in_pieces = True
        elif method == MORE and self.sending is not None:
            self.sending.hear(method, body, rest_at)
        else:
            raise MessageError(f"{method.decode()!r} for a call that does not wait for it")

    def fail(self, error: Broken | Error) -> None:
        """Let nothing more come of it."""
        self.error, self.answered = error, True


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


class Conversation(Caller[Call | Hello]):
    """One connection, as a client sees it.

    :param hello: with what to ask who the other side is, in front of the first call; ``None`` for not at all. Nobody waits for
        the answer; it is looked at when it comes.
    """

    def __init__(self, hello: dict[str, Any] | None = NOTHING) -> None:
        super().__init__()
        self._greeting = b""
        if hello is not None:
            self._greeting = frame(messages.request(self.number(Hello()), HELLO.decode(), hello))

    @property
    def missing(self) -> int:
        """How many bytes of a message that has begun to arrive have not."""
        return self.splitter.missing

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
        body = messages.call(msgid, method, meta, arguments)
        if len(body) > MAX_VALUES and (error := _too_much(method, body)):
            del self.calls[msgid]
            raise error
        call.msgid = msgid
        if not self._greeting:
            return frame(body)
        greeting, self._greeting = self._greeting, b""
        return greeting + frame(body)

    def upload(self, call: Call, piece: memoryview | int) -> bytes:
        """Return what carries the next bytes of a call's data, or says at their end how many there were.

        Not to be called while there is less :attr:`Sending.room` than bytes, nor once the call was answered: the other side
        does not want them then, whatever it answered.
        """
        assert call.sending is not None
        if not isinstance(piece, int):
            call.sending.sent(len(piece))
        return b"".join(framed(*chunk(call.msgid, piece)))

    def take(self, call: Call) -> tuple[bytes, bytes]:
        """Return the next of a call's :attr:`Call.pieces`, and what is to be sent for having taken it."""
        piece = call.pieces.popleft()
        assert call.receiving is not None
        size = call.receiving.take(len(piece))
        if not size or call.answered:
            return piece, b""
        return piece, frame(more(call.msgid, size))

    def receive(self, data: bytes | memoryview) -> list[Call]:
        """Take in what arrived; return the calls about which there is news, in its order."""
        news: list[Call] = []
        if self.lost is not None:
            return news
        self.feed(data)
        call: Call | Hello | None = None
        try:
            while self.arrived:
                if (heard := self.hear()) is None:
                    continue
                call, method, body, rest_at = heard
                if method:
                    call.carry(method, body, rest_at)
                else:
                    call.respond(body)
                if isinstance(call, Call):
                    news.append(call)
        except MessageError as error:
            if isinstance(call, Call):
                self.calls[call.msgid] = call  # what cannot be understood is no answer
            news += self.fail(Broken(str(error)))
        except (Broken, Error) as error:
            news += self.fail(error)
        return news

    def fail(self, error: Broken | Error) -> list[Call]:
        """Learn that the connection is lost; return the calls that were in flight, which failed with it."""
        lost = self.lose(error)
        calls = [call for call in self.end(lost) if isinstance(call, Call)]
        for call in calls:
            call.fail(lost)
        return calls


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
