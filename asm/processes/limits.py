"""Limits: what connections may cost the process that serves them.

    [limits]
    calls_in_flight = 4096
    total_calls_in_flight = 16384

Most are of one process, whose connections count together: the kernel says whose a connection is. What it exceeds, it pays for
alone. Those that begin with ``total`` are of all together. What they exceed, those pay for that have more than their share: so
one that asks for little is served whatever the others do.
"""

from __future__ import annotations

from dataclasses import dataclass

from asm.core.errors import Error
from asm.wire.frames import MAX_FRAME

__all__ = ["Limits", "overloaded"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may cost. ``[limits]`` has the same keys."""

    max_frame_bytes: int = MAX_FRAME
    """How large a message may be. A larger one costs its sender the connection, before the rest of it is read."""
    connections: int = 512
    """How many a process may have; further ones are refused as ``overloaded``. Where there is room for fewer in all than
    ``total_connections``, this share of them."""
    calls_in_flight: int = 4096
    """With this many calls of a process unanswered, further ones are refused as ``overloaded``. One that nobody waits for any
    more counts until the store has let go of it."""
    bytes_in_flight: int = 64 * 1024 * 1024
    """With this many bytes in its calls, likewise."""
    bytes_unread: int = 32 * 1024 * 1024
    """With this many bytes of answers unread, a connection that takes none of them is cut off soon; at twice that, at once."""
    uploads: int = 16
    """How many artifacts may come in from a process at the same time; further ones are refused as ``overloaded``. As much as an
    upload is a long-poll of a store that does not tell of its appends, which holds a thread, too."""
    total_connections: int = 1024
    """How many connections there may be; further ones are refused as ``overloaded``."""
    total_calls_in_flight: int = 16384
    """With this many calls of all unanswered, those processes that have more than their share are refused."""
    total_bytes_in_flight: int = 256 * 1024 * 1024
    """With this many bytes in them, likewise."""
    total_bytes_unread: int = 128 * 1024 * 1024
    """With this many bytes of answers unread, the process with the most of them loses the worst of its connections."""
    total_bytes_begun: int = 32 * 1024 * 1024
    """With this many bytes of messages that are not complete, the connection that has gone on with its own least is cut off."""
    total_uploads: int = 64
    """With this many uploads of all, those processes that have more than their share are refused."""
    threads: int = 32
    """How many calls of a store run at the same time that wait for a disk or a network; further ones wait for their turn. When
    nobody waits for any of these any more, and none of them ends, further ones are refused as ``overloaded``."""
    bytes_untaken: int = 64 * 1024 * 1024
    """With this many bytes of calls that a store has not taken from a composite, further ones are refused as ``overloaded``."""


def overloaded(why: str) -> Error:
    """Say that a peer asks for more than it may have at once. Waiting helps."""
    message = f"too much at once ({why}); wait for answers, or see [limits]"
    return Error("storage_error", message, details={"reason": "overloaded"})
