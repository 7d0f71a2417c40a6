"""The asyncio client: a handle of a store in another process, for any number of tasks.

    task ──► request with a msgid ──► one connection ──► response ──► the future that waits for this msgid

All calls share one connection and are in flight together. A call that is cancelled, or runs out of time, tells the
store to drop it; a late answer is dropped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Generator, Iterator
from contextlib import aclosing
from typing import Any, BinaryIO, Final, Self, TypeVar

from asm.client.async_store import AsyncStore
from asm.client.calling import (
    DEFAULT_TIMEOUT,
    Broken,
    Late,
    Outgoing,
    check_timeout,
    closed,
    connection_lost,
    last_piece,
    not_reachable,
    outgoing,
    proxies,
    timed_out,
)
from asm.core.errors import Error
from asm.operations import Operation
from asm.wire.calls import decode_result
from asm.wire.frames import FrameError, Splitter, frame, framed
from asm.wire.messages import CANCEL, REFUSED, RESPONSE, Head, MessageError, Packer, decode_response, read_head, read_refusal
from asm.wire.names import check_listener, check_owner, socket_path
from asm.wire.streams import CHUNK, MORE, PIECE, WINDOW, chunk, more, read_stream, streamed

__all__ = ["AsyncClient", "AsyncReader", "connect"]

RECEIVE_BYTES: Final = 256 * 1024
MAX_UNSENT: Final = 1024 * 1024
"""With this many bytes that the store has not taken, further calls wait before they are sent."""

EARLY: Final = 4096
"""With this many bytes to send, the end of the loop's turn is not waited for: the store begins while further calls are made."""

BUSY_SECONDS: Final = 0.01
"""How long to wait before connecting again to a socket on which no more connections can queue. No event tells of room there."""

STREAMS: Final = 16
"""How many artifacts move at the same time on one connection; more wait their turn. Each may have a window under way."""

T = TypeVar("T")


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

    def __init__(self, first: bytes, pieces: AsyncGenerator[bytes, None]) -> None:
        self._rest = first
        self._pieces = pieces
        self._failure: Error | None = None

    async def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all that is left by default, and nothing at the end."""
        if self._failure is not None:
            raise self._failure  # what comes after a failure is not the end
        try:
            if size < 0:
                first, self._rest = self._rest, b""
                return b"".join([first, *[piece async for piece in self._pieces]])
            if not self._rest:
                self._rest = await anext(self._pieces, b"")
        except Error as error:
            self._failure = error
            raise
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def aclose(self) -> None:
        """Stop reading. A read that comes afterwards is refused."""
        self._failure = self._failure or Error("stream_closed", "the artifact was closed; open it again")
        await self._pieces.aclose()

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
        if operation.data_parameter is None or isinstance(arguments[operation.data_parameter], bytes | bytearray | memoryview):
            call = outgoing(operation, arguments, self._timeout)
        else:  # a file or an iterable may take its time
            call = await asyncio.to_thread(outgoing, operation, arguments, self._timeout)
        if operation.returns_data:
            pieces = self._download(call)
            first = await anext(pieces)  # an artifact that is not there is told now, and not while reading
            reader = AsyncReader(first, pieces)
            return reader if operation.result is BinaryIO else await reader.read()
        try:
            connection = self._connection
            if connection is None or not connection.is_open or not connection.usable():
                connection = await self._connected(call.seconds)
            result = await connection.exchange(call)
        except Late:
            raise timed_out(self.name, operation, call.seconds) from None
        except Broken as error:
            raise connection_lost(self.name, operation) from error
        return decode_result(operation, result, arguments)

    async def _download(self, call: Outgoing) -> AsyncGenerator[bytes, None]:
        """Send a call whose result comes in pieces, and yield them."""
        try:
            connection = await self._connected(call.seconds)
            async with aclosing(connection.download(call)) as pieces:
                async for piece in pieces:
                    yield piece
        except Late:
            raise timed_out(self.name, call.operation, call.seconds) from None
        except Broken as error:
            raise connection_lost(self.name, call.operation) from error

    async def _connected(self, seconds: float) -> _Connection:
        """Return the connection of this process and loop, made now if there is none.

        :raises Error: ``storage_connection_failed`` when nobody listens, or nobody takes connections for that many seconds.
        """
        connection = self._connection
        if connection is None or not connection.usable():
            if connection is not None:
                connection.abandon()
            connection = self._connection = _Connection(self.path)
        if not connection.is_open:
            try:
                await _within(seconds, connection.open())
            except OSError as error:
                raise not_reachable(self.name, self.path, error) from error
            except Late:
                busy = OSError(errno.EAGAIN, "too many wait to be connected")
                raise not_reachable(self.name, self.path, busy) from None
        return connection


class _Pending:
    """A call that waits for its answer, and for what comes before it."""

    __slots__ = ("answer", "changed", "pieces", "window")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Any] = loop.create_future()
        self.changed: asyncio.Event | None = None
        """Set when a message of the call's stream, or the answer, came."""
        self.pieces: deque[bytes] = deque()
        self.window = WINDOW

    def expire(self) -> None:
        """Let the time of the call be up."""
        if not self.answer.done():
            self.fail(Late())

    def notify(self) -> None:
        if self.changed is not None:
            self.changed.set()

    def fail(self, error: Exception) -> None:
        """Answer with an error. Whoever gave up in this very moment does not look at it, which asyncio would complain of."""
        self.answer.set_exception(error)
        self.answer.exception()

    async def change(self, seconds: float) -> None:
        """Wait for the next message.

        :raises Late: when none came within so many seconds.
        """
        assert self.changed is not None
        await _within(seconds, self.changed.wait())
        self.changed.clear()


