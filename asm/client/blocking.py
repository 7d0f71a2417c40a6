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
from collections.abc import Callable, Generator
from typing import Any, Final, Self, TypeVar

from asm.client.calling import (
    DEFAULT_TIMEOUT,
    OPEN,
    Late,
    Stale,
    check_retries,
    check_timeout,
    check_wait,
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
from asm.client.conversation import Call, Outgoing
from asm.client.files import File, Reading
from asm.client.handles import Following, Handles, Script, Step, connecting, may_repeat, repeated
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.values import Event
from asm.operations import Operation
from asm.ports import ArtifactStore, Maintenance, SessionQueries, SessionStore
from asm.wire.conversation import Broken
from asm.wire.names import check_owner, socket_path
from asm.wire.streams import PIECE

__all__ = ["Client", "connect"]

T = TypeVar("T")

MAX_IDLE: Final = 64
"""How many unused connections a handle keeps."""


def connect(
    name: str,
    *,
    runtime_dir: str | os.PathLike[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    wait: float = 0.0,
    retries: int = 0,
) -> Client:
    """Return a handle of the store with this name.

    It may be used by any number of threads, and in processes that are forked later. When the store is restarted, the
    next call reconnects by itself.

    :param name: the name of a composite, or of a backend.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds a call may take; a long-poll adds its wait.
    :param wait: for how many seconds to wait for a tree that is not up yet.
    :param retries: how often a call that failed with a retryable error is repeated, with growing pauses, within the timeout;
        only operations that are safe to repeat, with data that can be read again.
    :raises Error: ``storage_connection_failed`` when no store is running under this name, ``validation_error`` for what
        is no name, no timeout, no wait or no number of retries.
    """
    client = Client(name, socket_path(name, runtime_dir), timeout, wait, retries)  # type: ignore[abstract]  # the decorator gives it the methods
    client._reach()  # noqa: SLF001  # the module's own class
    return client


def _proxy(operation: Operation) -> Any:
    def method(self: Client, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(operation, operation.bind(args, kwargs))

    return method


@proxies(_proxy)
class Client(Handles, SessionStore, ArtifactStore, SessionQueries, Maintenance):
    """A handle of a store in another process, with the operations of all contracts. Made by :func:`connect`.

    A context manager that closes its connections at the end. Copies of it, and what comes out of a pickle, are handles of
    the same store with connections of their own.
    """

    def __init__(self, name: str, path: str, timeout: float, wait: float = 0.0, retries: int = 0) -> None:
        self.name = name
        self.path = path
        self._timeout = check_timeout(timeout)
        self._wait = check_wait(wait)
        self._retries = check_retries(retries)
        self._was_up = False
        self._idle: deque[Connection] = deque()  # its append and pop need no lock
        self._all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._closed = False
        tell_of_forks(self)

    def _reach(self) -> None:
        """Connect now, and not with the first call.

        :raises Error: ``storage_connection_failed`` when no store is running under the name.
        """
        self._idle.append(self._run(connecting(self._wait, self._timeout)))

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
        return _unpickled, (self.name, self.path, self._timeout, self._wait, self._retries, self._closed)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.name} at {self.path}>"

    def _call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Make a call and return its result."""
        seconds = time_for(arguments, self._timeout)
        if self._retries and may_repeat(operation, arguments):
            return self._run(repeated(operation, arguments, time.monotonic() + seconds, self._retries))
        return self._once(operation, arguments, seconds)

    def _run(self, script: Script[T]) -> T:
        """Take the steps of a script; return what it returns."""
        try:
            step = next(script)
            while True:
                try:
                    came = step(self)
                except Exception as error:  # noqa: BLE001  # it is the script's to catch
                    step = script.throw(error)
                else:
                    step = script.send(came)
        except StopIteration as end:
            result: T = end.value
            return result

    def _each(self, following: Following) -> Generator[Event, None, None]:
        """Yield the events of one page after the other."""
        while True:
            yield from self._run(following.page())

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
            return io.BufferedReader(File(Reading(arguments.get("key"), seconds, first, pieces), self._run, self._take), PIECE)
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

    # -- the steps of scripts

    def _take(self, step: Step) -> Any:
        return step(self)

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def _apply(self, change: Callable[[Any], Any], value: Any) -> Any:
        return change(value)

    def _next(self, pieces: Generator[bytes, None, None]) -> bytes | None:
        return next(pieces, None)

    def _close(self, pieces: Generator[bytes, None, None]) -> None:
        pieces.close()

    def _open_at(self, key: str, offset: int, version: str, seconds: float) -> tuple[bytes, Generator[bytes, None, None]]:
        pieces = self._download(outgoing(OPEN, {"key": key}, seconds, (offset, version)))
        return next(pieces), pieces

    def _dial(self, seconds: float) -> Connection:
        connection = self._connect(time.monotonic() + seconds)
        self._was_up = True
        return connection

    # -- one call

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
        if self._wait and not self._was_up:
            self._reach()
        deadline = time.monotonic() + outgo.seconds
        while True:
            try:
                connection, is_new = self._idle.pop(), False
            except IndexError:
                connection, is_new = self._connect(deadline), True
            try:
                call, request = connection.conversation.begin(outgo)
                connection.send(call, request, deadline)
            except BaseException as error:
                if isinstance(error, Stale) and not is_new:
                    connection.close()
                    continue
                self._end(connection, outgo, error)
                raise
            return connection, call, deadline

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


def _unpickled(name: str, path: str, timeout: float, wait: float, retries: int, closed: bool) -> Client:
    """Return a handle with connections of its own, made by its first calls: a copy, perhaps in another process.

    That of a linked store is a plain handle. The process stays that of the one that started it.
    """
    client = Client(name, path, timeout, wait, retries)  # type: ignore[abstract]  # as above
    client._closed = closed  # noqa: SLF001  # the module's own class
    return client
