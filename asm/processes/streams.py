"""Streams at the end that holds the store: artifacts that come in and go out piece by piece.

    Upload     chunk ──► queue ──► the iterator that ``put`` reads in a thread ──► more
    Download   more ──► read a piece in a thread ──► chunk

Neither holds more than a window of bytes. Whoever stops sending or asking keeps no thread for long: an upload gives up
after :data:`IDLE_SECONDS`, and a download holds a thread only while it reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import BinaryIO, Final

from asm.core.errors import Error
from asm.processes.calls import Call
from asm.wire.messages import MessageError, packed
from asm.wire.streams import CHUNK, MORE, PIECE, WINDOW

__all__ = ["Download", "Upload"]

IDLE_SECONDS: Final = 60.0
"""How long an upload waits for the next bytes."""


class Upload:
    """Bytes that come in. In the loop they are taken, in a thread they are iterated over.

    :param more: tells the other side that it may send so many bytes more; called in the loop.
    """

    def __init__(self, more: Callable[[int], object]) -> None:
        self._more = more
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[bytes | int | None] = queue.SimpleQueue()
        self._window = WINDOW
        self._ended = False

    def take(self, method: bytes, carried: bytes | int) -> None:
        """Take the next bytes, or at the end how many there were.

        :raises MessageError: for what is no chunk, for more than may come, or after the end.
        """
        size = len(carried) if isinstance(carried, bytes) else 0
        if method != CHUNK or self._ended or size > self._window:
            raise MessageError("an upload takes chunks, not more than the window, and nothing after its end")
        self._window -= size
        self._ended = isinstance(carried, int)
        self._arrived.put(carried)

    def abandon(self) -> None:
        """Nobody will send the rest: let whoever reads fail."""
        self._ended = True
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
        self._window += size
        if not self._ended:
            self._more(size)


class Download:
    """Bytes that go out, as many as the other side lets come.

    :param call: the ``get`` or ``open``, which is finished at the end.
    :param open_file: opens the artifact, in a thread.
    :param send: sends the next bytes; called in the loop.
    :param writable: whether what is sent is taken soon; if not, it calls what it is given once it is.
    :param threads: where files are opened and read.
    :param failed: turns what a store raised into an error.
    """

    def __init__(
        self,
        call: Call,
        open_file: Callable[[], BinaryIO],
        send: Callable[[bytes], None],
        writable: Callable[[Callable[[], None]], bool],
        threads: Executor,
        failed: Callable[[Exception], Error],
    ) -> None:
        self._call = call
        self._open_file = open_file
        self._send = send
        self._writable = writable
        self._threads = threads
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._file: BinaryIO | None = None
        self._window = WINDOW
        self._sent = 0
        self._reading = False
        call.stream = self
        call.cancel_work = self._close
        self._read()

    def take(self, method: bytes, carried: bytes | int) -> None:
        """Let so many bytes more go.

        :raises MessageError: when it is no such number.
        """
        if method != MORE or not isinstance(carried, int):
            raise MessageError("a download takes numbers of bytes that may come")
        self._window = min(self._window + carried, WINDOW)
        self._read()

    def _read(self) -> None:
        """Read the next piece, if it may go and none is being read."""
        if self._reading or self._call.over or self._window < PIECE or not self._writable(self._read):
            return
        self._reading = True
        self._threads.submit(self._read_in_thread)

    def _read_in_thread(self) -> None:
        """Read a piece, and notice the end together with the last one, so that a small artifact needs no second look."""
        piece, ended, error = b"", False, None
        try:
            if self._file is None:
                self._file = self._open_file()
            while len(piece) < PIECE and not ended:
                read = self._file.read(PIECE - len(piece))
                ended = not read
                piece = piece + read if piece else read
            if ended:
                self._file.close()
        except Exception as cause:  # noqa: BLE001  # whatever a store raises is answered
            error = self._failed(cause)
            with contextlib.suppress(Exception):
                if self._file is not None:
                    self._file.close()
        self._loop.call_soon_threadsafe(self._was_read, piece, ended, error)

    def _was_read(self, piece: bytes, ended: bool, error: Error | None) -> None:
        self._reading = False
        if self._call.over:
            self._close()
        elif error is not None:
            self._call.fail(error)
        elif ended:
            self._call.finish(packed([piece, self._sent + len(piece)]))
        else:
            self._window -= len(piece)
            self._sent += len(piece)
            self._send(piece)
            self._read()

    def _close(self) -> None:
        """Close the file of a call that nobody waits for any more, unless it is being read: then that closes it."""
        if not self._reading and self._file is not None:
            try:
                self._threads.submit(self._file.close)
            except RuntimeError:  # the process ends: there are no threads any more, and nobody who would be kept waiting
                self._file.close()
