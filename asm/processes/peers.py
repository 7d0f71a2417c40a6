"""Peers: one connection of a server, from bytes to messages and back, within bounds.

         bytes                        messages
    ──────────────► Splitter ──► Head ──────────────► Service.request / response / notification
    ◄────────────── one write an iteration of the loop ◄── send

A peer bounds what it costs: with too many calls or bytes in flight, further calls are refused as ``overloaded``; while it does
not take its answers, nothing more is read from it; one that breaks the protocol, or lets too many answers lie, loses its
connection. A relay, which carries the calls of many, has bounded each of them, and is not bounded again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from asm.core.errors import Error
from asm.wire.frames import HEADER, MAX_FRAME, FrameError, Splitter
from asm.wire.messages import MALFORMED, NOTIFICATION, REQUEST, Head, MessageError, Packer, read_head
from asm.wire.streams import streamed

__all__ = ["Cancellable", "Limits", "Peer", "Receiver", "may_connect"]

_log = logging.getLogger(__name__)

_CREDENTIALS: Final = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid (unix(7), SO_PEERCRED)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost."""

    frame_bytes: int = MAX_FRAME
    """How large the body of a frame may be."""
    calls_in_flight: int = 4096
    """With this many calls unanswered, further ones are refused as ``overloaded``."""
    bytes_in_flight: int = 64 * 1024 * 1024
    """With this many bytes in unanswered calls, likewise."""
    bytes_unread: int = 64 * 1024 * 1024
    """With this many bytes of answers that it does not read, it is cut off."""


class Cancellable(Protocol):
    """A call in flight."""

    def cancel(self) -> None:
        """Drop the call: nobody waits for it any more."""

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next message of the call's stream, whose bytes or number begin at ``rest_at``.

        :raises MessageError: when the peer may not send that.
        """


class Receiver(Protocol):
    """Who is told what arrived on a connection."""

    def request(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a request, which is in ``peer.calls`` until it is answered with :meth:`Peer.answer` or cancelled."""

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a response."""

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a notification."""

    def settled(self, peer: Peer) -> None:
        """Learn that the peer has no more calls in flight."""

    def lost(self, peer: Peer) -> None:
        """Learn that the connection is gone. Its calls have been cancelled."""


