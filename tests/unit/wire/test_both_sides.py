"""Both sides of the engine against each other, and with a relay between them.

Whatever is said in whatever order, each call gets its own answer or its own error, and nothing is left of it anywhere.
"""

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

import asm
from asm.client.conversation import Call, Conversation
from asm.wire import messages
from asm.wire.calls import decode_params
from asm.wire.conversation import Broken, Callee, Caller
from asm.wire.frames import Splitter, frame, framed
from asm.wire.messages import HELLO, MALFORMED, PROTOCOL, WAITS, MessageError, decode, packed
from asm.wire.streams import MORE, PIECE, Receiving, Sending, chunk

META = msgpack.packb({})


def request(msgid, arguments=None):
    return frame(messages.request(msgid, "session.get_run", arguments or {}))


def carried(msgid, piece):
    return b"".join(framed(*chunk(msgid, piece)))


def said(data):
    splitter = Splitter()
    splitter.feed(b"".join(data))
    return [decode(body) for body in splitter.arrived]


class Work:
    """A call where it is made."""

    def __init__(self, store, msgid, token, kind):
        self.store, self.msgid, self.token = store, msgid, token
        self.was_told = self.is_over = False
        self.receiving = Receiving() if kind == "upload" else None
        self.sending = Sending() if kind == "download" else None
        self.bytes = b""
        self.untaken = 0

    def carry(self, method, body, rest_at):
        if self.receiving is not None:
            piece = self.receiving.hear(method, body, rest_at)
            if isinstance(piece, bytes):
                self.bytes += piece
                self.untaken += len(piece)
        elif self.sending is not None:
            self.sending.hear(method, body, rest_at)
        else:
            raise MessageError("this call has no stream")

    def cancel(self):
        assert not self.is_over, "an end twice"
        self.is_over = True

    def malformed(self):
        self.store.say(self.store.callee.malformed(self.msgid))
        self.cancel()


class Store:
    """The side that is called, at the end of the way. What it says is on a line until somebody delivers it."""

    def __init__(self):
        self.callee = Callee()
        self.line = bytearray()
        self.works = {}  # by token

    def say(self, parts):
        self.line += b"".join(parts)
        return bool(parts)

    def hear(self, data):
        self.callee.feed(data)
        while self.callee.arrived:
            if (asked := self.callee.hear()) is None:
                continue
            head, body = asked
            if head.method == HELLO:
                self.callee.read(head, body)
                hello = {"name": "S", "protocol": PROTOCOL, "version": "9", "contracts": []}
                self.say(self.callee.answer(head.msgid, packed(hello)))
            else:
                arguments = decode_params(body, head)[1]
                assert arguments["token"] not in self.works, "a call twice"
                work = self.works[arguments["token"]] = Work(self, head.msgid, **arguments)
                self.callee.begin(work)

    def lost(self):
        for work in self.callee.end(Broken("gone")):
            work.cancel()


class Passed:
    """A call that a relay passes on."""

    def __init__(self, relay, front, msgid):
        self.relay, self.front, self.msgid = relay, front, msgid
        self.was_told = self.waits = False
        self.key = None

    def respond(self, body, rest_at):
        assert self.front.say(self.front.callee.respond(self, body[rest_at:]))

    def carry(self, method, body, rest_at):
        self.relay.say(self.relay.caller.relay(self.key, method, body, rest_at))

    def cancel(self):
        self.relay.say([self.relay.caller.give_up(self.key)])

    def malformed(self):
        try:
            self.front.say(self.front.callee.malformed(self.msgid))
        finally:
            self.cancel()


class Front:
    """A relay, as one of its clients sees it."""

    def __init__(self, relay):
        self.relay, self.callee, self.line = relay, Callee(), bytearray()

    def say(self, parts):
        self.line += b"".join(parts)
        return bool(parts)

    def hear(self, data):
        self.callee.feed(data)
        while self.callee.arrived:
            if (asked := self.callee.hear()) is None:
                continue
            head, body = asked
            if head.method == HELLO:
                self.callee.read(head, body)
                self.say(self.callee.answer(head.msgid, packed({"protocol": PROTOCOL})))
            else:
                call = Passed(self.relay, self, head.msgid)
                self.callee.begin(call)
                call.key = self.relay.caller.number(call)
                self.relay.say(self.relay.caller.pass_on(call.key, body[head.method_at :]))

    def lost(self):
        for call in self.callee.end(Broken("gone")):
            call.cancel()


