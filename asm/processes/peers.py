"""Peers: one connection of a server, from bytes to messages and back, within bounds.

         bytes                        messages
    ──────────────► Splitter ──► Head ──────────────► Service.request / response / notification
    ◄────────────── one write at the end of the loop's turn ◄── send

A peer bounds what it costs (:mod:`asm.processes.limits`): with too many calls or bytes in flight, further calls are refused as
``overloaded``; while it does not take its answers, nothing more is read from it; one that breaks the protocol, or lets too many
answers lie, loses its connection. A relay, which carries the calls of many, has bounded each of them, and may have more.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from asm.core.errors import Error
from asm.processes.limits import RELAY, Load
from asm.processes.loops import Loop
from asm.processes.reports import is_failure
from asm.wire.credentials import credentials
from asm.wire.frames import HEADER, MAX_FRAME, FrameError, Splitter, gathered
from asm.wire.messages import MALFORMED, NOTIFICATION, REQUEST, Head, MessageError, Packer, read_head, result_head
from asm.wire.streams import streamed

__all__ = ["Cancellable", "Peer", "Receiver", "Turn"]

_log = logging.getLogger(__name__)

BATCH: Final = 64
"""How many messages of one connection are passed on before others have their turn."""

EARLY: Final = 48
"""With this many parts to send, the end of the turn is not waited for: the other side begins while this one goes on."""

ANSWERS_AHEAD: Final = 1024 * 1024
"""How many bytes of answers a peer may have asked for and not taken, as far as can be foreseen, before its next call waits."""

RELAY_AHEAD: Final = 16
"""How many times as many a relay may."""

FORGETTING: Final = 0.75
"""Large answers are foreseen where one was large. With each that is smaller, this much of what was foreseen is left."""


HEAD_BYTES: Final = len(result_head(0))
"""What stands before a result."""


class Cancellable(Protocol):
    """A call in flight."""

    def cancel(self) -> None:
        """Drop the call: nobody waits for it any more."""

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next message of the call's stream, whose bytes or number begin at ``rest_at``.

        :raises MessageError: when the peer may not send that.
        """


class Turn(Protocol):
    """What a call holds while it is at work."""

    def leave(self) -> None:
        """Let another one begin."""


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


