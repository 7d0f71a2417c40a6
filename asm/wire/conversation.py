"""Conversations: what is said on a connection, without the connection.

    bytes that arrived ──► feed ──► hear, one message at a time ──► Caller: news of a call
                                                                 └─► Callee: a request
    calls, answers, pieces of streams ──► bytes to be sent

Who holds a connection only reads, writes and waits. What may be said when is decided here, on plain state: which call an answer
is for, what comes too late to mean anything, what ends a call or the connection, what becomes of the calls in flight then. The
same bytes mean the same, however they are cut; what cannot be understood ends the connection, and what came before it counts.

:class:`Caller` is the side that calls, and :class:`Callee` the side that is called. What a call is, they leave to whoever makes
it: a client's decodes its answer (:mod:`asm.client.conversation`), and a relay, which is called and calls, passes on what
stands behind the msgid as it is. The bytes that may be under way in a stream are counted at its ends (:mod:`asm.wire.streams`).
"""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from asm.core.errors import Error
from asm.wire import messages
from asm.wire.calls import decode_params
from asm.wire.frames import MAX_FRAME, Splitter, frame, framed
from asm.wire.messages import (
    CANCEL,
    HELLO,
    MALFORMED,
    NIL,
    NOTIFICATION,
    REFUSED,
    REQUEST,
    RESPONSE,
    WAITS,
    Head,
    MessageError,
    read_msgid,
    read_refusal,
    read_uint,
    result_head,
)
from asm.wire.streams import CHUNK, MORE, chunk, more, relayed, streamed

__all__ = ["Broken", "Callee", "Caller", "News", "Parts", "Served", "Side", "read_head"]

MSGIDS: Final = 2**32

SMALL: Final = 64 * 1024
"""Up to how many bytes a request that is no call is looked through. More would take its time, for nothing."""

Parts: TypeAlias = tuple[bytes | memoryview, ...]
"""What is to be sent, in parts, so that none is copied; nothing, if it would mean nothing any more."""

_tuple: Final = tuple.__new__  # the constructor of a named one takes twice as long
_UINT32: Final = struct.Struct("!I")
_ARRAY: Final = {REQUEST: 0x94, RESPONSE: 0x94, NOTIFICATION: 0x93}
_BEGINNING: Final = struct.Struct("!iBBBI")
"""The length of a frame, and a request or response up to its msgid, …"""
_MSGID: Final = 7
"""… which is so long without the length."""


class Broken(Exception):  # noqa: N818  # becomes an Error where the name of the store is known
    """The connection is of no use any more. What became of the calls in flight is unknown."""


C = TypeVar("C")
News: TypeAlias = tuple[C, bytes, bytes, int]
"""A call, what came for it (``chunk``, ``more``, or for a relay ``waits`` or ``malformed``; nothing, if it is the response),
the message, and where in it the rest begins, behind the msgid."""


