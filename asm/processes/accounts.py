"""What is known of those who call, and of their calls: plain state, on which :mod:`asm.processes.admission` decides.

Client (a process) ──► Account (a connection) ──► Call ──► Lane (what the calls to a store share)
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

__all__ = ["ANSWERS_AHEAD", "ROOM", "Account", "Call", "Client", "Lane"]

ROOM: Final = 256
"""How many calls may be at work in a store that keeps no thread waiting, or that is elsewhere. More would make none of them
faster, and each of them later."""

ANSWERS_AHEAD: Final = 1024 * 1024
"""How many bytes of answers a connection may have asked for and not taken, as can be foreseen, before its next call waits."""

FORGETTING: Final = 0.75
"""Large answers are foreseen where one was large. With each that is smaller, this much of what was foreseen is left."""


class Client:
    """A process, and what all of its connections cost together."""

    __slots__ = ("accounts", "bytes", "calls", "is_ours", "pid", "uploads", "waits")

    def __init__(self, pid: int, *, is_ours: bool = False) -> None:
        self.pid = pid
        self.is_ours = is_ours
        self.accounts: dict[Account, None] = {}
        """Its connections, in the order in which they were made."""
        self.calls = self.bytes = self.uploads = self.waits = 0


class Account:
    """What is known of a connection.

    :param peer: the connection itself, which is handed back with what is to be done.
    """

    __slots__ = (
        "answer_size",
        "at_door",
        "at_work",
        "client",
        "is_slow",
        "peer",
        "queued",
        "taken",
        "took_at",
        "unsent",
        "waiting",
    )

    def __init__(self, client: Client, peer: Any = None) -> None:
        self.client = client
        self.peer = peer
        self.at_door = False
        """Whether there is no room for it, unless it turns out to be of our tree."""
        self.at_work = 0
        """How many of its calls have a turn."""
        self.answer_size = float(ANSWERS_AHEAD)
        """How large the next answer may be: of who has had none, anything is foreseen."""
        self.queued = 0
        """How many bytes are about to be sent to it …"""
        self.unsent = 0
        """… and how many were, and it has not taken them, if it is slow."""
        self.is_slow = False
        """Whether it takes its answers slower than they come."""
        self.taken = 0
        """How many bytes it has taken of all that was sent …"""
        self.took_at = 0.0
        """… and when it last did."""
        self.waiting: dict[Lane, OrderedDict[Call, None]] = {}
        """Its calls that wait for a turn."""

    def answered(self, size: int) -> None:
        """Learn how large an answer was."""
        self.answer_size = max(size, self.answer_size * FORGETTING)


class Lane:
    """What calls to a store share.

    :param room: how many of them may be at work.
    """

    __slots__ = ("blocked", "free", "queues", "room", "stuck")

    def __init__(self, room: int = ROOM) -> None:
        self.room = self.free = room
        self.stuck = 0
        """How many turns have calls that nobody waits for any more, and that do not come back."""
        self.queues: OrderedDict[Client, OrderedDict[Account, None]] = OrderedDict()
        """The connections with calls that wait, by client; first the one whose turn is next."""
        self.blocked: dict[Account, None] = {}
        """The connections with calls that wait until answers are taken."""

    def waiting(self) -> list[Any]:
        """Return the calls that wait for a turn, in the order of each connection."""
        accounts = [*(account for queue in self.queues.values() for account in queue), *self.blocked]
        return [call for account in accounts for call in account.waiting[self]]

    def take_out(self, call: Call) -> None:
        """Let a call wait no more, if it does."""
        account = call.account
        queue = account.waiting.get(self)
        if queue is not None and call in queue:
            del queue[call]
            if not queue:
                del account.waiting[self]
                self.drop(account)

    def drop(self, account: Account) -> None:
        """Let a connection be in no queue."""
        self.blocked.pop(account, None)
        accounts = self.queues.get(account.client)
        if accounts is not None:
            accounts.pop(account, None)
            if not accounts:
                del self.queues[account.client]

    @property
    def is_stuck(self) -> bool:
        """Whether nothing can begin, nor may ever again."""
        return self.stuck >= self.room


class Call:
    """One call, from its arrival until the last thing that it holds is let go of.

    :param account: whose it is.
    :param lane: whose turns it takes.
    :param size: how many bytes it has.
    :param is_upload: whether it holds a thread for as long as its data comes, and takes no turn.
    """

    __slots__ = ("account", "has_turn", "holds", "is_over", "is_upload", "lane", "size", "waits")

    def __init__(self, account: Account, lane: Lane, size: int, *, is_upload: bool = False) -> None:
        self.account = account
        self.lane = lane
        self.size = size
        self.is_upload = is_upload
        self.has_turn = False
        self.is_over = False
        """Whether it was answered, or nobody waits for it any more."""
        self.waits = False
        """Whether it waits for what may not happen for long."""
        self.holds = 0
        """How many things do not let go of it: threads at work, and queues."""
