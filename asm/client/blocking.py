"""The blocking client: a handle of a store in another process, for any number of threads.

    thread ──► a connection of its own for the length of the call ──► request, response ──► back to the idle ones

Connections are made when they are needed and kept. One that failed, or whose call ran out of time, is closed, which
also tells the other side to drop the call. A process that forks leaves its connections to the parent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
import weakref
from collections import deque
from typing import Any, Final, Self

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
from asm.ports import ArtifactStore, SessionStore
from asm.wire.calls import decode_result
from asm.wire.frames import FrameError, Splitter
from asm.wire.messages import MessageError, Packer, decode_response
from asm.wire.names import socket_path

__all__ = ["Client", "connect"]

MAX_IDLE: Final = 64
"""How many unused connections a handle keeps."""

RECEIVE_BYTES: Final = 256 * 1024


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
    return Client(name, socket_path(name, runtime_dir), timeout)  # type: ignore[abstract]  # the decorator gives it the methods


def _proxy(operation: Operation) -> Any:
    def method(self: Client, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(operation, operation.bind(args, kwargs))

    return method


@proxies(_proxy)
class Client(SessionStore, ArtifactStore):
    """A handle of a store in another process, with the operations of both contracts. Made by :func:`connect`.

    A context manager that closes its connections at the end.
    """

    def __init__(self, name: str, path: str, timeout: float) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._idle: deque[_Connection] = deque()  # its append and pop need no lock
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._closed = False
        self._idle.append(self._connect(self._timeout))
        _CLIENTS.add(self)

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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name} at {self.path}>"

    def _call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Make a call and return its result."""
        if self._closed:
            raise closed(self.name)
        seconds = total_seconds(self._timeout, arguments)
        deadline = time.monotonic() + seconds
        connection = self._take(deadline)
        try:
            msgid, request = connection.request(operation, arguments, seconds)
            answered, result = decode_response(connection.exchange(request, deadline))
            if answered != msgid:
                raise MessageError("an answer to another call")
        except TimeoutError:
            connection.close()
            raise timed_out(self.name, operation, seconds) from None
        except (OSError, FrameError, MessageError) as error:
            connection.close()
            raise connection_lost(self.name, operation) from error
        except Error:
            self._give_back(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return decode_result(operation, result)

    def _take(self, deadline: float) -> _Connection:
        """Return a connection that nobody uses and that is alive: an idle one, or a new one."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.usable():
                    return connection
                connection.close()
        return self._connect(max(deadline - time.monotonic(), 0.001))

    def _give_back(self, connection: _Connection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def _connect(self, seconds: float) -> _Connection:
        try:
            connection = _Connection(self.path, seconds)
        except OSError as error:
            raise not_reachable(self.name, self.path, error) from error
        self._all.add(connection)
        return connection

    def _forked(self) -> None:
        """Leave the connections to the parent. Closing our copies does not disturb it, and lets its own closing be seen."""
        for connection in list(self._all):
            connection.close()
        self._idle.clear()


class _Connection:
    """One connection, used by one call at a time."""

    def __init__(self, path: str, seconds: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._packer = Packer()
        self._splitter = Splitter()
        self._msgid = 0
        try:
            self._limit(socket.SO_SNDTIMEO, seconds)
            self._socket.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def request(self, operation: Operation, arguments: dict[str, Any], seconds: float) -> tuple[int, bytes]:
        """Return the msgid and the frame of a call."""
        self._msgid = (self._msgid + 1) & 0xFFFFFFFF
        return self._msgid, request_frame(self._packer, self._msgid, operation, arguments, seconds)

    def exchange(self, request: bytes, deadline: float) -> bytes:
        """Send a frame; return the body of the one that comes back.

        :raises TimeoutError: when the deadline passed.
        :raises OSError: when the connection broke.
        """
        try:
            self._limit(socket.SO_SNDTIMEO, deadline - time.monotonic())
            self._socket.sendall(request)
            while True:
                self._limit(socket.SO_RCVTIMEO, deadline - time.monotonic())
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionResetError("the store closed the connection")
                if bodies := self._splitter.feed(data):
                    return bodies[0]
        except BlockingIOError as error:
            raise TimeoutError from error

    def usable(self) -> bool:
        """Whether the other side is still there: an idle connection on which something arrives was closed."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _limit(self, option: int, seconds: float) -> None:
        """Let the kernel end a system call after so long, which spares the poll before each that ``settimeout`` brings."""
        if seconds <= 0:
            raise TimeoutError
        whole = int(seconds)
        self._socket.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, max(int((seconds - whole) * 1e6), 1)))


_TIMEVAL: Final = struct.Struct("ll")
"""``struct timeval``: seconds and microseconds."""

_CLIENTS: Final[weakref.WeakSet[Client]] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_CLIENTS):
        client._forked()  # noqa: SLF001  # the module's own class


os.register_at_fork(after_in_child=_forked)
