"""One table of what may happen on a connection: both clients say the same of it, and go on."""

import asyncio
import functools
import threading

import msgpack
import pytest
from scripted import PATIENCE, Server

import asm
import asm.aio
from asm.core.errors import Error
from asm.wire import messages
from asm.wire.frames import frame
from asm.wire.messages import PROTOCOL
from asm.wire.streams import PIECE, WINDOW, opened

SHORT = 0.3
"""How long a call may take that is to run out of time."""

BIG = 3 * WINDOW
OPENED = opened(BIG, "version")
WHEN = msgpack.Timestamp(1_800_000_000)


class Blocking:
    """The blocking client."""

    def __init__(self, runtime_dir, **options):
        self.handle = asm.connect("S", runtime_dir=runtime_dir, **options)

    def __getattr__(self, name):
        return getattr(self.handle, name)

    def read(self, key):
        with self.handle.open(key) as file:
            return file.read()

    def close(self):
        self.handle.close()


class WithAsyncio:
    """The asyncio client, used as the blocking one is."""

    def __init__(self, runtime_dir, **options):
        self.runner = asyncio.Runner()
        self.handle = self.runner.run(self._connect(runtime_dir, options))

    async def _connect(self, runtime_dir, options):
        return await asm.aio.connect("S", runtime_dir=runtime_dir, **options)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            async def run():
                return await getattr(self.handle, name)(*args, **kwargs)

            return self.runner.run(run())

        return call

    def read(self, key):
        async def run():
            async with await self.handle.open(key) as file:
                return await file.read()

        return self.runner.run(run())

    def close(self):
        self.runner.run(self.handle.aclose())
        self.runner.close()


def number(store):
    return store.get_latest_sequence("ses_1")


def put(store):
    return store.put("k", bytes(BIG))


def get(store):
    return store.get("k")


def read(store):
    return store.read("k")


def events(store):
    return [event.id for event in store.get_events("ses_1")]


def page(store):
    found = store.search_events()
    return [event.id for event in found], found.cursor


def row(index):
    return msgpack.packb({"id": f"evt_{index}", "type": "message_sent", "timestamp": WHEN, "session_id": "ses_1"})


ROWS = b"".join(row(index) for index in range(5000))
NAMES = [f"evt_{index}" for index in range(5000)]

SITUATIONS = []
"""The name of each, the call that is made, what the server does, and what the client says of it."""


def situation(call, says, **options):
    """Add a situation: the function is the server's script, given its wire and the msgid of the call."""

    def add(script):
        SITUATIONS.append(pytest.param(call, script, says, options, id=script.__name__))
        return script

    return add


def lost(call):
    """Add a situation in which the connection is lost."""
    return situation(call, LOST)


LOST = "storage_connection_failed"
NOT_FOUND = Error("not_found", "there is no such thing")


def receive(wire, msgid, *, let=True):
    """Take an upload in."""
    total = 0
    while True:
        message = wire.read()
        assert message[:2] == [2, "chunk"], message
        piece = message[2][1]
        if isinstance(piece, int):
            assert piece == total
            return total
        total += len(piece)
        if let:
            wire.more(msgid, len(piece))


def send(wire, msgid, data, size=PIECE):
    """Send a result in pieces, as the client lets them come."""
    window = WINDOW
    *pieces, last = [data[at : at + size] for at in range(0, len(data), size)]
    for piece in pieces:
        while window < len(piece):
            message = wire.read()
            if message[1] == "cancel":
                return
            assert message[:2] == [2, "more"], message
            window += message[2][1]
        window -= len(piece)
        wire.chunk(msgid, piece)
    wire.answer(msgid, [last, len(data)])


@situation(number, 7)
def answered(wire, msgid):
    wire.answer(msgid, 7)


@situation(number, "not_found")
def answered_with_an_error(wire, msgid):
    wire.fail(msgid, NOT_FOUND)


@situation(number, "unknown_error")
def answered_with_an_error_of_a_later_version(wire, msgid):
    wire.send(frame(msgpack.packb([1, msgid, {"code": "quantum_error", "message": "?"}, None])))


@situation(number, 7)
def unknown_notifications_first(wire, msgid):
    wire.notify("news", [{"of": "a later version"}])
    wire.notify("more-news", [])
    wire.answer(msgid, 7)


@situation(number, 7)
def answers_that_nobody_waits_for_first(wire, msgid):
    wire.answer(msgid - 1, "late")
    wire.chunk(msgid - 1, b"late")
    wire.more(msgid - 1, 5)
    wire.answer(msgid, 7)


