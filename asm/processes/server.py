"""The frame of every process of a tree: it comes up, says so, serves its name, drains, and goes.

    lifeline ── ready ──►                    ┌──────────────┐
    SIGTERM, end of the lifeline ──► stop    │    Server    │──► Service: the stores of a worker or a composite
    listening socket ──► Gate ──────────────►└──────────────┘

The process ends when it is asked to (SIGTERM) or when its parent is gone (the lifeline ends): it takes no new
calls, gives those in flight time to finish, answers the rest with ``shutting_down``, and closes its service.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import setproctitle

from asm.core.errors import Error
from asm.processes import loops
from asm.processes.access import Access
from asm.processes.descriptors import room_for_connections
from asm.processes.gate import Entrance, Gate
from asm.processes.limits import Limits
from asm.processes.logs import LogStyle, log_to_stderr
from asm.processes.reports import Beats, Lifeline
from asm.processes.service import Served, Service
from asm.wire.messages import operation_name

__all__ = ["run"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

Start = Callable[[], Coroutine[Any, Any, Mapping[str, Served]]]

DRAIN_SECONDS: Final = 5.0
"""How long calls in flight may go on after the process was asked to stop."""

ORPHAN_DRAIN_SECONDS: Final = 0.5
"""The same when the parent is gone, and nobody would restart what the clients wait for."""

MESSAGE: Final = 1000
"""How many characters of an error the parent is told: what it shows is a line."""

M_ARENA_MAX: Final = -8
"""The parameter of ``mallopt`` for the number of places to allocate from (``malloc.h`` of glibc)."""

ARENAS: Final = 2


def run(
    lifeline: Lifeline,
    name: str,
    prepare: Callable[[], T],
    start: Callable[[T], Coroutine[Any, Any, Mapping[str, Served]]],
    log: LogStyle | None,
    limits: Limits | None = None,
    access: Access | None = None,
    key: str | None = None,
) -> None:
    """Be the process that serves a name, until it is asked to stop.

    An :class:`Error` that ``prepare`` or ``start`` raises is the reason why the process does not come up.

    :param lifeline: the way to the parent.
    :param name: the name that it serves, for the title of the process and the log.
    :param prepare: does what takes its time and cannot be interrupted: opening stores. It runs before there is a loop, and
        while SIGTERM still ends the process at once.
    :param start: makes the stores that are served from what was prepared, by contract.
    :param log: how to log to stderr; ``None``: warnings only, as Python does by itself.
    :param limits: what connections may cost.
    :param access: who may connect.
    :param key: what the processes of our tree say to know each other.
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
        limits = limits or Limits()
        room = room_for_connections(limits.total_connections)
        server = Server(lifeline, Gate(name, limits, access or Access(), room, key))
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
    """Serves a name for as long as its parent wants it.

    :param lifeline: the way to the parent.
    :param gate: takes the connections and their calls.
    """

    def __init__(self, lifeline: Lifeline, gate: Gate) -> None:
        self._lifeline = lifeline
        self._gate = gate
        self._entrance = Entrance(gate.accept)
        self._drain_seconds = DRAIN_SECONDS
        self._stopping = asyncio.Event()

    async def serve(self, start: Start) -> None:
        """Come up, serve, and go."""
        try:
            await self._serve(start)
        finally:
            # The parent asks in two ways, and the second may come now, when a loop that closes can hear no signal any more.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def _serve(self, start: Start) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_reader(self._lifeline.fileno(), self._hear_parent)
        stores = await self._start(start)
        if stores is None:
            return
        service = Service(stores)
        gate = self._gate

        def stats() -> dict[str, Any]:
            """Count, for the parent, and say how the stores are."""
            trouble = service.trouble()
            health = None if trouble is None else {"code": trouble.code, "message": trouble.message[:MESSAGE]}
            return {"calls": gate.calls, "errors": gate.failures, "in_flight": gate.admission.in_flight, "health": health}

        def tell() -> None:
            """Tell the parent whether calls can be made. First the heartbeat: what it says of the stores must not be older."""
            self._lifeline.beat(stats())
            if (away := service.away) is None:
                self._lifeline.ready()
            else:
                self._lifeline.waiting({"code": away.code, "message": away.message[:MESSAGE]})

        try:
            gate.contracts, gate.routes = service.contracts, service.routes
            self._lifeline.on_socket = self._entrance.move
            await self._entrance.open(self._lifeline.socket)
            service.begin(tell, self._fail)
            tell()
            beats = Beats(self._lifeline, stats)
            _log.info("serving", extra={"contracts": list(service.contracts)})
            await self._stopping.wait()
            self._entrance.close()
            gate.turn_back(self._shutting_down)
            service.interrupt(self._shutting_down(b"session.get_events"))
            await gate.drain(self._drain_seconds)
            beats.stop()
        finally:
            service.close()
        _log.info("stopped")

    async def _start(self, start: Start) -> Mapping[str, Served] | None:
        """Make the stores, unless that fails or nobody wants them any more."""
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

    def _fail(self, error: Error) -> None:
        """Give up: the store that was waited for is there, and cannot be used."""
        _give_up(self._lifeline, error)
        self._stopping.set()

    def _hear_parent(self) -> None:
        """Stop when the parent is gone or says so."""
        if self._lifeline.stop_requested():
            if self._lifeline.orphaned:
                self._drain_seconds = ORPHAN_DRAIN_SECONDS
            asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
            self._stopping.set()

    def _shutting_down(self, method: bytes) -> Error:
        name = self._gate.name
        details = {"reason": "shutting_down", "backend": name, "operation": operation_name(method)}
        return Error("storage_error", f"{name} is shutting down", details=details)
