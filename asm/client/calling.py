"""What both clients are made of: methods derived from the contracts, and the errors of a connection."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from asm.core.errors import Error
from asm.operations import CONTRACTS, OPERATIONS, Operation
from asm.wire.calls import encode_arguments
from asm.wire.frames import MAX_FRAME, frame
from asm.wire.messages import Packer

__all__ = ["check_timeout", "connection_lost", "not_reachable", "proxies", "request_frame", "timed_out", "total_seconds"]

C = TypeVar("C", bound=type)

DEFAULT_TIMEOUT: Final = 5.0
"""How many seconds a call may take, unless told otherwise."""


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

    :raises Error: ``validation_error`` unless it is a finite number greater than zero: no call may hang.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        problem = f"timeout must be a number of seconds greater than 0, not {timeout!r}"
        raise Error("validation_error", problem, details={"field": "timeout"})
    return float(timeout)


def total_seconds(timeout: float, arguments: Mapping[str, Any]) -> float:
    """Return how long a call may take: a long-poll adds its wait."""
    return timeout + (arguments.get("wait_timeout_ms") or 0) / 1000


def request_frame(packer: Packer, msgid: int, operation: Operation, arguments: dict[str, Any], seconds: float) -> bytes:
    """Return the frame of a call.

    :raises Error: ``validation_error`` when it is too large for a frame.
    """
    body = packer.request(
        msgid, operation.name, encode_arguments(operation, arguments), {"timeout_ms": math.ceil(seconds * 1000)}
    )
    if len(body) > MAX_FRAME:
        raise Error(
            "validation_error",
            f"{operation.name} would send {len(body)} bytes at once; at most {MAX_FRAME} are possible: split it",
            details={"operation": operation.name, "byte_size": len(body), "limit": MAX_FRAME},
        )
    return frame(body)


def not_reachable(name: str, path: str, cause: OSError) -> Error:
    """Say that no store answers to a name, and what to do."""
    why = "is not there" if isinstance(cause, FileNotFoundError) else f"cannot be connected to ({cause.strerror or cause})"
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
        f"{name} went away during {operation.name}; whether it was done is unknown, and repeating it is safe",
        details={"name": name, "operation": operation.name},
    )


def timed_out(name: str, operation: Operation, seconds: float) -> Error:
    """Say that a call took too long."""
    return Error(
        "timeout",
        f"{name} did not answer {operation.name} within {seconds:g} s; whether it was done is unknown, repeating it is safe",
        details={"name": name, "operation": operation.name, "timeout_seconds": seconds},
    )


def closed(name: str) -> Error:
    """Say that the handle was closed."""
    return Error("invalid_operation", f"this handle of {name} is closed; connect again", details={"name": name})
