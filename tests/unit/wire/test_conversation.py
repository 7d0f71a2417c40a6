"""The engine under every connection: the same calls, however they mix, and however the bytes are cut."""

import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

import asm
from asm.client.conversation import Call, Conversation, Outgoing
from asm.operations import OPERATIONS
from asm.wire import messages
from asm.wire.conversation import Broken
from asm.wire.frames import Splitter, frame, framed
from asm.wire.messages import PROTOCOL, MessageError, decode, packed
from asm.wire.streams import MORE, PIECE, WINDOW, Receiving, Sending, chunk, more

META = msgpack.packb({})


def answer(msgid, result):
    return frame(messages.result(msgid, result))


def refusal(code="storage_error"):
    return asm.Error(code, "no", details={"reason": "overloaded"})


def carried(msgid, piece):
    return b"".join(framed(*chunk(msgid, piece)))


def said(data):
    splitter = Splitter()
    splitter.feed(data)
    return [decode(body) for body in splitter.arrived]


def begun(conversation, **kinds):
    """A call, and what was sent for it after the greeting."""
    call = Call(**kinds)
    return call, said(conversation.request(call, "session.get_run", META, {"run_id": "r"}))[-1]


class Mixed(RuleBasedStateMachine):
    """A client and a server that say whatever they may, in any order, over a line that cuts anywhere."""

    flying = Bundle("flying")

    def __init__(self):
        super().__init__()
        self.conversation = Conversation()
        self.splitter = Splitter()
        self.line = bytearray()  # what the server said, and the client has not read
        self.expected = {}  # what each call is to get, by msgid
        self.sent, self.got = {}, {}  # the bytes of streams, by msgid: as they were sent, and as they came
        self.window = {}  # how much may still come to whoever receives, by msgid
        self.answered, self.given_up = set(), set()
        self.greeted = 0

    def hear(self, data):
        """Be the server: take what the client says."""
        self.splitter.feed(data)
        while self.splitter.arrived:
            message = decode(self.splitter.arrived.popleft())
            if message[0] == 0 and message[2] == "hello":
                self.greeted += 1
                self.line += answer(message[1], {"name": "S", "protocol": PROTOCOL, "version": "9", "contracts": []})
            elif message[:2] == [2, "chunk"]:
                msgid, piece = message[2]
                if isinstance(piece, bytes):
                    self.window[msgid] -= len(piece)
                    assert self.window[msgid] >= 0, "more than the server let come"
                    self.got[msgid] += piece
            elif message[:2] == [2, "more"]:
                msgid, size = message[2]
                self.window[msgid] += size
            elif message[:2] == [2, "cancel"]:
                assert message[2][0] in self.given_up

    @rule(target=flying, kind=st.sampled_from(["plain", "upload", "download"]))
    def begin(self, kind):
        call = Call(upload=kind == "upload", pieces=kind == "download")
        data = self.conversation.request(call, "session.get_run", META, {"run_id": "r"})
        assert call.msgid not in self.window, "an id twice"
        self.window[call.msgid], self.got[call.msgid], self.sent[call.msgid] = WINDOW, b"", b""
        self.hear(data)
        return call

    @rule(call=flying, size=st.integers(0, PIECE))
    def send_data(self, call, size):
        if call.sending is not None and not call.answered and size <= call.sending.room and call.msgid not in self.given_up:
            piece = bytes([call.msgid % 251]) * size
            self.sent[call.msgid] += piece
            self.hear(self.conversation.upload(call, memoryview(piece)))

    @rule(call=flying, size=st.integers(0, WINDOW))
    def let_more_come(self, call, size):
        size = min(size, WINDOW - self.window[call.msgid])
        if call.sending is not None and call.msgid not in self.answered and size:
            self.window[call.msgid] += size
            self.line += frame(more(call.msgid, size))

    @rule(call=flying, size=st.integers(0, PIECE))
    def send_result(self, call, size):
        if call.receiving is not None and call.msgid not in self.answered and size <= self.window[call.msgid]:
            piece = bytes([call.msgid % 251]) * size
            self.window[call.msgid] -= size
            self.sent[call.msgid] += piece
            self.line += carried(call.msgid, piece)

    @rule(call=flying)
    def take(self, call):
        if call.pieces and call.msgid not in self.given_up:
            piece, data = self.conversation.take(call)
            self.got[call.msgid] += piece
            self.hear(data)

    @rule(call=flying, fails=st.booleans())
    def respond(self, call, fails):
        """Also to a call that was given up: that may not be known yet."""
        if call.msgid not in self.answered:
            self.answered.add(call.msgid)
            self.expected[call.msgid] = None if fails else [call.msgid]
            error = messages.error(call.msgid, asm.Error("not_found", str(call.msgid)))
            self.line += frame(error) if fails else answer(call.msgid, [call.msgid])

    @rule(call=flying)
    def give_up(self, call):
        if call.msgid not in self.given_up:
            self.given_up.add(call.msgid)
            self.hear(self.conversation.give_up(call.msgid))

    @rule(noise=st.sampled_from([["news", [1]], ["malformed", [1]], ["chunk", [1, b"late"]]]))
    def say_what_concerns_nobody(self, noise):
        if noise[0] != "chunk" or 1 not in self.conversation.calls:
            self.line += frame(msgpack.packb([2, *noise])) if self.window else b""

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def deliver(self, data):
        size = data.draw(st.integers(1, len(self.line)))
        news = self.conversation.receive(bytes(self.line[:size]))
        del self.line[:size]
        for call in news:
            assert call.msgid not in self.given_up, "news of a call that was given up"
            if call.answered:
                self.check(call)

    def check(self, call):
        if self.expected[call.msgid] is None:
            with pytest.raises(asm.ResourceError) as caught:
                call.outcome()
            assert caught.value.message == str(call.msgid)
        else:
            assert call.outcome() == self.expected[call.msgid]

    @invariant()
    def nothing_is_lost(self):
        assert self.conversation.lost is None
        assert self.greeted == bool(self.window)

    def teardown(self):
        news = self.conversation.receive(bytes(self.line))
        for call in news:
            if call.answered:
                self.check(call)
        left = {msgid: call for msgid, call in self.conversation.calls.items() if isinstance(call, Call)}
        assert not left.keys() & (self.answered | self.given_up)
        for msgid, call in left.items():
            if call.receiving is not None:
                while call.pieces:
                    self.got[msgid] += self.conversation.take(call)[0]
                assert self.got[msgid] == self.sent[msgid]
            elif call.sending is not None:
                assert self.got[msgid] == self.sent[msgid]
                assert call.sending.room == self.window[msgid]
        assert set(self.conversation.fail(Broken("gone"))) == set(left.values())
        for call in left.values():
            with pytest.raises(Broken):
                call.outcome()