class Peer(asyncio.Protocol):
    """One connection.

    :param receiver: who is told what arrives.
    :param limits: what the connection may cost.
    """

    def __init__(self, receiver: Receiver, limits: Limits) -> None:
        self.calls: dict[int, Cancellable | None] = {}
        """The calls of this peer in flight, by msgid, each as what cancels it; ``None`` while it is taken in."""
        self.relay = False
        """Whether it passes on the calls of others, and so must not be cut off for what they wrote."""
        self.packer = Packer()
        self._receiver = receiver
        self._limits = limits
        self._splitter = Splitter(limits.frame_bytes)
        self._sizes: dict[int, int] = {}
        self._bytes_in_flight = 0
        self._when_writable: list[Callable[[], None]] = []
        self._reading = True
        self._writable = True
        self._outgoing: list[bytes] = []
        self._queued = 0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    # -- what the receiver calls

    @property
    def connected(self) -> bool:
        """Whether the other side is there, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """How many bytes wait to be taken by the other side."""
        return self._queued + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def writable(self, go_on: Callable[[], None]) -> bool:
        """Whether what is sent now is taken soon. If not, ``go_on`` is called once it is."""
        if not self._writable:
            self._when_writable.append(go_on)
        return self._writable

    def send(self, *parts: bytes) -> None:
        """Send one frame whose body is made of these parts. All frames of one iteration of the loop are written at once."""
        if not self.connected:
            return
        if not self._outgoing:
            self._loop.call_soon(self.flush)
        size = sum(map(len, parts))
        self._outgoing.append(HEADER.pack(size))
        self._outgoing.extend(parts)
        self._queued += HEADER.size + size

    def answer(self, msgid: int, *parts: bytes) -> None:
        """Send the response to a call, which is then no longer in flight."""
        if msgid in self.calls:
            self.send(*parts)
            self._settle(msgid)

    def answer_result(self, msgid: int, result: Any) -> None:
        """Answer a call that went well."""
        try:
            body = self.packer.result(msgid, result)
        except Exception as cause:  # noqa: BLE001  # a store may return anything at all
            self.answer_error(msgid, _no_result(cause))
            return
        if len(body) > self._limits.frame_bytes:
            self.answer_error(msgid, _too_large(len(body), self._limits.frame_bytes))
        else:
            self.answer(msgid, body)

    def answer_error(self, msgid: int, error: Error) -> None:
        """Answer a call that failed."""
        self.answer(msgid, self.packer.error(msgid, error))

    def cancel(self, msgid: int) -> None:
        """Drop a call that the other side waits for no more."""
        if call := self.calls.get(msgid):
            call.cancel()
            self._settle(msgid)

    def carry(self, head: Head, body: bytes) -> None:
        """Pass a message of a stream on to its call. One that comes after the end of the call means nothing any more."""
        msgid, rest_at = streamed(body, head.params_at)
        if call := self.calls.get(msgid):
            try:
                call.carry(head.method, body, rest_at)
            except MessageError:
                if not self.relay:
                    raise
                call.cancel()
                self.malformed(msgid)

    def malformed(self, msgid: int) -> None:
        """Let the writer of this request know the price: its connection. A relay is told to let its own peer know."""
        if self.relay:
            self.send(self.packer.notification(MALFORMED, [msgid]))
            self._settle(msgid)
        else:
            self.refuse("the params of its request cannot be decoded")

    def refuse(self, why: str) -> None:
        """Cut off a peer that broke the protocol."""
        _log.warning("a peer broke the protocol", extra={"reason": why, **self._who()})
        self.abort()

    def flush(self) -> None:
        """Write what waits."""
        if self._outgoing and self._transport is not None:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self._queued = 0
            self._transport.write(data)
            if not self.relay and self._transport.get_write_buffer_size() > self._limits.bytes_unread:
                self.refuse("it does not read its answers")

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport

    def data_received(self, data: bytes) -> None:
        """Take in bytes; pass on every message that is complete."""
        receiver = self._receiver
        try:
            for body in self._splitter.feed(data):
                head = read_head(body)
                if head.kind == REQUEST:
                    self._take_request(head, body)
                elif head.kind == NOTIFICATION:
                    receiver.notification(self, head, body)
                else:
                    receiver.response(self, head, body)
                if not self.connected:
                    return
        except (FrameError, MessageError) as error:
            self.refuse(str(error))
            return

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._outgoing.clear()
        self._queued = 0
        for call in self.calls.values():
            if call is not None:
                call.cancel()
        self.calls.clear()
        self._receiver.lost(self)

    def pause_writing(self) -> None:
        """Read no more requests from a peer that does not take its answers."""
        self._writable = False
        self._balance()

    def resume_writing(self) -> None:
        """Read on."""
        self._writable = True
        self._balance()
        waiting, self._when_writable = self._when_writable, []
        for go_on in waiting:
            go_on()

    # -- inside

    def _take_request(self, head: Head, body: bytes) -> None:
        if head.msgid in self.calls:
            raise MessageError(f"the msgid {head.msgid} is in flight already")
        limits = self._limits
        if not self.relay and (len(self.calls) >= limits.calls_in_flight or self._bytes_in_flight >= limits.bytes_in_flight):
            self.send(self.packer.error(head.msgid, _overloaded(len(self.calls), self._bytes_in_flight)))
            return
        self.calls[head.msgid] = None
        self._sizes[head.msgid] = len(body)
        self._bytes_in_flight += len(body)
        self._receiver.request(self, head, body)

    def _settle(self, msgid: int) -> None:
        """Stop counting a call."""
        del self.calls[msgid]
        self._bytes_in_flight -= self._sizes.pop(msgid, 0)
        if not self.calls:
            self._receiver.settled(self)

    def _balance(self) -> None:
        """Read exactly while the peer takes its answers."""
        wanted = self._writable or self.relay  # behind a relay others wait, and windows bound what it does not take
        if wanted != self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _who(self) -> dict[str, int]:
        """Say which process the peer is, for the log."""
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connection is None:
            return {}
        pid, uid, _gid = _credentials(connection)
        return {"peer_pid": pid, "peer_uid": uid}


def may_connect(connection: socket.socket) -> bool:
    """Whether the process at the other end is of our user, or of root, as the kernel knows it."""
    return _credentials(connection)[1] in (0, os.geteuid())


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _overloaded(calls: int, size: int) -> Error:
    return Error(
        "storage_error",
        f"too much is in flight on this connection ({calls} calls, {size} bytes); wait for answers, or use another connection",
        details={"reason": "overloaded"},
    )


def _no_result(cause: Exception) -> Error:
    details = {"exception": type(cause).__name__, "text": str(cause)[:1000]}
    return Error("internal_error", f"the store returned what cannot be sent: {cause!r}", details=details)


def _too_large(size: int, limit: int) -> Error:
    return Error(
        "storage_error",
        f"the answer has {size} bytes, more than the {limit} of a frame; ask for less at once, with limit=…",
        details={"reason": "too_large", "byte_size": size},
    )
