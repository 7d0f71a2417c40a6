"""The composite: a process that puts a session store and an artifact store behind one name.

    client ──► [0, 7, "put", …] ──► route by method ──► [0, 91, "put", …] ──► link to the artifact store
    client ◄── [1, 7, …] ◄──────── remember 91 → (client, 7) ◄── [1, 91, …] ◄──┘

It never waits and decodes nothing but the head of a message: it writes an id of its own in front, passes the rest on as
it is, and remembers whose call it was. When a store goes away, every call in flight to it is answered at once; calls to
the other one notice nothing. A module-backed reference runs in this process and needs no link.

At its first start both stores must be up. A composite that is started again serves whatever is there, and connects to the
rest as soon as that is back: a store that is away must not take the other one with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asm.core.errors import Error
from asm.operations import METHODS, OPTIONAL
from asm.processes import server
from asm.processes.access import Access
from asm.processes.backends import unknown_operation
from asm.processes.hosted import Hosted
from asm.processes.limits import Limits, Load
from asm.processes.logs import LogStyle
from asm.processes.peers import Peer
from asm.processes.reports import is_failure
from asm.processes.server import Lifeline
from asm.processes.turns import Turns, may_wait
from asm.wire.frames import MAX_FRAME
from asm.wire.messages import (
    CANCEL,
    HELLO,
    MALFORMED,
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

__all__ = ["Composite", "Link", "Module", "Named", "main"]

_log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 10.0
"""How long a composite that starts waits for each of its stores."""

RECONNECT_SECONDS: Final = 0.5
"""How long one that is started again waits for each of them, before it serves without."""

RETRY_SECONDS: Final = 0.1
"""How long to wait before connecting again to a store of which not even the socket is there."""

HEAD_BYTES: Final = 16
"""More than a msgid of ours may add to a message."""

MAX_UNSENT: Final = 64 * 1024 * 1024
"""With this many bytes that a store has not taken, further calls to it are refused as ``overloaded``."""


@dataclass(frozen=True, slots=True)
class Named:
    """A reference to a running store."""

    name: str
    path: str
    """Its socket."""


@dataclass(frozen=True, slots=True)
class Module:
    """A reference to a store that the composite runs itself."""

    name: str
    store: str | type
    options: Mapping[str, Any] = field(default_factory=dict)


def main(
    lifeline: Lifeline,
    *,
    name: str,
    session_store: Named | Module,
    artifact_store: Named | Module,
    waits: bool = False,
    log: LogStyle | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> None:
    """Be a composite: what its process runs.

    :param lifeline: the way to the parent.
    :param name: the name to serve.
    :param session_store: where calls of the session contract go.
    :param artifact_store: where calls of the artifact contract go.
    :param waits: whether to serve the name while the service of a store that runs in here is away, and to wait for it.
    :param log: how to log.
    :param limits: what connections may cost.
    :param access: who may connect.
    """
    references = {"session": session_store, "artifact": artifact_store}
    again = lifeline.restarts > 0

    def prepare() -> dict[str, Hosted]:
        return {
            contract: _open(reference, contract, waits=waits, recovers=lifeline.recovers)
            for contract, reference in references.items()
            if isinstance(reference, Module)
        }

    async def start(opened: dict[str, Hosted]) -> Composite:
        stores: dict[str, Link | Hosted] = dict(opened)
        try:
            for contract, reference in references.items():
                if isinstance(reference, Named):
                    stores[contract] = link = Link(reference, contract)
                    await link.connect(again=again)
        except BaseException:
            for store in stores.values():
                store.close()
            raise
        return Composite(name, stores)

    server.run(lifeline, name, prepare, start, log, limits, access)


class Composite:
    """The service of a composite."""

    def __init__(self, name: str, stores: Mapping[str, Link | Hosted]) -> None:
        self._name = name
        self._stores = stores
        self._hosted = [store for store in stores.values() if isinstance(store, Hosted)]
        self._routes = {
            method: stores[OPTIONAL.get(operation.contract, operation.contract)] for method, operation in METHODS.items()
        }

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts that it serves."""
        return tuple(contract for store in self._stores.values() for contract in store.contracts)

    @property
    def away(self) -> Error | None:
        """Why a store that runs in here cannot be used at the moment."""
        return next((store.away for store in self._hosted if store.away is not None), None)

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Serve, and tell what becomes of the stores that run in here."""
        for store in self._hosted:
            store.begin(changed, failed)

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with a store that runs in here, if anything is."""
        found = (store.health.trouble(now) for store in self._hosted)
        return next((error for error in found if error is not None), None)

    def call(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass a call on to the store whose contract has it."""
        store = self._routes.get(head.method)
        if store is None:
            peer.answer_error(head.msgid, unknown_operation(self._name, head.method, self._routes))
        else:
            store.call(peer, head, body)

    def interrupt(self, error: Error) -> None:
        """End the long-polls."""
        for store in self._stores.values():
            store.interrupt(error)

    def close(self) -> None:
        """Let go of both stores."""
        for store in self._stores.values():
            store.close()


class _Forwarded:
    """A call that was passed on, and whose it is."""

    __slots__ = ("client", "link", "method", "msgid", "own_msgid", "waits")

    def __init__(self, link: Link, own_msgid: int, client: Peer, head: Head, body: bytes) -> None:
        self.link = link
        self.own_msgid = own_msgid
        self.client = client
        self.msgid = head.msgid
        self.method = head.method
        self.waits = may_wait(head, body)

    def cancel(self) -> None:
        self.link.cancel(self.own_msgid)

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        self.link.carry(method, self.own_msgid, body, rest_at)


class Link:
    """The connection to a running store, which is made again whenever it breaks.

    :param target: the store.
    :param contract: the contract that is expected of it.
    """

    def __init__(self, target: Named, contract: str) -> None:
        self._target = target
        self._contract = contract
        self.contracts: tuple[str, ...] = (contract,)
        """The contracts that the store serves, as far as it has said."""
        self._turns = Turns(self._forward)
        self.call = self._turns.call
        """Pass a call on, or say at once why not."""
        self._packer = Packer()
        self._peer: Peer | None = None
        self._in_flight: dict[int, _Forwarded] = {}
        self._last_msgid = 0
        self._hello: asyncio.Future[dict[str, Any]] | None = None
        self._hello_msgid = 0
        self._up = False
        self._refused = False
        """Whether nobody listens on the store's socket: its supervisor has given it up."""
        self._gone = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    # -- what the composite calls

    async def connect(self, *, again: bool = False) -> None:
        """Connect for the first time, and from then on stay connected.

        :param again: another process did so before. Then a store that does not answer soon is connected to later.
        :raises Error: ``storage_connection_failed`` when the store does not answer, and ``validation_error`` when it is
            no store of this contract.
        """
        name, path = self._target.name, self._target.path
        try:
            async with asyncio.timeout(RECONNECT_SECONDS if again else CONNECT_SECONDS):
                answer = await self._reach()
        except (OSError, TimeoutError, Error) as error:
            if again:
                _log.warning("store is away", extra={"store": name, "reason": str(error) or "it does not answer"})
                self._refused = isinstance(error, ConnectionRefusedError)
                self._gone.set()
                self._keeping = asyncio.create_task(self._keep_connected())
                return
            why = str(error) or "it does not answer"
            raise Error(
                "storage_connection_failed",
                f"the {self._contract}_store {name} cannot be reached at {path} ({why}); start it before the composite",
                details={"name": name, "path": path},
            ) from error
        if self._contract not in answer.get("contracts", ()):
            self.close()
            raise Error(
                "validation_error",
                f"{name} is no {self._contract} store: it serves {', '.join(answer.get('contracts', ()))}",
                details={"field": f"{self._contract}_store", "name": name},
            )
        self._up = True
        self.contracts = tuple(answer["contracts"])
        self._keeping = asyncio.create_task(self._keep_connected())

    def _forward(self, client: Peer, head: Head, body: bytes) -> None:
        peer = self._peer
        if not self._up or peer is None:
            reason = ("backend_failed", "has failed") if self._refused else ("backend_restarting", "is being restarted")
            client.answer_error(head.msgid, self._away(*reason, head.method))
        elif len(body) - head.method_at > MAX_FRAME - HEAD_BYTES:
            problem = f"a message of {len(body)} bytes cannot be passed on; at most {MAX_FRAME - HEAD_BYTES} can"
            client.answer_error(head.msgid, Error("validation_error", problem, details={"byte_size": len(body)}))
        elif not peer.is_writable and peer.unsent > MAX_UNSENT:
            client.answer_error(head.msgid, self._away("overloaded", "does not keep up", head.method))
        else:
            msgid = self._next_msgid()
            forwarded = _Forwarded(self, msgid, client, head, body)
            self._in_flight[msgid] = client.calls[head.msgid] = forwarded
            peer.send(request_head(msgid), body[head.method_at :])

    def cancel(self, msgid: int) -> None:
        """Tell the store that nobody waits for a call any more."""
        if self._in_flight.pop(msgid, None) is not None and self._peer is not None:
            self._peer.send(self._packer.notification(CANCEL, [msgid]))

    def carry(self, method: bytes, msgid: int, body: bytes, rest_at: int) -> None:
        """Pass on a message of a client's stream.

        :raises MessageError: when the client sends far more than the store takes, which a window forbids.
        """
        if self._peer is not None:
            if len(body) > 2 * PIECE or self._peer.unsent > 2 * MAX_UNSENT:
                raise MessageError("more was sent than a window allows")
            self._peer.send(*relayed(method, msgid, body, rest_at))

    def interrupt(self, error: Error) -> None:
        """Answer those who wait for what may not happen for long, and let the store know."""
        for msgid, forwarded in list(self._in_flight.items()):
            if forwarded.waits:
                self.cancel(msgid)
                forwarded.client.answer_error(forwarded.msgid, error)

    def close(self) -> None:
        """Disconnect for good."""
        if self._keeping is not None:
            self._keeping.cancel()
        self._up = False
        if self._peer is not None:
            self._peer.abort()

    # -- Receiver

    def request(self, peer: Peer, head: Head, body: bytes) -> None:
        """Refuse: a store asks nothing of a composite."""
        raise MessageError("a store sent a request")

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass an answer on to the client that waits for it. If none does any more, drop it."""
        forwarded = self._in_flight.pop(head.msgid, None)
        if forwarded is not None:
            code = error_code(body, head.params_at)
            forwarded.client.failures += code is not None and is_failure(code)
            forwarded.client.answer(forwarded.msgid, response_head(forwarded.msgid), body[head.params_at :])
        elif self._hello is not None and head.msgid == self._hello_msgid:
            self._greet(body)

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass on a message of a stream, or cut off the client that wrote what the store could not decode."""
        if head.method in (CHUNK, MORE):
            msgid, rest_at = streamed(body, head.params_at)
            if carrier := self._in_flight.get(msgid):
                carrier.client.leave_turn(carrier.msgid)  # what goes on for long keeps nobody waiting
                carrier.client.send(*relayed(head.method, carrier.msgid, body, rest_at))
        elif head.method == MALFORMED:
            (msgid,) = decode(memoryview(body)[head.params_at :])
            if forwarded := self._in_flight.pop(msgid, None):
                forwarded.client.malformed(forwarded.msgid)

    def settled(self, peer: Peer) -> None:
        """Do nothing: a link takes no calls."""

    def lost(self, peer: Peer) -> None:
        """Answer every call in flight, and those that wait for their turn: the store is gone, and nobody waits on a corpse."""
        if peer is not self._peer:
            return
        in_flight, self._in_flight = self._in_flight, {}
        calls = [(forwarded.client, forwarded.msgid, forwarded.method) for forwarded in in_flight.values()]
        calls += [(client, head.msgid, head.method) for client, head in self._turns.take_waiting()]
        if self._up:
            _log.warning("store lost", extra={"store": self._target.name, "in_flight": len(calls)})
        self._peer, self._up = None, False
        for client, msgid, method in calls:
            client.answer_error(msgid, self._away("backend_exited", "went away during the call", method))
        if self._hello is not None and not self._hello.done():
            self._hello.set_exception(ConnectionResetError("it closed the connection"))
        self._gone.set()

    # -- inside

    async def _reach(self) -> dict[str, Any]:
        """Connect, and return the store's answer to ``hello``.

        The socket outlives the process behind it, so the connection alone says nothing: only the answer shows that
        a process is there and takes calls.
        """
        loop = asyncio.get_running_loop()
        check_owner(self._target.path)
        load = Load(Limits(bytes_unread=4 * MAX_UNSENT, total_bytes_unread=4 * MAX_UNSENT))
        transport, peer = await loop.create_unix_connection(lambda: Peer(self, load), self._target.path)
        self._peer = peer
        self._gone.clear()
        self._hello = loop.create_future()
        self._hello_msgid = self._next_msgid()
        try:
            check_listener(transport.get_extra_info("socket"), self._target.path)
            peer.send(self._packer.request(self._hello_msgid, HELLO.decode(), {"relay": True}))
            return await self._hello
        except BaseException:
            peer.abort()
            raise
        finally:
            self._hello = None

    async def _keep_connected(self) -> None:
        """Whenever the store is lost, connect again."""
        while True:
            await self._gone.wait()
            try:
                answer = await self._reach()
            except (OSError, Error) as error:
                self._refused = isinstance(error, ConnectionRefusedError)
                await asyncio.sleep(RETRY_SECONDS)  # the next try is due then; there is no event to wait for
            else:
                self._up, self._refused = True, False
                self.contracts = tuple(answer.get("contracts", self.contracts))
                _log.info("store is back", extra={"store": self._target.name})

    def _greet(self, body: bytes) -> None:
        assert self._hello is not None
        if self._hello.done():
            return
        try:
            _msgid, answer = decode_response(body)
        except Error as error:
            self._hello.set_exception(error)
        else:
            self._hello.set_result(answer if isinstance(answer, dict) else {})

    def _next_msgid(self) -> int:
        """Return an id that no call in flight has."""
        while True:
            self._last_msgid = (self._last_msgid + 1) & 0xFFFFFFFF
            if self._last_msgid not in self._in_flight:
                return self._last_msgid

    def _away(self, reason: str, what: str, method: bytes) -> Error:
        name, operation = self._target.name, operation_name(method)
        return Error("storage_error", f"{name} {what}", details={"reason": reason, "backend": name, "operation": operation})


def _open(reference: Module, contract: str, *, waits: bool, recovers: bool) -> Hosted:
    """Make a store that runs in this process.

    :raises Error: why it cannot be.
    """
    hosted = Hosted(reference.name, reference.store, reference.options, waits=waits, recovers=recovers)
    if hosted.contract != contract:
        raise Error("validation_error", f"{reference.name} is no {contract} store", details={"field": f"{contract}_store"})
    hosted.open()
    return hosted