class Greeting:
    """What a relay asks first."""

    answer = None

    def respond(self, body, _rest_at):
        self.answer = decode(body)


class Relay:
    """What is called by clients and calls a store: it passes bodies on as they are."""

    def __init__(self, msgid=0):
        self.fronts = []
        self.connect(msgid)

    def connect(self, msgid=0):
        self.caller, self.line = Caller(relays=True), bytearray()
        self.caller._msgid = msgid
        self.greeting = Greeting()
        self.say([frame(messages.request(self.caller.number(self.greeting), "hello", {"relay": True}))])

    def front(self):
        self.fronts.append(Front(self))
        return self.fronts[-1]

    def say(self, parts):
        self.line += b"".join(parts)

    def hear(self, data):
        self.caller.feed(data)
        while self.caller.arrived:
            if (news := self.caller.hear()) is None:
                continue
            call, method, body, rest_at = news
            if not method:
                call.respond(body, rest_at)
            elif method == MALFORMED:
                call.malformed()
            elif method == WAITS:
                assert not call.waits, "told twice"
                call.waits = True
                assert not call.front.say(call.front.callee.waits(call)), "a client is told"
            else:
                call.front.say(call.front.callee.relay(call.msgid, method, body, rest_at))

    def lost(self, error):
        """Lose the connection to the store; return what was in flight."""
        calls = [call for call in self.caller.end(Broken("gone")) if isinstance(call, Passed)]
        for call in calls:
            assert call.front.say(call.front.callee.fail(call, error))
        return calls


class Client:
    """A client, who checks what it is told."""

    def __init__(self, msgid, check):
        self.conversation, self.line = Conversation(None), bytearray()
        self.conversation._msgid = msgid
        self.check = check

    def hear(self, data):
        for call in self.conversation.receive(data):
            self.check(call)


