"""The control endpoint: a supervisor answers on a name of its own, beside its work.

    asmctl ──► [0, 1, "control.status", [{}, {}]] ──► the endpoint's thread ──► Operator ──► posts to the supervisor's loop
           ◄── [1, 1, nil, {…}] ◄─────────────────────────────────┘

The endpoint has a thread and an event loop of its own, and makes each call in yet another thread: whatever a client does,
and however long a configuration takes to read, the supervisor's loop goes on. The frames, the messages and the check of who
may connect are those of every other name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from asm.core.errors import Error
from asm.processes.access import Access
from asm.processes.accounts import Lane
from asm.processes.gate import FLUSH_SECONDS, Entrance, Gate
from asm.processes.limits import Limits
from asm.processes.loops import Loop
from asm.processes.peers import Call
from asm.processes.roles import Route
from asm.status import CONTROL, TreeStatus
from asm.wire.calls import decode_params
from asm.wire.messages import MessageError, operation_name, packed

__all__ = ["Control", "Operator"]

_log = logging.getLogger(__name__)

LIMITS: Final = Limits(
    max_frame_bytes=512 * 1024, connections=32, calls_in_flight=16, bytes_in_flight=256 * 1024, total_connections=64
)
"""What connections may cost the supervisor's process. Requests are short."""

THREADS: Final = 4
"""How many calls are made at the same time; more wait."""


class Operator(Protocol):
    """What the endpoint asks. The methods are called in threads, and raise :class:`Error`."""

    def status(self) -> TreeStatus:
        """Return what there is to know about the tree."""

    def restart(self, name: str) -> None:
        """Stop a child and start it again."""

    def reload(self) -> Mapping[str, list[str]]:
        """Read the configuration again, and restart what changed. Return who that is."""

    def stop(self) -> None:
        """Stop the tree."""


class Control:
    """The endpoint of one tree.

    :param name: the name that it answers to.
    :param listening: the socket of that name.
    :param operator: who does what is asked.
    :param release: gives the name back. Called at the end, before those are let go who wait for the end of the tree.
    """

    def __init__(self, name: str, listening: socket.socket, operator: Operator, release: Callable[[], None]) -> None:
        self._name = name
        self._listening = listening.dup()  # who owns the name may close its own at any time
        self._release = release
        self._operations: Mapping[bytes, tuple[Callable[..., Any], tuple[str, ...]]] = {
            b"control.status": (lambda: operator.status().to_map(), ()),
            b"control.restart": (operator.restart, ("name",)),
            b"control.reload": (operator.reload, ()),
            b"control.stop": (operator.stop, ()),
        }
        self._calls = ThreadPoolExecutor(THREADS, thread_name_prefix="control-call")
        self._loop = Loop()
        # Whoever else may use the stores: the tree obeys its own user, and root.
        self._gate = Gate(name, LIMITS, Access())
        lane = Lane(THREADS)
        self._gate.routes = {method: Route(self, lane) for method in self._operations}
        self._gate.contracts = (CONTROL,)
        self._entrance = Entrance(self._gate.accept)
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def rebind(self, listening: socket.socket) -> None:
        """Answer on another socket from now on. From any thread."""
        with contextlib.suppress(RuntimeError):  # it has failed, and its loop is closed
            self._loop.call_soon_threadsafe(self._entrance.move, listening.dup())

    def close(self) -> None:
        """Close every connection, which tells who waits for the end of the tree that it has come."""
        with contextlib.suppress(RuntimeError):  # it has failed, and its loop is closed
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._calls.shutdown(wait=True, cancel_futures=True)

    def take(self, call: Call) -> None:
        """Make a call."""
        function, parameters = self._operations[call.head.method]
        try:
            _meta, arguments = decode_params(call.body, call.head)
        except MessageError:
            call.malformed()
            return
        if set(arguments) != set(parameters) or not all(isinstance(value, str) for value in arguments.values()):
            problem = f"{operation_name(call.head.method)} takes {', '.join(parameters) or 'no arguments'}, as text"
            call.fail(Error("validation_error", problem))
        else:
            call.holds += 1
            future = self._loop.run_in_executor(self._calls, lambda: function(**arguments))
            future.add_done_callback(lambda done: _answer(call, done))

    # -- inside

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception:  # noqa: BLE001  # a tree without it still serves
            _log.exception("the control endpoint failed")
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._entrance.open(self._listening)
        await self._closing.wait()
        self._entrance.close()
        self._release()
        self._gate.turn_back(lambda _method: Error("storage_error", f"{self._name} ends", details={"reason": "shutting_down"}))
        await self._gate.drain(FLUSH_SECONDS)


def _answer(call: Call, done: asyncio.Future[Any]) -> None:
    call.let_go()
    if done.cancelled():
        return
    cause = done.exception()
    if cause is None:
        call.finish(packed(done.result()))
    elif isinstance(cause, Error):
        call.fail(cause)
    else:
        _log.error("an operation failed", exc_info=cause)
        call.fail(Error("internal_error", f"the supervisor failed: {cause!r}"))
