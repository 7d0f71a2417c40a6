"""The blocking client: a handle of a store in another process, for any number of threads.

    thread ──► a connection of its own for the length of the call ──► request, response ──► back to the idle ones

Connections are made when they are needed and kept. One that failed, or whose call ran out of time, is closed, which
also tells the other side to drop the call. A process that is forked leaves the connections to its parent.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import weakref
from collections import deque
from collections.abc import Generator
from typing import Any, Final, Self

from asm.client.calling import (
    DEFAULT_TIMEOUT,
    Late,
    Outgoing,
    Stale,
    check_timeout,
    closed,
    connection_lost,
    not_reachable,
    outgoing,
    proxies,
    time_for,
    timed_out,
    whole,
)
from asm.client.connection import Connection
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.operations import Operation
from asm.ports import ArtifactStore, Maintenance, SessionQueries, SessionStore
from asm.wire.conversation import Broken, Call
from asm.wire.names import check_owner, socket_path
from asm.wire.streams import PIECE

__all__ = ["Client", "connect"]

MAX_IDLE: Final = 64
"""How many unused connections a handle keeps."""


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
class Client(SessionStore, ArtifactStore, SessionQueries, Maintenance):
    """A handle of a store in another process, with the operations of both contracts. Made by :func:`connect`.

    A context manager that closes its connections at the end. Copies of it, and what comes out of a pickle, are handles of
    the same store with connections of their own.
    """

    def __init__(self, name: str, path: str, timeout: float) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._idle: deque[Connection] = deque()  # its append and pop need no lock
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._closed = False
        tell_of_forks(self)

    def _reach(self) -> None:
        """Connect now, and not with the first call.

        :raises Error: ``storage_connection_failed`` when no store is running under the name.
        """
        self._idle.append(self._connect(time.monotonic() + self._timeout))

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
        return self._once(operation, arguments, time_for(arguments, self._timeout))

    def _once(self, operation: Operation, arguments: dict[str, Any], seconds: float) -> Any:
        """Make a call of at most so many seconds."""
        if self._closed:
            raise closed(self.name)
        outgo = outgoing(operation, arguments, seconds)
        if operation.returns_data:
            pieces = self._download(outgo)
            first = next(pieces)  # an artifact that is not there is told now, and not while reading
            if operation.result is bytes:
                return whole(first, pieces)
            return io.BufferedReader(_Reader(first, pieces), PIECE)
        connection, call, deadline = self._begin(outgo)
        try:
            if outgo.pieces is not None:
                deadline = connection.upload(call, outgo.pieces, seconds)
            rows = None
            while (piece := connection.receive(call, deadline)) is not None:
                rows, deadline = outgo.row(rows, piece), time.monotonic() + seconds
            result = outgo.result(call, rows)
        except BaseException as error:
            self._end(connection, outgo, error)
            raise
        self._give_back(connection)
        return result

    def _download(self, outgo: Outgoing) -> Generator[bytes, None, None]:
        """Send a call whose result is bytes, and yield them."""
        connection, call, deadline = self._begin(outgo)
        try:
            while (piece := connection.receive(call, deadline)) is not None:
                yield piece
                deadline = time.monotonic() + outgo.seconds
            last = call.last_piece()
        except BaseException as error:
            self._end(connection, outgo, error)
            raise
        self._give_back(connection)
        yield last

    def _end(self, connection: Connection, outgo: Outgoing, error: BaseException) -> None:
        """Put a connection away after a failed call. What broke it becomes an error of ours.

        :raises Error: ``timeout`` or ``storage_connection_failed``.
        """
        if isinstance(error, Error):
            self._give_back(connection)
            return
        connection.close()
        if isinstance(error, Late):
            raise timed_out(self.name, outgo.operation, outgo.seconds) from None
        if isinstance(error, Broken):
            raise connection_lost(self.name, outgo.operation) from error

    def _begin(self, outgo: Outgoing) -> tuple[Connection, Call, float]:
        """Send the request of a call on a connection that nobody uses: an idle one that is alive, or a new one.

        :return: with the connection and the call, until when there must be news of it.
        """
        deadline = time.monotonic() + outgo.seconds
        while True:
            try:
                connection, is_new = self._idle.pop(), False
            except IndexError:
                connection, is_new = self._connect(deadline), True
            try:
                return connection, connection.begin(outgo, deadline), deadline
            except BaseException as error:
                if isinstance(error, Stale) and not is_new:
                    connection.close()
                    continue
                self._end(connection, outgo, error)
                raise

    def _give_back(self, connection: Connection) -> None:
        if self._closed or len(self._idle) >= MAX_IDLE or not connection.is_free:
            connection.close()
        else:
            self._idle.append(connection)

    def _connect(self, deadline: float) -> Connection:
        check_owner(self.path)
        try:
            connection = Connection(self.path, deadline)
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