class Sides(RuleBasedStateMachine):
    """A client and a store that say whatever they may, over lines that cut anywhere."""

    flying = Bundle("flying")

    @initialize(msgid=st.sampled_from([0, 2**32 - 3]), behind=st.sampled_from([0, 2**32 - 5]))
    def connect(self, msgid, behind):
        self.clients, self.store, self.relay = [Client(msgid, self.check)], Store(), None
        self.calls, self.whose, self.expected = [], [], {}  # each by token, which is known to the client and the store alone
        self.sent, self.got = {}, {}  # the bytes of streams
        self.given_up = set()
        self.arrange(behind)

    def arrange(self, _behind):
        """Say which line leads where: each from whom it has what was said to who hears it."""
        (client,) = self.clients
        self.lines = [lambda: (client, self.store.hear), lambda: (self.store, client.hear)]

    # -- the clients

    @rule(target=flying, kind=st.sampled_from(["plain", "upload", "download"]), which=st.integers(0, 1))
    def begin(self, kind, which):
        token, client = len(self.calls), self.clients[which % len(self.clients)]
        call = Call(upload=kind == "upload", pieces=kind == "download")
        call.waiter = token
        self.calls.append(call)
        self.whose.append(client)
        self.sent[token] = self.got[token] = b""
        client.line += client.conversation.request(call, "session.get_run", META, {"token": token, "kind": kind})
        return token

    @rule(token=flying, size=st.integers(0, PIECE))
    def send_data(self, token, size):
        call, client = self.calls[token], self.whose[token]
        if call.sending is not None and not call.answered and size <= call.sending.room and token not in self.given_up:
            piece = bytes([token % 251]) * size
            self.sent[token] += piece
            client.line += client.conversation.upload(call, memoryview(piece))

    @rule(token=flying)
    def take(self, token):
        call, client = self.calls[token], self.whose[token]
        if call.pieces and token not in self.given_up:
            piece, data = client.conversation.take(call)
            self.got[token] += piece
            client.line += data

    @rule(token=flying)
    def give_up(self, token):
        call, client = self.calls[token], self.whose[token]
        if token not in self.given_up and not call.answered:
            self.given_up.add(token)
            client.line += client.conversation.give_up(call.msgid)

    def check(self, call):
        """Look at the news of a call."""
        assert call.waiter not in self.given_up, "news of a call that was given up"
        if call.answered:
            try:
                found = call.outcome()
            except asm.Error as error:
                found = error.message
            assert found == self.expected[call.waiter]

    # -- the store

    @rule(token=flying, size=st.integers(1, PIECE))
    def take_data(self, token, size):
        work = self.store.works.get(token)
        if work is not None and work.receiving is not None:
            size = min(size, work.untaken)
            work.untaken -= size
            if more_may_come := work.receiving.take(size):
                work.store.say(work.store.callee.more(work, more_may_come))

    @rule(token=flying, size=st.integers(0, PIECE))
    def send_result(self, token, size):
        work = self.store.works.get(token)
        if work is not None and work.sending is not None and size <= work.sending.room:
            piece = bytes([token % 251]) * size
            if work.store.say(work.store.callee.chunk(work, piece)):
                work.sending.sent(size)
                self.sent[token] += piece

    @rule(token=flying, fails=st.booleans())
    def answer(self, token, fails):
        """Also when nobody waits for it any more: that is not said."""
        work = self.store.works.get(token)
        if work is not None:
            callee = work.store.callee
            error = asm.Error("not_found", f"no {token}")
            was_said = work.store.say(callee.fail(work, error) if fails else callee.finish(work, packed(f"yes {token}")))
            assert was_said != work.is_over
            if was_said:
                work.is_over = True
                self.expected[token] = f"no {token}" if fails else f"yes {token}"

    @rule(token=flying)
    def wait(self, token):
        work = self.store.works.get(token)
        if work is not None:
            was_told = work.was_told
            told = work.store.say(work.store.callee.waits(work))
            assert told == (self.relay is not None and not was_told and not work.is_over)

    # -- the lines

    @rule(data=st.data(), which=st.integers(0, 5))
    def deliver(self, data, which):
        source, hear = self.lines[which % len(self.lines)]()
        if source.line:
            size = data.draw(st.integers(1, len(source.line)))
            arrived = bytes(source.line[:size])
            del source.line[:size]
            hear(arrived)

    @rule(noise=st.sampled_from([["news", [1]], ["waits", [1]], ["malformed", ["?"]]]))
    def say_what_a_client_does_not_know(self, noise):
        self.lines[-1]()[0].line += frame(msgpack.packb([2, *noise]))

    @rule(noise=st.sampled_from([["news", [1]], ["refused", [1]]]))
    def say_what_who_is_called_does_not_know(self, noise):
        self.clients[0].line += frame(msgpack.packb([2, *noise]))

    def engines(self):
        return [*(client.conversation for client in self.clients), self.store.callee]

    @invariant()
    def nothing_is_lost(self):
        assert [engine.lost for engine in self.engines()] == [None] * len(self.engines())

    def settle(self):
        """Deliver all that was said."""
        while any(line()[0].line for line in self.lines):
            for line in self.lines:
                source, hear = line()
                arrived, source.line = bytes(source.line), bytearray()
                hear(arrived)

    def teardown(self):
        self.settle()
        for token, call in enumerate(self.calls):
            if call.sending is not None and not call.answered and token not in self.given_up:
                assert self.store.works[token].bytes == self.sent[token]
        for token in range(len(self.calls)):
            self.answer(token, fails=token % 2)
        self.settle()
        for token, call in enumerate(self.calls):
            assert call.answered or token in self.given_up
            if call.receiving is not None and token not in self.given_up:
                while call.pieces:
                    self.take(token)
                if call.error is None:
                    assert self.got[token] == self.sent[token]
        self.nothing_is_lost()
        assert all(work.is_over for work in self.store.works.values())
        assert [engine.calls for engine in self.engines()] == [{}] * len(self.engines())


