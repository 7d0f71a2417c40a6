"""The roles around a call: what makes it, and what goes on for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from asm.processes.accounts import Lane

if TYPE_CHECKING:
    from asm.processes.peers import Call

__all__ = ["Route", "Store", "Work"]


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