@situation(number, 7)
def answered_byte_by_byte(wire, msgid):
    for byte in frame(messages.result(msgid, 7)):
        wire.send(bytes([byte]))


@situation(number, "timeout", timeout=SHORT)
def never_answered(wire, msgid):
    wire.wait_given_up()


@situation(put, "timeout", timeout=SHORT)
def never_let_more_come(wire, msgid):
    wire.wait_given_up()


@situation(get, "timeout", timeout=SHORT)
def stopped_in_a_result(wire, msgid):
    wire.chunk(msgid, bytes(PIECE))
    wire.wait_given_up()


@situation(number, "storage_error")
def refused(wire, msgid):
    wire.refuse(Error("storage_error", "full", details={"reason": "overloaded"}))


@situation(put, "storage_error")
def refused_in_an_upload(wire, msgid):
    wire.read()
    wire.refuse(Error("storage_error", "full", details={"reason": "overloaded"}))


@lost(number)
def closed_after_the_request(wire, msgid):
    pass


@lost(number)
def cut_in_the_length(wire, msgid):
    wire.send(b"\0\0")


@lost(number)
def cut_in_the_head(wire, msgid):
    wire.send(frame(messages.result(msgid, 7))[:8])


@lost(events)
def cut_in_a_body(wire, msgid):
    wire.send(frame(messages.result(msgid, [{"id": "e"}] * 1000))[:500])


@lost(get)
def cut_in_a_stream(wire, msgid):
    wire.chunk(msgid, bytes(PIECE))


@lost(read)
def cut_in_a_stream_that_is_read(wire, msgid):
    wire.chunk(msgid, (OPENED + bytes(PIECE))[:PIECE])


@lost(events)
def cut_in_rows(wire, msgid):
    wire.chunk(msgid, ROWS[:PIECE])


@lost(put)
def closed_in_an_upload(wire, msgid):
    wire.read()


@lost(number)
def garbage(wire, msgid):
    wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    wire.read()


@lost(number)
def no_message(wire, msgid):
    wire.send(frame(b"\xc1"))
    wire.read()


@lost(number)
def a_frame_beyond_the_limit(wire, msgid):
    wire.send((17 * 1024 * 1024).to_bytes(4, "big"))
    wire.read()


@lost(number)
def an_answer_to_a_call_that_was_never_made(wire, msgid):
    wire.answer(msgid + 5, 7)
    wire.read()


@lost(number)
def a_stream_for_a_call_without_one(wire, msgid):
    wire.chunk(msgid, b"bytes")
    wire.read()


@lost(number)
def more_for_a_call_without_an_upload(wire, msgid):
    wire.more(msgid, 5)
    wire.read()


@lost(get)
def a_stream_that_ends_as_if_it_came_from_a_client(wire, msgid):
    wire.chunk(msgid, 5)
    wire.read()


@lost(number)
def a_request_to_the_client(wire, msgid):
    wire.send(frame(messages.request(1, "session.get_run", {})))
    wire.read()


@situation(get, "storage_read_failed")
def a_part_is_missing(wire, msgid):
    wire.chunk(msgid, b"ab")
    wire.answer(msgid, [b"cd", 6])


@lost(get)
def a_stream_without_its_size(wire, msgid):
    wire.chunk(msgid, b"ab")
    wire.answer(msgid, b"cd")


@situation(get, bytes(BIG))
def sent_in_pieces(wire, msgid):
    send(wire, msgid, bytes(BIG))


@situation(read, bytes(BIG))
def read_in_pieces(wire, msgid):
    send(wire, msgid, OPENED + bytes(BIG))


@situation(read, "not_found")
def read_what_is_not_there(wire, msgid):
    wire.fail(msgid, NOT_FOUND)


@situation(get, "storage_read_failed")
def an_error_in_a_stream(wire, msgid):
    wire.chunk(msgid, bytes(PIECE))
    wire.fail(msgid, Error("storage_read_failed", "the checksum is wrong"))


@situation(put, None)
def taken_in_pieces(wire, msgid):
    assert receive(wire, msgid) == BIG
    wire.answer(msgid, None)


@situation(put, None)
def answered_before_the_data_ended(wire, msgid):
    wire.read()
    wire.answer(msgid, None)


@situation(put, "storage_write_failed")
def answered_with_an_error_before_the_data_ended(wire, msgid):
    wire.read()
    wire.fail(msgid, Error("storage_write_failed", "the disk is full"))


