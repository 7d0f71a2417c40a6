"""The asyncio client: a handle of a store in another process, for any number of tasks.

    task ──► request with a msgid ──► one connection ──► response ──► the future that waits for this msgid

All calls share one connection and are in flight together. A call that is cancelled, or runs out of time, tells the
store to drop it; a late answer is dropped.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Generator
from typing import Any, BinaryIO, Final, Self

from asm.client.async_store import AsyncStore
from asm.client.calling import (
    DEFAULT_TIMEOUT,
    check_timeout,
    closed,
    connection_lost,
    not_reachable,
    proxies,
    request_frame,
    timed_out,
    total_seconds,
)
from asm.core.errors import Error
from asm.operations import Operation
from asm.wire.calls import decode_result
from asm.wire.frames import FrameError, Splitter, frame
from asm.wire.messages import CANCEL, RESPONSE, MessageError, Packer, decode_response, read_head
from asm.wire.names import socket_path

__all__ = ["AsyncClient", "AsyncReader", "connect"]

RECEIVE_BYTES: Final = 256 * 1024
MAX_UNSENT: Final = 1024 * 1024
"""With this many bytes that the store has not taken, further calls wait before they are sent."""


def connect(name: str, *, runtime_dir: str | os.PathLike[str] | None = None, timeout: float = DEFAULT_TIMEOUT) -> AsyncClient:
    """Return a handle of the store with this name, to be entered or awaited.

    ``async with asm.aio.connect(…) as store`` and ``store = await asm.aio.connect(…)`` both
    connect. It may be used by any number of tasks. When the store is restarted, the next call reconnects by itself.

    :param name: the name of a composite, or of a backend.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds a call may take; a long-poll adds its wait.
    :raises Error: ``validation_error`` for what is no name or no timeout, and when it is awaited
        ``storage_connection_failed`` when no store is running under this name.
    """
    return AsyncClient(name, socket_path(name, runtime_dir), timeout)


class AsyncReader:
    """The bytes of an artifact, read piece by piece. An asynchronous context manager and iterator of chunks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all that is left by default, and nothing at the end."""
        return self._file.read(size)

    async def aclose(self) -> None:
        """Stop reading."""
        self._file.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(256 * 1024):
            yield chunk


def _proxy(operation: Operation) -> Any:
    async def method(self: AsyncClient, /, *args: Any, **kwargs: Any) -> Any:
        return await self._call(operation, operation.bind(args, kwargs))

    return method


@proxies(_proxy)
class AsyncClient(AsyncStore):
    """A handle of a store in another process, with the operations of both contracts as coroutines. Made by :func:`connect`."""

    def __init__(self, name: str, path: str, timeout: float) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._connection: _Connection | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Close the connection; calls in flight fail."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._connected(self._timeout).__await__()
        return self

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name} at {self.path}>"

    async def _call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Make a call and return its result."""
        if self._closed:
            raise closed(self.name)
        seconds = total_seconds(self._timeout, arguments)
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connected(seconds)
                result = await connection.call(operation, arguments, seconds)
        except TimeoutError:
            raise timed_out(self.name, operation, seconds) from None
        except (OSError, FrameError, MessageError) as error:
            raise connection_lost(self.name, operation) from error
        decoded = decode_result(operation, result)
        return AsyncReader(decoded) if operation.result is BinaryIO else decoded

    async def _connected(self, seconds: float) -> _Connection:
        """Return the connection of this process and loop, made now if there is none."""
        connection = self._connection
        if connection is None or not connection.usable():
            if connection is not None:
                connection.abandon()
            connection = self._connection = _Connection(self.path)
        try:
            await connection.open()
        except OSError as error:
            raise not_reachable(self.name, self.path, error) from error
        return connection


class _Connection:
    """One connection, shared by all the tasks of a loop.

    It watches a socket of its own instead of a transport of asyncio, because it may outlive its loop, and be inherited by
    a fork, where it must be let go without touching the loop.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._opening: asyncio.Task[None] | None = None
        self._open = False
        self._lost: Exception | None = None
        self._packer = Packer()
        self._splitter = Splitter()
        self._msgid = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._outgoing = bytearray()
        self._flushing = False
        self._may_send = asyncio.Event()
        self._may_send.set()

    def usable(self) -> bool:
        """Whether it is alive, and of this process and loop."""
        return self._lost is None and self._loop is asyncio.get_running_loop() and self._pid == os.getpid()

    async def open(self) -> None:
        """Connect, once for all who ask at the same time.

        :raises OSError: when nobody listens.
        """
        if not self._open:
            if self._opening is None:
                self._opening = asyncio.create_task(self._connect())
            await asyncio.shield(self._opening)

    async def call(self, operation: Operation, arguments: dict[str, Any], seconds: float) -> Any:
        """Send a call and return its result, not yet decoded to values."""
        await self._may_send.wait()
        if self._lost is not None:
            raise self._lost
        msgid = self._msgid = (self._msgid + 1) & 0xFFFFFFFF
        request = request_frame(self._packer, msgid, operation, arguments, seconds)
        answer = self._waiting[msgid] = self._loop.create_future()
        self._send(request)
        try:
            return await answer
        finally:
            if self._waiting.pop(msgid, None) is not None:  # no answer came: the task was cancelled, or its time is up
                self._send(frame(self._packer.notification(CANCEL, [msgid])))

    def close(self) -> None:
        """Close the connection; whoever waits for an answer is told."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._lose(ConnectionAbortedError("the handle was closed"))
        else:
            self.abandon()

    def abandon(self) -> None:
        """Let go of a connection that belongs to another process or loop, without touching that loop."""
        self._lost = self._lost or ConnectionAbortedError("the connection belongs to another process or event loop")
        self._socket.close()

    async def _connect(self) -> None:
        try:
            await self._loop.sock_connect(self._socket, self._path)
        except OSError as error:
            self._lose(error)
            raise
        self._open = True
        self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        """Give each answer to the call that waits for it."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the store closed the connection")
            for body in self._splitter.feed(data):
                self._take(body)
        except BlockingIOError:
            return
        except (OSError, FrameError, MessageError) as error:
            self._lose(error)

    def _take(self, body: bytes) -> None:
        head = read_head(body)
        answer = self._waiting.pop(head.msgid, None) if head.kind == RESPONSE else None
        if answer is None or answer.done():
            return
        try:
            answer.set_result(decode_response(body)[1])
        except Error as error:
            answer.set_exception(error)

    def _send(self, data: bytes) -> None:
        """Write at the end of this iteration of the loop, together with what others send until then."""
        if self._lost is not None:
            return
        self._outgoing += data
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write as much as the other side takes; while much is left, further calls wait."""
        if self._lost is not None:
            return
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        del self._outgoing[:sent]
        if not self._outgoing:
            self._loop.remove_writer(self._socket)
            self._flushing = False
            self._may_send.set()
            return
        self._loop.add_writer(self._socket, self._flush)
        if len(self._outgoing) > MAX_UNSENT:
            self._may_send.clear()

    def _lose(self, error: Exception) -> None:
        """End the connection, and tell everyone who waits."""
        if self._lost is not None:
            return
        self._lost = error
        self._may_send.set()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(error)
        if self._open:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()
