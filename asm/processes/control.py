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

from asm._version import __version__
from asm.core.errors import Error
from asm.processes.access import Access
from asm.processes.backends import unknown_operation
from asm.processes.limits import Limits, Load, overloaded
from asm.processes.loops import Loop
from asm.processes.peers import Peer
from asm.processes.server import FLUSH_SECONDS, Accepted, Entrance
from asm.status import CONTROL, TreeStatus
from asm.wire.messages import HELLO, PROTOCOL, Head, MessageError, decode_params, operation_name, packed

__all__ = ["Control", "Operator"]

_log = logging.getLogger(__name__)

LIMITS: Final = Limits(max_frame_bytes=512 * 1024, connections=64, calls_in_flight=16, bytes_in_flight=256 * 1024)
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
        self._load = Load(LIMITS)
        self._peers: set[Peer] = set()
        self._calls = ThreadPoolExecutor(THREADS, thread_name_prefix="control-call")
        self._loop = Loop()
        self._entrance = Entrance(self._accept)
        self._closing = asyncio.Event()
        self._fewer = asyncio.Event()
        """Calls or connections."""
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

    # -- Receiver

    def request(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a call."""
        try:
            _meta, arguments = decode_params(body, head)
        except MessageError:
            peer.malformed(head.msgid)
            return
        if head.method == HELLO:
            answer = {"name": self._name, "protocol": PROTOCOL, "version": __version__, "contracts": [CONTROL]}
            peer.answer_result(head.msgid, packed(answer))
            return
        function, parameters = self._operations.get(head.method, (None, ()))
        if function is None:
            peer.answer_error(head.msgid, unknown_operation(self._name, head.method, self._operations))
        elif set(arguments) != set(parameters) or not all(isinstance(value, str) for value in arguments.values()):
            problem = f"{operation_name(head.method)} takes {', '.join(parameters) or 'no arguments'}, as text"
            peer.answer_error(head.msgid, Error("validation_error", problem))
        else:
            future = self._loop.run_in_executor(self._calls, lambda: function(**arguments))
            future.add_done_callback(lambda done: _answer(peer, head.msgid, done))

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Refuse a response: nothing was asked."""
        raise MessageError("a response came without a request")

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Do nothing: no call here can be cancelled, and other notifications are for later versions."""

    def settled(self, peer: Peer) -> None:
        """Note that there may be nothing left to wait for."""
        self._fewer.set()

    def lost(self, peer: Peer) -> None:
        """Forget the connection."""
        self._peers.discard(peer)
        self._fewer.set()

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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._until(lambda: not any(peer.calls for peer in self._peers))
        for peer in list(self._peers):
            peer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._until(lambda: not self._peers)  # each has taken its last answers

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._fewer.clear()
            await self._fewer.wait()

    def _accept(self) -> Peer:
        peer = Accepted(self, self._load, self._refusal)
        self._peers.add(peer)
        return peer

    def _refusal(self, connection: socket.socket) -> Error | None:
        """Return why a connection cannot be taken. Whoever else may use the stores: the tree obeys its own user, and root."""
        if error := Access().refusal(connection, self._name):
            return error
        return (
            overloaded(f"{self._name} has {self._load.peers} connections") if self._load.peers >= LIMITS.connections else None
        )


def _answer(peer: Peer, msgid: int, done: asyncio.Future[Any]) -> None:
    if done.cancelled():
        return
    cause = done.exception()
    if cause is None:
        peer.answer_result(msgid, packed(done.result()))
    elif isinstance(cause, Error):
        peer.answer_error(msgid, cause)
    else:
        _log.error("an operation failed", exc_info=cause)
        peer.answer_error(msgid, Error("internal_error", f"the supervisor failed: {cause!r}"))
