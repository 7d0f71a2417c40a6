"""Peers: the connections of a process, and the calls that come on them.

         bytes ──► Line ──► engine ──┬─ request ──► Call ──► Admission ──► Store.take
                                     └─ cancel, chunk, more ──► Call
    ◄── one write at the end of the loop's turn ◄── send ◄── engine ◄── Call.answer

A line only reads, writes and waits: what may be said when is the engine's (:mod:`asm.wire.conversation`). A peer is one that
somebody made to us. What it costs is counted, and bounded, in :mod:`asm.processes.admission`: with too many calls in flight,
further ones are refused; while it does not take its answers, nothing more is read from it; when too many lie, it is cut off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from asm.core.errors import Error
from asm.processes import accounts
from asm.processes.accounts import Account, Client, Lane
from asm.processes.admission import UNREAD_SECONDS
from asm.processes.loops import Sender
from asm.processes.reports import is_failure
from asm.processes.roles import Route, Store, Work
from asm.wire.conversation import Broken, Callee, Parts, Side
from asm.wire.credentials import credentials
from asm.wire.frames import MAX_FRAME
from asm.wire.messages import Head, MessageError, error_code, read_meta, result_head

if TYPE_CHECKING:
    from asm.processes.gate import Gate

__all__ = ["HEAD_BYTES", "Call", "Line", "Peer"]

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

    __slots__ = ("begin", "body", "head", "key", "msgid", "peer", "request", "was_told", "work")

    def __init__(self, peer: Peer, head: Head, body: bytes, store: Store, lane: Lane, *, is_upload: bool = False) -> None:
        super().__init__(peer.account, lane, len(body), is_upload=is_upload)
        self.peer = peer
        self.head = head
        self.msgid = head.msgid
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

    # -- what makes it calls

    def finish(self, result: bytes) -> None:
        """Answer with the result, encoded."""
        self._answer(self.peer.callee.finish(self, result))

    def fail(self, error: Error) -> None:
        """Answer with an error."""
        self._answer(self.peer.callee.fail(self, error), error.code)

    def respond(self, body: bytes, rest_at: int) -> None:
        """Answer as another store did, whose error and result begin at ``rest_at``."""
        self._answer(self.peer.callee.respond(self, body[rest_at:]), error_code(body, rest_at))

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
        self.peer.send(*self.peer.callee.waits(self))

    def let_go(self) -> None:
        """Be held by one thing less."""
        self.peer.admission.let_go(self)
        self.peer.look()

    def stop(self, error: Error) -> None:
        """Answer with an error, and stop what goes on for it."""
        if not self.is_over:
            self.fail(error)
            self._drop()

    # -- what the engine calls

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take a message of its stream."""
        if self.work is None:
            raise MessageError("this call has no stream")
        self.work.carry(self, method, body, rest_at)

    def cancel(self) -> None:
        """Drop the call: nobody waits for it any more."""
        self.peer.settle(self)
        self._drop()

    def malformed(self) -> None:
        """Drop the call, and let the writer of the request know the price: its connection."""
        if not self.is_over:
            self.peer.malformed(self.msgid)
            self.cancel()

    # -- inside

    def _answer(self, parts: Parts, code: str | None = None) -> None:
        """Send the response, unless nobody waits for it any more."""
        if parts:
            peer = self.peer
            peer.failures += code is not None and is_failure(code)
            self.account.answered(peer.send(*parts))
            peer.settle(self)

    def _drop(self) -> None:
        self.body, self.request = b"", None  # what a thread works on still is counted until it lets go
        if self.work is not None:
            self.work.cancel(self)


