"""The roles around a connection: who is told of what arrives, what makes the calls, and what goes on for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from asm.processes.accounts import Lane
from asm.wire.messages import Head

if TYPE_CHECKING:
    from asm.processes.peers import Call, Peer

__all__ = ["Receiver", "Route", "Store", "Work"]


class Store(Protocol):
    """What makes calls: a store of this process, or a link to one that runs elsewhere."""

    def take(self, call: Call) -> None:
        """Make a call that has its turn."""


class Route(NamedTuple):
    """Where a call goes."""

    store: Store
    lane: Lane
    may_upload: bool = False
    """Whether its data may come in pieces."""


class Work(Protocol):
    """What goes on for a call that was begun, and can be stopped or carried on."""

    def cancel(self, call: Call) -> None:
        """Stop it: nobody waits for it any more."""

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next message of the call's stream, whose bytes or number begin at ``rest_at``.

        :raises MessageError: when the peer may not send that.
        """


class Receiver(Protocol):
    """Who is told what arrived on a connection."""

    def route(self, peer: Peer, head: Head, body: bytes) -> Route | None:
        """Return where a request goes; ``None`` when it was answered at once."""

    def response(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a response."""

    def notification(self, peer: Peer, head: Head, body: bytes) -> None:
        """Take a notification."""

    def lost(self, peer: Peer) -> None:
        """Learn that the connection is gone. Its calls have been cancelled."""

    def go_on(self) -> None:
        """Learn that calls may begin that wait for their turn, or that a peer has no more calls in flight."""
