"""Who may begin a call when many want to, and what bounds them all together."""

import asyncio
import socket

import msgpack
import pytest

from asm.processes.limits import RELAY, Limits, Load
from asm.processes.loops import run
from asm.processes.peers import ANSWERS_AHEAD, BATCH, Peer
from asm.processes.turns import Turns
from asm.wire.frames import Splitter, frame


class Service:
    """A receiver whose store begins calls, and ends them when the test says so."""

    def __init__(self, room):
        self.begun = []
        self.turns = Turns(self._begin, room)

    def _begin(self, peer, head, body):
        self.begun.append((peer.name, head.msgid))

    def request(self, peer, head, body):
        self.turns.call(peer, head, body)

    def notification(self, peer, head, body):
        peer.cancel(msgpack.unpackb(body)[2][0])

    def settled(self, peer):
        pass

    def lost(self, peer):
        pass


class Client:
    """Both ends of a connection."""

    def __init__(self, service, load, name):
        self.peer = Peer(service, load)
        self.peer.name = name
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.peer, sock=self._ours)
        return self

    async def __aexit__(self, *_exception):
        self.peer.abort()
        self._theirs.close()
        await asyncio.sleep(0)

    def ask(self, *msgids, method="get_session", meta=None, arguments=None):
        self.peer.take_in(b"".join(frame(msgpack.packb([0, msgid, method, [arguments or {}, meta or {}]])) for msgid in msgids))

    def cancel(self, *msgids):
        self.peer.take_in(b"".join(frame(msgpack.packb([2, "cancel", [msgid]])) for msgid in msgids))

    async def read(self, wanted):
        """Return the next messages."""
        splitter, messages = Splitter(), []
        while len(messages) < wanted:
            data = await asyncio.get_running_loop().sock_recv(self._theirs, 65536)
            messages += [msgpack.unpackb(body, timestamp=3) for body in splitter.feed(data)]
        return messages


def settle_in(peer, size=10, count=60):
    """Let a peer have had so many answers of this size."""
    for _ in range(count):
        peer._answer_size = max(size, peer._answer_size * 0.75)


def test_clients_take_turns_when_there_is_no_room():
    async def scenario():
        service, load = Service(room=2), Load(Limits())
        async with Client(service, load, "a") as a, Client(service, load, "b") as b:
            settle_in(a.peer)
            settle_in(b.peer)
            a.ask(*range(10))
            b.ask(*range(3))
            assert service.begun == [("a", 0), ("a", 1)]
            while len(service.begun) < 13:
                name, msgid = service.begun[len(service.begun) - 2]
                {"a": a, "b": b}[name].peer.answer(msgid, b"x")
            order = "".join(name for name, _msgid in service.begun)
            assert order == "aaabababaaaaa"

    run(scenario())


def test_a_client_that_goes_gives_its_turns_back_and_what_waits_is_forgotten():
    async def scenario():
        service, load = Service(room=1), Load(Limits())
        async with Client(service, load, "b") as b:
            async with Client(service, load, "a") as a:
                a.ask(1, 2, 3)
                b.ask(1)
            await asyncio.sleep(0)
            assert service.begun == [("a", 1), ("b", 1)]
            assert (load.calls, len(service.turns._queues), len(service.turns._unready)) == (1, 0, 0)
        assert (load.calls, load.bytes) == (0, 0)

    run(scenario())


def test_what_waits_can_be_taken_when_the_store_is_gone():
    async def scenario():
        service, load = Service(room=1), Load(Limits())
        async with Client(service, load, "a") as a, Client(service, load, "b") as b:
            settle_in(a.peer)
            a.ask(1, 2, 3, 4)
            a.cancel(3)
            b.ask(5)
            assert [(peer.name, head.msgid) for peer, head in service.turns.take_waiting()] == [("a", 2), ("a", 4), ("b", 5)]
            a.peer.answer(1, b"x")
            assert service.begun == [("a", 1)]

    run(scenario())


def test_calls_that_are_cancelled_while_they_wait_leave_nothing_behind():
    async def scenario():
        service, load = Service(room=1), Load(Limits())
        async with Client(service, load, "a") as a:
            settle_in(a.peer)
            a.ask(0)
            for msgid in range(1, 1000):
                a.ask(msgid)
                a.cancel(msgid)
            (queue,) = service.turns._queues.values()
            assert len(queue) < 10
            assert service.begun == [("a", 0)]

    run(scenario())


