"""Streams at the end that holds the store: artifacts that come in and go out piece by piece, and rows that go out so.

    Upload     chunk ──► queue ──► the iterator that ``put`` reads in a thread ──► more
    Download   more ──► make a piece in a thread ──► chunk

Neither holds more than a window of bytes. Whoever stops sending or asking keeps no thread for long: an upload gives up
after :data:`IDLE_SECONDS`, and a download holds a thread only while it makes a piece.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor
from typing import BinaryIO, Final

from asm.core.errors import Error
from asm.processes.loops import Loop
from asm.processes.peers import Call
from asm.wire.messages import packed
from asm.wire.streams import PIECE, Receiving, Sending

__all__ = ["Download", "Upload", "cut", "read_pieces"]

IDLE_SECONDS: Final = 60.0
"""How long an upload waits for the next bytes."""


class Upload:
    """Bytes that come in. In the loop they are taken, in a thread they are iterated over.

    :param call: the call that they belong to.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[bytes | int | None] = queue.SimpleQueue()
        self._receiving = Receiving()

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next bytes, or at the end how many there were.

        :raises MessageError: for what is no chunk, for more than may come, or after the end.
        """
        self._arrived.put(self._receiving.hear(method, body, rest_at))

    def cancel(self, call: Call) -> None:
        """Nobody will send the rest: let whoever reads fail."""
        self._receiving.has_ended = True
        self._arrived.put(None)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes as they come, in the thread of ``put``.

        :raises Error: ``cancelled`` when the upload was abandoned, ``timeout`` when nothing came for long,
            ``storage_write_failed`` when a part was lost on its way.
        """
        total = 0
        while True:
            try:
                piece = self._arrived.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                raise Error("timeout", f"the upload stopped: no bytes came for {IDLE_SECONDS:g} s") from None
            if piece is None:
                raise Error("cancelled", "the upload was abandoned")
            if isinstance(piece, int):
                if piece != total:
                    details = {"bytes_sent": piece, "bytes_received": total}
                    raise Error("storage_write_failed", f"{total} of {piece} bytes arrived", details=details)
                return
            total += len(piece)
            yield piece
            self._loop.call_soon_threadsafe(self._taken, len(piece))

    def _taken(self, size: int) -> None:
        more = self._receiving.take(size)
        if more and not self._receiving.has_ended:
            peer = self._call.peer
            peer.send(*peer.callee.more(self._call, more))


class Download:
    """Bytes that go out, as many as the other side lets come.

    :param call: the call that they answer.
    :param pieces: makes the bytes, in a thread, :data:`~asm.wire.streams.PIECE` of them at a time; what is less is the end.
    :param threads: where.
    :param failed: turns what is raised there into an error, and tells of it.
    """

    def __init__(
        self,
        call: Call,
        pieces: Generator[bytes, None, None],
        threads: Executor,
        failed: Callable[[Exception], Error],
        succeeded: Callable[[], object],
    ) -> None:
        self._call = call
        self._pieces = pieces
        self._threads = threads
        self._failed = failed
        self._succeeded = succeeded
        self._loop = Loop.running()
        self._sending = Sending()
        self._making = False
        call.work = self
        self._go_on()

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Let so many bytes more go.

        :raises MessageError: when it is no such number.
        """
        self._sending.hear(method, body, rest_at)
        self._go_on()

    def cancel(self, call: Call) -> None:
        """Make no more pieces. While one is being made, that is for afterwards."""
        if not self._making:
            self._end()

    def _go_on(self) -> None:
        """Make the next piece, if it may go and none is being made."""
        if self._making or self._call.is_over or self._sending.room < PIECE or not self._call.peer.writable(self._go_on):
            return
        self._making = True
        self._call.holds += 1
        self._threads.submit(self._make)

    def _make(self) -> None:
        """Make a piece, in a thread."""
        piece, error = b"", None
        try:
            piece = next(self._pieces)
        except Exception as cause:  # noqa: BLE001  # whatever a store raises is answered
            error = self._failed(cause)
        self._loop.post(self._was_made, piece, error)

    def _was_made(self, piece: bytes, error: Error | None) -> None:
        call = self._call
        self._making = False
        call.let_go()
        if call.is_over:
            self._end()
        elif error is not None:
            call.fail(error)
        elif len(piece) < PIECE:
            self._succeeded()
            call.finish(packed([piece, self._sending.total + len(piece)]))
        else:
            self._sending.sent(PIECE)
            call.rest(is_long=True)
            call.peer.send(*call.peer.callee.chunk(call, piece))
            self._go_on()

    def _end(self) -> None:
        """Let go of what the pieces are made from. That may take its time, and so is done in a thread."""
        try:
            self._threads.submit(self._pieces.close)
        except RuntimeError:  # the process ends: there are no threads any more, and nobody who would be kept waiting
            self._pieces.close()


def cut(parts: Iterable[bytes]) -> Generator[bytes, None, None]:
    """Yield the same bytes in pieces, of which the last is smaller than the others."""
    piece = bytearray()
    for part in parts:
        left = memoryview(part)
        while len(piece) + len(left) >= PIECE:
            room = PIECE - len(piece)
            yield bytes(piece + left[:room])
            piece, left = bytearray(), left[room:]
        piece += left
    yield bytes(piece)


def read_pieces(open_file: Callable[[], tuple[bytes, BinaryIO]]) -> Generator[bytes, None, None]:
    """Yield what stands in front of a file, and what is in it, in such pieces. The end is noticed together with the last."""
    piece, opened = open_file()
    with contextlib.closing(opened) as file:
        while read := file.read(PIECE - len(piece)):
            piece = piece + read if piece else read
            if len(piece) == PIECE:
                yield piece
                piece = b""
    yield piece
