"""The composite: a process that puts a session store and an artifact store behind one name.

    client ──► [0, 7, "put", …] ──► route by method ──► [0, 91, "put", …] ──► link to the artifact store
    client ◄── [1, 7, …] ◄──────── remember 91 → (client, 7) ◄── [1, 91, …] ◄──┘

It never waits and decodes nothing but the head of a message: it writes an id of its own in front, passes the rest on as
it is, and remembers whose call it was. When a store goes away, every call in flight to it is answered at once; calls to
the other one notice nothing. A module-backed reference runs in this process and needs no link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asm.core.errors import Error
from asm.operations import OPERATIONS
from asm.processes import server
from asm.processes.backends import Backend, perform, unknown_operation
from asm.processes.logs import LogStyle
from asm.processes.peers import Limits, Peer
from asm.processes.server import Lifeline
from asm.processes.worker import open_store
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
    request_head,
    response_head,
)
from asm.wire.streams import CHUNK, MORE, PIECE, relayed, streamed

__all__ = ["Composite", "Link", "Module", "Named", "main"]

_log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 10.0
"""How long a composite that starts waits for each of its stores."""

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
    log: LogStyle | None = None,
) -> None:
    """Be a composite: what its process runs.

    :param lifeline: the way to the parent.
    :param name: the name to serve.
    :param session_store: where calls of the session contract go.
    :param artifact_store: where calls of the artifact contract go.
    :param log: how to log.
    """

    async def start() -> Composite:
        stores = {"session": await _attach(session_store, "session")}
        try:
            stores["artifact"] = await _attach(artifact_store, "artifact")
        except BaseException:
            stores["session"].close()
            raise
        return Composite(name, stores)

    server.run(lifeline, name, start, log)


class Composite:
    """The service of a composite."""

    contracts = ("session", "artifact")

    def __init__(self, name: str, stores: Mapping[str, Link | _Local]) -> None:
        self._name = name
        self._stores = stores
        self._routes = {key.encode(): stores[operation.contract] for key, operation in OPERATIONS.items()}

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


class _Local:
    """A store that runs in this process."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.interrupt = backend.interrupt
        self.close = backend.close

    def call(self, peer: Peer, head: Head, body: bytes) -> None:
        perform(self._backend, peer, head, body)


class _Forwarded:
    """A call that was passed on, and whose it is."""

    __slots__ = ("client", "link", "method", "msgid", "own_msgid", "waits")

    def __init__(self, link: Link, own_msgid: int, client: Peer, head: Head, body: bytes) -> None:
        self.link = link
        self.own_msgid = own_msgid
        self.client = client
        self.msgid = head.msgid
        self.method = head.method
        self.waits = head.method == b"get_events" and b"wait_timeout_ms" in body
        """Whether it may be a long-poll, as far as can be seen without decoding it."""

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
        self._packer = Packer()
        self._peer: Peer | None = None
        self._in_flight: dict[int, _Forwarded] = {}
        self._last_msgid = 0
        self._hello: asyncio.Future[dict[str, Any]] | None = None
        self._hello_msgid = 0
        self._up = False
        self._gone = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    # -- what the composite calls

    async def connect(self) -> None:
        """Connect for the first time, and from then on stay connected.

        :raises Error: ``storage_connection_failed`` when the store does not answer, and ``validation_error`` when it is
            no store of this contract.
        """
        name, path = self._target.name, self._target.path
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                answer = await self._reach()
        except (OSError, TimeoutError, Error) as error:
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
        self._keeping = asyncio.create_task(self._keep_connected())

    def call(self, client: Peer, head: Head, body: bytes) -> None:
        """Pass a call on, or say at once why not."""
        peer = self._peer
        if not self._up or peer is None:
            client.answer_error(head.msgid, self._away("backend_restarting", "is being restarted", head.method))
        elif len(body) - head.method_at > MAX_FRAME - HEAD_BYTES:
            problem = f"a message of {len(body)} bytes cannot be passed on; at most {MAX_FRAME - HEAD_BYTES} can"
            client.answer_error(head.msgid, Error("validation_error", problem, details={"byte_size": len(body)}))
        elif peer.unsent > MAX_UNSENT:
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
            forwarded.client.answer(forwarded.msgid, response_head(forwarded.msgid), body[head.params_at :])
        elif self._hello is not None and head.msgid == self._hello_msgid:
            self._greet(body)

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Pass on a message of a stream, or cut off the client that wrote what the store could not decode."""
        if head.method in (CHUNK, MORE):
            msgid, rest_at = streamed(body, head.params_at)
            if carrier := self._in_flight.get(msgid):
                carrier.client.send(*relayed(head.method, carrier.msgid, body, rest_at))
        elif head.method == MALFORMED:
            (msgid,) = decode(memoryview(body)[head.params_at :])
            if forwarded := self._in_flight.pop(msgid, None):
                forwarded.client.malformed(forwarded.msgid)

    def settled(self, peer: Peer) -> None:
        """Do nothing: a link takes no calls."""

    def lost(self, peer: Peer) -> None:
        """Answer every call in flight: the store is gone, and nobody waits on a corpse."""
        if peer is not self._peer:
            return
        if self._up:
            _log.warning("store lost", extra={"store": self._target.name, "in_flight": len(self._in_flight)})
        self._peer, self._up = None, False
        in_flight, self._in_flight = self._in_flight, {}
        for forwarded in in_flight.values():
            error = self._away("backend_exited", "went away during the call", forwarded.method)
            forwarded.client.answer_error(forwarded.msgid, error)
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
        limits = Limits(bytes_unread=4 * MAX_UNSENT)
        _transport, peer = await loop.create_unix_connection(lambda: Peer(self, limits), self._target.path)
        self._peer = peer
        self._gone.clear()
        self._hello = loop.create_future()
        self._hello_msgid = self._next_msgid()
        peer.send(self._packer.request(self._hello_msgid, HELLO.decode(), {"relay": True}, {}))
        try:
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
                await self._reach()
            except (OSError, Error):
                await asyncio.sleep(RETRY_SECONDS)  # the next try is due then; there is no event to wait for
            else:
                self._up = True
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
        name, operation = self._target.name, method.decode()
        return Error("storage_error", f"{name} {what}", details={"reason": reason, "backend": name, "operation": operation})


async def _attach(reference: Named | Module, contract: str) -> Link | _Local:
    """Make a reference good.

    :raises Error: why it is not.
    """
    if isinstance(reference, Named):
        link = Link(reference, contract)
        await link.connect()
        return link
    backend = Backend(reference.name, await asyncio.to_thread(open_store, reference.name, reference.store, reference.options))
    if backend.contract != contract:
        backend.close()
        raise Error("validation_error", f"{reference.name} is no {contract} store", details={"field": f"{contract}_store"})
    return _Local(backend)
