"""What both clients are made of: methods derived from the contracts, and the errors of a connection."""

from __future__ import annotations

import errno
import io
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, Final, TypeVar

from asm.chunks import chunks
from asm.client.conversation import Outgoing
from asm.core.errors import Error
from asm.operations import CONTRACTS, OPERATIONS, Operation
from asm.wire.conversation import Broken
from asm.wire.names import check_listener
from asm.wire.streams import PIECE, counted

__all__ = [
    "BUSY_SECONDS",
    "DEFAULT_TIMEOUT",
    "OPEN",
    "Late",
    "Stale",
    "check_retries",
    "check_timeout",
    "check_wait",
    "closed",
    "connection_lost",
    "not_reachable",
    "outgoing",
    "proxies",
    "reach",
    "time_for",
    "timed_out",
    "whole",
]

C = TypeVar("C", bound=type)

OPEN: Final = OPERATIONS["open"]

DEFAULT_TIMEOUT: Final = 5.0
"""How many seconds a call may take, unless told otherwise."""

MAX_TIMEOUT: Final = 366 * 86400
"""How many seconds a call may take at the most: a year, which the clocks of every system can hold."""


BUSY_SECONDS: Final = 0.01
"""How long to wait before connecting again to a socket on which no more connections can queue. No event tells of room there."""


def proxies(make: Callable[[Operation], Callable[..., Any]]) -> Callable[[C], C]:
    """Return a class decorator that gives a class a method for each operation of both contracts.

    :param make: makes the method of an operation.
    """

    def decorate(cls: C) -> C:
        for operation in OPERATIONS.values():
            method, described = make(operation), getattr(CONTRACTS[operation.contract], operation.name)
            method.__name__, method.__qualname__ = operation.name, f"{cls.__name__}.{operation.name}"
            method.__module__, method.__doc__ = cls.__module__, described.__doc__
            method.__signature__ = operation.signature  # type: ignore[attr-defined]  # what help() and inspect show
            setattr(cls, operation.name, method)
        return cls

    return decorate


def check_timeout(timeout: float) -> float:
    """Return the timeout in seconds.

    :raises Error: ``validation_error`` unless it is a number within bounds: no call may hang.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= MAX_TIMEOUT:
        problem = f"timeout must be a number of seconds, greater than 0 and at most {MAX_TIMEOUT}, not {timeout!r}"
        raise Error("validation_error", problem, details={"field": "timeout"})
    return float(timeout)


def check_wait(wait: float) -> float:
    """Return for how many seconds to wait for a tree that is not up yet.

    :raises Error: ``validation_error`` unless it is a number within bounds.
    """
    if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= MAX_TIMEOUT:
        problem = f"wait must be a number of seconds, 0 or greater and at most {MAX_TIMEOUT}, not {wait!r}"
        raise Error("validation_error", problem, details={"field": "wait"})
    return float(wait)


def check_retries(retries: int) -> int:
    """Return how often a call that failed is repeated.

    :raises Error: ``validation_error`` unless it is a whole number that is not negative.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        problem = f"retries must be a whole number, 0 or greater, not {retries!r}"
        raise Error("validation_error", problem, details={"field": "retries"})
    return retries


class Late(Exception):  # noqa: N818  # becomes an Error where the name of the store is known
    """The other side did not answer in time."""


class Stale(Broken):
    """The other side had closed the connection before anything of the call was sent."""


def outgoing(operation: Operation, arguments: dict[str, Any], seconds: float, part: tuple[int, str] | None = None) -> Outgoing:
    """Prepare a call. Of data that is no more than one piece nothing is left to send afterwards.

    :param arguments: checked, as :meth:`Operation.bind` returns them.
    :param seconds: how long it may take, a long-poll's wait included.
    :raises Error: ``validation_error`` when data yields something else than bytes. What its source raises comes through.
    """
    given, rest = arguments, None
    if (name := operation.data_parameter) is not None:
        pieces = chunks(arguments[name], PIECE)
        first = bytes(next(pieces, b""))  # a copy: the source may use the same buffer for the second
        second = next(pieces, None)
        if second is None:
            given = arguments | {name: first}
        else:
            given, rest = arguments | {name: None}, counted(chain([memoryview(first), second], pieces))
    return Outgoing(operation, given, rest, seconds, part, info=operation is OPEN and part is None)


def time_for(arguments: Mapping[str, Any], timeout: float) -> float:
    """Return for how many seconds a call may take: what the handle says, and as long as the call waits for events."""
    return timeout + (arguments.get("wait_timeout_ms") or 0) / 1000


def whole(first: bytes, pieces: Iterable[bytes]) -> bytes:
    """Put the pieces of a download together, as they come: a list of them would take the same memory once more."""
    second = next(pieces := iter(pieces), None)
    if second is None:
        return first
    buffer = io.BytesIO()
    buffer.writelines(chain((first, second), pieces))
    return buffer.getvalue()


def reach(connection: socket.socket, path: str) -> bool:
    """Connect a socket that does not block, and verify who listens; tell whether there was room to queue.

    :raises OSError: when nobody listens.
    :raises Error: when somebody does whom we do not trust.
    """
    failed = connection.connect_ex(path)
    if failed == errno.EAGAIN:
        return False
    if failed:
        raise OSError(failed, os.strerror(failed))
    check_listener(connection, path)
    return True


def not_reachable(name: str, path: str, cause: OSError | Late) -> Error:
    """Say that no store answers to a name, and what to do."""
    if isinstance(cause, FileNotFoundError):
        why = "is not there"
    else:
        reason = "too many wait to be connected" if isinstance(cause, Late) else cause.strerror or cause
        why = f"cannot be connected to ({reason})"
    return Error(
        "storage_connection_failed",
        f"no store is running under the name {name!r}: {path} {why}; start one with `asm-supervise CONFIG`, "
        "with ASM_RUNTIME_DIR (or runtime_dir) the same on both sides",
        details={"name": name, "path": path},
    )


def connection_lost(name: str, operation: Operation) -> Error:
    """Say that the store went away during a call, the outcome of which is unknown."""
    return Error(
        "storage_connection_failed",
        f"{name} went away during {operation.name}; {_unknown(operation)}",
        details={"name": name, "operation": operation.name},
    )


def timed_out(name: str, operation: Operation, seconds: float) -> Error:
    """Say that a call took too long."""
    return Error(
        "timeout",
        f"{name} did not answer {operation.name} within {seconds:g} s; {_unknown(operation)}",
        details={"name": name, "operation": operation.name, "timeout_seconds": seconds},
    )


def _unknown(operation: Operation) -> str:
    """Say what to do when nobody knows whether a call was done."""
    remedy = "repeating it is safe" if operation.repeatable else "look at what is stored before you repeat it"
    return f"whether it was done is unknown; {remedy}"


def closed(name: str) -> Error:
    """Say that the handle was closed."""
    return Error("invalid_operation", f"this handle of {name} is closed; connect again", details={"name": name})
