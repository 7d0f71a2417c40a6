"""The gate: takes the connections that are made to a process, and tells where the calls go that come on them.

    listening socket ──► Entrance ──► Peer, Peer, …  ──► Store.take
                                       │   ▲
                                       ▼   │ where to, and whether now
                                    Gate, Admission

What is decided in :mod:`asm.processes.admission` is done here: connections are turned away, calls that waited are begun and
refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from asm._version import __version__
from asm.core.errors import Error
from asm.operations import METHODS
from asm.processes.access import Access
from asm.processes.admission import Admission
from asm.processes.limits import Limits, overloaded
from asm.processes.loops import Loop
from asm.processes.peers import Call, Peer
from asm.processes.roles import Route
from asm.wire.credentials import credentials
from asm.wire.messages import HELLO, PROTOCOL, Head, MessageError, operation_name, packed

__all__ = ["Entrance", "Gate", "unknown_operation"]

BACKLOG: Final = 1024
"""How many connections may queue while the process is away or busy."""

FLUSH_SECONDS: Final = 1.0
"""How long a client may take to read its last answers."""


class Gate:
    """Takes connections, and hands their calls to the stores.

    :param name: the name that is served.
    :param limits: what connections may cost.
    :param access: who may connect.
    :param room: for how many connections there is room.
    :param key: what the processes of our tree say to know each other; ``None`` if there is none.
    """

    def __init__(self, name: str, limits: Limits, access: Access, room: int | None = None, key: str | None = None) -> None:
        self.name = name
        self.admission: Admission[Call] = Admission(limits, room)
        self.peers: set[Peer] = set()
        self.contracts: tuple[str, ...] = ()
        """What the name serves, for ``hello``."""
        self.routes: Mapping[bytes, Route] = {}
        """Where calls go, by method."""
        self.refuses: Callable[[bytes], Error] | None = None
        """Why no calls are taken any more, by method."""
        self._access = access
        self._key = key
        self._failures = self._calls_taken = 0
        """Of connections that are gone."""
        self._goes_on = False
        self._fewer: asyncio.Event | None = None
        """Set when there are fewer connections or calls."""

    @property
    def calls(self) -> int:
        """How many calls there have been."""
        return self._calls_taken + sum(peer.calls_taken for peer in self.peers)

    @property
    def failures(self) -> int:
        """How many calls have failed."""
        return self._failures + sum(peer.failures for peer in self.peers)

    # -- Connections

    def accept(self) -> Peer:
        """Return what serves a connection that is about to be taken."""
        return Peer(self)

    def enter(self, peer: Peer, connection: socket.socket) -> None:
        """Let a connection in, or turn it away."""
        pid = credentials(connection).pid
        self.peers.add(peer)
        refusal = self._access.refusal(connection, self.name)
        account, late = self.admission.connect(pid, peer) if refusal is None else (refusal, None)
        if isinstance(account, Error):
            peer.turn_away(account)
        else:
            peer.account = account
        if late is not None:
            late.peer.turn_away(self._full())

    def _full(self) -> Error:
        return overloaded(f"{self.name} has {self.admission.connections} connections")

    # -- What a connection calls

    def route(self, peer: Peer, head: Head, body: bytes) -> Route | None:
        """Return where a call goes. A request that is none is answered here."""
        route = self.routes.get(head.method)
        if route is None or peer.account.at_door or self.refuses is not None:
            self._answer(peer, head, body)
            return None
        return route

    def lost(self, peer: Peer) -> None:
        """Forget a connection."""
        self.peers.discard(peer)
        self._failures += peer.failures
        self._calls_taken += peer.calls_taken
        self.go_on()

    def go_on(self) -> None:
        """Have what waits begin in the loop's next turn, if it may; others have their turn in between."""
        if self._fewer is not None:
            self._fewer.set()
        if self.admission.is_waited_for and not self._goes_on:
            self._goes_on = True
            Loop.running().call_soon(self._begin)

    # -- The end

    def turn_back(self, refusal: Callable[[bytes], Error]) -> None:
        """Take no more calls.

        :param refusal: why, by method.
        """
        self.refuses = refusal
        self._fewer = asyncio.Event()

    async def drain(self, seconds: float) -> None:
        """Let the calls that were taken finish; after so many seconds, end those that have not."""
        assert self.refuses is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._until(lambda: not any(peer.callee.calls for peer in self.peers))
        for peer in list(self.peers):
            for call in list(peer.callee.calls.values()):
                call.stop(self.refuses(call.head.method))
            peer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._until(lambda: not self.peers)  # each has taken its last answers

    async def _until(self, is_so: Callable[[], bool]) -> None:
        assert self._fewer is not None
        while not is_so():
            self._fewer.clear()
            await self._fewer.wait()

    # -- Inside

    def _begin(self) -> None:
        """Do what is decided of the calls that wait."""
        self._goes_on = False
        begin, refuse = self.admission.next()
        for call, error in refuse:
            call.fail(error)
        for call in begin:
            call.begin(call)
        self.go_on()

    def _answer(self, peer: Peer, head: Head, body: bytes) -> None:
        """Answer a request that is no call: one of who serves here, or one that cannot be made."""
        try:
            arguments = peer.callee.read(head, body)
        except MessageError:
            peer.malformed(head.msgid)
            return
        if head.method == HELLO:
            said = arguments.get("tree")
            if self._key is not None and isinstance(said, str) and hmac.compare_digest(said.encode(), self._key.encode()):
                peer.be_of_our_tree()
        if peer.account.at_door:
            peer.turn_away(self._full())
        elif head.method == HELLO:
            answer = {"name": self.name, "protocol": PROTOCOL, "version": __version__, "contracts": list(self.contracts)}
            peer.send(*peer.callee.answer(head.msgid, packed(answer)))
        elif self.refuses is not None:
            peer.refuse_call(head.msgid, self.refuses(head.method))
        else:
            peer.refuse_call(head.msgid, unknown_operation(self.name, head.method, self.routes))


class Entrance:
    """Takes connections on a listening socket: on one at a time, whose file may be lost and made again.

    :param accept: makes what serves a connection.
    """

    def __init__(self, accept: Callable[[], Peer]) -> None:
        self._accept = accept
        self._server: asyncio.Server | None = None
        self._moving: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self, listening: socket.socket | None) -> None:
        """Take connections on this socket, and on no other."""
        loop = asyncio.get_running_loop()
        before = self._server
        self._server = await loop.create_unix_server(self._accept, sock=listening, backlog=BACKLOG, **KEEP_THE_NAME)
        if before is not None:
            before.close()
        if self._closed:
            self._server.close()

    def move(self, listening: socket.socket) -> None:
        """Take connections on another socket soon."""
        self._moving = asyncio.get_running_loop().create_task(self.open(listening))

    def close(self) -> None:
        """Take no more connections."""
        self._closed = True
        if self._server is not None:
            self._server.close()


KEEP_THE_NAME: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The parent owns the socket's path; asyncio must not remove it."""


def unknown_operation(name: str, method: bytes, known: Iterable[bytes]) -> Error:
    """Say that a store has no such operation."""
    asked, has = operation_name(method), ", ".join(map(operation_name, known))
    code = "capability_not_supported" if method in METHODS else "invalid_operation"
    return Error(code, f"{name} has no operation {asked!r}; it has: {has}", details={"backend": name, "operation": asked})
