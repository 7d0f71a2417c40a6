"""Turns: how the clients of a store share it.

    client A ──► ● ● ● ● ● ●  ┐
    client B ──► ●            ├──► in turns ──► at most ROOM calls at work ──► the store
    client C ──► ● ●          ┘

Up to so many calls everything goes on at once. Beyond that a call waits here, and each client is next in its turn: one that
asks for a thousand things delays another one by what is at work, and not by what waits. A client waits here, too, while it does
not take the answers that it has. What may go on for long keeps nobody waiting: a long-poll needs no turn, a download ends its
turn when its first bytes go out, and uploads, which hold a thread, have a bound of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from asm.operations import METHODS
from asm.processes.limits import overloaded
from asm.processes.peers import Peer
from asm.wire.messages import Head, MessageError, read_meta

__all__ = ["ROOM", "Turns", "Waiting", "may_wait"]

ROOM: Final = 256
"""How many calls may be at work in a store. More would make none of them faster, and each of them later."""

Begin = Callable[[Peer, Head, bytes], None]


def may_wait(head: Head, body: bytes) -> bool:
    """Whether a call is one that waits for what may not happen for long."""
    operation = METHODS.get(head.method)
    return operation is not None and operation.may_wait and read_meta(body, head).get("waits") is True


class Waiting:
    """A call that waits for its turn, or to be decoded."""

    __slots__ = ("body", "head", "over")

    def __init__(self, head: Head, body: bytes) -> None:
        self.head = head
        self.body = body
        self.over = False

    def cancel(self) -> None:
        """Let it not begin."""
        self.over = True
        self.body = b""

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Refuse a message of its stream: no call that may wait here has one that comes in."""
        raise MessageError("this call has no stream")


class Turns:
    """Who may begin a call, and when.

    :param begin: begins a call.
    :param room: how many calls may be at work.
    """

    def __init__(self, begin: Begin, room: int = ROOM) -> None:
        self._begin = begin
        self._free = room
        self._queues: dict[Peer, deque[Waiting]] = {}
        """What waits, by client; first the client whose turn is next."""
        self._unready: dict[Peer, deque[Waiting]] = {}
        """The same of clients that do not take what they have asked for."""
        self._advancing = False

    def call(self, peer: Peer, head: Head, body: bytes) -> None:
        """Begin a call now, or in its turn."""
        if may_wait(head, body):
            self._begin(peer, head, body)
        elif _is_upload(head, body):
            if peer.may_upload(head.msgid):
                self._begin(peer, head, body)
            else:
                peer.answer_error(head.msgid, overloaded("so many uploads on one connection"))
        elif self._free and peer not in self._queues and peer not in self._unready and peer.ready():
            self._start(peer, head, body)
        else:
            waiting = peer.calls[head.msgid] = Waiting(head, body)
            queues = self._unready if peer in self._unready else self._queues
            queue = queues.setdefault(peer, deque())
            if len(queue) > 2 * len(peer.calls):  # most were cancelled
                queue = queues[peer] = deque(other for other in queue if not other.over)
            queue.append(waiting)
            self._advance()

    def take_waiting(self) -> list[tuple[Peer, Head]]:
        """Return the calls that wait, in the order of each client, and forget them: whoever takes them answers them."""
        taken = [*self._queues.items(), *self._unready.items()]
        self._queues, self._unready = {}, {}
        return [(peer, waiting.head) for peer, queue in taken for waiting in queue if not waiting.over]

    def leave(self) -> None:
        """End a turn."""
        self._free += 1
        if self._queues:
            self._advance()

    def _start(self, peer: Peer, head: Head, body: bytes) -> None:
        self._free -= 1
        peer.turns[head.msgid] = self
        self._begin(peer, head, body)

    def _advance(self) -> None:
        """Begin what may begin. A call that is answered at once ends its turn in here, too."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._free and self._queues:
                peer, queue = next(iter(self._queues.items()))
                del self._queues[peer]
                while queue and queue[0].over:
                    queue.popleft()
                if not queue or not peer.connected:
                    continue
                if not peer.ready():
                    self._unready[peer] = queue
                    peer.when_ready(self._ready)
                    continue
                first = queue.popleft()
                if queue:
                    self._queues[peer] = queue  # behind all others
                self._start(peer, first.head, first.body)
        finally:
            self._advancing = False

    def _ready(self, peer: Peer) -> None:
        """Let a client take turns again that has taken its answers, or is gone."""
        if queue := self._unready.pop(peer, None):
            self._queues[peer] = queue
            self._advance()


def _is_upload(head: Head, body: bytes) -> bool:
    """Whether the bytes that a call stores come in pieces."""
    operation = METHODS.get(head.method)
    return operation is not None and operation.data_parameter is not None and read_meta(body, head).get("stream") is True
