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
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Any, Final, TypeVar

from asm.client.calling import BUSY_SECONDS, Late, Stale, reach
from asm.client.conversation import Call, Conversation, Outgoing
from asm.wire.conversation import Broken
from asm.wire.names import check_owner

__all__ = ["Connection", "within"]

RECEIVE_BYTES: Final = 256 * 1024
MAX_UNSENT: Final = 1024 * 1024
"""With this many bytes that the store has not taken, further calls wait before they are sent."""

EARLY: Final = 4096
"""With this many bytes to send, the end of the loop's turn is not waited for: the store begins while further calls are made."""

STREAMS: Final = 16
"""How many artifacts move at the same time on one connection; more wait their turn. Each may have a window under way."""

T = TypeVar("T")


class Connection:
    """One connection, shared by all the tasks of a loop. Deadlines are by the loop's clock.

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
        self._conversation = Conversation()
        self._received = memoryview(bytearray(RECEIVE_BYTES))
        self._streams = asyncio.Semaphore(STREAMS)
        self._outgoing = bytearray()
        self._written = 0
        """How many bytes the other side took so far."""
        self._flushing = False
        """Whether what is to be sent will be."""
        self._writing = False
        """Whether that waits for the other side to take it."""
        self._may_send = asyncio.Event()
        self._may_send.set()

    @property
    def is_lost(self) -> bool:
        """Whether it is of no use any more."""
        return self._conversation.lost is not None

    async def open(self) -> None:
        """Connect, once for all who ask at the same time.

        :raises OSError: when nobody listens.
        :raises Error: when somebody does whom we do not trust.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        await asyncio.shield(self._opening)

    async def exchange(self, outgo: Outgoing, deadline: float) -> Any:
        """Send a call with all of its data; return its result.

        :raises Error: what the store answered.
        :raises Late, Broken: why there is no answer.
        :raises Stale: when the other side had closed the connection before anything of the call was sent.
        """
        if outgo.pieces is None:
            return await self._exchange(outgo, deadline)
        await within(deadline, self._streams.acquire())
        try:
            return await self._exchange(outgo, deadline)
        finally:
            self._streams.release()

    async def download(self, outgo: Outgoing, deadline: float) -> AsyncGenerator[bytes, None]:
        """Send a call whose result is bytes, and yield them. Raises as :meth:`exchange`."""
        # A file that somebody has open may stay open for long, and must not hold up others.
        turn = self._streams if outgo.operation.result is bytes else asyncio.Semaphore()
        await within(deadline, turn.acquire())
        try:
            call, begins = await self._begin(outgo, deadline)
            try:
                while (piece := await self._receive(call, deadline)) is not None:
                    yield piece
                    deadline = self._loop.time() + outgo.seconds
                yield call.last_piece()
            except Broken as error:
                raise self._broken(error, begins) from error
            finally:
                self._end(call)
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
        self._conversation.fail(Broken("the connection belongs to another process, or to an event loop that is closed"))
        self.is_open = False
        self._socket.close()

    # -- inside

    async def _exchange(self, outgo: Outgoing, deadline: float) -> Any:
        call, begins = await self._begin(outgo, deadline)
        try:
            if outgo.pieces is not None:
                self._flush()  # so that none of the data is used up for a connection that takes nothing
                if not call.answered:
                    deadline, begins = await self._upload(outgo.pieces, call, outgo.seconds), -1
            rows = None
            while (piece := await self._receive(call, deadline)) is not None:
                rows, deadline = outgo.row(rows, piece), self._loop.time() + outgo.seconds
            return outgo.result(call, rows)
        except Broken as error:
            raise self._broken(error, begins) from error
        finally:
            self._end(call)

    async def _begin(self, outgo: Outgoing, deadline: float) -> tuple[Call, int]:
        """Send the request of a call, once the other side takes it; return where in all that is sent it begins."""
        if not self._may_send.is_set():
            await within(deadline, self._may_send.wait())
        call, request = self._conversation.begin(outgo)
        begins = self._written + len(self._outgoing)
        self._send(request)
        return call, begins

    def _broken(self, error: Broken, begins: int) -> Broken:
        """End the connection, and say what that means to a call whose request begins there."""
        self._lose(error)  # it may have been found out only now that what came makes no sense
        return Stale(str(error)) if begins >= self._written else error

    def _end(self, call: Call) -> None:
        """Forget a call. If no answer came, because its task was cancelled or its time is up, the store is told."""
        if not call.answered:
            self._send(self._conversation.give_up(call.msgid))

    async def _receive(self, call: Call, deadline: float) -> bytes | None:
        """Return the next bytes of a result that comes in pieces; ``None`` once the call was answered.

        :raises Late: when neither came until the deadline.
        """
        while not call.pieces:
            if call.answered:
                return None
            await self._news(call, deadline)
        piece, more = self._conversation.take(call)
        if more:
            self._send(more)
        return piece

    async def _upload(self, pieces: Iterator[memoryview | int], call: Call, seconds: float) -> float:
        """Send the data of a call as fast as it may come, until its end, or the call was answered.

        :param seconds: how long each step may take.
        :return: the deadline of the next step.
        :raises Late: when one took longer.
        """
        assert call.sending is not None
        while True:
            piece = await asyncio.to_thread(next, pieces)
            deadline = self._loop.time() + seconds
            size = 0 if isinstance(piece, int) else len(piece)
            while not call.answered and (size > call.sending.room or not self._may_send.is_set()):
                await self._news(call, deadline)
            if not call.answered:
                self._send(self._conversation.upload(call, piece))
            if call.answered or isinstance(piece, int):
                return deadline

    async def _news(self, call: Call, deadline: float) -> None:
        """Wait until there is news of a call.

        :raises Late: when there was none until the deadline.
        """
        waiter = call.waiter = self._loop.create_future()
        # A timer of our own instead of asyncio.timeout, which would be a quarter of what a call costs here.
        timer = self._loop.call_at(deadline, _wake, waiter, False)
        try:
            if not await waiter:
                raise Late
        finally:
            timer.cancel()
            call.waiter = None

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

    def _readable(self) -> bool:
        """Take what arrived; tell whether something did."""
        try:
            size = self._socket.recv_into(self._received)
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose(Broken(str(error)))
            return True
        if not size:
            self._lose(Broken("the store closed the connection"))
            return True
        for call in self._conversation.receive(self._received[:size]):
            _wake(call.waiter, news=True)
        if self.is_lost:
            self._close()
        return True

    def _send(self, data: bytes) -> None:
        """Write soon, together with what others send until then."""
        if self.is_lost or not data:
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
        if self.is_lost or not self._outgoing:
            return
        try:
            sent = self._socket.send(self._outgoing, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._cannot_write(error)
            return
        self._written += sent
        del self._outgoing[:sent]
        if len(self._outgoing) <= MAX_UNSENT and not self._may_send.is_set():
            self._may_go_on()
        if self._outgoing:
            self._writing = True
            self._loop.add_writer(self._socket.fileno(), self._flush)
            return
        self._flushing = False
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _cannot_write(self, error: OSError) -> None:
        """Look whether the other side, which takes nothing more, has said why, or has answered."""
        while not self.is_lost and self._readable():
            pass
        self._lose(Broken(str(error)))

    def _may_go_on(self) -> None:
        """Let calls be sent again, and more of the data of those that send some."""
        self._may_send.set()
        for call in self._conversation.calls.values():
            if isinstance(call, Call) and call.sending is not None:
                _wake(call.waiter, news=True)

    def _lose(self, error: Broken) -> None:
        """End the connection, and tell everyone who waits."""
        if not self.is_lost:
            for call in self._conversation.fail(error):
                _wake(call.waiter, news=True)
            self._close()

    def _close(self) -> None:
        self._may_send.set()
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()


def _wake(waiter: asyncio.Future[bool] | None, news: bool) -> None:
    """Let go on who waits for news: there are some, or the time is up."""
    if waiter is not None and not waiter.done():
        waiter.set_result(news)


async def within(deadline: float, awaitable: Awaitable[T]) -> T:
    """Wait for something, but not beyond a time of the loop's clock.

    :raises Late: when it took longer.
    """
    try:
        async with asyncio.timeout_at(deadline) as limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise Late from None
        raise