class Line(Sender, asyncio.BufferedProtocol):
    """One connection, as far as it is read, written and waited for.

    :param engine: says what may be said on it when.
    :param account: what is known of it.
    """

    def __init__(self, engine: Side[Any], account: Account) -> None:
        super().__init__(account)
        self._engine = engine
        self._is_in_part = False
        """Whether a message has arrived in part."""
        self._reading = True

    def hear(self) -> None:
        """Have the engine look at the next message, and do what that means.

        :raises Broken, MessageError: when it is what the other side may not say.
        """
        raise NotImplementedError

    def arrived_in_part(self, size: int) -> None:
        """Learn how many bytes there are of a message that is not complete."""

    def refuse(self, why: str) -> None:
        """Cut off who broke the protocol."""
        _log.warning("a peer broke the protocol", extra={"reason": why, **self.who()})
        self.abort()

    def close(self) -> None:
        """Write what waits, then close."""
        self.flush()
        self._engine.lose(Broken("the connection was closed"))
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._engine.lose(Broken("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    def who(self) -> dict[str, int]:
        """Say which process the other side is, for the log."""
        connection = self._transport.get_extra_info("socket") if self._transport is not None else None
        if connection is None:
            return {}
        pid, uid, _gid = credentials(connection)
        return {"peer_pid": pid, "peer_uid": uid}

    # -- what the event loop calls

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive."""
        return self._loop.received

    def buffer_updated(self, nbytes: int) -> None:
        """Take in bytes."""
        self.take_in(self._loop.received[:nbytes])

    def take_in(self, data: bytes | memoryview) -> None:
        """Pass on every message that is complete."""
        engine = self._engine
        engine.feed(data)
        splitter = engine.splitter
        if self._is_in_part or splitter.missing:
            self._is_in_part = splitter.missing > 0
            self.arrived_in_part(splitter.held)
        self._hear_some()

    def pause_writing(self) -> None:
        """Read no more from who does not take what is there for it."""
        super().pause_writing()
        self._balance()

    def resume_writing(self) -> None:
        """Read on."""
        super().resume_writing()
        self._balance()

    # -- inside

    def _hear_some(self) -> None:
        """Pass on messages that have arrived; after :data:`BATCH` of them it is the turn of other connections."""
        arrived = self._engine.arrived
        try:
            for _ in range(min(len(arrived), BATCH)):
                self.hear()
        except (Broken, MessageError) as error:
            self.refuse(str(error))
            return
        if arrived:
            self._loop.call_soon(self._hear_some)
        if arrived or not self._reading:
            self._balance()

    def _balance(self) -> None:
        """Read exactly while what was read is passed on and the other side takes what is there for it."""
        # Behind a process of our tree others wait, and windows bound what it does not take.
        wanted = (not self.account.is_slow or self.account.client.is_ours) and not self._engine.arrived
        if wanted != self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()


class Peer(Line):
    """A connection that somebody made to us.

    :param gate: what lets it in.
    """

    def __init__(self, gate: Gate) -> None:
        self.callee: Callee[Call] = Callee(gate.admission.limits.max_frame_bytes)
        super().__init__(self.callee, Account(Client(0), self))
        self.admission = gate.admission
        self.failures = 0
        """How many of its calls failed: were answered with an error that means that something is broken."""
        self.calls_taken = 0
        """How many of its calls were taken."""
        self._gate = gate
        self._watching: asyncio.TimerHandle | None = None
        self._when_writable: list[Any] = []

    # -- what the gate and the calls call

    def writable(self, go_on: Any) -> bool:
        """Whether what is sent now is taken soon. If not, ``go_on`` is called once it is."""
        if self.account.is_slow:
            self._when_writable.append(go_on)
        return not self.account.is_slow

    def be_of_our_tree(self) -> None:
        """Be let in always, and cut off for none of what others do whose calls are passed on."""
        self.callee.splitter.limit = MAX_FRAME
        self.admission.trust(self.account)

    def refuse_call(self, msgid: int, error: Error) -> None:
        """Answer a request that is no call."""
        self.failures += is_failure(error.code)
        self.send(*self.callee.refuse(msgid, error))

    def settle(self, call: Call) -> None:
        """Wait for a call no more."""
        self.admission.end(call)
        if not self.callee.calls or self.admission.is_waited_for:
            self._gate.go_on()

    def look(self) -> None:
        """Have calls begin soon, if any may."""
        if self.admission.is_waited_for:
            self._gate.go_on()

    def malformed(self, msgid: int) -> None:
        """Cut off who wrote a request that cannot be decoded, or have a relay do it."""
        try:
            self.send(*self.callee.malformed(msgid))
        except Broken as error:
            self.refuse(str(error))

    def turn_away(self, error: Error) -> None:
        """Close a connection of which nothing was taken, and say why."""
        _log.warning("a connection is refused", extra={"reason": error.message, **self.who()})
        self.send(*self.callee.turn_away(error))
        self.close()

    # -- what the line calls

    def hear(self) -> None:
        """Take a call, if that is what comes next."""
        request = self.callee.hear()
        if request is not None:
            head, body = request
            route = self._gate.route(self, head, body)
            if route is not None:
                self._take_call(route, head, body)

    def arrived_in_part(self, size: int) -> None:
        """Count it."""
        self.admission.began(self.account, size)
        self._cut_off()

    def lies(self, unsent: int, *, is_slow: bool) -> None:
        """Count it."""
        self.admission.lies(self.account, unsent, self._written - unsent, time.monotonic(), is_slow=is_slow)

    def flushed(self) -> None:
        """Count what the other side has not taken, if it is slow; if not, more of its calls may begin."""
        if self.account.is_slow:
            self.note()
            self._cut_off()
        else:
            self.admission.took(self.account)
            self.look()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or turn away who may not connect."""
        super().connection_made(transport)
        self._gate.enter(self, transport.get_extra_info("socket"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and all calls with it."""
        super().connection_lost(exc)
        for call in self.callee.end(Broken("the connection was closed")):
            call.cancel()
        if self._watching is not None:
            self._watching.cancel()
        self.admission.disconnect(self.account)
        self._gate.lost(self)

    def pause_writing(self) -> None:
        """Read no more requests from who does not take the answers, and watch whether it begins to."""
        super().pause_writing()
        self._watching = self._watching or self._loop.call_later(UNREAD_SECONDS, self._watch)

    def resume_writing(self) -> None:
        """Read on, and let go on what waited."""
        super().resume_writing()
        waiting, self._when_writable = self._when_writable, []
        for go_on in waiting:
            go_on()
        self.look()

    # -- inside

    def _take_call(self, route: Route, head: Head, body: bytes) -> None:
        """Take a call; it begins now, or in its turn, unless it is refused."""
        store, lane, may_upload = route
        is_upload = may_upload and read_meta(body, head).get("stream") is True
        call = Call(self, head, body, store, lane, is_upload=is_upload)
        error = self.admission.arrive(call)
        if error is not None:
            self.send(*self.callee.refuse(head.msgid, error))
            return
        self.calls_taken += 1
        self.callee.begin(call)
        if call.has_turn or is_upload:
            store.take(call)

    def _watch(self) -> None:
        """Look again at who does not take its answers."""
        self._watching = None
        if self.account.is_slow and self._transport is not None:
            self.note()
            self._watching = self._loop.call_later(UNREAD_SECONDS, self._watch)
            self._cut_off()

    def _cut_off(self) -> None:
        """Cut off whoever costs too much now."""
        for account, why in self.admission.excess(time.monotonic()):
            account.peer.refuse(why)
