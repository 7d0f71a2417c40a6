"""The lifeline: the pipe between a parent and its child, and both of its ends.

::

    parent                                                                     child
      │   <────  ["hello",  {"pid": 4711}]                          once, first  │
      │   <────  ["ready",  {…}]                 it is up, and what it has to say │
      │   <────  ["waiting", {"message": …}]   it is up, and what it needs is away │
      │   <────  ["failed", {"code": …, "message": …}]    or why it cannot come up │
      │   <────  ["beat",   {…}]      its loop goes on; with counters, if it has any │
      │   <────  [any other name, {…}]                    what else it wants to say │
      │    ────> ["settings", {…}]                what it is to be told while it runs │
      │    ────> ["socket", {}]     with a descriptor: listen on this one from now on │
      │    ────> ["stop",   {}]                           please go; SIGTERM follows │
     EOF: the child is gone                               EOF: the parent is gone

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
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgpack

from asm_supervisor import forks

__all__ = ["MAX_MESSAGE", "End", "Frames", "Lifeline", "Message", "encode"]

MAX_MESSAGE: Final = 64 * 1024
"""How many bytes a message may have."""

READ_SIZE: Final = 64 * 1024
"""How much is read at a time, so that a child which talks without end cannot keep its parent."""

PATIENCE: Final = 5.0
"""For how many seconds ``ready``, ``waiting`` and ``failed`` wait for room, which there is unless the parent is stopped."""

ORPHANED: Final = 1
"""The exit status of a child that outlived its parent."""

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
        return any(events & select.POLLHUP for _, events in _poll(self.fileno(), 0, 0.0))

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
                if not _poll(self.fileno(), select.POLLOUT, deadline - time.monotonic()):
                    return False
            except OSError:  # the other end is closed, or this one
                return False
        return True


class Lifeline:
    """The child's end. The first argument of every child's target.

    :ivar name: the child's name.
    :ivar socket: the listening socket that the parent owns; ``None`` when the child was described without one.
    :ivar restarts: how many processes this child had before this one.
    :ivar recovers: whether one of them had come up, and this one is to go on where the last one died; not, when another
        process was asked for.
    :ivar settings: what the child was described with, as the parent told it last.
    :ivar on_settings: called with the settings when :meth:`stop_requested` has found new ones.
    :ivar on_socket: called with another listening socket when :meth:`stop_requested` has found one: the other was lost.
    :ivar heartbeat: every how many seconds the child is to :meth:`beat` once it is up; ``None``: it need not.
    """

    def __init__(
        self,
        name: str,
        connection: Any,
        listening: socket.socket | None = None,
        *,
        restarts: int = 0,
        recovers: bool = False,
        heartbeat: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.socket = listening
        self.restarts = restarts
        self.recovers = recovers
        self.heartbeat = heartbeat
        self.settings: Mapping[str, Any] = settings or {}
        self.on_settings: Callable[[Mapping[str, Any]], None] | None = None
        self.on_socket: Callable[[socket.socket], None] | None = None
        self.told: str | None = None
        """What this child said last of itself: ``ready``, ``waiting`` or ``failed``."""
        self._end = End(connection, takes_files=True)
        self._reading = threading.RLock()
        self._stop_requested = False
        self._leave = threading.Event()
        forks.close_in_forks(self)

    def ready(self, info: Mapping[str, Any] | None = None) -> None:
        """Tell the parent that this child is up; also, that it no longer waits. What is started after it waits for this.

        :param info: what the parent may want to show, JSON values with string keys.
        :raises TypeError: when ``info`` holds something else.
        :raises ValueError: when ``info`` is longer than :data:`MAX_MESSAGE`.
        """
        self._say("ready", encode("ready", info))

    def waiting(self, info: Mapping[str, Any]) -> None:
        """Tell the parent that this child serves its name, but that its store is away; :meth:`ready`, once it is back.

        Both may be said at any time and any number of times. What is started after this child does not wait.

        :param info: JSON values with string keys; at least ``message``, for a person.
        :raises TypeError: when ``info`` holds something else.
        :raises ValueError: when ``info`` is longer than :data:`MAX_MESSAGE`.
        """
        self._say("waiting", encode("waiting", info))

    def failed(self, error: Mapping[str, Any]) -> None:
        """Tell the parent that this child cannot come up, and why. Then return from the target: the child exits with 1.

        It may turn out while the child waits. Of a child that is ready it is not true, and nothing is said then.

        :param error: JSON values with string keys; at least ``code``, for a program, and ``message``, for a person.
        """
        if self.told != "ready":
            self._say("failed", _encode_error(error))

    def beat(self, stats: Mapping[str, Any] | None = None) -> bool:
        """Tell the parent that this child gets on with its work.

        Call it from what does the work, such as the event loop, and not from a thread that lives on when that is stuck.

        :param stats: counters for :attr:`Snapshot.stats <supervisor.child.Snapshot.stats>`.
        :return: whether it was sent, as with :meth:`send`.
        """
        return self.send("beat", stats)

    def send(self, message: str, body: Mapping[str, Any] | None = None) -> bool:
        """Tell the parent something else, such as a counter, without ever waiting.

        :return: whether it was sent. It is dropped when the pipe is full or the parent is gone.
        :raises TypeError: when ``body`` holds something that msgpack cannot carry.
        :raises ValueError: when it is longer than :data:`MAX_MESSAGE`.
        """
        return self._end.write(encode(message, body))

    def fileno(self) -> int:
        """Return a descriptor for ``select`` and event loops. When it is readable, call :meth:`stop_requested`."""
        return self._end.fileno()

    def stop_requested(self) -> bool:
        """Take what the parent says; tell, without waiting, whether it is gone or has asked this child to stop.

        After the parent's death the descriptor stays readable; stop watching it once this returned ``True``.
        """
        with self._reading:
            for message, body in self._end.read():
                self._hear(message, body)
        # Whoever does not keep the protocol is not our parent.
        return self._stop_requested or self._end.eof or self._end.broken is not None

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone, as far as :meth:`stop_requested` has seen."""
        return self._end.eof

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the parent is gone or asks to stop; return whether it did within ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.stop_requested():
            if not _poll(self.fileno(), select.POLLIN, None if deadline is None else deadline - time.monotonic()):
                return False
        return True

    def exit_with_parent(self) -> None:
        """Exit at once when the parent is gone, whatever this process is doing then.

        Without this a child has a moment to finish: its ``stop_timeout``, at most two seconds.
        """
        self._leave.set()

    def attach(self, grace: float) -> None:
        """Say hello to the parent, and watch for its end. For the function that calls the target, and for nobody else.

        :param grace: how many seconds after the parent's death this process exits, if it is still there.
        """
        self._end.write(encode("hello", {"pid": os.getpid()}), patience=PATIENCE)
        threading.Thread(target=self._watch, args=(grace,), name="lifeline", daemon=True).start()

    def abandon(self) -> None:
        """Close a fork's copy: a child of this child must not look like this child."""
        self._end.close()

    def _hear(self, message: str, body: Mapping[str, Any]) -> None:
        """Take what the parent said. What a newer one may say besides means nothing here."""
        if message == "stop":
            self._stop_requested = True
        elif message == "settings":
            self.settings = body
            if self.on_settings is not None:
                self.on_settings(body)
        elif message == "socket" and self._end.files:
            self.socket = socket.socket(fileno=self._end.files.popleft())
            if self.on_socket is not None:
                self.on_socket(self.socket)

    def _say(self, message: str, frame: bytes) -> None:
        """Say how this child is. That it has failed is the last word."""
        if self.told != "failed":
            self._end.write(frame, patience=PATIENCE)
            self.told = message

    def _watch(self, grace: float) -> None:
        # Only the hang-up is waited for: what the parent says is for the target to read.
        _poll(self.fileno(), select.POLLRDHUP, None)
        self._leave.wait(grace)
        os._exit(ORPHANED)


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


def _encode_error(error: Mapping[str, Any]) -> bytes:
    """Return the frame of ``failed``. Whatever is wrong with the error, something of it arrives."""
    try:
        return encode("failed", error)
    except (TypeError, ValueError, OverflowError):
        code, message = str(error.get("code", "")), str(error.get("message", ""))
        return encode("failed", {"code": _sendable(code[:100]), "message": _sendable(message[:10_000])})


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _poll(fd: int, events: int, timeout: float | None) -> list[tuple[int, int]]:
    """Wait for events on one descriptor, for ``timeout`` seconds or without end."""
    poll = select.poll()
    poll.register(fd, events)
    return poll.poll(None if timeout is None else max(0, timeout) * 1000)
