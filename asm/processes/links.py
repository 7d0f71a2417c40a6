"""Links: how a composite reaches a running store.

    call ──► Link: an id of its own ──► Peer ──► the store
    answer ◄── whose call was it? ◄──── Peer ◄──┘   lost: every call in flight is answered at once
                 Dialer: connects, says hello, and again whenever the connection is lost

A link never waits and decodes nothing but the head of a message: it writes an id of its own in front, passes the rest on as it
is, and remembers whose call it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from asm.core.errors import Error
from asm.operations import METHODS, OPTIONAL
from asm.processes.accounts import Lane
from asm.processes.admission import Admission
from asm.processes.limits import Limits, overloaded
from asm.processes.peers import Call, Peer
from asm.processes.reports import is_failure
from asm.processes.roles import Route
from asm.wire.frames import MAX_FRAME
from asm.wire.messages import (
    CANCEL,
    HELLO,
    MALFORMED,
    WAITS,
    Head,
    MessageError,
    Packer,
    decode,
    decode_response,
    error_code,
    operation_name,
    request_head,
    response_head,
)
from asm.wire.names import check_listener, check_owner
from asm.wire.streams import CHUNK, MORE, PIECE, relayed, streamed

__all__ = ["Link", "Named"]

_log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 10.0
"""How long a composite that starts waits for each of its stores."""

RECONNECT_SECONDS: Final = 0.5
"""How long one that is started again waits for each of them, before it serves without."""

RETRY_SECONDS: Final = 0.1
"""How long to wait before connecting again to a store of which not even the socket is there."""

HEAD_BYTES: Final = 16
"""More than a msgid of ours may add to a message."""

HELLO_ID: Final = 0
"""The msgid of ``hello``. No call has it."""


@dataclass(frozen=True, slots=True)
class Named:
    """A reference to a running store."""

    name: str
    path: str
    """Its socket."""


class Link:
    """Passes calls on to a running store, and its answers back.

    :param target: the store.
    :param contract: the contract that is expected of it.
    :param limits: what calls may cost.
    :param key: what the processes of our tree say to know each other.
    """

    away = None
    """A store that is away is no trouble of the composite: the other one is served."""

    def __init__(self, target: Named, contract: str, limits: Limits, key: str | None = None) -> None:
        self._lane = lane = Lane()
        self.lanes = {
            method: lane for method, item in METHODS.items() if OPTIONAL.get(item.contract, item.contract) == contract
        }
        self.contracts: tuple[str, ...] = (contract,)
        """The contracts that the store serves, as far as it has said."""
        self._name = target.name
        self._most_untaken = limits.bytes_untaken
        self._packer = Packer()
        self._peer: Peer | None = None
        """The connection, as long as there is one and the store has said hello."""
        self._calls: dict[int, Call] = {}
        self._last_msgid = HELLO_ID
        self._interrupted: Error | None = None
        self._dialer = Dialer(self, target, contract, limits, key)

    # -- what the composite calls

    async def connect(self, *, again: bool = False) -> None:
        """Connect for the first time, and from then on stay connected.

        :param again: another process did so before. Then a store that does not answer soon is connected to later.
        :raises Error: ``storage_connection_failed`` when the store does not answer, and ``validation_error`` when it is
            no store of this contract.
        """
        await self._dialer.connect(again=again)

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Do nothing: the link is there."""

    def trouble(self, now: float) -> Error | None:
        """Return nothing: the store tells its own process what is wrong with it."""
        return None

    def take(self, call: Call) -> None:
        """Pass a call on, or say at once why not."""
        peer, head, body = self._peer, call.head, call.body
        if peer is None:
            reason = (
                ("backend_failed", "has failed") if self._dialer.is_refused else ("backend_restarting", "is being restarted")
            )
            call.fail(self._gone(*reason, head.method))
        elif len(body) - head.method_at > MAX_FRAME - HEAD_BYTES:
            problem = f"a message of {len(body)} bytes cannot be passed on; at most {MAX_FRAME - HEAD_BYTES} can"
            call.fail(Error("validation_error", problem, details={"byte_size": len(body)}))
        elif peer.account.is_slow and peer.unsent > self._most_untaken:
            call.fail(overloaded(f"{self._name} does not keep up"))
        else:
            call.key = self._next_msgid()
            call.work, call.body = self, b""
            self._calls[call.key] = call
            peer.send(request_head(call.key), body[head.method_at :])

    def interrupt(self, error: Error) -> None:
        """Answer those who wait for what may not happen for long, and let the store know."""
        self._interrupted = error
        for call in list(self._calls.values()):
            if call.waits:
                call.stop(error)

    def close(self) -> None:
        """Disconnect for good."""
        self._peer = None
        self._dialer.close()

    # -- Work

    def cancel(self, call: Call) -> None:
        """Tell the store that nobody waits for a call any more."""
        if self._calls.pop(call.key, None) is not None and self._peer is not None:
            self._peer.send(self._packer.notification(CANCEL, [call.key]))

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Pass on a message of a client's stream.

        :raises MessageError: when the client sends far more than the store takes, which a window forbids.
        """
        if self._peer is not None:
            if len(body) > 2 * PIECE or self._peer.unsent > 2 * self._most_untaken:
                raise MessageError("more was sent than a window allows")
            self._peer.send(*relayed(method, call.key, body, rest_at))

    # -- Receiver

    def route(self, peer: Peer, head: Head, body: bytes) -> Route | None:
        """Refuse: a store asks nothing of a composite."""
        raise MessageError("a store sent a request")

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass an answer on to the client that waits for it. If none does any more, drop it."""
        call = self._calls.pop(head.msgid, None)
        if call is not None:
            code = error_code(body, head.params_at)
            call.peer.failures += code is not None and is_failure(code)
            call.answer(response_head(call.head.msgid), body[head.params_at :])
        elif head.msgid == HELLO_ID:
            self._dialer.greet(body)

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass on a message of a stream, let others go before who waits, or cut off who wrote what cannot be decoded."""
        if head.method in (CHUNK, MORE):
            msgid, rest_at = streamed(body, head.params_at)
            if call := self._calls.get(msgid):
                call.rest(is_long=True)  # what goes on for long keeps nobody waiting
                call.peer.send(*relayed(head.method, call.head.msgid, body, rest_at))
        elif head.method in (WAITS, MALFORMED):
            (msgid,) = decode(memoryview(body)[head.params_at :])
            call = self._calls.get(msgid)
            if call is not None and head.method == MALFORMED:
                del self._calls[msgid]
                call.malformed()
            elif call is not None and not call.waits:
                call.wait()
                if self._interrupted is not None:
                    call.stop(self._interrupted)

    def lost(self, peer: Peer) -> None:
        """Answer every call in flight, and those that wait for their turn: the store is gone, and nobody waits on a corpse."""
        if peer is self._peer:
            calls, self._calls = [*self._calls.values(), *self._lane.waiting()], {}
            _log.warning("store lost", extra={"store": self._name, "in_flight": len(calls)})
            self._peer = None
            for call in calls:
                call.fail(self._gone("backend_exited", "went away during the call", call.head.method))
        self._dialer.lost(peer)

    def go_on(self) -> None:
        """Do nothing: no calls come from a store."""

    # -- what the dialer calls

    def connected(self, peer: Peer, contracts: tuple[str, ...]) -> None:
        """Pass calls on from now on."""
        self._peer, self.contracts = peer, contracts

    # -- inside

    def _next_msgid(self) -> int:
        """Return an id that no call in flight has."""
        while True:
            self._last_msgid = self._last_msgid % 0xFFFFFFFF + 1
            if self._last_msgid not in self._calls:
                return self._last_msgid

    def _gone(self, reason: str, what: str, method: bytes) -> Error:
        details = {"reason": reason, "backend": self._name, "operation": operation_name(method)}
        return Error("storage_error", f"{self._name} {what}", details=details)


class Dialer:
    """Connects a link to its store, now and whenever the connection is lost.

    :param link: told of each connection.
    :param target: the store.
    :param contract: the contract that is expected of it.
    :param limits: what calls may cost.
    :param key: what the processes of our tree say to know each other.
    """

    def __init__(self, link: Link, target: Named, contract: str, limits: Limits, key: str | None) -> None:
        self.is_refused = False
        """Whether nobody listens on the store's socket: its supervisor has given it up."""
        self._link = link
        self._target = target
        self._contract = contract
        self._limits = Limits(total_bytes_unread=2 * limits.bytes_untaken)
        self._hello_arguments = {"relay": True} | ({} if key is None else {"tree": key})
        self._peer: Peer | None = None
        self._hello: asyncio.Future[dict[str, Any]] | None = None
        self._gone = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def connect(self, *, again: bool) -> None:
        """Connect for the first time, and from then on stay connected. As :meth:`Link.connect`."""
        name, path = self._target.name, self._target.path
        try:
            async with asyncio.timeout(RECONNECT_SECONDS if again else CONNECT_SECONDS):
                contracts = await self._reach()
        except (OSError, TimeoutError, Error) as error:
            if not again:
                why = str(error) or "it does not answer"
                raise Error(
                    "storage_connection_failed",
                    f"the {self._contract}_store {name} cannot be reached at {path} ({why}); start it before the composite",
                    details={"name": name, "path": path},
                ) from error
            _log.warning("store is away", extra={"store": name, "reason": str(error) or "it does not answer"})
            self.is_refused = isinstance(error, ConnectionRefusedError)
            self._gone.set()
        else:
            if self._contract not in contracts:
                self.close()
                raise Error(
                    "validation_error",
                    f"{name} is no {self._contract} store: it serves {', '.join(contracts)}",
                    details={"field": f"{self._contract}_store", "name": name},
                )
        self._keeping = asyncio.create_task(self._keep_connected())

    def greet(self, body: bytes) -> None:
        """Take the answer to ``hello``."""
        if self._hello is None or self._hello.done():
            return
        try:
            _msgid, answer = decode_response(body)
        except Error as error:
            self._hello.set_exception(error)
        else:
            self._hello.set_result(answer if isinstance(answer, dict) else {})

    def lost(self, peer: Peer) -> None:
        """Connect again."""
        if peer is not self._peer:
            return
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(ConnectionResetError("it closed the connection"))
        self._gone.set()

    def close(self) -> None:
        """Disconnect for good."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._peer is not None:
            self._peer.abort()

    async def _reach(self) -> tuple[str, ...]:
        """Connect; return the contracts that the store serves, when it has said so.

        The socket outlives the process behind it, so the connection alone says nothing: only the answer to ``hello`` shows that
        a process is there and takes calls.
        """
        loop = asyncio.get_running_loop()
        check_owner(self._target.path)
        transport, peer = await loop.create_unix_connection(self._dial, self._target.path)
        self._peer = peer
        self._gone.clear()
        self._hello = loop.create_future()
        try:
            check_listener(transport.get_extra_info("socket"), self._target.path)
            peer.send(peer.packer.request(HELLO_ID, HELLO.decode(), self._hello_arguments))
            contracts = tuple((await self._hello).get("contracts", ()))
        except BaseException:
            peer.abort()
            raise
        finally:
            self._hello = None
        self._link.connected(peer, contracts)
        self.is_refused = False
        return contracts

    def _dial(self) -> Peer:
        """Return what is at our end of a connection to the store."""
        admission: Admission[Call] = Admission(self._limits)
        peer = Peer(self._link, admission)
        account, _ = admission.connect(0, peer)
        assert not isinstance(account, Error)
        peer.account = account
        peer.be_of_our_tree()
        return peer

    async def _keep_connected(self) -> None:
        """Whenever the store is lost, connect again."""
        while True:
            await self._gone.wait()
            try:
                await self._reach()
            except (OSError, Error) as error:
                self.is_refused = isinstance(error, ConnectionRefusedError)
                await asyncio.sleep(RETRY_SECONDS)  # the next try is due then; there is no event to wait for
            else:
                _log.info("store is back", extra={"store": self._target.name})
