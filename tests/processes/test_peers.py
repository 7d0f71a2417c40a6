"""What a store does with peers that speak something else than it expects: they pay, and nobody else does."""

import os
import struct

import msgpack
import pytest
from configurations import MEMORY, configuration
from multiprocess.connection import Client
from raw import connected, receive

import asm
from asm.operations import OPERATIONS
from asm.wire.frames import MAX_FRAME, frame


@pytest.fixture
def tree(lasting_tree):
    return lasting_tree


def request(msgid=1, method="get_latest_sequence", arguments=None, meta=None):
    known = OPERATIONS.get(method)
    arguments = {"session_id": "ses_1"} if arguments is None else arguments
    return [0, msgid, method if known is None else known.method, [meta or {}, arguments]]


GARBAGE = {
    "no frame": b"GET / HTTP/1.1\r\n\r\n",
    "an empty frame": struct.pack("!i", 0),
    "a frame too large": struct.pack("!i", MAX_FRAME + 1),
    "the frame of 2 GiB and more": struct.pack("!iQ", -1, 1 << 40),
    "a pickle": frame(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."),
    "no MessagePack": frame(b"\xc1\xc1\xc1"),
    "no array": frame(msgpack.packb({"a": 1})),
    "an array too short": frame(msgpack.packb([0, 1])),
    "an array too long": frame(msgpack.packb([*request(), 5])),
    "an unknown type": frame(msgpack.packb([7, 1, "x", []])),
    "a msgid that is no integer": frame(msgpack.packb([0, "1", "x", [{}, {}]])),
    "a msgid too large": frame(msgpack.packb([0, 1 << 40, "x", [{}, {}]])),
    "a negative msgid": frame(msgpack.packb([0, -1, "x", [{}, {}]])),
    "a method that is no string": frame(msgpack.packb([0, 1, 5, [{}, {}]])),
    "a response": frame(msgpack.packb([1, 1, None, None])),
    "params that are cut off": frame(msgpack.packb(request())[:-3]),
    "params with something behind": frame(msgpack.packb(request()) + b"\x00"),
    "params that are no two maps": frame(msgpack.packb([0, 1, "session.get_session", [1, 2]])),
    "params that are a map": frame(msgpack.packb([0, 1, "session.get_session", {}])),
    "keys that are no strings": frame(msgpack.packb([0, 1, "session.get_session", [{}, {1: 2}]])),
    "text that is no UTF-8": frame(b"\x94\x00\x01\xb3session.get_session\x92\x80\x81\xaasession_id\xa2\xff\xfe"),
    "nesting without end": frame(b"\x94\x00\x01\xb3session.get_session\x92\x80\x81\xa1x" + b"\x91" * 100_000 + b"\xc0"),
    "a msgid in flight": frame(
        msgpack.packb(request(method="get_events", arguments={"session_id": "s", "wait_timeout_ms": 60000}))
    )
    + frame(msgpack.packb(request())),
}


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.sessions"])
def test_what_cannot_be_understood_costs_its_sender_the_connection(tree, name):
    pids = {process.pid for process in tree.processes()}
    with tree.connect() as store, connected(tree) as bystander:
        for what, data in GARBAGE.items():
            with connected(tree, name) as connection:
                connection.sendall(data)
                assert receive(connection) is None, what
            assert store.get_latest_sequence("ses_1") == 0
        bystander.sendall(frame(msgpack.packb(request())))
        assert receive(bystander) == [1, 1, None, 0]
    assert {process.pid for process in tree.processes()} == pids


REFUSED = {
    "an unknown method": (request(method="drop_tables"), "invalid_operation"),
    "an attribute that is no operation": (request(method="close"), "invalid_operation"),
    "a private attribute": (request(method="__class__"), "invalid_operation"),
    "a missing argument": (request(arguments={}), "validation_error"),
    "an unknown argument": (request(arguments={"session_id": "s", "x": 1}), "validation_error"),
    "an argument of the wrong type": (request(arguments={"session_id": 5}), "validation_error"),
    "what is no status": (request(method="list_sessions", arguments={"status": "Asleep!"}), "invalid_status"),
    "a status that is a map": (request(method="list_sessions", arguments={"status": [{}]}), "invalid_status"),
    "a value that is no map": (request(method="save_session", arguments={"session": 1}), "validation_error"),
    "a value that lacks fields": (request(method="save_session", arguments={"session": {}}), "validation_error"),
    "a value with an unknown field": (request(method="append_event", arguments={"event": {"x": 1}}), "validation_error"),
    "events that are a map": (request(method="append_events", arguments={"events": {}}), "validation_error"),
    "a result that is a list": (request(method="flush", arguments={"result": []}), "validation_error"),
    "data that is text": (request(method="put", arguments={"key": "k", "data": "text"}), "validation_error"),
    "data that is a number": (request(method="put", arguments={"key": "k", "data": 5}), "validation_error"),
    "data that is a list": (request(method="put", arguments={"key": "k", "data": [1]}), "validation_error"),
    "an extension": (request(arguments={"session_id": msgpack.ExtType(5, b"x")}), "validation_error"),
}


def test_what_is_wrong_is_answered_and_never_reaches_a_store(tree):
    with connected(tree) as connection:
        for what, (message, code) in REFUSED.items():
            connection.sendall(frame(msgpack.packb(message)))
            _kind, msgid, error, result = receive(connection)
            assert (msgid, error["code"], result) == (1, code, None), what


def test_half_a_frame_blocks_nobody(tree):
    data = frame(msgpack.packb(request()))
    with connected(tree) as half, tree.connect() as store:
        half.sendall(data[:7])
        assert store.get_latest_sequence("ses_1") == 0
        half.sendall(data[7:])
        assert receive(half) == [1, 1, None, 0]


def test_the_frames_are_those_of_multiprocess(tree):
    """Its ``Client`` can be used, without its ``send`` and ``recv``, which pickle."""
    with Client(os.fspath(tree.runtime_dir / "MyApp.Store.sock"), family="AF_UNIX") as connection:
        connection.send_bytes(msgpack.packb(request(msgid=9)))
        assert msgpack.unpackb(connection.recv_bytes()) == [1, 9, None, 0]


@pytest.mark.parametrize("msgid", [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1])
def test_every_encoding_of_a_msgid(tree, msgid):
    with connected(tree) as connection:
        connection.sendall(frame(msgpack.packb(request(msgid=msgid))))
        assert receive(connection) == [1, msgid, None, 0]


def test_requests_in_one_piece_are_all_answered(tree):
    with connected(tree) as connection:
        connection.sendall(b"".join(frame(msgpack.packb(request(msgid=msgid))) for msgid in range(500)))
        answered = set()
        data = b""
        while len(answered) < 500:
            data += connection.recv(65536)
            while len(data) >= 4 and len(data) >= (end := 4 + struct.unpack("!i", data[:4])[0]):
                answered.add(msgpack.unpackb(data[4:end])[1])
                data = data[end:]
        assert answered == set(range(500))


def test_hello_says_who_answers(tree):
    for name, contracts in (("MyApp.Store", {"session", "artifact"}), ("dev.artifacts", {"artifact"})):
        with connected(tree, name) as connection:
            connection.sendall(frame(msgpack.packb([0, 1, "hello", [{}, {}]])))
            answer = receive(connection)[3]
            assert (answer["name"], answer["protocol"]) == (name, 2)
            assert contracts <= set(answer["contracts"])
            assert answer["version"] == asm.__version__


def test_a_cancelled_call_is_not_answered(tree):
    with connected(tree) as connection:
        wait = {"session_id": "ses_1", "wait_timeout_ms": 60_000}
        connection.sendall(frame(msgpack.packb(request(msgid=1, method="get_events", arguments=wait))))
        connection.sendall(frame(msgpack.packb([2, "cancel", [1]])))
        append = {"event": asm.Event.new(type="message_sent", session_id="ses_1").to_fields()}
        connection.sendall(frame(msgpack.packb(request(msgid=2, method="append_event", arguments=append), datetime=True)))
        connection.sendall(frame(msgpack.packb(request(msgid=1))))  # its id is free again
        answers = [receive(connection), receive(connection)]
        assert {answer[1] for answer in answers} == {1, 2}
        assert all(answer[2] is None for answer in answers)


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.artifacts"])
def test_an_upload_of_which_a_part_is_missing_leaves_the_old(tree, name):
    with connected(tree, name) as connection, tree.connect() as store:
        store.put("torn", b"old")
        connection.sendall(frame(msgpack.packb(request(method="put", arguments={"key": "torn"}, meta={"stream": True}))))
        connection.sendall(frame(msgpack.packb([2, "chunk", [1, b"abc"]])) + frame(msgpack.packb([2, "chunk", [1, 5]])))
        while (message := receive(connection))[0] != 1:
            pass
        error = asm.Error.from_map(message[2])
        assert (error.code, error.details) == ("storage_write_failed", {"bytes_sent": 5, "bytes_received": 3})
        assert store.get("torn") == b"old"


def test_a_client_that_goes_leaves_nothing_behind(trees):
    wait = {"session_id": "ses_1", "wait_timeout_ms": 600_000}
    tree = trees(configuration(MEMORY)).wait_ready()
    with tree.connect() as store:
        store.get_latest_sequence("ses_1")
        for name in ("MyApp.Store", "dev.sessions"):
            process = tree.child(name)
            before = process.num_fds()
            for _ in range(20):
                with connected(tree, name) as connection:
                    for msgid in range(10):
                        message = request(msgid=msgid, method="get_events", arguments=wait)
                        connection.sendall(frame(msgpack.packb(message)))
            while process.num_fds() > before:
                assert store.get_latest_sequence("ses_1") == 0
    assert tree.stop() == 0
