"""Peers: one connection of a process, from bytes to messages and back, and the calls that come on it.

         bytes                        messages
    ──────────────► Splitter ──► Head ──┬─ request ──► Call ──► Admission ──► Store.take
                                        └─ response, notification ──► Receiver
    ◄────────────── one write at the end of the loop's turn ◄── send ◄── Call.answer

A peer counts what it costs where all is counted (:mod:`asm.processes.admission`), and does what is decided there: with too many
calls in flight, further ones are refused; while it does not take its answers, nothing more is read from it; one that breaks the
protocol, or lets too many answers lie, loses its connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any, Final

from asm.core.errors import Error
from asm.processes import accounts
from asm.processes.accounts import Lane
from asm.processes.admission import UNREAD_SECONDS, Admission
from asm.processes.loops import Sender
from asm.processes.reports import is_failure
from asm.processes.roles import Receiver, Route, Store, Work
from asm.wire.credentials import credentials
from asm.wire.frames import MAX_FRAME, FrameError, Splitter
from asm.wire.messages import (
    MALFORMED,
    NOTIFICATION,
    REQUEST,
    WAITS,
    Head,
    MessageError,
    Packer,
    read_head,
    read_meta,
    result_head,
)
from asm.wire.streams import streamed

__all__ = ["HEAD_BYTES", "Call", "Peer"]

_log = logging.getLogger(__name__)

BATCH: Final = 64
"""How many messages of one connection are passed on before others have their turn."""

HEAD_BYTES: Final = len(result_head(0))
"""What stands before a result."""


class Call(accounts.Call):
    """One call, and all that is known of it in this process.

    :param peer: the connection that it came on.
    :param head: the beginning of its request.
    :param body: its request.
    :param store: what makes it.
    """

    __slots__ = ("begin", "body", "head", "key", "peer", "request", "was_told", "work")

    def __init__(self, peer: Peer, head: Head, body: bytes, store: Store, lane: Lane, *, is_upload: bool = False) -> None:
        super().__init__(peer.account, lane, len(body), is_upload=is_upload)
        self.peer = peer
        self.head = head
        self.body = body
        self.begin = store.take
        """What is to be called when it has a turn."""
        self.work: Work | None = None
        self.request: Any = None
        """What it asks for, where it is made."""
        self.key = 0
        """Its msgid where it was passed on to."""
        self.was_told = False
        """Whether who passed it on knows that it waits."""

    def answer(self, *parts: bytes | memoryview) -> None:
        """Send the response, unless nobody waits for it any more."""
        if not self.is_over:
            self.account.answered(self.peer.send(*parts))
            self.peer.settle(self)

    def finish(self, result: bytes) -> None:
        """Answer with the result, encoded."""
        self.answer(result_head(self.head.msgid), result)

    def fail(self, error: Error) -> None:
        """Answer with an error."""
        self.peer.failures += not self.is_over and is_failure(error.code)
        self.answer(self.peer.packer.error(self.head.msgid, error))

    def malformed(self) -> None:
        """Let the writer of the request know the price: its connection. A relay is told to let its own peer know."""
        if not self.is_over:
            self.peer.malformed(self.head.msgid)
            self.peer.settle(self)

    def rest(self, *, is_long: bool = False) -> None:
        """Keep nobody waiting any more: what is left of the answer goes out bit by bit."""
        if self.has_turn:
            self.peer.admission.rest(self, is_long=is_long)
            self.peer.look()

    def wait(self) -> None:
        """Keep nobody waiting, since what the call waits for may not happen for long. Who passed it on is told."""
        if error := self.peer.admission.wait(self):
            self.stop(error)
            return
        self.peer.look()
        if self.peer.is_relay and not self.was_told:
            self.was_told = True
            self.peer.send(self.peer.packer.notification(WAITS, [self.head.msgid]))

    def let_go(self) -> None:
        """Be held by one thing less."""
        self.peer.admission.let_go(self)
        self.peer.look()

    def stop(self, error: Error) -> None:
        """Answer with an error, and stop what goes on for it."""
        if not self.is_over:
            self.fail(error)
            self._drop()

    def cancel(self) -> None:
        """Drop the call: nobody waits for it any more."""
        if not self.is_over:
            self.peer.settle(self)
            self._drop()

    def _drop(self) -> None:
        self.body, self.request = b"", None  # what a thread works on still is counted until it lets go
        if self.work is not None:
            self.work.cancel(self)


class Peer(Sender, asyncio.BufferedProtocol):
    """One connection.

    :param receiver: who is told what arrives.
    :param all_: what all connections cost.
    """

    def __init__(self, receiver: Receiver, all_: Admission[Call]) -> None:
        super().__init__()
        self.admission = all_
        self.calls: dict[int, Call] = {}
        """The calls of this peer that are to be answered, by msgid."""
        self.is_relay = False
        """Whether it passes on the calls of others, and so must not be cut off for what they wrote."""
        self.failures = 0
        """How many of its calls failed: were answered with an error that means that something is broken."""
        self.calls_taken = 0
        """How many of its calls were taken."""
        self.packer, self._receiver = Packer(), receiver
        self._splitter = Splitter(all_.limits.max_frame_bytes)
        self._arrived: deque[bytes] = deque()
        self._has_begun = False
        """Whether a message has arrived in part."""
        self._reading = True
        self._closing = False
        self._watching: asyncio.TimerHandle | None = None
        self._when_writable: list[Any] = []

    # -- what the receiver and the calls call

    @property
    def unsent(self) -> int:
        """How many bytes wait to be taken by the other side."""
        return self.account.queued + self.account.unsent

    def writable(self, go_on: Any) -> bool:
        """Whether what is sent now is taken soon. If not, ``go_on`` is called once it is."""
        if self.account.is_slow:
            self._when_writable.append(go_on)
        return not self.account.is_slow

    def be_of_our_tree(self) -> None:
        """Be let in always, and cut off for none of what others do whose calls are passed on."""
        self._splitter.limit = MAX_FRAME
        self.admission.trust(self.account)

    def refuse_call(self, msgid: int, error: Error) -> None:
        """Answer a request that is no call."""
        self.failures += is_failure(error.code)
        self.send(self.packer.error(msgid, error))

    def settle(self, call: Call) -> None:
        """Wait for a call no more."""
        del self.calls[call.head.msgid]
        self.admission.end(call)
        if not self.calls or self.admission.is_waited_for:
            self._receiver.go_on()

    def look(self) -> None:
        """Have calls begin soon, if any may."""
        if self.admission.is_waited_for:
            self._receiver.go_on()

    def cancel(self, msgid: int) -> None:
        """Drop a call that the other side waits for no more."""
        if call := self.calls.get(msgid):
            call.cancel()

    def carry(self, head: Head, body: bytes) -> None:
        """Pass a message of a stream on to its call. One that comes after the end of the call means nothing any more."""
        msgid, rest_at = streamed(body, head.params_at)
        if call := self.calls.get(msgid):
            try:
                if call.work is None:
                    raise MessageError("this call has no stream")
                call.work.carry(call, head.method, body, rest_at)
            except MessageError:
                if not self.is_relay:
                    raise
                call.cancel()
                self.malformed(msgid)

    def malformed(self, msgid: int) -> None:
        """Cut off who wrote a request that cannot be decoded, or have a relay do it."""
        if self.is_relay:
            self.send(self.packer.notification(MALFORMED, [msgid]))
        else:
            self.refuse("the params of its request cannot be decoded")

    def turn_away(self, error: Error) -> None:
        """Close a connection of which nothing was taken, and say why."""
        _log.warning("a connection is refused", extra={"reason": error.message, **self._who()})
        self.send(self.packer.refusal(error))
        self.close()

    def refuse(self, why: str) -> None:
        """Cut off a peer that broke the protocol."""
        _log.warning("a peer broke the protocol", extra={"reason": why, **self._who()})
        self.abort()

    def flushed(self) -> None:
        """Count what the other side has not taken, if it is slow; if not, more of its calls may begin."""
        if self.account.is_slow:
            self._note_unsent()
            self._cut_off()
        else:
            self.admission.took(self.account)
            self.look()

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
        if self._has_begun or self._splitter.missing:
            self._has_begun = self._splitter.missing > 0
            self.admission.began(self.account, self._splitter.held)
            self._cut_off()
        self._take_some()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._outgoing.clear()
        self._arrived.clear()
        for call in list(self.calls.values()):
            call.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self.admission.disconnect(self.account)
        self._receiver.lost(self)

    def pause_writing(self) -> None:
        """Read no more requests from a peer that does not take its answers."""
        self._note_unsent(is_slow=True)
        self._watching = self._watching or self._loop.call_later(UNREAD_SECONDS, self._watch)
        self._balance()

    def resume_writing(self) -> None:
        """Read on."""
        self._note_unsent(is_slow=False)
        self._balance()
        waiting, self._when_writable = self._when_writable, []
        for go_on in waiting:
            go_on()
        self.look()

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
                    if head.msgid in self.calls:
                        raise MessageError(f"the msgid {head.msgid} is in flight already")
                    route = receiver.route(self, head, body)
                    if route is not None:
                        self._take_call(route, head, body)
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

    def _take_call(self, route: Route, head: Head, body: bytes) -> None:
        """Take a call; it begins now, or in its turn, unless it is refused."""
        store, lane, may_upload = route
        is_upload = may_upload and read_meta(body, head).get("stream") is True
        call = Call(self, head, body, store, lane, is_upload=is_upload)
        error = self.admission.arrive(call)
        if error is not None:
            self.send(self.packer.error(head.msgid, error))
            return
        self.calls_taken += 1
        self.calls[head.msgid] = call
        if call.has_turn or is_upload:
            store.take(call)

    def _note_unsent(self, *, is_slow: bool | None = None) -> None:
        """Count what the other side has not taken."""
        account = self.account
        unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        is_slow = account.is_slow if is_slow is None else is_slow
        self.admission.lies(account, unsent, self._written - unsent, time.monotonic(), is_slow=is_slow)

    def _watch(self) -> None:
        """Look again at who does not take its answers."""
        self._watching = None
        if self.account.is_slow and self._transport is not None:
            self._note_unsent()
            self._watching = self._loop.call_later(UNREAD_SECONDS, self._watch)
            self._cut_off()

    def _cut_off(self) -> None:
        """Cut off whoever costs too much now."""
        for account, why in self.admission.excess(time.monotonic()):
            account.peer.refuse(why)

    def _balance(self) -> None:
        """Read exactly while what was read is passed on and the peer takes its answers."""
        # Behind a process of our tree others wait, and windows bound what it does not take.
        wanted = (not self.account.is_slow or self.account.client.is_ours) and not self._arrived
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