class Relayed(Sides):
    """Two clients of a relay, behind which the connection to the store may be lost."""

    def arrange(self, behind):
        self.relay = Relay(behind)
        self.clients.append(Client(0, self.check))
        one, other = self.clients
        self.fronts = front, beside = self.relay.front(), self.relay.front()
        self.lines = [
            lambda: (one, front.hear),
            lambda: (other, beside.hear),
            lambda: (self.relay, self.store.hear),
            lambda: (self.store, self.relay.hear),
            lambda: (beside, other.hear),
            lambda: (front, one.hear),
        ]

    @precondition(lambda self: self.relay.greeting.answer)
    @rule()
    def lose_the_store(self):
        works = self.store.works
        self.store.lost()
        for passed in self.relay.lost(asm.Error("storage_error", "gone")):
            client = self.clients[self.fronts.index(passed.front)]
            (token,) = [call.waiter for call in self.calls if self.whose[call.waiter] is client and call.msgid == passed.msgid]
            self.expected[token] = "gone"
        self.store = Store()
        self.store.works = works  # some are at work still, and answer late
        self.relay.connect()

    def engines(self):
        return [*super().engines(), *(front.callee for front in self.fronts), self.relay.caller]


for machine in (Sides, Relayed):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestSides = Sides.TestCase
TestRelayed = Relayed.TestCase


# -- What the side that is called does not take ------------------------------------------------------------------------


def a_store(*kinds, relay=False):
    """A store with calls in flight, numbered from 1."""
    store = Store()
    if relay:
        store.hear(frame(messages.request(0, "hello", {"relay": True})))
        store.line.clear()
    for msgid, kind in enumerate(kinds, 1):
        store.hear(request(msgid, {"token": msgid, "kind": kind}))
    return store


GARBAGE = {
    "no frame": bytes(4),
    "no message": frame(b"\xc1"),
    "a head that is cut": frame(b"\x94\x00\xce\x00"),
    "a method that is cut": frame(b"\x94\x00\x05\xa3ab"),
    "a method that is no text": frame(msgpack.packb([0, 9, 5, [{}, {}]])),
    "a msgid that is too large": frame(msgpack.packb([0, 2**32, "x", [{}, {}]])),
    "a msgid in flight": request(3),
    "a response": frame(messages.result(1, None)),
    "a cancel of nothing": frame(messages.notification(b"cancel", [])),
    "a cancel of two": frame(messages.notification(b"cancel", [1, 2])),
    "a cancel of what is no number": frame(messages.notification(b"cancel", [True])),
    "a stream's message without a msgid": frame(messages.notification(b"chunk", [])),
    "a stream's message that is cut": frame(messages.stream(MORE, 2, 5)[:-1]),
    "data for a call without": carried(3, b"x"),
    "data for a call that answers with some": carried(2, b"x"),
    "data behind the end": carried(1, 0) + carried(1, b"x"),
    "more than the window": carried(1, bytes(PIECE)) * 5,
    "neither bytes nor a number": frame(messages.stream(b"chunk", 1, -1)),
    "room for what comes in": frame(messages.stream(MORE, 1, 5)),
}