class Side(Generic[C]):
    """What both sides have.

    :param limit: how many bytes a message may have.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self.calls: dict[int, C] = {}
        """What is in flight, by msgid."""
        self.lost: Broken | Error | None = None
        """Why the connection is of no use any more: what broke it, or what the other side said."""
        self.splitter = Splitter(limit)
        self.feed = self.splitter.feed
        """Takes in bytes that arrived."""
        self.arrived = self.splitter.arrived
        """The messages that arrived and were not looked at yet."""

    def lose(self, error: Broken | Error) -> Broken | Error:
        """Look at nothing any more; return why, which is what was said first."""
        self.lost = self.lost or error
        self.splitter.stop(str(self.lost))
        return self.lost

    def end(self, error: Broken | Error) -> list[C]:
        """Learn that the connection is lost; return what was in flight."""
        self.lose(error)
        left, self.calls = [*self.calls.values()], {}
        return left

    def relay(self, msgid: int, method: bytes, body: bytes, rest_at: int) -> Parts:
        """Return what passes on a message of a stream that came on another connection, under the msgid of the call here."""
        return framed(*relayed(method, msgid, body, rest_at))


# -- The side that calls ------------------------------------------------------------------------------------------------


class Caller(Side[C]):
    """One connection, as the side that calls sees it.

    :param relays: whether its calls are those of others, so that it is told of more.
    """

    def __init__(self, *, relays: bool = False) -> None:
        super().__init__()
        self._msgid = 0
        self._relays = relays

    def number(self, call: C) -> int:
        """Take a call in; return its msgid, which no other in flight has.

        :raises Broken, Error: why the connection is lost.
        """
        if self.lost is not None:
            raise self.lost
        msgid = (self._msgid + 1) % MSGIDS
        while msgid in self.calls:
            msgid = (msgid + 1) % MSGIDS
        self._msgid = msgid
        self.calls[msgid] = call
        return msgid

    def pass_on(self, msgid: int, rest: bytes) -> Parts:
        """Return what asks for a call that was numbered.

        :param rest: what stands behind the msgid of a request: the method and the params.
        """
        return _BEGINNING.pack(_MSGID + len(rest), 0x94, REQUEST, 0xCE, msgid), rest

    def give_up(self, msgid: int) -> bytes:
        """Forget a call; return what tells the other side, if it was not answered. An answer that comes later is dropped."""
        if self.calls.pop(msgid, None) is None or self.lost is not None:
            return b""
        return frame(messages.notification(CANCEL, [msgid]))

    def hear(self) -> News[C] | None:
        """Look at the next message; return its news, or ``None`` for what nobody waits for, or what is unknown.

        A call that has its answer is not in flight any more.

        :raises Broken: when it is what the other side may not say.
        :raises Error: what the other side says of itself, after which it is of no use.
        """
        try:
            body = self.arrived.popleft()
        except IndexError:
            return None
        try:
            if body[:3] == b"\x94\x01\xce" and len(body) > _MSGID:  # as we write it
                (msgid,) = _UINT32.unpack_from(body, 3)
                method, rest_at = b"", _MSGID
            elif (found := self._address(body)) is not None:
                msgid, method, rest_at = found
            else:
                return None
            call = self.calls.get(msgid)
            if call is None:
                self._miss(msgid)
                return None
        except MessageError as error:
            raise self.lose(Broken(str(error) if body else self.splitter.trouble)) from error
        except Error as error:
            self.lose(error)
            raise
        if not method or method == MALFORMED:
            del self.calls[msgid]
        return call, method, body, rest_at

    def _address(self, body: bytes) -> tuple[int, bytes, int] | None:
        """Return which call a message is for, what it is, and where the rest begins; ``None`` for what is unknown."""
        head = read_head(body)
        if head.kind == RESPONSE:
            return head.msgid, b"", head.params_at
        if head.kind == REQUEST:
            raise MessageError("the side that is called makes no requests")
        if head.method == REFUSED:
            raise read_refusal(body, head.params_at)
        if head.method in (CHUNK, MORE):
            msgid, rest_at = streamed(body, head.params_at)
            return msgid, head.method, rest_at
        if self._relays and head.method in (WAITS, MALFORMED):
            return read_msgid(body, head.params_at), head.method, len(body)
        return None  # a later version may say more than we know

    def _miss(self, msgid: int) -> None:
        """Pass over a message for a call that was given up, or answered.

        :raises MessageError: when it never was.
        """
        if not 0 <= (self._msgid - msgid) % MSGIDS < MSGIDS // 2:
            raise MessageError(f"a message for the call {msgid}, which was never made")


# -- The side that is called --------------------------------------------------------------------------------------------


class Served(Protocol):
    """A call in flight, as the side that is called sees it."""

    msgid: int
    """Its id."""
    was_told: bool
    """Whether a relay knows that it waits."""

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take a message of its stream, ``chunk`` or ``more``, whose bytes or number begin at ``rest_at``.

        :raises MessageError: when the other side may not send that.
        """

    def cancel(self) -> None:
        """Learn that nobody waits for it any more."""

    def malformed(self) -> None:
        """Learn that what came for it makes no sense, though who passed it on may not be who wrote it."""


S = TypeVar("S", bound=Served)


