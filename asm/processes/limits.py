"""Limits: what connections may cost the process that serves them, each alone and all together.

    [limits]
    calls_in_flight = 4096
    total_calls_in_flight = 16384

What one connection alone exceeds, it pays for alone. What all exceed together, those pay for that have more than their share:
so one that asks for little is served whatever the others do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asm.core.errors import Error
from asm.wire.frames import MAX_FRAME

if TYPE_CHECKING:
    from asm.processes.peers import Peer

__all__ = ["RELAY", "Limits", "Load", "overloaded"]

RELAY: Final = 2
"""How many times as much as all others together a relay may have in flight. It carries the calls of many, and bounds each."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What connections may cost. ``[limits]`` has the same keys."""

    max_frame_bytes: int = MAX_FRAME
    """How large a message may be. A larger one costs its sender the connection, before the rest of it is read."""
    connections: int = 1024
    """How many there may be; further ones are refused as ``overloaded``."""
    calls_in_flight: int = 4096
    """With this many calls of one connection unanswered, further ones are refused as ``overloaded``."""
    bytes_in_flight: int = 64 * 1024 * 1024
    """With this many bytes in its unanswered calls, likewise."""
    bytes_unread: int = 32 * 1024 * 1024
    """With this many bytes of answers that it does not read, it is cut off."""
    uploads: int = 16
    """How many artifacts may come in on one connection at the same time; further ones are refused as ``overloaded``."""
    total_calls_in_flight: int = 16384
    """With this many calls of all connections unanswered, those that have more than their share are refused."""
    total_bytes_in_flight: int = 256 * 1024 * 1024
    """With this many bytes in them, likewise."""
    total_bytes_unread: int = 128 * 1024 * 1024
    """With this many bytes of answers unread, the connection with the most of them is cut off."""
    total_bytes_begun: int = 32 * 1024 * 1024
    """With this many bytes of messages that are not complete, the connection that has gone on with its own least is cut off."""


class Load:
    """What all connections of a process cost at this moment.

    :param limits: what they may cost.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.peers = 0
        self.calls = 0
        self.bytes = 0
        self.few_calls = min(limits.calls_in_flight, limits.total_calls_in_flight)
        self.few_bytes = min(limits.bytes_in_flight, limits.total_bytes_in_flight)
        """With fewer calls and bytes in flight in all, no connection has too many."""
        self.slow: set[Peer] = set()
        """Those that do not take their answers."""
        self._begun: dict[Peer, int] = {}
        """How many bytes of an unfinished message each has sent, first the one that has sent nothing for the longest."""
        self._bytes_begun = 0

    def refusal(self, calls: int, size: int, *, relay: bool) -> Error | None:
        """Return why a connection that has so many calls and bytes in flight may not have one more; ``None`` if it may."""
        limits = self.limits
        if relay:
            over = calls >= RELAY * limits.total_calls_in_flight or size >= RELAY * limits.total_bytes_in_flight
        else:
            over = (
                calls >= limits.calls_in_flight
                or size >= limits.bytes_in_flight
                or (self.calls >= limits.total_calls_in_flight and calls * self.peers >= limits.total_calls_in_flight)
                or (self.bytes >= limits.total_bytes_in_flight and size * self.peers >= limits.total_bytes_in_flight)
            )
        return overloaded(f"{calls} calls, {size} bytes are in flight on this connection") if over else None

    def begun(self, peer: Peer, size: int) -> Peer | None:
        """Note how many bytes of an unfinished message a peer has sent; return which peer that is one too many of, if any."""
        self._bytes_begun += size - self._begun.pop(peer, 0)
        if size:
            self._begun[peer] = size
        return next(iter(self._begun)) if self._bytes_begun > self.limits.total_bytes_begun else None

    def slowest(self) -> Peer | None:
        """Return the peer that is one too many of those that do not take their answers, if there is one. A relay never is."""
        slow = [peer for peer in self.slow if not peer.relay]
        if sum(peer.unsent for peer in slow) <= self.limits.total_bytes_unread:
            return None
        return max(slow, key=lambda peer: peer.unsent)


def overloaded(why: str) -> Error:
    """Say that a peer asks for more than it may have at once. Waiting helps."""
    message = f"too much at once ({why}); wait for answers, or see [limits]"
    return Error("storage_error", message, details={"reason": "overloaded"})
