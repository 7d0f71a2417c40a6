"""The pipe of a lifeline: what is said on it, and one of its two ends.

A message is a msgpack array of a name and a map, in a frame of ``multiprocess.Pipe()``: four bytes of length, big-endian,
then the body, which is what ``send_bytes`` writes. Objects are never pickled here. Neither end ever waits for the other:
both read what is there, keep half a frame until its rest comes, and drop what the other end has no room for.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgpack

__all__ = ["MAX_MESSAGE", "End", "Frames", "Message", "encode", "poll"]

MAX_MESSAGE: Final = 64 * 1024
"""How many bytes a message may have."""

READ_SIZE: Final = 64 * 1024
"""How much is read at a time, so that a child which talks without end cannot keep its parent."""

HEADER: Final = struct.Struct("!i")

FILE: Final = struct.Struct("@i")
"""A descriptor, as the kernel packs it (cmsg(3))."""

Message = tuple[str, dict[str, Any]]
"""A name and a map."""


def encode(message: str, body: Mapping[str, Any] | None = None) -> bytes:
    """Return the frame of a message.

    :raises TypeError: when ``body`` holds something that msgpack cannot carry.
    :raises ValueError: when the message is longer than :data:`MAX_MESSAGE`.
    """
    packed: bytes = msgpack.packb([message, {} if body is None else dict(body)])
    if len(packed) > MAX_MESSAGE:
        raise ValueError(f"the message {message!r} has {len(packed)} bytes; a lifeline takes {MAX_MESSAGE}")
    return HEADER.pack(len(packed)) + packed


class Frames:
    """Cuts a stream of bytes into messages.

    :ivar broken: how the stream broke the protocol; ``None`` as long as it did not. Nothing after that is a message.
    """

    def __init__(self) -> None:
        self.broken: str | None = None
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take what was read; return the messages that are complete."""
        self._buffer += data
        messages: list[Message] = []
        while self.broken is None and len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            if not 0 <= length <= MAX_MESSAGE:
                self.broken = f"a message of {length} bytes, {MAX_MESSAGE} are allowed"
                break
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            try:
                messages.append(_decode(bytes(self._buffer[HEADER.size : end])))
            except ValueError as cause:
                self.broken = str(cause)
            del self._buffer[:end]
        return messages


class End:
    """One end of a lifeline: messages in, messages out, and whether the other end is closed. It never blocks.

    :param connection: from ``multiprocess.Pipe()``. It is only used as the owner of a descriptor.
    :param takes_files: whether the other end may send descriptors along with messages.
    :ivar files: those that came and were not taken yet.
    :ivar eof: whether the other end was found closed.
    """

    def __init__(self, connection: Any, *, takes_files: bool = False) -> None:
        self._connection = connection
        self._takes_files = takes_files
        self.files: deque[int] = deque()
        os.set_blocking(connection.fileno(), False)
        os.set_inheritable(connection.fileno(), False)  # the method spawn left it inheritable
        self._frames = Frames()
        self._unsent = b""
        self._writing = threading.Lock()
        self.eof = False

    @property
    def broken(self) -> str | None:
        """How the other end broke the protocol; ``None`` as long as it did not."""
        return self._frames.broken

    def fileno(self) -> int:
        """Return the descriptor. It is readable when there are messages and when the other end is closed."""
        return int(self._connection.fileno())

    def close(self) -> None:
        """Close this end. A second call does nothing."""
        self._connection.close()

    def read(self, *, everything: bool = False) -> list[Message]:
        """Return messages that have arrived; at the other end's EOF, set :attr:`eof`.

        :param everything: read until there is nothing left, and not just one portion.
        """
        messages = []
        while not self.eof and self.broken is None:
            try:
                data = self._receive()
            except BlockingIOError:
                break
            except OSError:  # ECONNRESET: the other end was closed, and had not read everything
                data = b""
            self.eof = not data
            messages += self._frames.feed(data)
            if not everything:
                break
        return messages

    def write(self, frame: bytes, *, patience: float = 0.0, file: int | None = None) -> bool:
        """Send a frame, or drop it and return ``False`` when there is no room for it.

        :param patience: for how many seconds to wait for room.
        :param file: a descriptor that goes with it.
        """
        deadline = time.monotonic() + patience
        with self._writing:
            if not self._flush(deadline):
                return False
            self._unsent = frame
            if file is not None and not self._send_with(file):
                self._unsent = b""
                return False
            self._flush(deadline)
            if self._unsent == frame:
                self._unsent = b""
                return False
            return True  # what is left of a frame that was begun goes out before the next one

    def is_hung_up(self) -> bool:
        """Tell, without reading, whether the other end is closed."""
        return any(events & select.POLLHUP for _, events in poll(self.fileno(), 0, 0.0))

    def hang_up(self) -> None:
        """Let the other end see EOF, and go on reading what it says."""
        with self._as_socket() as end:
            end.shutdown(socket.SHUT_WR)

    @contextlib.contextmanager
    def _as_socket(self) -> Iterator[socket.socket]:
        """Lend the descriptor to a socket, which has what a pipe has not."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=self.fileno())
        try:
            end.setblocking(False)
            yield end
        finally:
            end.detach()

    def _receive(self) -> bytes:
        """Read what is there.

        :raises BlockingIOError: when there is nothing.
        :raises OSError: when the other end is closed.
        """
        if not self._takes_files:
            return os.read(self.fileno(), READ_SIZE)  # the kernel closes what came along
        with self._as_socket() as end:
            # socket.recv_fds does not pass its flags on, and a descriptor that is inherited outlives its use.
            data, ancillary, _flags, _address = end.recvmsg(READ_SIZE, socket.CMSG_LEN(FILE.size), socket.MSG_CMSG_CLOEXEC)
        for level, kind, packed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.files.extend(FILE.unpack(packed))
        return data

    def _send_with(self, file: int) -> bool:
        """Write the beginning of what is unsent, and a descriptor with it; return whether there was room."""
        try:
            with self._as_socket() as end:
                self._unsent = self._unsent[socket.send_fds(end, [self._unsent], [file]) :]
        except OSError:  # no room, or the other end is closed
            return False
        return True

    def _flush(self, deadline: float) -> bool:
        """Write what is unsent; return whether nothing is left."""
        while self._unsent:
            try:
                self._unsent = self._unsent[os.write(self.fileno(), self._unsent) :]
            except BlockingIOError:
                if not poll(self.fileno(), select.POLLOUT, deadline - time.monotonic()):
                    return False
            except OSError:  # the other end is closed, or this one
                return False
        return True


def _decode(packed: bytes) -> Message:
    """Return the message in a frame.

    :raises ValueError: when there is none.
    """
    try:
        unpacked = msgpack.unpackb(packed)
    except (ValueError, TypeError, msgpack.UnpackException) as cause:
        raise ValueError(f"a message that is no msgpack: {cause}") from cause
    match unpacked:
        case [str() as message, dict() as body]:
            return message, body
    raise ValueError("a message that is not an array of a name and a map")


def poll(fd: int, events: int, timeout: float | None) -> list[tuple[int, int]]:
    """Wait for events on one descriptor, for ``timeout`` seconds or without end."""
    poller = select.poll()
    poller.register(fd, events)
    return poller.poll(None if timeout is None else max(0, timeout) * 1000)
