"""The blocking client: a handle of a store in another process, for any number of threads.

    thread ──► a connection of its own for the length of the call ──► request, response ──► back to the idle ones

Connections are made when they are needed and kept. One that failed, or whose call ran out of time, is closed, which
also tells the other side to drop the call. A process that is forked leaves the connections to its parent.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import socket
import time
import weakref
from collections import deque
from collections.abc import Generator
from typing import Any, Final, Self

from asm.client.calling import (
    BUSY_SECONDS,
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
    reach,
    timed_out,
    whole,
)
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.operations import Operation
from asm.ports import ArtifactStore, SessionStore
from asm.wire.calls import decode_result
from asm.wire.frames import FrameError, Splitter, frame, framed
from asm.wire.messages import REFUSED, MessageError, Packer, decode_response, is_response, read_head, read_refusal
from asm.wire.names import check_owner, socket_path
from asm.wire.streams import CHUNK, MORE, PIECE, WINDOW, chunk, more, read_stream, streamed

__all__ = ["Client", "connect"]

MAX_IDLE: Final = 64
"""How many unused connections a handle keeps."""

RECEIVE_BYTES: Final = 32 * 1024
"""How much is asked for at the least. A buffer that is much larger costs more than the rest of the system call."""

TICKS: Final = 64
"""In what part of a second the time limit of a socket is set, rounded up: so it seldom has to be set anew."""


def connect(name: str, *, runtime_dir: str | os.PathLike[str] | None = None, timeout: float = DEFAULT_TIMEOUT) -> Client:
    """Return a handle of the store with this name.

    It may be used by any number of threads, and in processes that are forked later. When the store is restarted, the
    next call reconnects by itself.

    :param name: the name of a composite, or of a backend.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds a call may take; a long-poll adds its wait.
    :raises Error: ``storage_connection_failed`` when no store is running under this name, ``validation_error`` for what
        is no name or no timeout.
    """
    client = Client(name, socket_path(name, runtime_dir), timeout)  # type: ignore[abstract]  # the decorator gives it the methods
    client._reach()  # noqa: SLF001  # the module's own class
    return client


def _proxy(operation: Operation) -> Any:
    def method(self: Client, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(operation, operation.bind(args, kwargs))

    return method


@proxies(_proxy)
class Client(SessionStore, ArtifactStore):
    """A handle of a store in another process, with the operations of both contracts. Made by :func:`connect`.

    A context manager that closes its connections at the end. Copies of it, and what comes out of a pickle, are handles of
    the same store with connections of their own.
    """

    def __init__(self, name: str, path: str, timeout: float) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._idle: deque[_Connection] = deque()  # its append and pop need no lock
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._closed = False
        tell_of_forks(self)

    def _reach(self) -> None:
        """Connect now, and not with the first call.

        :raises Error: ``storage_connection_failed`` when no store is running under the name.
        """
        self._idle.append(self._connect(self._timeout))

    def close(self) -> None:
        """Close the connections. Calls that are under way in other threads end first."""
        self._closed = True
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_idle"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, (self.name, self.path, self._timeout, self._closed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name} at {self.path}>"

    def _call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Make a call and return its result."""
        if self._closed:
            raise closed(self.name)
        call = outgoing(operation, arguments, self._timeout)
        if operation.returns_data:
            pieces = self._download(call)
            first = next(pieces)  # an artifact that is not there is told now, and not while reading
            if operation.result is bytes:
                return whole(first, pieces)
            return io.BufferedReader(_Reader(first, pieces), PIECE)
        return decode_result(operation, self._exchange(call), arguments)

    def _exchange(self, call: Outgoing) -> Any:
        """Send a call, with all of its data; return the result as it travelled."""
        connection, msgid = self._begin(call)
        try:
            for piece in call.pieces or ():
                connection.send_piece(msgid, piece, call.seconds)
            result = connection.receive(msgid, call.seconds)
        except BaseException as error:
            self._end(connection, call, error)
            raise
        self._give_back(connection)
        return result

    def _download(self, call: Outgoing) -> Generator[bytes, None, None]:
        """Send a call whose result comes in pieces, and yield them."""
        connection, msgid = self._begin(call)
        received = 0
        try:
            while (piece := connection.receive_piece(msgid, call.seconds)) is not None:
                received += len(piece)
                yield piece
            last = last_piece(connection.receive(msgid, call.seconds), received)
        except BaseException as error:
            self._end(connection, call, error)
            raise
        self._give_back(connection)
        yield last

    def _end(self, connection: _Connection, call: Outgoing, error: BaseException) -> None:
        """Put a connection away after a failed call. What broke it becomes an error of ours.

        :raises Error: ``timeout`` or ``storage_connection_failed``.
        """
        if isinstance(error, Error) and connection.settled:
            self._give_back(connection)
            return
        connection.close()
        if isinstance(error, Late):
            raise timed_out(self.name, call.operation, call.seconds) from None
        if isinstance(error, Broken):
            raise connection_lost(self.name, call.operation) from error

    def _begin(self, call: Outgoing) -> tuple[_Connection, int]:
        """Send the request of a call on a connection that nobody uses: an idle one that is alive, or a new one."""
        while True:
            try:
                connection, is_new = self._idle.pop(), False
            except IndexError:
                connection, is_new = self._connect(call.seconds), True
            try:
                return connection, connection.send(call)
            except BaseException as error:
                if isinstance(error, Stale) and not is_new:
                    connection.close()
                    continue
                self._end(connection, call, error)
                raise

    def _give_back(self, connection: _Connection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _connect(self, seconds: float) -> _Connection:
        check_owner(self.path)
        try:
            connection = _Connection(self.path, seconds)
        except (OSError, Late) as error:
            raise not_reachable(self.name, self.path, error) from error
        self._all.add(connection)
        return connection

    def _forked(self) -> None:
        """Leave the connections to the parent. Closing our copies does not disturb it, and lets its own closing be seen."""
        for connection in list(self._all):
            connection.close()
        self._idle.clear()


def _unpickled(name: str, path: str, timeout: float, closed: bool) -> Client:
    """Return a handle with connections of its own, made by its first calls: a copy, perhaps in another process.

    That of a linked store is a plain handle. The process stays that of the one that started it.
    """
    client = Client(name, path, timeout)  # type: ignore[abstract]  # as above
    client._closed = closed  # noqa: SLF001  # the module's own class
    return client


class Stale(Broken):
    """The other side had closed the connection before anything of the call was sent."""


class _Connection:
    """One connection, used by one call at a time."""

    def __init__(self, path: str, seconds: float) -> None:
        self.settled = True
        """Whether the last call was answered, so that nothing more will come of it."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._packer = Packer()
        self._splitter = Splitter()
        self._bodies: deque[bytes] = deque()
        self._msgid = 0
        self._window = 0
        self._taken = 0
        self._ticks = 0
        try:
            self._socket.setblocking(False)
            deadline = time.monotonic() + seconds
            while not reach(self._socket, path):
                time.sleep(min(BUSY_SECONDS, _left(deadline)))
        except BaseException:
            self._socket.close()
            raise

    def send(self, call: Outgoing) -> int:
        """Send the request of a call; return its msgid.

        :raises Stale: when the other side has closed the connection since the call before. Nothing was sent then.
        """
        self._msgid = (self._msgid + 1) & 0xFFFFFFFF
        request = call.frame(self._packer, self._msgid)
        self.settled, self._window, self._taken = False, WINDOW, 0
        self._write(time.monotonic() + call.seconds, request)
        return self._msgid

    def receive(self, msgid: int, seconds: float) -> Any:
        """Return the result of a call.

        :raises Error: what the store answered.
        """
        deadline = time.monotonic() + seconds
        while True:
            body = self._read(deadline)
            try:
                if is_response(body):
                    return self._settle(msgid, body)
                self._window += self._carried(msgid, body, MORE, 0)
            except MessageError as error:
                raise Broken(str(error)) from error

    def send_piece(self, msgid: int, piece: memoryview | int, seconds: float) -> None:
        """Send the next bytes of an upload, as soon as they may come, or at its end how many they were.

        :raises Error: when the store answered already: it does not want them.
        """
        deadline = time.monotonic() + seconds
        size = 0 if isinstance(piece, int) else len(piece)
        while size > self._window or self._arrived():
            body = self._read(deadline)
            try:
                if is_response(body):
                    self._settle(msgid, body)
                    raise MessageError("the call was answered before its data had ended")
                self._window += self._carried(msgid, body, MORE, 0)
            except MessageError as error:
                raise Broken(str(error)) from error
        self._window -= size
        self._write(deadline, *framed(*chunk(self._packer, msgid, piece)))

    def receive_piece(self, msgid: int, seconds: float) -> bytes | None:
        """Return the next bytes of a download; ``None`` when the response comes next."""
        deadline = time.monotonic() + seconds
        body = self._read(deadline)
        try:
            if is_response(body):
                self._bodies.appendleft(body)
                return None
            piece: bytes = self._carried(msgid, body, CHUNK, b"")
        except MessageError as error:
            raise Broken(str(error)) from error
        self._taken += len(piece)
        if self._taken >= WINDOW // 4:
            self._write(deadline, frame(more(self._packer, msgid, self._taken)))
            self._taken = 0
        return piece

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _settle(self, msgid: int, body: bytes) -> Any:
        """Return the result of a call that is over.

        :raises Error: what the store answered.
        """
        self.settled = True
        answered, result = decode_response(body)
        if answered != msgid:
            raise MessageError("an answer to another call")
        return result

    def _carried(self, msgid: int, body: bytes, method: bytes, nothing: Any) -> Any:
        """Return what a message of the call's stream carries; nothing when it is a late one of the call before."""
        head = read_head(body)
        if head.method == REFUSED and (refusal := read_refusal(body)) is not None:
            raise refusal
        if head.method not in (CHUNK, MORE):
            raise MessageError(f"{method!r} was expected, and not {head.method!r}")
        meant, rest_at = streamed(body, head.params_at)
        if meant != msgid:
            return nothing
        if head.method != method:
            raise MessageError(f"{method!r} was expected, and not {head.method!r}")
        return read_stream(body, rest_at)

    def _arrived(self) -> bool:
        """Whether there is something to read, or the end of the connection."""
        if self._bodies:
            return True
        try:
            self._receive(0)
        except Late:
            return False
        return True

    def _read(self, deadline: float) -> bytes:
        """Return the next message."""
        while not self._bodies:
            self._receive(_left(deadline))
        return self._bodies.popleft()

    def _receive(self, seconds: float) -> None:
        """Take in what arrives next."""
        try:
            self._limit(seconds)
            data = self._socket.recv(max(self._splitter.missing, RECEIVE_BYTES))
            if not data:
                raise Broken("the store closed the connection")
            self._bodies.extend(self._splitter.feed(data))
        except (TimeoutError, BlockingIOError):
            raise Late from None
        except (OSError, FrameError) as error:
            raise Broken(str(error)) from error

    def _write(self, deadline: float, *parts: bytes | memoryview) -> None:
        sent = 0
        data = memoryview(b"".join(parts))
        try:
            while sent < len(data):  # not sendall, which would begin its time anew with each part that is taken
                self._limit(_left(deadline))
                sent += self._socket.send(data[sent:], socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise Late from None
        except BrokenPipeError as error:
            self._find_refusal()
            raise (Broken if sent else Stale)(str(error)) from error
        except OSError as error:
            raise Broken(str(error)) from error

    def _find_refusal(self) -> None:
        """Look whether the other side, which takes nothing more, has said why.

        :raises Error: what it said.
        """
        try:
            self._receive(0)
            refusal = next(filter(None, map(read_refusal, self._bodies)), None)
        except (Late, Broken, MessageError):
            return
        if refusal is not None:
            raise refusal

    def _limit(self, seconds: float) -> None:
        """Set how long the next system call may take. An interrupted one goes on with what is left of that time.

        The time limit is the socket's own, and nothing of the kernel's: that one would begin anew with each signal, and
        greenlets would not know of it.
        """
        ticks = math.ceil(seconds * TICKS)
        if ticks != self._ticks:
            self._socket.settimeout(ticks / TICKS)
            self._ticks = ticks


def _left(deadline: float) -> float:
    """Return how many seconds are left.

    :raises Late: when there are none.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise Late
    return seconds


class _Reader(io.RawIOBase):
    """The pieces of a download as a file."""

    def __init__(self, first: bytes, pieces: Generator[bytes, None, None]) -> None:
        self._rest = memoryview(first)
        self._pieces = pieces
        self._failure: Error | None = None

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes; 0 at the end."""
        if self._failure is not None:
            raise self._failure  # what comes after a failure is not the end
        while not self._rest:
            try:
                piece = next(self._pieces, None)
            except Error as error:
                self._failure = error
                raise
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        into = memoryview(buffer).cast("B")
        size = min(len(into), len(self._rest))
        into[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def close(self) -> None:
        """Let go of the connection, if the end was not reached."""
        self._pieces.close()
        super().close()