class _Connection:
    """One connection, shared by all the tasks of a loop.

    It watches a socket of its own instead of a transport of asyncio, because it may outlive its loop, and be inherited by
    a fork, where it must be let go without touching the loop.
    """

    def __init__(self, path: str) -> None:
        self.is_open = False
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._opening: asyncio.Task[None] | None = None
        self._lost: Broken | Error | None = None
        self._packer = Packer()
        self._splitter = Splitter()
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._msgid = 0
        self._waiting: dict[int, _Pending] = {}
        self._streams = asyncio.Semaphore(STREAMS)
        self._outgoing = bytearray()
        self._flushing = False
        """Whether what is to be sent will be."""
        self._writing = False
        """Whether that waits for the other side to take it."""
        self._may_send = asyncio.Event()
        self._may_send.set()

    def usable(self) -> bool:
        """Whether it is alive, and of this process and loop."""
        return self._lost is None and self._loop is asyncio.get_running_loop() and self._pid == os.getpid()

    async def open(self) -> None:
        """Connect, once for all who ask at the same time.

        :raises OSError: when nobody listens.
        :raises Error: when somebody does whom we do not trust.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        await asyncio.shield(self._opening)

    async def exchange(self, call: Outgoing) -> Any:
        """Send a call with all of its data; return its result as it travelled.

        :raises Error: what the store answered.
        :raises Late, Broken: why there is no answer.
        """
        if call.pieces is None:
            msgid, pending = self._begin(call) if self._may_send.is_set() else await self._begin_late(call)
            return await self._answer(msgid, pending, call.seconds)
        await _within(call.seconds, self._streams.acquire())
        try:
            return await self._exchange(call)
        finally:
            self._streams.release()

    async def download(self, call: Outgoing) -> AsyncGenerator[bytes, None]:
        """Send a call whose result comes in pieces, and yield them. Raises as :meth:`exchange`."""
        # A file that somebody has open may stay open for long, and must not hold up others.
        turn = self._streams if call.operation.result is bytes else asyncio.Semaphore()
        await _within(call.seconds, turn.acquire())
        try:
            async with aclosing(self._download(call)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            turn.release()

    def close(self) -> None:
        """Close the connection; whoever waits for an answer is told."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._lose(Broken("the handle was closed"))
        else:
            self.abandon()

    def abandon(self) -> None:
        """Let go of a connection that belongs to another process or loop, without touching that loop."""
        self._lost = self._lost or Broken("the connection belongs to another process or event loop")
        self._socket.close()

    # -- inside

    async def _exchange(self, call: Outgoing) -> Any:
        """Make a call whose data comes in pieces."""
        assert call.pieces is not None
        msgid, pending = await self._begin_late(call)
        try:
            await self._upload(call.pieces, msgid, pending, call.seconds)
        except BaseException:
            self._end(msgid)
            raise
        return await self._answer(msgid, pending, call.seconds)

    async def _answer(self, msgid: int, pending: _Pending, seconds: float) -> Any:
        """Wait for the answer to a call.

        :raises Late: when there is none within so many seconds.
        """
        # A timer of our own instead of asyncio.timeout, which would be a quarter of what a call costs here.
        timer = self._loop.call_later(seconds, pending.expire)
        try:
            return await pending.answer
        finally:
            timer.cancel()
            self._end(msgid)

    async def _download(self, call: Outgoing) -> AsyncGenerator[bytes, None]:
        msgid, pending = await self._begin_late(call)
        pending.changed = asyncio.Event()
        taken = received = 0
        try:
            while True:
                while pending.pieces:
                    piece = pending.pieces.popleft()
                    taken += len(piece)
                    received += len(piece)
                    if taken >= WINDOW // 4:
                        self._send(frame(more(self._packer, msgid, taken)))
                        taken = 0
                    yield piece
                if pending.answer.done():
                    yield last_piece(pending.answer.result(), received)
                    return
                await pending.change(call.seconds)
        finally:
            self._end(msgid)

    async def _begin_late(self, call: Outgoing) -> tuple[int, _Pending]:
        """Send the request of a call, once the other side takes it."""
        if not self._may_send.is_set():
            await _within(call.seconds, self._may_send.wait())
        return self._begin(call)

    def _begin(self, call: Outgoing) -> tuple[int, _Pending]:
        """Send the request of a call."""
        if self._lost is not None:
            raise self._lost
        self._msgid = (self._msgid + 1) & 0xFFFFFFFF
        request = call.frame(self._packer, self._msgid)
        pending = self._waiting[self._msgid] = _Pending(self._loop)
        self._send(request)
        return self._msgid, pending

    def _end(self, msgid: int) -> None:
        """Forget a call. If no answer came, because its task was cancelled or its time is up, the store is told."""
        pending = self._waiting.pop(msgid, None)
        if pending is not None:
            pending.answer.cancel()
            self._send(frame(self._packer.notification(CANCEL, [msgid])))

    async def _upload(self, pieces: Iterator[memoryview | int], msgid: int, pending: _Pending, seconds: float) -> None:
        """Send the data of a call as fast as it may come, unless the store has answered already."""
        pending.changed = asyncio.Event()
        while not pending.answer.done():
            piece = await asyncio.to_thread(next, pieces)
            size = 0 if isinstance(piece, int) else len(piece)
            while size > pending.window and not pending.answer.done():
                await pending.change(seconds)
            pending.window -= size
            self._send(b"".join(framed(*chunk(self._packer, msgid, piece))))
            await _within(seconds, self._may_send.wait())
            if isinstance(piece, int):
                return

    async def _connect(self) -> None:
        try:
            check_owner(self._path)
            while (failed := self._socket.connect_ex(self._path)) == errno.EAGAIN:
                await asyncio.sleep(BUSY_SECONDS)
                if self._lost is not None:
                    return  # whoever comes to send something is told
            if failed:
                raise OSError(failed, os.strerror(failed))
            check_listener(self._socket, self._path)
        except BaseException as error:
            self._lose(Broken(str(error)))
            raise
        self.is_open = True
        self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        """Take what arrived."""
        try:
            size = self._socket.recv_into(self._received)
            if not size:
                raise ConnectionResetError("the store closed the connection")
            for body in self._splitter.feed(self._received[:size]):
                self._take(body)
        except BlockingIOError:
            return
        except (OSError, FrameError, MessageError) as error:
            self._lose(Broken(str(error)))

    def _take(self, body: bytes) -> None:
        """Give a message to the call that waits for it. If none does any more, drop it."""
        head = read_head(body)
        if head.kind != RESPONSE:
            if head.method in (CHUNK, MORE):
                self._take_of_stream(head, body)
            elif head.method == REFUSED and (refusal := read_refusal(body)) is not None:
                self._lose(refusal)
            return
        pending = self._waiting.get(head.msgid)
        if pending is None or pending.answer.done():
            self._waiting.pop(head.msgid, None)
            return
        try:  # what cannot be decoded ends the connection, and this call with it: so it still waits
            pending.answer.set_result(decode_response(body)[1])
        except Error as error:
            pending.fail(error)
        del self._waiting[head.msgid]
        pending.notify()

    def _take_of_stream(self, head: Head, body: bytes) -> None:
        msgid, rest_at = streamed(body, head.params_at)
        pending = self._waiting.get(msgid)
        if pending is None:
            return
        carried = read_stream(body, rest_at)
        if isinstance(carried, int):
            pending.window += carried
        else:
            pending.pieces.append(carried)
        pending.notify()

    def _send(self, data: bytes) -> None:
        """Write soon, together with what others send until then."""
        if self._lost is not None:
            return
        self._outgoing += data
        if len(self._outgoing) > MAX_UNSENT:
            self._may_send.clear()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        elif len(self._outgoing) > EARLY and not self._writing:
            self._flush()

    def _flush(self) -> None:
        """Write as much as the other side takes; while much is left, further calls wait."""
        if self._lost is not None or not self._outgoing:
            return
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._readable()  # the other side may have said why it takes nothing more
            self._lose(Broken(str(error)))
            return
        del self._outgoing[:sent]
        if len(self._outgoing) <= MAX_UNSENT:
            self._may_send.set()
        if self._outgoing:
            self._writing = True
            self._loop.add_writer(self._socket, self._flush)
            return
        self._flushing = False
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _lose(self, error: Broken | Error) -> None:
        """End the connection, and tell everyone who waits."""
        if self._lost is not None:
            return
        self._lost = error
        self._may_send.set()
        waiting, self._waiting = self._waiting, {}
        for pending in waiting.values():
            if not pending.answer.done():
                pending.fail(error)
            pending.notify()
        if self.is_open:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()


async def _within(seconds: float, awaitable: Awaitable[T]) -> T:
    """Wait for something, but not for longer than so many seconds.

    :raises Late: when it took longer.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise Late from None
        raise
