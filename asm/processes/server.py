"""The frame of every process of a tree: it comes up, says so, serves its name, drains, and goes.

    lifeline ── ready ──►                    ┌──────────────┐
    SIGTERM, end of the lifeline ──► stop    │    Server    │──► Service: a worker or a composite
    listening socket ──► Peer, Peer, Peer ──►└──────────────┘

The process ends when it is asked to (SIGTERM) or when its parent is gone (the lifeline ends): it takes no new
calls, gives those in flight time to finish, answers the rest with ``shutting_down``, and closes its service.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

import setproctitle

from asm._version import __version__
from asm.core.errors import Error
from asm.processes import loops
from asm.processes.access import Access
from asm.processes.descriptors import room_for_connections
from asm.processes.limits import Limits, Load, overloaded
from asm.processes.logs import LogStyle, log_to_stderr
from asm.processes.peers import Peer, Receiver
from asm.processes.reports import Beats, Reporter
from asm.wire.messages import CANCEL, HELLO, PROTOCOL, Head, MessageError, decode_checked, decode_params, operation_name, packed
from asm.wire.streams import CHUNK, MORE

__all__ = ["Accepted", "Entrance", "Lifeline", "Service", "run"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

Rebind = Callable[[socket.socket], None]
"""Takes another listening socket."""


BACKLOG: Final = 1024
"""How many connections may queue while the process is away or busy."""

DRAIN_SECONDS: Final = 5.0
"""How long calls in flight may go on after the process was asked to stop."""

FLUSH_SECONDS: Final = 1.0
"""How long a client may take to read its last answers."""

MESSAGE: Final = 1000
"""How many characters of an error the parent is told: what it shows is a line."""

M_ARENA_MAX: Final = -8
"""The parameter of ``mallopt`` for the number of places to allocate from (``malloc.h`` of glibc)."""

ARENAS: Final = 2

ORPHAN_DRAIN_SECONDS: Final = 0.5
"""The same when the parent is gone, and nobody would restart what the clients wait for."""


class Lifeline(Reporter, Protocol):
    """What a process has of its parent."""

    @property
    def socket(self) -> socket.socket | None:
        """The listening socket that the parent handed down."""

    @property
    def restarts(self) -> int:
        """How many processes served the name before this one."""

    settings: Mapping[str, Any]
    """What the parent said last of how the process is to be."""
    on_settings: Callable[[Mapping[str, Any]], None] | None
    """Called with new ones."""
    on_socket: Rebind | None
    """Called with another listening socket, when the one before was lost."""

    @property
    def recovers(self) -> bool:
        """Whether a process that served the name before this one had come up, and died."""

    def fileno(self) -> int:
        """Return what becomes readable when the parent is gone."""

    def ready(self) -> None:
        """Say that the process serves."""

    def waiting(self, info: Mapping[str, Any]) -> None:
        """Say that the process serves its name, and that its store is away."""

    def failed(self, error: dict[str, Any]) -> None:
        """Say why the process cannot come up."""

    def stop_requested(self) -> bool:
        """Whether the parent is gone, or wants the process to go."""

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone."""


class Service(Protocol):
    """What a process does."""

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts that it serves: ``session``, ``artifact``."""

    def call(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a call of a contract."""

    @property
    def away(self) -> Error | None:
        """Why calls cannot be made at the moment, though nothing has to be corrected: a store's service is away."""

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Learn that the name is served.

        :param changed: to be called after each change of :attr:`away`.
        :param failed: to be called with the reason when the process can be of no use any more.
        """

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with the stores, as far as is known; ``None`` if nothing is."""

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""

    def close(self) -> None:
        """Let go of everything."""


