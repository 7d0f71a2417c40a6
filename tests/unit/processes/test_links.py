"""A link between a client and a store that a test plays: what becomes of calls when the store errs, or is gone."""

import asyncio
import socket

import msgpack
import pytest

import asm
from asm.processes.access import Access
from asm.processes.gate import Gate
from asm.processes.limits import Limits
from asm.processes.links import Link, Named, Upstream
from asm.processes.loops import run
from asm.processes.service import Service
from asm.wire import messages
from asm.wire.frames import Splitter, frame


class End:
    """The other end of a connection."""

    def __init__(self):
        self.ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)

    async def say(self, *messages):
        bodies = [message if isinstance(message, bytes) else msgpack.packb(message) for message in messages]
        await asyncio.get_running_loop().sock_sendall(self._theirs, b"".join(map(frame, bodies)))

    async def hear(self, wanted):
        """Return the next messages; fewer at the end of the connection."""
        splitter = Splitter()
        while len(splitter.arrived) < wanted and (data := await asyncio.get_running_loop().sock_recv(self._theirs, 65536)):
            splitter.feed(data)
        return [msgpack.unpackb(body, timestamp=3) for body in splitter.arrived]

    def close(self):
        self._theirs.close()


class Composite:
    """A link to a store, and the gate in front of it."""

    async def __aenter__(self):
        self.link = Link(Named("S", "/nowhere"), "session", Limits())
        self.gate = Gate("C", Limits(), Access())
        self.gate.routes = Service({"session": self.link}).routes
        self.client, self.store = End(), End()
        self.upstream = await self._connect(lambda: Upstream(self.link, 1000), self.store)
        self.peer = await self._connect(self.gate.accept, self.client)
        for _ in range(60):  # it has had many small answers
            self.peer.account.answered(10)
        self.link.connected(self.upstream, ("session",))
        return self

    async def __aexit__(self, *_exception):
        for line, end in ((self.peer, self.client), (self.upstream, self.store)):
            line.abort()
            end.close()
        await asyncio.sleep(0)

    async def _connect(self, make, end):
        _transport, line = await asyncio.get_running_loop().create_unix_connection(make, sock=end.ours)
        return line

    async def ask(self, *msgids):
        await self.client.say(*([0, msgid, "session.get_session", [{}, {"session_id": "s"}]] for msgid in msgids))
        return await self.store.hear(len(msgids))


def reasons(messages):
    return {message[1]: message[2]["details"]["reason"] for message in messages}


def test_each_answer_goes_to_its_call_under_the_id_that_the_client_chose():
    async def scenario():
        async with Composite() as composite:
            asked = await composite.ask(7, 9)
            assert [message[2:] for message in asked] == [["session.get_session", [{}, {"session_id": "s"}]]] * 2
            await composite.store.say([1, asked[1][1], None, "nine"], [1, asked[0][1], None, "seven"])
            assert await composite.client.hear(2) == [[1, 9, None, "nine"], [1, 7, None, "seven"]]
            assert (composite.upstream.caller.calls, composite.peer.callee.calls, composite.gate.admission.calls) == ({}, {}, 0)

    run(scenario())


@pytest.mark.parametrize("said", [None, [1, 99, None, "never asked"], [0, 1, "hello", [{}, {}]], [2, "waits", []]])
def test_a_store_that_goes_or_breaks_the_protocol_is_answered_for(said):
    async def scenario():
        async with Composite() as composite:
            await composite.ask(1, 2)
            if said is None:
                composite.store.close()
            else:
                await composite.store.say(said)
            assert reasons(await composite.client.hear(2)) == {1: "backend_exited", 2: "backend_exited"}
            await composite.client.say([0, 3, "session.get_session", [{}, {}]])
            assert reasons(await composite.client.hear(1)) == {3: "backend_restarting"}
            assert composite.gate.failures == 3

    run(scenario())


def test_a_call_that_comes_while_a_connection_ends_has_its_answer():
    async def scenario():
        async with Composite() as composite:
            composite.upstream.abort()
            composite.peer.take_in(frame(msgpack.packb([0, 1, "session.get_session", [{}, {}]])))
            assert reasons(await composite.client.hear(1)) == {1: "backend_restarting"}

    run(scenario())


ANSWERS = {
    "who it is": (messages.result(1, {"contracts": ["session"]}), {"contracts": ["session"]}),
    "no map": (messages.result(1, 5), {}),
    "an error": (messages.error(1, asm.Error("invalid_operation", "no")), "invalid_operation"),
    "a refusal": (messages.refusal(asm.Error("storage_error", "full")), "storage_error"),
    "something behind": (messages.result(1, None) + b"\xc0", ConnectionResetError),
    "an answer to something else": (messages.result(2, None), ConnectionResetError),
    "nothing": (b"", ConnectionResetError),
}


@pytest.mark.parametrize(("answer", "outcome"), ANSWERS.values(), ids=ANSWERS)
def test_hello_is_answered_or_failed(answer, outcome):
    async def scenario():
        async with Composite() as composite:
            asked = composite.upstream.greet({"relay": True})
            (hello,) = await composite.store.hear(1)
            assert hello == [0, 1, "hello", [{}, {"relay": True}]]
            await composite.store.say(answer)
            (found,) = await asyncio.gather(asked, return_exceptions=True)
            return found if isinstance(found, dict) else getattr(found, "code", type(found))

    assert run(scenario()) == outcome
