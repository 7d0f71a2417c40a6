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
from collections.abc import Callable, Coroutine
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
from asm.wire.messages import CANCEL, HELLO, Head, MessageError, decode_checked, decode_params
from asm.wire.streams import CHUNK, MORE

__all__ = ["KEEP_THE_NAME", "PROTOCOL", "Accepted", "Lifeline", "Service", "run"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

PROTOCOL: Final = 1
"""The version of the protocol on the wire."""

BACKLOG: Final = 1024
"""How many connections may queue while the process is away or busy."""

DRAIN_SECONDS: Final = 5.0
"""How long calls in flight may go on after the process was asked to stop."""

FLUSH_SECONDS: Final = 1.0
"""How long a client may take to read its last answers."""

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

    def fileno(self) -> int:
        """Return what becomes readable when the parent is gone."""

    def ready(self) -> None:
        """Say that the process serves."""

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
    _share_memory()
    try:
        prepared = prepare()
    except Error as error:
        _give_up(lifeline, error)
    else:
        server = Server(lifeline, name, limits or Limits(), access or Access())
        loops.run(server.serve(lambda: start(prepared)))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # closing the loop has undone that


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
        self._errors = 0
        """Of connections that are gone."""
        self._service: Service | None = None
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
            peer.answer_error(head.msgid, self._shutting_down(head.method.decode(errors="replace")))
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
        self._errors += peer.errors
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
            listener = await loop.create_unix_server(self._accept, sock=self._lifeline.socket, backlog=BACKLOG, **KEEP_THE_NAME)
            self._lifeline.ready()
            beats = Beats(self._lifeline, self._stats)
            _log.info("serving", extra={"contracts": list(service.contracts)})
            await self._stopping.wait()
            listener.close()
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

    def _accept(self) -> Peer:
        peer = Accepted(self, self._load, self._refusal)
        self._peers.add(peer)
        return peer

    def _refusal(self, connection: socket.socket) -> Error | None:
        """Return why a connection cannot be taken."""
        if error := self._access.refusal(connection, self._name):
            return error
        return overloaded(f"{self._name} has {self._load.peers} connections") if self._load.peers >= self._connections else None

    def _stats(self) -> dict[str, int]:
        """Count, for the parent."""
        errors = self._errors + sum(peer.errors for peer in self._peers)
        return {"calls": self._calls, "errors": errors, "in_flight": sum(len(peer.calls) for peer in self._peers)}

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
            arguments, _meta = decode_params(body, head)
        except MessageError:
            peer.malformed(head.msgid)
            return
        if arguments.get("relay") is True:
            peer.be_relay()
        answer = {"name": self._name, "protocol": PROTOCOL, "version": __version__, "contracts": list(self._service.contracts)}
        peer.answer_result(head.msgid, answer)

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
