"""Answers of any size: rows and parts of artifacts travel in pieces, and nobody on their way holds more than a few of them."""

import os

import msgpack
import pytest
from configurations import MEMORY, configuration
from peaks import Peaks
from raw import connected, receive

import asm
from asm.wire.frames import frame
from asm.wire.streams import PIECE, WINDOW, read_opened

MIB = 1024 * 1024

ENDLESS = 'store = "misbehaving:Endless"'


def ask(connection, method, meta, arguments, msgid=1):
    """Make a call; yield its pieces as they come, and let more come; return the result of its response at last."""
    connection.sendall(frame(msgpack.packb([0, msgid, method, [meta, arguments]])))
    while True:
        message = receive(connection)
        if message[0] == 1:
            if message[2] is not None:
                raise asm.Error.from_map(message[2])
            return message[3]
        assert message[:2] == [2, "chunk"]
        assert len(message[2][1]) <= PIECE
        yield message[2][1]
        connection.sendall(frame(msgpack.packb([2, "more", [msgid, len(message[2][1])]])))


def drain(answer):
    """Return the pieces of an answer, and its result."""
    pieces = []
    while True:
        try:
            pieces.append(next(answer))
        except StopIteration as end:
            return pieces, end.value


def rows(pieces, result):
    """Return the values that came in pieces."""
    last, size = result
    data = b"".join([*pieces, last])
    assert len(data) == size
    unpacker = msgpack.Unpacker(timestamp=3, max_buffer_size=0)
    unpacker.feed(data)
    return list(unpacker)


@pytest.fixture(scope="module")
def stored():
    return [asm.Event.new(type="message_sent", session_id="ses", data={"text": str(number) * 300}) for number in range(1500)]


def test_a_session_of_any_size_is_read_within_bounds(trees, campaign):
    tree = trees(configuration(ENDLESS)).wait_ready()
    size = 512 if campaign else 128
    with connected(tree) as connection, tree.connect() as store:
        drain(ask(connection, "session.get_events", {"stream": True}, {"session_id": "ses_2"}))
        peaks = Peaks(tree)
        unpacker, count = msgpack.Unpacker(timestamp=3, max_buffer_size=0), 0
        answer = ask(connection, "session.get_events", {"stream": True}, {"session_id": f"ses_{size}"})
        while True:
            try:
                unpacker.feed(next(answer))
            except StopIteration as end:
                last, _size = end.value
                unpacker.feed(last)
                break
            for row in unpacker:
                count += 1
                assert row["sequence_number"] == count
            if count < 5000:
                assert store.get_latest_sequence("ses") == 0  # others are served meanwhile
        assert count + sum(1 for _ in unpacker) == size * 1024
        peaks.check("a long session", 64 * MIB)
        with pytest.raises(asm.StorageError) as caught:  # without pieces it is refused, and not made in memory before
            drain(ask(connection, "session.get_events", {}, {"session_id": f"ses_{size}"}))
        assert caught.value.details["reason"] == "too_large"
        peaks.check("a long session at once", 64 * MIB)


@pytest.mark.parametrize("sessions", [MEMORY, 'store = "sql"\nurl = "sqlite:///asm.db"'], ids=["memory", "sql"])
def test_large_answers_come_in_pieces_and_small_ones_at_once(trees, sessions, stored):
    tree = trees(configuration(sessions)).wait_ready()
    with connected(tree) as connection, tree.connect() as store:
        store.append_events(stored)
        many = {"session_id": "ses"}
        whole = drain(ask(connection, "session.get_events", {}, many))[1]
        assert len(whole) == len(stored)
        for meta, arguments in (
            ({"stream": True}, many),
            ({"stream": True, "waits": True}, many | {"wait_timeout_ms": 1000}),
        ):
            pieces, result = drain(ask(connection, "session.get_events", meta, arguments))
            assert {len(piece) for piece in pieces} == {PIECE}
            assert rows(pieces, result) == whole
            assert drain(ask(connection, "session.get_events", meta, arguments | {"limit": 3})) == ([], whole[:3])
        same = {"type": "message_sent", "session_id": "ses", "timestamp": msgpack.Timestamp(0)}
        appended = {"events": [{"id": event.id, **same} for event in stored]}
        pieces, result = drain(ask(connection, "session.append_events", {"stream": True}, appended))
        assert rows(pieces, result) == whole  # which are stored already
        assert drain(ask(connection, "session.get_events", {"stream": True}, {"session_id": "none"})) == ([], [])


def test_who_does_not_let_more_come_is_sent_no_more_and_nothing_stays(trees, stored):
    tree = trees(configuration(MEMORY)).wait_ready()
    with tree.connect() as store:
        for number in range(4):
            store.append_events([event.__class__.new(**event.to_fields() | {"id": f"{number}{event.id}"}) for event in stored])
        with connected(tree) as connection:
            request = [0, 1, "session.get_events", [{"stream": True}, {"session_id": "ses"}]]
            connection.sendall(frame(msgpack.packb(request)))
            for _ in range(WINDOW // PIECE):
                assert len(receive(connection)[2][1]) == PIECE
            assert store.get_latest_sequence("ses") == 4 * len(stored)
            assert tree.wait_child("dev.sessions", lambda child: child.in_flight == 1).in_flight == 1
        for name in ("MyApp.Store", "dev.sessions"):
            tree.wait_child(name, lambda child: child.in_flight == 0)


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.artifacts"])
def test_an_artifact_can_be_read_from_any_byte_on_as_long_as_it_is_the_same(tree, name):
    data = os.urandom(3 * PIECE + 5)
    with connected(tree, name) as connection, tree.connect() as store:
        store.put("key", data)
        pieces, (last, size) = drain(ask(connection, "artifact.open", {"stream": True, "info": True}, {"key": "key"}))
        byte_size, version, rest = read_opened(b"".join([*pieces, last]))
        assert (byte_size, rest) == (len(data), data)
        assert size == len(b"".join([*pieces, last]))
        for offset in (0, 1, PIECE, 2 * PIECE + 5, len(data), len(data) + 1):
            meta = {"stream": True, "offset": offset, "version": version}
            pieces, (last, size) = drain(ask(connection, "artifact.open", meta, {"key": "key"}))
            assert b"".join([*pieces, last]) == data[offset:]
            assert size == len(data[offset:])
        for change in (lambda: store.put("key", data[::-1]), lambda: store.delete("key")):
            change()
            with pytest.raises(asm.StorageError) as caught:
                drain(ask(connection, "artifact.open", meta, {"key": "key"}))
            assert (caught.value.code, caught.value.details["reason"]) == ("storage_read_failed", "changed")
        for wrong in ({"offset": -1}, {"offset": "1"}, {"offset": 1, "version": 5}):
            with pytest.raises(asm.ValidationError):
                drain(ask(connection, "artifact.open", {"stream": True} | wrong, {"key": "key"}))