@situation(put, "storage_write_failed")
def answered_before_the_data_ended_and_closed(wire, msgid):
    wire.read()
    wire.fail(msgid, Error("storage_write_failed", "the disk is full"))
    wire.close()


@situation(put, None)
def answered_before_any_data_was_read(wire, msgid):
    wire.answer(msgid, None)
    wire.wait()


@situation(events, NAMES)
def rows_in_pieces(wire, msgid):
    send(wire, msgid, ROWS)


@situation(events, NAMES)
def rows_in_pieces_cut_anywhere(wire, msgid):
    send(wire, msgid, ROWS, 1021)


@situation(events, ["evt_0", "evt_1"])
def rows_at_once(wire, msgid):
    wire.answer(msgid, [msgpack.unpackb(row(index), timestamp=3) for index in range(2)])


@situation(page, (NAMES, "next"))
def a_page_in_pieces(wire, msgid):
    send(wire, msgid, ROWS + msgpack.packb("next"))


@situation(page, (NAMES, None))
def the_last_page_in_pieces(wire, msgid):
    send(wire, msgid, ROWS + msgpack.packb(None))


@situation(page, (["evt_0"], "next"))
def a_page_at_once(wire, msgid):
    wire.answer(msgid, {"items": [msgpack.unpackb(row(0), timestamp=3)], "cursor": "next"})


@lost(page)
def a_page_in_pieces_without_a_cursor(wire, msgid):
    send(wire, msgid, ROWS)


@lost(events)
def rows_that_end_within_one(wire, msgid):
    send(wire, msgid, ROWS[:-3])


@lost(events)
def rows_that_are_no_messagepack(wire, msgid):
    send(wire, msgid, b"\xc1" * 5 * PIECE)


@situation(events, "validation_error")
def rows_that_are_no_events(wire, msgid):
    send(wire, msgid, msgpack.packb(5) * 2 * PIECE)


@situation(events, "storage_read_failed")
def an_error_in_rows(wire, msgid):
    wire.chunk(msgid, ROWS[:PIECE])
    wire.fail(msgid, Error("storage_read_failed", "the disk is gone"))


@lost(get)
def more_than_was_let_come(wire, msgid):
    for _ in range(WINDOW // PIECE):
        wire.chunk(msgid, bytes(PIECE))
    wire.chunk(msgid, bytes(2 * WINDOW))
    wire.wait_given_up()


@situation(number, "capability_not_supported", hello={"protocol": PROTOCOL + 1, "version": "9.0"})
def a_newer_protocol(wire, msgid):
    wire.wait_given_up()


@situation(put, "capability_not_supported", hello={"protocol": 1, "version": "0.0.1"})
def an_older_protocol(wire, msgid):
    wire.wait_given_up()


@situation(number, 7, closed=True)
def closed_before_the_request(wire, msgid):
    """The connection that a handle keeps is closed by then: nothing was sent, and the next one takes the call."""
    wire.answer(msgid, 7)


@situation(put, None, closed=True)
def closed_before_an_upload(wire, msgid):
    assert receive(wire, msgid) == BIG
    wire.answer(msgid, None)


@pytest.mark.parametrize(("call", "script", "says", "options"), SITUATIONS)
@pytest.mark.parametrize("client", [Blocking, WithAsyncio], ids=["blocking", "asyncio"])
def test_both_clients_say_the_same(runtime_dir, client, call, script, says, options):
    """The first call is in the situation. The second one, on whichever connection, is answered."""
    over, begun, first = threading.Event(), threading.Event(), threading.Event()

    def serve(wire):
        wire.wait = functools.partial(over.wait, PATIENCE)
        if options.get("closed") and not first.is_set():
            first.set()
            return
        while True:
            msgid = wire.request()[1]
            if begun.is_set():
                wire.answer(msgid, 42)
                continue
            begun.set()
            script(wire, msgid)
            if says == LOST:
                return

    with Server(runtime_dir, serve, hello=options.get("hello")) as server:
        store = client(runtime_dir, timeout=options.get("timeout", PATIENCE))
        try:
            if options.get("closed"):
                server.wait_closed()
            if isinstance(says, str):
                with pytest.raises(asm.Error) as caught:
                    call(store)
                assert caught.value.code == says
            else:
                assert call(store) == says
            over.set()
            if "hello" in options:
                assert all(str(said) in caught.value.message for said in options["hello"].values())
                assert not caught.value.retryable
            else:
                store.handle._timeout = PATIENCE
                assert number(store) == 42
        finally:
            over.set()
            store.close()
