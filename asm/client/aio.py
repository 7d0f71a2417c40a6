"""The asyncio client: a handle of a store in another process, for any number of tasks, in any number of loops.

    task ──► the connection of its loop (asm.client.aio_connection), made by the first call ──► result

A handle only finds the connections; they belong to their loops, which are asked to let go of them when the handle is closed
or dropped. A process that is forked leaves them to its parent.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing
from typing import Any, Self, TypeVar

from asm.client.aio_connection import Connection, within
from asm.client.async_store import AsyncStore
from asm.client.calling import (
    DEFAULT_TIMEOUT,
    OPEN,
    Late,
    Stale,
    check_retries,
    check_timeout,
    check_wait,
    closed,
    connection_lost,
    not_reachable,
    outgoing,
    proxies,
    time_for,
    timed_out,
)
from asm.client.conversation import Outgoing
from asm.client.files import Reading
from asm.client.handles import Following, Script, Step, connecting, may_repeat, repeated
from asm.core.forks import tell_of_forks
from asm.core.values import Event
from asm.operations import Operation
from asm.wire.conversation import Broken
from asm.wire.names import socket_path
from asm.wire.streams import PIECE

__all__ = ["AsyncClient", "AsyncReader", "connect"]

T = TypeVar("T")


def connect(
    name: str,
    *,
    runtime_dir: str | os.PathLike[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    wait: float = 0.0,
    retries: int = 0,
) -> AsyncClient:
    """Return a handle of the store with this name, to be entered or awaited.

    ``async with asm.aio.connect(…) as store`` and ``store = await asm.aio.connect(…)`` both
    connect. It may be used by any number of tasks, in any number of event loops and threads, and in processes that are forked
    later. When the store is restarted, the next call reconnects by itself.

    :param name: the name of a composite, or of a backend.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds a call may take; a long-poll adds its wait.
    :param wait: for how many seconds to wait for a tree that is not up yet.
    :param retries: how often a call that failed with a retryable error is repeated, with growing pauses, within the timeout;
        only operations that are safe to repeat, with data that can be read again.
    :raises Error: ``validation_error`` for what is no name, no timeout, no wait or no number of retries; and when it is awaited
        ``storage_connection_failed`` when no store is running under this name.
    """
    return AsyncClient(name, socket_path(name, runtime_dir), timeout, wait, retries)


class AsyncReader:
    """The bytes of an artifact, read piece by piece. An asynchronous context manager and iterator of chunks.

    :param run: takes the steps of a script.
    :param take: takes one step.
    """

    def __init__(
        self, reading: Reading, run: Callable[[Script[Any]], Awaitable[Any]], take: Callable[[Step], Awaitable[Any]]
    ) -> None:
        self._reading = reading
        self._run = run
        self._take = take

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all that is left by default, and nothing at the end."""
        if size >= 0:
            data: bytes = await self._run(self._reading.read(size))
            return data
        return b"".join([chunk async for chunk in self])

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Have the next read begin somewhere else; return where that is. It takes and refuses what files do."""
        return self._reading.seek(offset, whence)

    async def tell(self) -> int:
        """Return where the next read begins."""
        return self._reading.position

    async def aclose(self) -> None:
        """Stop reading. A read that comes afterwards is refused."""
        await self._take(self._reading.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self.read(PIECE):
            yield chunk


def _proxy(operation: Operation) -> Any:
    async def method(self: AsyncClient, /, *args: Any, **kwargs: Any) -> Any:
        return await self._call(operation, operation.bind(args, kwargs))

    return method


@proxies(_proxy)
class AsyncClient(AsyncStore):
    """A handle of a store in another process, with the operations of all contracts as coroutines. Made by :func:`connect`.

    Copies of it, and what comes out of a pickle, are handles of the same store with connections of their own.
    """

    def __init__(self, name: str, path: str, timeout: float, wait: float = 0.0, retries: int = 0) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._wait = check_wait(wait)
        self._retries = check_retries(retries)
        self._was_up = False
        self._closed = False
        self._lock = threading.Lock()  # what adds a connection, and what looks at all of them
        self._connections: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()
        """By the id of the loop, which nothing else has as long as its connection is there."""
        tell_of_forks(self)

    async def aclose(self) -> None:
        """Close the connections of all loops; calls in flight fail."""
        with self._lock:
            self._closed = True
            connections = list(self._connections.values())
        for connection in connections:
            connection.close()

    def __del__(self) -> None:
        for connection in list(getattr(self, "_connections", {}).values()):
            connection.close_soon()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.name, self.path, self._timeout, self._wait, self._retries, self._closed)

    def __await__(self) -> Generator[Any, None, Self]:
        yield from self._run(connecting(self._wait, self._timeout)).__await__()
        return self

    async def __aenter__(self) -> Self:
        return await self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name} at {self.path}>"

    async def _call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Make a call and return its result."""
        seconds = time_for(arguments, self._timeout)
        if self._retries and may_repeat(operation, arguments):
            return await self._run(repeated(operation, arguments, time.monotonic() + seconds, self._retries))
        return await self._once(operation, arguments, seconds)

    async def _run(self, script: Script[T]) -> T:
        """Take the steps of a script; return what it returns."""
        try:
            step = next(script)
            while True:
                try:
                    came = await step(self)
                except Exception as error:  # noqa: BLE001  # it is the script's to catch
                    step = script.throw(error)
                else:
                    step = script.send(came)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _each(self, following: Following) -> AsyncGenerator[Event, None]:
        """Yield the events of one page after the other."""
        while True:
            for event in await self._run(following.page()):
                yield event

    # -- the steps of scripts

    async def _take(self, step: Step) -> Any:
        return await step(self)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _apply(self, change: Callable[[Any], Any], value: Any) -> Any:
        changed = change(value)
        return await changed if inspect.isawaitable(changed) else changed

    async def _next(self, pieces: AsyncGenerator[bytes, None]) -> bytes | None:
        return await anext(pieces, None)

    async def _close(self, pieces: AsyncGenerator[bytes, None]) -> None:
        await pieces.aclose()

    async def _open_at(self, key: str, offset: int, version: str, seconds: float) -> tuple[bytes, AsyncGenerator[bytes, None]]:
        pieces = self._download(outgoing(OPEN, {"key": key}, seconds, (offset, version)))
        return await anext(pieces), pieces

    async def _dial(self, seconds: float) -> None:
        await self._connected(asyncio.get_running_loop().time() + seconds)
        self._was_up = True

    # -- one call

    async def _once(self, operation: Operation, arguments: dict[str, Any], seconds: float) -> Any:
        """Make a call of at most so many seconds."""
        if self._closed:
            raise closed(self.name)
        if operation.data_parameter is None or isinstance(arguments[operation.data_parameter], bytes | bytearray | memoryview):
            outgo = outgoing(operation, arguments, seconds)
        else:  # a file or an iterable may take its time
            outgo = await asyncio.to_thread(outgoing, operation, arguments, seconds)
        if self._wait and not self._was_up:
            await self._run(connecting(self._wait, self._timeout))
        if operation.returns_data:
            pieces = self._download(outgo)
            first = await anext(pieces)  # an artifact that is not there is told now, and not while reading
            if operation.result is bytes:
                return b"".join([first, *[piece async for piece in pieces]])
            return AsyncReader(Reading(arguments.get("key"), seconds, first, pieces), self._run, self._take)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            connection = self._connections.get(id(loop))
            if connection is None or not connection.is_open:
                connection = await self._connected(deadline)
            try:
                return await connection.exchange(outgo, deadline)
            except Stale:
                return await (await self._connected(deadline)).exchange(outgo, deadline)
        except Late:
            raise timed_out(self.name, operation, seconds) from None
        except Broken as error:
            raise connection_lost(self.name, operation) from error

    async def _download(self, outgo: Outgoing) -> AsyncGenerator[bytes, None]:
        """Send a call whose result is bytes, and yield them."""
        deadline = asyncio.get_running_loop().time() + outgo.seconds
        try:
            connection = await self._connected(deadline)
            try:
                async with aclosing(connection.download(outgo, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
                    return
            except Stale:
                connection = await self._connected(deadline)
            async with aclosing(connection.download(outgo, deadline)) as pieces:
                async for piece in pieces:
                    yield piece
        except Late:
            raise timed_out(self.name, outgo.operation, outgo.seconds) from None
        except Broken as error:
            raise connection_lost(self.name, outgo.operation) from error

    async def _connected(self, deadline: float) -> Connection:
        """Return the connection of the running loop, made now if there is none.

        :raises Error: ``storage_connection_failed`` when nobody listens, or nobody takes connections until the deadline.
        """
        try:
            connection = self._own_connection()
            if not connection.is_open:
                await within(deadline, connection.open())
        except (OSError, Late) as error:
            raise not_reachable(self.name, self.path, error) from error
        return connection

    def _own_connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._closed:
                raise closed(self.name)
            connection = self._connections.get(id(loop))
            if connection is None or connection.is_lost:
                connection = self._connections[id(loop)] = Connection(self.path, loop)
        return connection

    def _forked(self) -> None:
        """Leave the connections to the parent. Its loops are not touched: what they watch with, the two processes share."""
        self._lock = threading.Lock()
        for connection in list(self._connections.values()):
            connection.abandon()
        self._connections.clear()


def _unpickled(name: str, path: str, timeout: float, wait: float, retries: int, closed: bool) -> AsyncClient:
    client = AsyncClient(name, path, timeout, wait, retries)
    client._closed = closed  # noqa: SLF001  # the module's own class
    return client