Mixed.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMixed = Mixed.TestCase


@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize(
    "garbage",
    [
        bytes(4),  # no frame
        frame(b"\xc1"),  # no message
        frame(b"\x94\x01\xce\x00"),  # cut in the head, in a frame that is whole
        answer(77, None),  # for a call that was never made
        carried(77, b"x"),
        carried(3, b"x"),  # for a call without a stream
        carried(2, 5),  # the end of a stream, which the response says
        frame(messages.stream(MORE, 2, 5)),  # lets more go to whom it only comes from
        carried(2, bytes(PIECE)) * 5,  # more than the window
        frame(messages.request(1, "hello", {})),  # a request to a client
        frame(b"\x94\x01\xce\x00\x00\x00\x03\xc0"),  # the answer to a call, cut
        frame(messages.result(1, "no map")),  # what is no answer to hello
    ],
)
def test_what_cannot_be_understood_ends_the_connection_and_what_came_before_counts(garbage, cut):
    conversation = Conversation()
    download, _ = begun(conversation, pieces=True)
    plain, _ = begun(conversation)
    before, _ = begun(conversation)
    data = answer(before.msgid, "before") + garbage
    assert (download.msgid, plain.msgid) == (2, 3)
    size = max(cut, len(data) // 50)
    news = [call for at in range(0, len(data), size) for call in conversation.receive(data[at : at + size])]
    assert before.outcome() == "before"
    assert {before, download, plain} == set(news)
    for call in (download, plain):
        with pytest.raises(Broken):
            call.outcome()
    with pytest.raises(Broken):
        begun(conversation)
    assert conversation.receive(data) == []


@pytest.mark.parametrize("protocol", [1, 3, None, "2"])
def test_another_version_is_told_with_both_and_what_to_upgrade(protocol):
    conversation = Conversation()
    call, _ = begun(conversation)
    assert conversation.receive(answer(1, {"name": "S", "protocol": protocol, "version": "0.9"})) == [call]
    with pytest.raises(asm.ConcurrencyError) as caught:
        call.outcome()
    assert caught.value.code == "capability_not_supported"
    assert not caught.value.retryable
    assert caught.value.details["ours"] == PROTOCOL
    assert caught.value.details["theirs"] == protocol
    assert "0.9" in caught.value.message
    assert ("on this side" if protocol == 3 else "where the store runs") in caught.value.message


def test_who_cannot_say_who_it_is_is_taken_for_one_of_ours():
    conversation = Conversation()
    call, _ = begun(conversation)
    assert conversation.receive(frame(messages.error(1, refusal()))) == []
    assert conversation.receive(answer(2, "fine")) == [call]
    assert call.outcome() == "fine"


def test_why_a_connection_is_refused_reaches_every_call():
    conversation = Conversation()
    calls = [begun(conversation)[0] for _ in range(3)]
    assert conversation.receive(frame(messages.refusal(refusal())) + answer(2, "too late")) == calls
    for call in calls:
        with pytest.raises(asm.StorageError) as caught:
            call.outcome()
        assert caught.value.details["reason"] == "overloaded"


def test_ids_begin_anew_and_a_late_answer_is_still_known_as_one():
    conversation = Conversation(None)
    conversation._msgid = 2**32 - 2  # as after many calls
    first, message = begun(conversation)
    conversation.give_up(first.msgid)
    second, _ = begun(conversation)
    assert (message[1], first.msgid, second.msgid) == (2**32 - 1, 2**32 - 1, 0)
    assert conversation.receive(answer(first.msgid, "late") + answer(second.msgid, "mine")) == [second]
    assert second.outcome() == "mine"


def test_a_request_that_no_server_takes_is_refused_before_anything_is_said():
    conversation = Conversation()
    for arguments, problem in (({"a": bytes(16 * 1024 * 1024)}, "16777"), ({"a": [0] * 1_000_001}, "1,000,0")):
        with pytest.raises(asm.ValidationError, match=problem):
            conversation.request(Call(), "session.get_run", META, arguments)
    call = Call()
    assert [message[2] for message in said(conversation.request(call, "session.get_run", META, {}))] == [
        "hello",
        "session.get_run",
    ]


def test_an_upload_that_was_answered_before_its_end_leaves_the_connection_of_use():
    conversation = Conversation()
    call, _ = begun(conversation, upload=True)
    conversation.upload(call, memoryview(b"first"))
    assert conversation.receive(answer(call.msgid, None)) == [call]
    assert call.answered
    assert conversation.receive(frame(more(call.msgid, 5))) == []  # on its way when the answer was given
    assert conversation.give_up(call.msgid) == b""
    after, _ = begun(conversation)
    conversation.receive(answer(after.msgid, 1))
    assert after.outcome() == 1


def test_both_ends_of_a_stream_count_the_same():
    sending, receiving = Sending(), Receiving()
    moved = 0
    while moved < 3 * WINDOW:
        while sending.room >= PIECE:
            sending.sent(PIECE)
            receiving.arrived(PIECE)
            moved += PIECE
        sending.let(receiving.take(WINDOW // 4 - 1))
        sending.let(receiving.take(1))
    assert sending.total == receiving.total == moved
    with pytest.raises(MessageError):
        receiving.arrived(receiving.room + 1)


# -- Operations -----------------------------------------------------------------------------------------------------------


def test_the_answer_to_an_operation_is_its_result_or_an_error_of_that_call_alone():
    conversation, append = Conversation(hello=None), OPERATIONS["append_event_with_sequence"]
    event = asm.Event.new(type="message_sent", session_id="ses")
    outgo = Outgoing(append, {"event": event}, None, 5.0)
    (one, request), (other, _) = conversation.begin(outgo), conversation.begin(outgo)
    ((_, msgid, method, (meta, arguments)),) = said(request)
    assert (msgid, method) == (one.msgid, "session.append_event_with_sequence")
    assert meta == {"timeout_ms": 5000, "numbers": True}
    assert asm.Event.from_map(arguments["event"]) == event
    conversation.receive(answer(one.msgid, 7) + answer(other.msgid, "seven"))
    assert outgo.result(one, None) == event.sequenced(7)
    with pytest.raises(asm.ValidationError):
        outgo.result(other, None)
    assert conversation.lost is None


def test_rows_come_in_the_answer_or_in_pieces_of_which_the_first_may_be_empty():
    conversation, listing = Conversation(hello=None), OPERATIONS["list_runs"]
    outgo = Outgoing(listing, {"session_id": "ses"}, None, 5.0)
    run = asm.Run.new(session_id="ses")
    row = packed(run.held_fields())
    (one, _), (other, _) = conversation.begin(outgo), conversation.begin(outgo)
    conversation.receive(answer(one.msgid, [run.held_fields()]))
    assert outgo.result(one, None) == [run]
    conversation.receive(carried(other.msgid, b"") + answer(other.msgid, [row, len(row)]))
    rows = outgo.row(None, conversation.take(other)[0])
    assert outgo.result(other, rows) == [run]