@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize("what", GARBAGE)
def test_what_cannot_be_understood_ends_the_connection_and_nothing_behind_it_counts(what, cut):
    store = a_store("upload", "download", "plain")
    data = request(4, {"token": 4, "kind": "plain"}) + GARBAGE[what] + request(5, {"token": 5, "kind": "plain"})
    size = max(cut, len(data) // 50)
    with pytest.raises(Broken):
        [store.hear(data[at : at + size]) for at in range(0, len(data), size)]
    assert store.callee.lost is not None
    store.hear(data)
    assert list(store.works) == [1, 2, 3, 4]
    assert not store.works[1].is_over
    store.lost()
    assert all(work.is_over for work in store.works.values())
    assert not store.say(store.callee.finish(store.works[4], packed("late")))


@pytest.mark.parametrize(
    "what", ["data for a call without", "data behind the end", "more than the window", "room for what comes in"]
)
def test_a_relay_is_told_whose_stream_makes_no_sense_and_keeps_its_connection(what):
    store = a_store("upload", "download", "plain", relay=True)
    store.hear(GARBAGE[what])
    (ended,) = [msgid for msgid, work in store.works.items() if work.is_over]
    assert said([store.line]) == [[2, "malformed", [ended]]]
    assert store.callee.lost is None
    assert sorted(store.callee.calls) == [msgid for msgid in (1, 2, 3) if msgid != ended]


def test_whoever_wrote_what_makes_no_sense_pays_for_it_and_the_others_behind_a_relay_do_not():
    relay, store = Relay(), Store()
    writer, other = relay.front(), relay.front()
    writer.hear(request(7, {"token": 1, "kind": "plain"}) + carried(7, b"x"))
    other.hear(request(7, {"token": 2, "kind": "plain"}))
    store.hear(bytes(relay.line))
    relay.line.clear()
    with pytest.raises(Broken, match="cannot be decoded"):
        relay.hear(bytes(store.line))
    store.line.clear()
    assert store.works[1].is_over
    assert not relay.line, "a cancel of what has ended"
    assert (writer.callee.lost is None, other.callee.lost, relay.caller.lost, store.callee.lost) == (False, None, None, None)
    writer.lost()
    store.hear(bytes(relay.line))
    store.say(store.callee.finish(store.works[2], packed("fine")))
    relay.hear(bytes(store.line))
    assert said([other.line]) == [[1, 7, None, "fine"]]
    assert (writer.callee.calls, other.callee.calls, store.callee.calls) == ({}, {}, {})


def test_what_comes_or_is_said_too_late_means_nothing():
    store = a_store("upload", "plain", relay=True)
    upload, plain = store.works[1], store.works[2]
    store.hear(frame(messages.notification(b"cancel", [1])) * 2 + carried(1, b"late") + carried(1, 5) + carried(9, b"x"))
    assert upload.is_over
    callee = store.callee
    for parts in (callee.finish(upload, b"\xc0"), callee.chunk(upload, b"x"), callee.more(upload, 5), callee.waits(upload)):
        assert parts == ()
    store.hear(request(1, {"token": 3, "kind": "plain"}))  # its id is free again
    assert callee.fail(upload, asm.Error("timeout", "late")) == callee.finish(upload, b"\xc0") == ()
    store.say(callee.finish(store.works[3], packed("new")))
    store.say(callee.finish(plain, packed("fine")))
    assert said([store.line]) == [[1, 1, None, "new"], [1, 2, None, "fine"]]
    store.hear(frame(messages.notification(b"cancel", [2])))
    assert callee.lost is None


def test_only_a_relay_hears_that_a_call_waits_and_only_once():
    for relay in (True, False):
        store = a_store("plain", relay=relay)
        told = [store.say(store.callee.waits(store.works[1])) for _ in range(2)]
        assert told == [relay, False]
        assert said([store.line]) == [[2, "waits", [1]]] * relay


def test_why_nothing_is_taken_is_said_and_nothing_more_is_looked_at():
    store = a_store("plain")
    store.callee.feed(request(2, {"token": 2, "kind": "plain"}))
    store.say(store.callee.turn_away(asm.Error("storage_error", "full")))
    store.hear(request(3, {"token": 3, "kind": "plain"}))
    assert list(store.works) == [1]
    conversation = Conversation(None)
    call = Call()
    conversation.request(call, "session.get_run", META, {})
    assert conversation.receive(bytes(store.line)) == [call]
    assert call.error.message == "full"


# -- What a relay does not take from a store ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(4),
        frame(b"\xc1"),
        request(1),
        frame(messages.result(77, None)),
        frame(messages.notification(WAITS, [77])),
        frame(messages.notification(WAITS, [])),
        frame(messages.notification(MALFORMED, ["1"])),
        carried(77, b"x"),
    ],
)
def test_what_a_store_may_not_say_costs_it_the_connection_and_each_call_has_its_error(garbage):
    relay = Relay()
    front = relay.front()
    front.hear(request(5, {}) + request(6, {}))
    with pytest.raises(Broken) as caught:
        relay.hear(frame(messages.result(2, "before")) + garbage + frame(messages.result(3, "late")))
    assert relay.caller.lost is caught.value
    with pytest.raises(Broken):
        relay.caller.number(None)
    relay.lost(asm.Error("storage_error", "gone"))
    before, error = said([front.line])
    assert (before, error[1], error[2]["message"]) == ([1, 5, None, "before"], 6, "gone")


def test_no_two_calls_in_flight_have_the_same_id_however_many_there_have_been():
    caller = Caller()
    numbers = [caller.number(None) for _ in range(3)]
    caller._msgid = 2**32 - 2  # as after many calls
    assert [*numbers, *(caller.number(None) for _ in range(3))] == [1, 2, 3, 2**32 - 1, 0, 4]