class Callee(Side[S]):
    """One connection, as the side that is called sees it. Of a call that is not in flight any more nothing is said."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        super().__init__(limit)
        self.is_relay = False
        """Whether the other side passes on the calls of others, and so must not be cut off for what they wrote."""

    def hear(self) -> tuple[Head, bytes] | None:
        """Look at the next message; return it if it is a request. What is said of a call in flight, that call is told.

        :raises Broken: when it is what the other side may not say.
        """
        try:
            body = self.arrived.popleft()
        except IndexError:
            return None
        try:
            head = read_head(body)
            if head.kind == REQUEST:
                if head.msgid in self.calls:
                    raise MessageError(f"the msgid {head.msgid} is in flight already")
                return head, body
            if head.kind == RESPONSE:
                raise MessageError("a response came without a request")
            self._notice(head, body)
        except MessageError as error:
            raise self.lose(Broken(str(error) if body else self.splitter.trouble)) from error
        return None

    def begin(self, call: S) -> None:
        """Take a call in that was asked for."""
        self.calls[call.msgid] = call

    def read(self, head: Head, body: bytes) -> dict[str, Any]:
        """Return the arguments of a request that is no call, or is ``hello``; who says there that it is a relay is one.

        :raises MessageError: when they cannot be decoded.
        """
        arguments = decode_params(body, head)[1] if len(body) <= SMALL else {}
        if head.method == HELLO:
            self.is_relay = arguments.get("relay") is True
        return arguments

    def respond(self, call: S, rest: bytes) -> Parts:
        """Return the answer to a call; nothing, if nobody waits for it any more.

        :param rest: what stands behind the msgid of a response: the error and the result.
        """
        msgid = call.msgid
        if self.calls.get(msgid) is not call:
            return ()
        del self.calls[msgid]
        return _BEGINNING.pack(_MSGID + len(rest), 0x94, RESPONSE, 0xCE, msgid), rest

    def finish(self, call: S, result: bytes) -> Parts:
        """Return the answer to a call that went well; nothing, as :meth:`respond`."""
        msgid = call.msgid
        if self.calls.get(msgid) is not call:
            return ()
        del self.calls[msgid]
        return _BEGINNING.pack(_MSGID + len(NIL) + len(result), 0x94, RESPONSE, 0xCE, msgid) + NIL, result

    def fail(self, call: S, error: Error) -> Parts:
        """Return the answer to a call that failed; nothing, as :meth:`respond`."""
        return self.respond(call, messages.failed(error))

    def answer(self, msgid: int, result: bytes) -> Parts:
        """Return the answer to a request that is no call."""
        return framed(result_head(msgid), result)

    def refuse(self, msgid: int, error: Error) -> Parts:
        """Return why a request becomes no call."""
        return framed(messages.error(msgid, error))

    def malformed(self, msgid: int) -> Parts:
        """Forget a call of which the params, or the stream, cannot be decoded, and make its writer pay with the connection.

        :return: what lets a relay know, whose connection that is not.
        :raises Broken: when the writer is on this one.
        """
        self.calls.pop(msgid, None)
        if not self.is_relay:
            raise self.lose(Broken("the params of its request cannot be decoded"))
        return framed(messages.notification(MALFORMED, [msgid]))

    def waits(self, call: S) -> Parts:
        """Return what lets a relay know that a call waits for what may not happen for long, and keeps no other waiting."""
        if not self.is_relay or call.was_told or self.calls.get(call.msgid) is not call:
            return ()
        call.was_told = True
        return framed(messages.notification(WAITS, [call.msgid]))

    def chunk(self, call: S, piece: bytes) -> Parts:
        """Return what carries the next bytes of a call's answer."""
        return framed(*chunk(call.msgid, piece)) if self.calls.get(call.msgid) is call else ()

    def more(self, call: S, size: int) -> Parts:
        """Return what lets more of a call's data come."""
        return framed(more(call.msgid, size)) if self.calls.get(call.msgid) is call else ()

    def turn_away(self, error: Error) -> Parts:
        """Take nothing of the connection; return what says why."""
        self.lose(error)
        return framed(messages.refusal(error))

    def _notice(self, head: Head, body: bytes) -> None:
        """Take a notification. One for a call that has ended means nothing any more, nor does one that is unknown."""
        method = head.method
        if method in (CHUNK, MORE):
            msgid, rest_at = streamed(body, head.params_at)
            call = self.calls.get(msgid)
            if call is not None:
                try:
                    call.carry(method, body, rest_at)
                except MessageError:
                    if not self.is_relay:
                        raise
                    call.malformed()
        elif method == CANCEL:
            call = self.calls.pop(read_msgid(body, head.params_at), None)
            if call is not None:
                call.cancel()


# -- What both hear -----------------------------------------------------------------------------------------------------


def read_head(body: bytes) -> Head:
    """Read the type, the msgid and the method of a message, and decode nothing else.

    :raises MessageError: when these are not there.
    """
    try:
        kind = body[1]
        if body[0] != _ARRAY[kind]:
            raise MessageError("no message begins so")
        if kind == NOTIFICATION:
            msgid, at = 0, 2
        elif body[2] == 0xCE:
            (msgid,) = _UINT32.unpack_from(body, 3)
            at = _MSGID
        else:
            msgid, at = read_uint(body, 2)
        if kind == RESPONSE:
            return _tuple(Head, (kind, msgid, b"", at, at))
        first = body[at]
        if 0xA0 <= first < 0xC0:
            start, end = at + 1, at + 1 + first - 0xA0
        elif first == 0xD9:
            start, end = at + 2, at + 2 + body[at + 1]
        else:
            raise MessageError("the method must be a string of at most 255 bytes")
        if end >= len(body):
            raise MessageError("the message ends within its head")
        return _tuple(Head, (kind, msgid, body[start:end], at, end))
    except (IndexError, KeyError, struct.error) as error:
        raise MessageError("the message ends within its head, or is none") from error