class Peer(asyncio.BufferedProtocol):
    """One connection.

    :param receiver: who is told what arrives.
    :param load: what all connections cost, and may cost.
    """

    def __init__(self, receiver: Receiver, load: Load) -> None:
        self.calls: dict[int, Cancellable | None] = {}
        """The calls of this peer in flight, by msgid, each as what cancels it; ``None`` while it is taken in."""
        self.relay = False
        """Whether it passes on the calls of others, and so must not be cut off for what they wrote."""
        self.failures = 0
        """How many of its calls failed: were answered with an error that means that something is broken."""
        self.packer = Packer()
        self._receiver = receiver
        self.turns: dict[int, Turn] = {}
        """The calls that are at work, by msgid."""
        self._load = load
        self._limits = load.limits
        self._splitter = Splitter(load.limits.max_frame_bytes)
        self._begun = False
        self._arrived: deque[bytes] = deque()
        self._sizes: dict[int, int] = {}
        self._bytes_in_flight = 0
        self._uploads: set[int] = set()
        self._answer_size = float(ANSWERS_AHEAD)
        """How large the next answer may be: of who has had none, anything is foreseen."""
        self._when_ready: list[Callable[[Peer], None]] = []
        self._when_writable: list[Callable[[], None]] = []
        self._reading = True
        self.is_writable = True
        """Whether the other side takes its answers as fast as they come."""
        self._closing = False
        self._outgoing: list[bytes | memoryview] = []
        self._queued = 0
        self._transport: asyncio.Transport | None = None
        self._loop = Loop.running()

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
        if not self.is_writable:
            self._when_writable.append(go_on)
        return self.is_writable

    def ready(self) -> bool:
        """Whether the answer to one more call would soon be taken, if it is as large as the latest were."""
        limit = RELAY_AHEAD * ANSWERS_AHEAD if self.relay else ANSWERS_AHEAD
        foreseen = self._queued + len(self.turns) * self._answer_size
        if not self.is_writable:  # then what the transport holds is not little
            foreseen = self.unsent + len(self.turns) * self._answer_size
        return foreseen < limit or (self.is_writable and not self.turns and not self._queued)

    def when_ready(self, go_on: Callable[[Peer], None]) -> None:
        """Call ``go_on`` once this peer is ready for more, or is gone."""
        self._when_ready.append(go_on)

    def may_upload(self, msgid: int) -> bool:
        """Whether a call may be an upload, which is then counted."""
        if len(self._uploads) >= self._limits.uploads and not self.relay:
            return False
        self._uploads.add(msgid)
        return True

    def leave_turn(self, msgid: int) -> None:
        """Let a call go on that keeps nobody waiting any more, and whose answer is a long one."""
        if turn := self.turns.pop(msgid, None):
            self._answer_size = max(self._answer_size, ANSWERS_AHEAD)
            turn.leave()

    def be_relay(self) -> None:
        """Be one that carries the calls of many: cut off for none of what they do, and with a limit above theirs."""
        self.relay = True
        self._splitter.limit = MAX_FRAME

    def send(self, *parts: bytes | memoryview) -> int:
        """Send one frame whose body is made of these parts. All frames of one turn of the loop are written at once.

        :return: the size of the body.
        """
        size = sum(map(len, parts))
        transport = self._transport
        if transport is not None and not transport.is_closing():
            outgoing = self._outgoing
            if not outgoing:
                self._loop.unflushed.append(self)
            outgoing.append(HEADER.pack(size))
            outgoing += parts
            self._queued += HEADER.size + size
            if len(outgoing) > EARLY:
                self.flush()
        return size

    def answer(self, msgid: int, *parts: bytes) -> None:
        """Send the response to a call, which is then no longer in flight."""
        if msgid in self.calls:
            self._answer_size = max(self.send(*parts), self._answer_size * FORGETTING)
            self._settle(msgid)

    def answer_result(self, msgid: int, result: bytes) -> None:
        """Answer a call that went well, with its result, encoded."""
        if len(result) > self._limits.max_frame_bytes - HEAD_BYTES:
            self.answer_error(msgid, _too_large(len(result), self._limits.max_frame_bytes))
        else:
            self.answer(msgid, result_head(msgid), result)

    def answer_error(self, msgid: int, error: Error) -> None:
        """Answer a call that failed."""
        self.failures += msgid in self.calls and is_failure(error.code)
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

    def turn_away(self, error: Error) -> None:
        """Close a connection that was just made, and say why."""
        _log.warning("a connection is refused", extra={"reason": error.message, **self._who()})
        self.send(self.packer.refusal(error))
        self.close()

    def refuse(self, why: str) -> None:
        """Cut off a peer that broke the protocol."""
        _log.warning("a peer broke the protocol", extra={"reason": why, **self._who()})
        self.abort()

    def flush(self) -> None:
        """Write what waits."""
        if self._outgoing and self._transport is not None:
            parts = gathered(self._outgoing, self._queued)
            self._outgoing, self._queued = [], 0
            for part in parts:
                self._transport.write(part)
            if not self.is_writable:
                self._check_unread()
            if self._when_ready:
                self._go_on()

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        return self._loop.received

    def buffer_updated(self, nbytes: int) -> None:
        """Take in bytes."""
        self.take_in(self._loop.received[:nbytes])

    def take_in(self, data: bytes | memoryview) -> None:
        """Pass on every message that is complete."""
        try:
            self._arrived.extend(self._splitter.feed(data))
        except FrameError as error:
            self.refuse(str(error))
            return
        if self._begun or self._splitter.missing:
            self._note_begun()
        self._take_some()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._outgoing.clear()
        self._queued = 0
        for call in self.calls.values():
            if call is not None:
                call.cancel()
        self._load.calls -= len(self.calls)
        self._load.bytes -= self._bytes_in_flight
        self._load.slow.discard(self)
        self._load.begun(self, 0)
        self._arrived.clear()
        self.calls.clear()
        for msgid in list(self.turns):
            self.leave_turn(msgid)
        self._go_on()
        self._receiver.lost(self)

    def pause_writing(self) -> None:
        """Read no more requests from a peer that does not take its answers."""
        self.is_writable = False
        self._load.slow.add(self)
        self._balance()

    def resume_writing(self) -> None:
        """Read on."""
        self.is_writable = True
        self._load.slow.discard(self)
        self._balance()
        waiting, self._when_writable = self._when_writable, []
        for go_on in waiting:
            go_on()
        self._go_on()

    # -- inside

    def _take_some(self) -> None:
        """Pass on messages that have arrived; after :data:`BATCH` of them it is the turn of other connections."""
        receiver, arrived = self._receiver, self._arrived
        try:
            for _ in range(min(len(arrived), BATCH)):
                if self._transport is None or self._closing:
                    return
                body = arrived.popleft()
                head = read_head(body)
                if head.kind == REQUEST:
                    self._take_request(head, body)
                elif head.kind == NOTIFICATION:
                    receiver.notification(self, head, body)
                else:
                    receiver.response(self, head, body)
        except MessageError as error:
            self.refuse(str(error))
            return
        if arrived:
            self._loop.call_soon(self._take_some)
        if arrived or not self._reading:
            self._balance()

    def _take_request(self, head: Head, body: bytes) -> None:
        if head.msgid in self.calls:
            raise MessageError(f"the msgid {head.msgid} is in flight already")
        load = self._load
        if (load.calls >= load.few_calls or load.bytes >= load.few_bytes) and (
            error := load.refusal(len(self.calls), self._bytes_in_flight, relay=self.relay)
        ):
            self.send(self.packer.error(head.msgid, error))
            return
        load.calls += 1
        load.bytes += len(body)
        self.calls[head.msgid] = None
        self._sizes[head.msgid] = len(body)
        self._bytes_in_flight += len(body)
        self._receiver.request(self, head, body)

    def _settle(self, msgid: int) -> None:
        """Stop counting a call."""
        del self.calls[msgid]
        size = self._sizes.pop(msgid, 0)
        self._bytes_in_flight -= size
        self._load.calls -= 1
        self._load.bytes -= size
        self._uploads.discard(msgid)
        if turn := self.turns.pop(msgid, None):
            turn.leave()
        if self._when_ready:
            self._go_on()
        if not self.calls:
            self._receiver.settled(self)

    def _go_on(self) -> None:
        """Let calls begin that wait until this peer takes its answers."""
        if self._when_ready and (not self.connected or self.ready()):
            waiting, self._when_ready = self._when_ready, []
            for go_on in waiting:
                go_on(self)

    def _check_unread(self) -> None:
        """Cut off who does not read its answers: this peer, if it has too many, or when it is too much in all, the worst."""
        limits, load = self._limits, self._load
        if self.unsent > (RELAY * limits.total_bytes_unread if self.relay else limits.bytes_unread):
            self.refuse("it does not read its answers")
        elif slowest := load.slowest():
            slowest.refuse("it does not read its answers")

    def _note_begun(self) -> None:
        """Count the bytes of a message that has not arrived in full; when it is too much, cut off who goes on the least."""
        held = self._splitter.held
        self._begun = held > 0
        if late := self._load.begun(self, held):
            late.refuse("its message does not come to an end")

    def _balance(self) -> None:
        """Read exactly while what was read is passed on and the peer takes its answers."""
        # Behind a relay others wait, and windows bound what it does not take.
        wanted = (self.is_writable or self.relay) and not self._arrived
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
        pid, uid, _gid = credentials(connection)
        return {"peer_pid": pid, "peer_uid": uid}


def _too_large(size: int, limit: int) -> Error:
    return Error(
        "storage_error",
        f"the answer has {size} bytes, more than the {limit} of a frame; ask for less at once, with limit=…",
        details={"reason": "too_large", "byte_size": size},
    )
