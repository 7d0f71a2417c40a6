"""Admission: who may connect, begin a call, hold a thread, and go on, decided in one place on plain state.

::

    client A ──► ● ● ● ● ● ●  ┐                                  ┌──► refused: it has too much in flight
    client B ──► ●            ├──► arrive ──► counted ──► lane ──┼──► begins: it has a turn
    client C ──► ● ●          ┘                                  └──► waits ──► next ──► begins, or is refused

Nothing here reads, writes or waits: whoever does tells what has happened, and is told what to do.
A *client* is a process: the kernel says which one is behind a connection, and all of its connections count together. A *call*
is counted from its arrival until the last thing that it holds is let go of, whether or not anybody still waits for it: a thread
that does not come back from a store is one less for others, and so is what it works on.

A *lane* is what the calls to a store share: so many of them may be at work, and the others wait for a turn. Each client is next
in its turn, and so is, among its own, each connection: one that asks for a thousand things delays another one by what is at
work, and not by what waits. Calls wait, too, while their connection does not take the answers that it has. What may go on for
long keeps nobody waiting: an answer in pieces and a long-poll give up their turn, and uploads take none, and have a bound of
their own.

Processes of our own tree carry the calls of many and have bounded each of them: they are always let in, and may have more.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, Generic, TypeVar

from asm.core.errors import Error
from asm.processes.accounts import ANSWERS_AHEAD, Account, Call, Client, Lane
from asm.processes.limits import Limits, overloaded

__all__ = ["DOOR", "OURS", "UNREAD_SECONDS", "Admission"]

OURS: Final = 2
"""How many times as much as all others together a process of our tree may have in flight."""

OURS_AHEAD: Final = 16
"""How many times as many a connection of our tree may."""

UNREAD_SECONDS: Final = 5.0
"""For how long a connection with too many answers unread may take nothing at all: its process may be busy with the last one."""

DOOR: Final = 16
"""How many connections are looked at when there is room for none, in case they are of our tree."""

C = TypeVar("C", bound=Call)


class Admission(Generic[C]):
    """What all connections of a process cost at this moment.

    :param limits: what they may cost.
    :param room: for how many connections there is room.
    """

    def __init__(self, limits: Limits, room: int | None = None) -> None:
        self.limits = limits
        self.calls = self.bytes = self.uploads = self.waits = 0
        self.connections = 0  # without those at the door and those of our tree
        self.is_waited_for = False
        """Whether :meth:`next` may let something begin."""
        self._room = limits.total_connections if room is None else room
        share = limits.connections * self._room // limits.total_connections
        self._most_connections = max(min(share, self._room), 1)
        self._few_calls = min(limits.calls_in_flight, limits.total_calls_in_flight)
        self._few_bytes = min(limits.bytes_in_flight, limits.total_bytes_in_flight)
        """With fewer calls and bytes in flight in all, nobody has too many."""
        self._clients: dict[int, Client] = {}
        self._door: dict[Account, None] = {}  # first the one that has been there for the longest
        self._lanes: dict[Lane, None] = {}  # those of which something may begin
        self._slow: dict[Account, None] = {}
        self._begun: dict[Account, int] = {}
        """How many bytes of an unfinished message each has sent, first the one that has sent nothing for the longest."""
        self._bytes_begun = 0

    @property
    def in_flight(self) -> int:
        """How many calls there are, those that wait for long as well."""
        return self.calls + self.waits

    # -- Connections

    def connect(self, pid: int, peer: Any = None) -> tuple[Account | Error, Account | None]:
        """Let a connection in, or refuse it.

        :param pid: the process that made it; 0 when it is in another namespace, and there is no telling.
        :return: the connection or why it is refused, and another one that has to go.
        """
        client = self._clients.get(pid) if pid else None
        if client is None:
            client = Client(pid)
        if sum(not account.at_door for account in client.accounts) >= self._most_connections:
            return overloaded(f"{self._most_connections} connections of process {pid}"), None
        self._clients[pid or -id(client)] = client
        account = Account(client, peer)
        client.accounts[account] = None
        if self.connections < self._room:
            self.connections += 1
            return account, None
        account.at_door = True
        self._door[account] = None
        if len(self._door) <= DOOR:
            return account, None
        pushing = max(self._door, key=lambda other: sum(one.at_door for one in other.client.accounts))
        return account, next(one for one in self._door if one.client is pushing.client)

    def trust(self, account: Account) -> None:
        """Learn that a connection is of our own tree."""
        self._leave(account)
        account.at_door = False
        account.client = Client(account.client.pid, is_ours=True)
        account.client.accounts[account] = None

    def disconnect(self, account: Account) -> None:
        """Forget a connection, whose calls have ended."""
        self._leave(account)
        self._slow.pop(account, None)
        self._bytes_begun -= self._begun.pop(account, 0)

    # -- Calls

    def arrive(self, call: C) -> Error | None:
        """Count a call. It has a turn then, or waits for one, or needs none; unless it is refused.

        :return: why it is.
        """
        account, lane = call.account, call.lane
        client = account.client
        many = self.calls >= self._few_calls or self.bytes >= self._few_bytes
        if (many or call.is_upload) and (error := self._refusal(client, call)):
            return error
        if lane.stuck >= lane.room:
            return _stuck(lane)
        self.calls += 1
        self.bytes += call.size
        client.calls += 1
        client.bytes += call.size
        if call.is_upload:
            self.uploads += 1
            client.uploads += 1
        elif lane.free and not lane.queues and lane not in account.waiting and _is_ready(account):
            self._give_turn(call)
        else:
            self._queue(call)
        return None

    def wait(self, call: C) -> Error | None:
        """Let a call keep nobody waiting that waits for what may not happen for long; return why it may not.

        Those that wait have a bound of their own, as high as the other: whoever waits for many things can still do one.
        """
        if error := self._refusal(call.account.client, call, waits=True):
            return error
        self._count_waiting(call, 1)
        self.rest(call)
        return None

    def again(self, call: C) -> bool:
        """Ask for a turn for a call that waited; return whether it has one at once."""
        self._count_waiting(call, -1)
        self._queue(call)
        lane = call.lane
        if lane.free and len(lane.queues) == 1 and len(call.account.waiting[lane]) == 1 and _is_ready(call.account):
            call.lane.take_out(call)
            self._give_turn(call)
        return call.has_turn

    def lengthen(self, call: C) -> Error | None:
        """Let a call that is at work hold its thread for long, as an upload does; return why it may not."""
        call.is_upload = True
        error = self._refusal(call.account.client, call)
        call.is_upload = error is None
        if error is None:
            self.uploads += 1
            call.account.client.uploads += 1
            self.rest(call)
        return error

    def rest(self, call: C, *, is_long: bool = False) -> None:
        """End the turn of a call that keeps nobody waiting any more.

        :param is_long: whether that is because its answer is.
        """
        account, lane = call.account, call.lane
        if is_long:
            account.answer_size = max(account.answer_size, ANSWERS_AHEAD)
        if call.has_turn:
            call.has_turn = False
            account.at_work -= 1
            lane.free += 1
            if lane.queues:
                self._look_at(lane)
            if account.waiting:
                self.took(account)

    def end(self, call: C) -> None:
        """Learn that a call was answered, or that nobody waits for it any more."""
        call.is_over = True
        if call.account.waiting:
            call.lane.take_out(call)
        if not call.holds:
            self._forget(call)
        elif call.has_turn:
            call.lane.stuck += 1
            call.account.at_work -= 1  # nothing will be sent for it
            self._look_at(call.lane)
            self.took(call.account)

    def let_go(self, call: C) -> None:
        """Learn that one of the things that a call holds is done with it."""
        call.holds -= 1
        if call.is_over and not call.holds:
            if call.has_turn:
                call.lane.stuck -= 1
                call.account.at_work += 1
            self._forget(call)

    def next(self) -> tuple[list[Any], list[tuple[Any, Error]]]:
        """Return the calls that begin now, and those that are refused, and why."""
        begin, refuse = [], []
        self.is_waited_for = False
        lanes, self._lanes = self._lanes, {}
        for lane in lanes:
            while lane.free and lane.queues:
                client, accounts = next(iter(lane.queues.items()))
                account = next(iter(accounts))
                if not _is_ready(account):
                    lane.drop(account)
                    lane.blocked[account] = None
                    continue
                call = next(iter(account.waiting[lane]))
                lane.queues.move_to_end(client)
                accounts.move_to_end(account)
                call.lane.take_out(call)
                self._give_turn(call)
                begin.append(call)
            if lane.is_stuck:
                refuse += [(call, _stuck(lane)) for call in lane.waiting()]
        return begin, refuse

    # -- What is sent to and fro

    def took(self, account: Account) -> None:
        """Learn that a connection may be ready for more."""
        for lane in account.waiting:
            if account in lane.blocked and _is_ready(account):
                del lane.blocked[account]
                lane.queues.setdefault(account.client, OrderedDict())[account] = None
                self._look_at(lane)

    def lies(self, account: Account, unsent: int, taken: int, now: float, *, is_slow: bool) -> None:
        """Learn how many bytes of answers lie there for a connection.

        :param taken: how many it has taken in all.
        :param is_slow: whether it takes them slower than they come.
        """
        if taken != account.taken or is_slow != account.is_slow:
            account.taken, account.took_at = taken, now
        account.unsent = unsent if is_slow else 0
        account.is_slow = is_slow
        if is_slow:
            self._slow[account] = None
        else:
            self._slow.pop(account, None)
        if account.waiting:
            self.took(account)

    def began(self, account: Account, size: int) -> None:
        """Learn how many bytes of an unfinished message a connection has sent."""
        self._bytes_begun += size - self._begun.pop(account, 0)
        if size:
            self._begun[account] = size

    def excess(self, now: float) -> list[tuple[Account, str]]:
        """Return the connections that are to be cut off, and why: they do not read, or do not end what they have begun."""
        found: dict[Account, str] = {}
        begun = self._bytes_begun
        for account, size in self._begun.items():
            if begun <= self.limits.total_bytes_begun:
                break
            begun -= size
            found[account] = "its message does not come to an end"
        for account in self._unread(now):
            found[account] = "it does not read its answers"
        return list(found.items())

    # -- Inside

    def _unread(self, now: float) -> list[Account]:
        """Return the connections that do not read what is there for them, if that is too much."""
        limits, found = self.limits, []
        unread: dict[Client, int] = {}
        for account in self._slow:
            unread[account.client] = unread.get(account.client, 0) + account.unsent
        total = sum(size for client, size in unread.items() if not client.is_ours)
        for account in sorted(self._slow, key=lambda one: (unread[one.client], one.unsent), reverse=True):
            client = account.client
            if client.is_ours:
                is_late = account.unsent > OURS * limits.total_bytes_unread
            else:
                rests = now - account.took_at >= UNREAD_SECONDS
                is_late = total > limits.total_bytes_unread or unread[client] > limits.bytes_unread * (1 if rests else 2)
            if is_late:
                found.append(account)
                unread[client] -= account.unsent
                total -= 0 if client.is_ours else account.unsent
        return found

    def _refusal(self, client: Client, call: Call, *, waits: bool = False) -> Error | None:
        """Return why a client may not have this call, too, at work or waiting; ``None`` if it may."""
        limits, most = self.limits, OURS if client.is_ours else 1
        many = len(self._clients)
        for what, own, one, everybody, total in (
            ("calls", client.calls, limits.calls_in_flight, self.calls, limits.total_calls_in_flight),
            ("bytes", client.bytes, limits.bytes_in_flight, self.bytes, limits.total_bytes_in_flight),
            ("waits", client.waits, limits.calls_in_flight, self.waits, limits.total_calls_in_flight),
            ("uploads", client.uploads, limits.uploads, self.uploads, limits.total_uploads),
        ):
            if (what == "waits") != waits or (what == "uploads" and not call.is_upload):
                continue
            too_many = own >= most * total if client.is_ours else own >= one or (everybody >= total and own * many >= total)
            if too_many:
                return overloaded(f"{own} {what} of process {client.pid} are in flight")
        return None

    def _give_turn(self, call: Call) -> None:
        call.has_turn = True
        call.account.at_work += 1
        call.lane.free -= 1

    def _count_waiting(self, call: Call, more: int) -> None:
        call.waits = more > 0
        self.waits += more
        self.calls -= more
        call.account.client.waits += more
        call.account.client.calls -= more

    def _queue(self, call: Call) -> None:
        account, lane = call.account, call.lane
        if lane not in account.waiting:
            account.waiting[lane] = OrderedDict()
            lane.blocked[account] = None
            self.took(account)
        account.waiting[lane][call] = None

    def _look_at(self, lane: Lane) -> None:
        self._lanes[lane] = None
        self.is_waited_for = True

    def _forget(self, call: C) -> None:
        """Count a call no more."""
        client = call.account.client
        if call.waits:
            self._count_waiting(call, -1)
        self.calls -= 1
        self.bytes -= call.size
        client.calls -= 1
        client.bytes -= call.size
        self.uploads -= call.is_upload
        client.uploads -= call.is_upload
        self.rest(call)
        self._forget_client(client)

    def _leave(self, account: Account) -> None:
        """Take a connection from its client."""
        client = account.client
        if account in client.accounts:
            del client.accounts[account]
            if account.at_door:
                del self._door[account]
            elif not client.is_ours:
                self.connections -= 1
            self._forget_client(client)

    def _forget_client(self, client: Client) -> None:
        """Forget a process that has no connection and no call."""
        if not client.accounts and not client.calls and not client.waits and not client.is_ours:
            self._clients.pop(client.pid or -id(client), None)


def _stuck(lane: Lane) -> Error:
    return overloaded(
        f"all {lane.room} turns of the store have calls that nobody waits for any more, and that do not come back"
    )


def _is_ready(account: Account) -> bool:
    """Whether the answer to one more call would soon be taken, if it is as large as the latest were."""
    limit = OURS_AHEAD * ANSWERS_AHEAD if account.client.is_ours else ANSWERS_AHEAD
    foreseen = account.queued + account.unsent + (account.at_work + account.is_slow) * account.answer_size
    return foreseen < limit or not (account.is_slow or account.at_work or account.queued)
