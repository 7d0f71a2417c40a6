"""One connection of the asyncio client: all calls of a loop, in flight together.

    task ──► request with a msgid ──► socket ──► response ──► the future that waits for this msgid

A call that is cancelled, or runs out of time, tells the store to drop it; a late answer is dropped.

The connection belongs to its loop, which watches it and keeps it alive. So a loop that is closed leaves nothing behind, and
no descriptor is closed while a loop still watches it: the next to get its number would never be heard.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing
from typing import Any, Final, TypeVar

from asm.client.calling import BUSY_SECONDS, Broken, Late, Outgoing, last_piece, reach
from asm.core.errors import Error
from asm.wire.frames import FrameError, Splitter, frame, framed
from asm.wire.messages import CANCEL, REFUSED, RESPONSE, Head, MessageError, Packer, decode_response, read_head, read_refusal
from asm.wire.names import check_owner
from asm.wire.streams import CHUNK, MORE, WINDOW, chunk, more, read_stream, streamed

__all__ = ["Connection", "within"]

RECEIVE_BYTES: Final = 256 * 1024
MAX_UNSENT: Final = 1024 * 1024
"""With this many bytes that the store has not taken, further calls wait before they are sent."""

EARLY: Final = 4096
"""With this many bytes to send, the end of the loop's turn is not waited for: the store begins while further calls are made."""

STREAMS: Final = 16
"""How many artifacts move at the same time on one connection; more wait their turn. Each may have a window under way."""

T = TypeVar("T")


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
        await within(seconds, self.changed.wait())
        self.changed.clear()


class Connection:
    """One connection, shared by all the tasks of a loop.

    It watches a socket of its own instead of a transport of asyncio, because it may be inherited by a fork, where it must be
    let go without touching the loop.
    """

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = False
        self._path = path
        self._loop = loop
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        # Closing the loop lets go of the connection, and this of the socket.
        weakref.finalize(self, self._socket.close).atexit = False
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

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return self._lost is not None

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
        await within(call.seconds, self._streams.acquire())
        try:
            return await self._exchange(call)
        finally:
            self._streams.release()

    async def download(self, call: Outgoing) -> AsyncGenerator[bytes, None]:
        """Send a call whose result comes in pieces, and yield them. Raises as :meth:`exchange`."""
        # A file that somebody has open may stay open for long, and must not hold up others.
        turn = self._streams if call.operation.result is bytes else asyncio.Semaphore()
        await within(call.seconds, turn.acquire())
        try:
            async with aclosing(self._download(call)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            turn.release()

    def close(self) -> None:
        """Close the connection, from whichever loop and thread; whoever waits for an answer is told."""
        if asyncio.get_running_loop() is self._loop:
            self._lose(Broken("the handle was closed"))
        else:
            self.close_soon()

    def close_soon(self) -> None:
        """Have the loop close the connection."""
        try:
            self._loop.call_soon_threadsafe(self._lose, Broken("the handle was closed"))
        except RuntimeError:  # the loop is closed, and watches nothing any more
            self.abandon()

    def abandon(self) -> None:
        """Let go of a connection whose loop is closed, or is another process's: nobody waits for it."""
        self._lost = self._lost or Broken("the connection belongs to another process, or to an event loop that is closed")
        self.is_open = False
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
            await within(call.seconds, self._may_send.wait())
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
            await within(seconds, self._may_send.wait())
            if isinstance(piece, int):
                return

    async def _connect(self) -> None:
        try:
            check_owner(self._path)
            while not self.is_lost and not reach(self._socket, self._path):  # noqa: ASYNC110  # no event tells of room
                await asyncio.sleep(BUSY_SECONDS)
        except BaseException as error:
            self._lose(Broken(str(error)))
            raise
        if not self.is_lost:  # else whoever comes to send something is told
            self.is_open = True
            self._loop.add_reader(self._socket.fileno(), self._readable)

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
            sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
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
            self._loop.add_writer(self._socket.fileno(), self._flush)
            return
        self._flushing = False
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

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
            self.is_open = False
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
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
