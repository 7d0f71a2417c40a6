"""The gate: connections and calls of clients whose both ends are here, and a store that answers when a test says so."""

import asyncio
import gc
import socket
import weakref

import msgpack
import pytest

from asm.processes.access import Access
from asm.processes.accounts import Lane
from asm.processes.gate import Gate
from asm.processes.limits import Limits
from asm.processes.loops import run
from asm.processes.peers import BATCH
from asm.processes.roles import Route
from asm.wire.frames import Splitter, frame
from asm.wire.messages import MALFORMED

KEY = "a secret of the tree"


class Store:
    """What begins calls, and ends them when the test says so."""

    def __init__(self, room, limits=None, connections=None):
        self.begun = []
        self.gate = Gate("gate", limits or Limits(), Access(), connections, KEY)
        lane = Lane(room)
        methods = (b"session.get_session", b"artifact.put")
        self.gate.routes = {method: Route(self, lane, may_upload=method == b"artifact.put") for method in methods}

    def take(self, call):
        self.begun.append(call)

    def msgids(self):
        return [call.head.msgid for call in self.begun]


class Client:
    """Both ends of a connection."""

    def __init__(self, gate):
        self.peer = gate.accept()
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    async def __aenter__(self):
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.peer, sock=self._ours)
        for _ in range(60):  # it has had many small answers
            self.peer.account.answered(10)
        return self

    async def __aexit__(self, *_exception):
        self.peer.abort()
        self._theirs.close()
        await asyncio.sleep(0)

    def say(self, *messages):
        self.peer.take_in(b"".join(frame(msgpack.packb(message)) for message in messages))

    def ask(self, *msgids, method="session.get_session", meta=None):
        self.say(*([0, msgid, method, [meta or {}, {}]] for msgid in msgids))

    async def read(self, wanted):
        """Return the next messages; fewer at the end of the connection."""
        splitter = Splitter()
        while len(splitter.arrived) < wanted and (data := await asyncio.get_running_loop().sock_recv(self._theirs, 65536)):
            splitter.feed(data)
        return [msgpack.unpackb(body, timestamp=3) for body in splitter.arrived]


def test_calls_begin_in_their_turn_and_what_is_cancelled_does_not():
    async def scenario():
        store = Store(room=1)
        async with Client(store.gate) as a, Client(store.gate) as b:
            a.ask(1, 2, 3)
            b.ask(4)
            a.say([2, "cancel", [2]])
            assert store.msgids() == [1]
            for call in store.begun:  # which grows
                call.finish(b"\xc0")
                await asyncio.sleep(0.001)
            assert sorted(store.msgids()) == [1, 3, 4]
            assert {message[1] for message in await a.read(2)} == {1, 3}
            assert store.gate.admission.calls == 0

    run(scenario())


def test_a_client_that_goes_gives_its_turns_back_and_what_waits_is_forgotten():
    async def scenario():
        store = Store(room=1)
        async with Client(store.gate) as b:
            async with Client(store.gate) as a:
                a.ask(1, 2, 3)
                b.ask(4)
            await asyncio.sleep(0.001)
            assert store.msgids() == [1, 4]
            assert store.gate.admission.calls == 1
        assert (store.gate.admission.calls, store.gate.admission.bytes, store.gate.admission.connections) == (0, 0, 0)

    run(scenario())


def test_after_some_messages_it_is_the_turn_of_other_connections():
    async def scenario():
        store = Store(room=1000)
        async with Client(store.gate) as a:
            a.ask(*range(3 * BATCH))
            assert len(store.begun) == BATCH
            for batches in (2, 3):  # one more with each turn of the loop
                await asyncio.sleep(0)
                assert len(store.begun) == batches * BATCH

    run(scenario())


def test_uploads_begin_at_once_up_to_their_bound():
    async def scenario():
        store = Store(room=1, limits=Limits(uploads=2))
        async with Client(store.gate) as a:
            a.ask(1, 2, 3, method="artifact.put", meta={"stream": True})
            a.ask(4, method="artifact.put")
            assert store.msgids() == [1, 2, 4]
            (refused,) = await a.read(1)
            assert (refused[1], refused[2]["details"]) == (3, {"reason": "overloaded"})

    run(scenario())


@pytest.mark.parametrize("key", [KEY, "another", None])
def test_whoever_knows_the_secret_of_the_tree_is_of_it(key):
    """Whoever only says that it is a relay gains nothing by it."""

    async def scenario():
        limits = Limits(bytes_unread=1_000_000, total_bytes_unread=4_000_000, calls_in_flight=2)
        store = Store(room=10, limits=limits)
        async with Client(store.gate) as a:
            a.say([0, 9, "hello", [{}, {"relay": True} | ({} if key is None else {"tree": key})]])
            assert a.peer.account.client.is_ours is (key == KEY)
            assert (await a.read(1))[0][3]["protocol"] == 2
            a.ask(1, 2, 3)
            assert len(store.begun) == (3 if key == KEY else 2)
            a.peer.send(bytes(3_000_000))
            a.peer.flush()
            assert (a.peer.callee.lost is not None) is (key != KEY)
            a.peer.send(bytes(6_000_000))
            a.peer.flush()
            assert a.peer.callee.lost is not None

    run(scenario())


def test_a_relay_is_told_of_what_cannot_be_decoded_and_others_are_cut_off():
    async def scenario():
        store = Store(room=10)
        async with Client(store.gate) as relay, Client(store.gate) as other:
            relay.say([0, 9, "hello", [{}, {"relay": True}]])
            await relay.read(1)
            relay.ask(1)
            other.ask(1)
            for call in store.begun:
                call.malformed()
            assert await relay.read(1) == [[2, MALFORMED.decode(), [1]]]
            assert await other.read(1) == []

    run(scenario())


def test_when_there_is_no_room_a_process_of_the_tree_gets_in_and_others_are_told():
    async def scenario():
        store = Store(room=10, connections=1)
        async with Client(store.gate) as a, Client(store.gate) as b, Client(store.gate) as c:
            a.ask(1)
            store.gate.admission._most_connections = 10  # one process stands for several here
            async with Client(store.gate) as d, Client(store.gate) as e:
                d.say([0, 9, "hello", [{}, {"relay": True, "tree": KEY}]])
                d.ask(2)
                e.ask(3)
                assert store.msgids() == [1, 2]
                assert (await e.read(1))[0][2][0]["details"] == {"reason": "overloaded"}
            assert [message[0:2] for message in await b.read(1) + await c.read(1)] == [[2, "refused"]] * 2

    run(scenario())


def test_a_connection_that_is_closed_leaves_nothing_behind():
    """At once: what waits until circles are looked for is many buffers, where clients come and go."""

    async def scenario():
        store = Store(room=2)
        gc.disable()
        try:
            async with Client(store.gate) as client:
                client.say([0, 1, "session.get_session", [{}, {}]])
                left = weakref.ref(client.peer)
                (call,) = store.begun
                store.begun.clear()
                call.finish(b"\xc0")
                del call
            await asyncio.sleep(0)
            del client
            assert left() is None
        finally:
            gc.enable()

    run(scenario())