def run(
    lifeline: Lifeline,
    name: str,
    prepare: Callable[[], T],
    start: Callable[[T], Coroutine[Any, Any, Service]],
    log: LogStyle | None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> None:
    """Be the process that serves a name, until it is asked to stop.

    An :class:`Error` that ``prepare`` or ``start`` raises is the reason why the process does not come up.

    :param lifeline: the way to the parent.
    :param name: the name that it serves, for the title of the process and the log.
    :param prepare: does what takes its time and cannot be interrupted: opening stores. It runs before there is a loop, and
        while SIGTERM still ends the process at once.
    :param start: makes the service from what was prepared.
    :param log: how to log to stderr; ``None``: warnings only, as Python does by itself.
    :param limits: what connections may cost.
    :param access: who may connect.
    """
    setproctitle.setproctitle(f"asm: {name}")
    log_to_stderr(name, log)
    lifeline.on_settings = _apply
    _apply(lifeline.settings)
    _share_memory()
    try:
        prepared = prepare()
    except Error as error:
        _give_up(lifeline, error)
    else:
        server = Server(lifeline, name, limits or Limits(), access or Access())
        loops.run(server.serve(lambda: start(prepared)))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # closing the loop has undone that


def _apply(settings: Mapping[str, Any]) -> None:
    """Be as the parent says."""
    if level := settings.get("log_level"):
        logging.root.setLevel(level)


def _share_memory() -> None:
    """Have all threads allocate from the same places, as far as the C library lets itself be told (mallopt(3)).

    Otherwise each thread of a store keeps what it once needed for the pieces of artifacts, and so many times as much is kept.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def _give_up(lifeline: Lifeline, error: Error) -> None:
    _log.error("cannot start", extra={"reason": str(error)})  # a reason, and no defect
    lifeline.failed(error.to_map())


class Server:
    """Takes connections, and hands their calls to the service.

    :param lifeline: the way to the parent.
    :param name: the name that is served.
    :param limits: what connections may cost.
    :param access: who may connect.
    """

    def __init__(self, lifeline: Lifeline, name: str, limits: Limits, access: Access) -> None:
        self._lifeline = lifeline
        self._name = name
        self._access = access
        self._load = Load(limits)
        self._connections = room_for_connections(limits.connections)
        self._peers: set[Peer] = set()
        self._calls = 0
        self._failures = 0
        """Of connections that are gone."""
        self._service: Service | None = None
        self._entrance = Entrance(self._accept)
        self._drain_seconds = DRAIN_SECONDS
        self._stopping = asyncio.Event()
        self._draining = False
        self._settled = asyncio.Event()

    async def serve(self, start: Callable[[], Coroutine[Any, Any, Service]]) -> None:
        """Come up, serve, and go."""
        try:
            await self._serve(start)
        finally:
            # The parent asks in two ways, and the second may come now, when a loop that closes can hear no signal any more.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    # -- Receiver

    def request(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a call, unless the process is about to go."""
        assert self._service is not None
        if head.method == HELLO:
            self._hello(peer, head, body)
        elif self._stopping.is_set():
            peer.answer_error(head.msgid, self._shutting_down(operation_name(head.method)))
        else:
            self._calls += 1
            self._service.call(peer, head, body)

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Refuse a response: nothing was asked."""
        raise MessageError("a response came without a request")

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Cancel a call, or take the next bytes of one. Other notifications are for later versions, and mean nothing here."""
        if head.method in (CHUNK, MORE):
            peer.carry(head, body)
        elif head.method == CANCEL:
            params = decode_checked(body, head.params_at)
            if type(params) is list and len(params) == 1 and type(params[0]) is int:
                peer.cancel(params[0])
            else:
                raise MessageError("cancel takes [msgid]")

    def settled(self, peer: Peer) -> None:
        """Note that there may be nothing left to wait for."""
        if self._draining:
            self._settled.set()

    def lost(self, peer: Peer) -> None:
        """Forget the connection."""
        self._peers.discard(peer)
        self._failures += peer.failures
        self._settled.set()

    # -- inside

    async def _serve(self, start: Callable[[], Coroutine[Any, Any, Service]]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_reader(self._lifeline.fileno(), self._hear_parent)
        service = await self._start(start)
        if service is None:
            return
        self._service = service
        try:
            self._lifeline.on_socket = self._entrance.move
            await self._entrance.open(self._lifeline.socket)
            service.begin(self._tell, self._fail)
            self._tell()
            beats = Beats(self._lifeline, self._stats)
            _log.info("serving", extra={"contracts": list(service.contracts)})
            await self._stopping.wait()
            self._entrance.close()
            await self._drain()
            beats.stop()
        finally:
            service.close()
        _log.info("stopped")

    async def _start(self, start: Callable[[], Coroutine[Any, Any, Service]]) -> Service | None:
        """Make the service, unless it fails or nobody wants it any more."""
        starting = asyncio.ensure_future(start())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            return None
        try:
            return starting.result()
        except Error as error:
            _give_up(self._lifeline, error)
            return None

    def _tell(self) -> None:
        """Tell the parent whether calls can be made. First the heartbeat: what it says of the stores must not be older."""
        assert self._service is not None
        self._lifeline.beat(self._stats())
        if (away := self._service.away) is None:
            self._lifeline.ready()
        else:
            self._lifeline.waiting({"code": away.code, "message": away.message[:MESSAGE]})

    def _fail(self, error: Error) -> None:
        """Give up: the store that was waited for is there, and cannot be used."""
        _give_up(self._lifeline, error)
        self._stopping.set()

    def _accept(self) -> Peer:
        peer = Accepted(self, self._load, self._refusal)
        self._peers.add(peer)
        return peer

    def _refusal(self, connection: socket.socket) -> Error | None:
        """Return why a connection cannot be taken."""
        if error := self._access.refusal(connection, self._name):
            return error
        return overloaded(f"{self._name} has {self._load.peers} connections") if self._load.peers >= self._connections else None

    def _stats(self) -> dict[str, Any]:
        """Count, for the parent, and say how the stores are."""
        assert self._service is not None
        failures = self._failures + sum(peer.failures for peer in self._peers)
        in_flight = sum(len(peer.calls) for peer in self._peers)
        trouble = self._service.trouble(time.monotonic())
        health = None if trouble is None else {"code": trouble.code, "message": trouble.message[:MESSAGE]}
        return {"calls": self._calls, "errors": failures, "in_flight": in_flight, "health": health}

    def _hear_parent(self) -> None:
        """Stop when the parent is gone or says so."""
        if self._lifeline.stop_requested():
            if self._lifeline.orphaned:
                self._drain_seconds = ORPHAN_DRAIN_SECONDS
            asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
            self._stopping.set()

    def _hello(self, peer: Peer, head: Head, body: bytes) -> None:
        assert self._service is not None
        try:
            _meta, arguments = decode_params(body, head)
        except MessageError:
            peer.malformed(head.msgid)
            return
        if arguments.get("relay") is True:
            peer.be_relay()
        answer = {"name": self._name, "protocol": PROTOCOL, "version": __version__, "contracts": list(self._service.contracts)}
        peer.answer_result(head.msgid, packed(answer))

    async def _drain(self) -> None:
        """Let the calls in flight finish; end those that would not."""
        assert self._service is not None
        self._draining = True
        self._service.interrupt(self._shutting_down("get_events"))
        try:
            async with asyncio.timeout(self._drain_seconds):
                while any(peer.calls for peer in self._peers):
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            for peer in list(self._peers):
                for msgid, call in list(peer.calls.items()):
                    if call is not None:
                        call.cancel()
                    peer.answer_error(msgid, self._shutting_down(None))
        for peer in list(self._peers):
            peer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                while self._peers:  # until each has taken its last answers
                    self._settled.clear()
                    await self._settled.wait()

    def _shutting_down(self, operation: str | None) -> Error:
        details: dict[str, Any] = {"reason": "shutting_down", "backend": self._name}
        if operation is not None:
            details["operation"] = operation
        return Error("storage_error", f"{self._name} is shutting down", details=details)


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


class Accepted(Peer):
    """A connection that somebody made to us.

    :param receiver: who is told what arrives.
    :param load: what all connections cost, and may cost.
    :param refusal: returns why a connection cannot be taken; ``None`` if it can.
    """

    def __init__(self, receiver: Receiver, load: Load, refusal: Callable[[socket.socket], Error | None]) -> None:
        super().__init__(receiver, load)
        self._refusal = refusal
        self._taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn away who may not connect."""
        super().connection_made(transport)
        if error := self._refusal(transport.get_extra_info("socket")):
            self.turn_away(error)
        else:
            self._taken = True
            self._load.peers += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another one."""
        self._load.peers -= self._taken
        super().connection_lost(exc)


KEEP_THE_NAME: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""The parent owns the socket's path; asyncio must not remove it."""