def test_of_whom_large_answers_are_foreseen_calls_wait_for_them():
    async def scenario():
        service, load = Service(room=100), Load(Limits())
        async with Client(service, load, "a") as a:
            a.ask(*range(10))
            assert len(service.begun) == 1  # anything may come of the first one
            a.peer.answer(0, bytes(ANSWERS_AHEAD // 4))
            settle_in(a.peer, ANSWERS_AHEAD // 4)
            await asyncio.gather(asyncio.sleep(0), a.read(0))
            a.peer.answer(service.begun[-1][1], bytes(ANSWERS_AHEAD // 4))
            assert 1 < len(service.begun) <= 6

    run(scenario())


def test_long_polls_need_no_turn_and_uploads_have_a_bound_of_their_own():
    async def scenario():
        service, load = Service(room=1), Load(Limits(uploads=2))
        async with Client(service, load, "a") as a:
            a.ask(1, 2)
            a.ask(3, 4, method="get_events", arguments={"wait_timeout_ms": 5})
            a.ask(5, method="get_events", arguments={"wait_timeout_ms": None})
            a.ask(6, 7, 8, method="put", arguments={"key": "stream"}, meta={"stream": True})
            a.ask(9, method="put", arguments={"key": "stream"})
            assert [msgid for _name, msgid in service.begun] == [1, 3, 4, 6, 7]
            (refused,) = await a.read(1)
            assert (refused[1], refused[2]["details"]) == (8, {"reason": "overloaded"})

    run(scenario())


def test_after_some_messages_it_is_the_turn_of_other_connections():
    async def scenario():
        service, load = Service(room=1000), Load(Limits())
        async with Client(service, load, "a") as a:
            settle_in(a.peer)
            a.ask(*range(3 * BATCH))
            assert len(service.begun) == BATCH
            for batches in (2, 3):  # one more with each turn of the loop
                await asyncio.sleep(0)
                assert len(service.begun) == batches * BATCH

    run(scenario())


def test_who_has_less_than_its_share_is_served_whatever_the_others_have():
    load = Load(Limits(calls_in_flight=8, bytes_in_flight=800, total_calls_in_flight=12, total_bytes_in_flight=1200))
    load.peers, load.calls, load.bytes = 3, 11, 1100
    assert load.refusal(7, 700, relay=False) is None
    assert load.refusal(8, 10, relay=False).details == {"reason": "overloaded"}
    assert load.refusal(1, 800, relay=False).details == {"reason": "overloaded"}
    load.calls, load.bytes = 13, 1300
    assert load.refusal(3, 300, relay=False) is None
    assert load.refusal(4, 10, relay=False) is not None
    assert load.refusal(1, 400, relay=False) is not None
    assert load.refusal(12 * RELAY - 1, 10, relay=True) is None
    assert load.refusal(12 * RELAY, 10, relay=True).retryable
    assert load.refusal(1, 1200 * RELAY, relay=True).retryable


def test_of_unfinished_messages_the_one_that_rests_the_longest_is_one_too_many():
    load = Load(Limits(total_bytes_begun=100))
    assert load.begun("a", 40) is None
    assert load.begun("b", 40) is None
    assert load.begun("a", 60) is None
    assert load.begun("c", 10) == "b"
    load.begun("b", 0)
    assert load.begun("c", 20) is None


@pytest.mark.parametrize("relay", [False, True])
def test_a_peer_that_never_reads_is_cut_off(relay):
    async def scenario():
        service = Service(room=10)
        load = Load(Limits(bytes_unread=2_000_000, total_bytes_unread=2_000_000))
        async with Client(service, load, "a") as a:
            if relay:
                a.peer.be_relay()
            a.ask(1, 2, 3)
            a.peer.send(bytes(1_500_000))
            a.peer.flush()
            assert a.peer.connected
            a.peer.send(bytes(1_500_000))
            a.peer.flush()
            assert a.peer.connected is relay
            a.peer.send(bytes(3_000_000))
            a.peer.flush()
            assert not a.peer.connected

    run(scenario())
