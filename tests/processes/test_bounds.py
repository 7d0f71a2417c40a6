"""What one client may cost, and that the others do not pay for it."""

import asyncio
import contextlib
import json
import os
import select
import socket
import struct

import msgpack
import pytest
from configurations import MEMORY, configuration

import asm
from asm.processes.limits import Limits
from asm.wire.frames import MAX_FRAME, frame
from asm.wire.streams import WINDOW

PATIENCE = 30.0


@pytest.fixture
def tree(lasting_memory_tree):
    return lasting_memory_tree


def event(session_id="ses_1", **fields):
    return asm.Event.new(**{"type": "message_sent", "session_id": session_id} | fields)


def test_more_long_polls_than_one_connection_may_have_stop_nobody(tree):
    """Those beyond the bound are refused; appends, cancels and everybody else go on."""

    async def scenario():
        async with tree.aconnect() as store, tree.aconnect() as other:
            waiting = [asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000)) for _ in range(4200)]
            while len(refused := [task for task in waiting if task.done()]) < len(waiting) - Limits().calls_in_flight:
                await asyncio.wait(set(waiting) - set(refused), return_when=asyncio.FIRST_COMPLETED)
            assert await other.get_latest_sequence("ses_1") == 0
            assert {task.exception().details["reason"] for task in refused} == {"overloaded"}
            stored = await other.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses_1"))
            assert await asyncio.gather(*set(waiting) - set(refused)) == [[stored]] * (len(waiting) - len(refused))

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.artifacts"])
def test_many_downloads_at_once_are_all_served(tree, name):
    data = os.urandom(4 * WINDOW)

    async def scenario():
        async with tree.aconnect(name, timeout=PATIENCE) as store:
            await store.put("key", data)
            got = await asyncio.gather(*(store.get("key") for _ in range(80)))
            assert all(item == data for item in got)
            readers = [await store.open("key") for _ in range(20)]
            for reader in readers:
                async with reader:
                    assert await reader.read() == data

    asyncio.run(scenario())


def test_the_largest_message_costs_nobody_else_anything(tree):
    """With a short msgid it would no longer fit once the composite has put its own in front."""
    with tree.connect() as store, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(os.fspath(tree.runtime_dir / "MyApp.Store.sock"))
        empty = msgpack.packb([0, 1, "artifact.put", [{}, {"key": "k", "data": bytes(70_000)}]])
        body = msgpack.packb([0, 1, "artifact.put", [{}, {"key": "k", "data": bytes(MAX_FRAME - len(empty) + 70_000)}]])
        assert len(body) == MAX_FRAME
        connection.sendall(frame(body))
        header = connection.recv(4, socket.MSG_WAITALL)
        answer = msgpack.unpackb(connection.recv(struct.unpack("!i", header)[0], socket.MSG_WAITALL), timestamp=3)
        assert answer[2]["code"] == "validation_error"
        assert store.list() == []
    assert not any("store lost" in line for line in tree.stderr)


def append(data):
    """A request that appends an event, and what else is in a message."""
    event = {"id": "evt", "type": "message_sent", "timestamp": msgpack.Timestamp(0), "session_id": "ses_1", "data": data}
    return msgpack.packb([0, 1, "session.append_event", [{}, {"event": event}]])


def meanwhile(tree, body):
    """Send a request to the store itself; return its answer, and how many calls of somebody else's were answered until then."""
    with tree.connect("dev.sessions", timeout=PATIENCE) as store, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(os.fspath(tree.runtime_dir / "dev.sessions.sock"))
        connection.sendall(frame(body))
        calls = 0
        while not select.select([connection], [], [], 0)[0]:
            store.get_latest_sequence("ses_2")
            calls += 1
        with connection.makefile("rb") as received:
            (size,) = struct.unpack("!i", received.read(4))
            return msgpack.unpackb(received.read(size), timestamp=3), calls


FULL = {
    "maps": {"maps": [{}] * 960_000},
    "numbers": {"vectors": [[0.5] * 1500] * 600},
    "rows": {"rows": [{"id": number, "name": "name", "ok": True} for number in range(130_000)]},
}


@pytest.mark.parametrize("what", FULL)
def test_others_are_served_while_a_large_message_is_taken_in(tree, what):
    """If the loop itself took it in, at most two of theirs would be answered: what came before it, and what came with it."""
    answer, calls = meanwhile(tree, append(FULL[what]))
    assert answer[2:] == [None, None]
    assert calls > 5
    with tree.connect(timeout=PATIENCE) as store:
        assert [item.data for item in store.get_events("ses_1")] == [FULL[what]]


def test_others_are_served_while_a_large_answer_is_given(tree):
    with tree.connect(timeout=PATIENCE) as store:
        for _ in range(5):
            store.append_events([event(data={"number": number}) for number in range(10_000)])
    answer, calls = meanwhile(tree, msgpack.packb([0, 1, "session.get_events", [{}, {"session_id": "ses_1"}]]))
    assert answer[2] is None
    assert [item["sequence_number"] for item in answer[3]] == list(range(1, 50_001))
    assert calls > 5


def test_a_deep_message_with_long_keys_takes_no_longer_than_another(tree):
    """The place of each of its values is a quarter of a million characters long."""
    data = {str(number): number for number in range(250_000)}
    for _ in range(59):
        data = {"key " * 1000: data}
    started = tree.child("dev.sessions").pid
    with tree.connect() as store:
        stored = store.append_event_with_sequence(event(data=data))
        assert store.get_events("ses_1") == [stored]
    assert tree.child("dev.sessions").pid == started


def test_a_large_message_that_nobody_waits_for_any_more_is_dropped(tree):
    async def scenario():
        async with tree.aconnect("dev.sessions", timeout=PATIENCE) as store:
            large = asm.Event.new(type="message_sent", session_id="ses_1", data=FULL["maps"])
            calls = [asyncio.create_task(store.append_event(event("ses_2", data=FULL["rows"]))) for _ in range(2)]
            calls += [asyncio.create_task(store.append_event(large)) for _ in range(2)]
            await asyncio.sleep(0)
            for call in calls[1:]:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert done[0] is None
            assert [type(item) for item in done[1:]] == [asyncio.CancelledError] * 3
            assert await store.get_latest_sequence("ses_2") in (1, 2)

    asyncio.run(scenario())
    tree.wait_child("dev.sessions", lambda child: child.in_flight == 0)


@pytest.mark.parametrize("wrong", [b"\xc1" * 70_000, msgpack.packb([{}, {}])[:-1] + b"\x81" * 70_000], ids=["none", "cut"])
def test_a_large_message_that_is_none_costs_its_sender_alone(tree, wrong):
    for name in ("dev.sessions", "MyApp.Store"):
        with tree.connect() as store, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(os.fspath(tree.runtime_dir / f"{name}.sock"))
            connection.sendall(frame(b"\x94\x00\x01\xb4session.append_event" + wrong))
            assert connection.recv(1) == b""
            assert store.get_latest_sequence("ses_1") == 0


def test_a_large_message_that_is_refused_says_why(tree):
    answer, _ = meanwhile(tree, append({"rows": [{"number": 1}] * 10_000, "bytes": b"x"}))
    assert answer[2]["code"] == "validation_error"
    assert answer[2]["details"]["field"] == "Event.data.bytes"


def test_a_bad_client_of_a_composite_behind_a_composite(trees):
    config = """
        [supervisor]
        name = "two"
        [[composite]]
        name = "Inner"
        session_store = { store = "memory" }
        artifact_store = { store = "file", root = "r" }
    """
    inner = trees(config).wait_ready()
    outer = trees(
        '[supervisor]\nname = "outer"\n[composite]\nname = "Outer"\nsession_store = "Inner"\nartifact_store = "Inner"\n'
    ).wait_ready()
    with outer.connect("Outer") as store, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(os.fspath(outer.runtime_dir / "Outer.sock"))
        connection.sendall(frame(msgpack.packb([0, 1, "session.get_session", [1, 2]])))
        assert connection.recv(1) == b""
        assert store.get_latest_sequence("ses_1") == 0
    assert not any("store lost" in line for line in outer.stderr)
    assert inner.process.poll() is None


def test_what_a_store_returns_and_raises_that_cannot_be_sent(trees):
    config = """
        [supervisor]
        name = "odd"
        [composite]
        name = "Odd"
        session_store = { store = "misbehaving:Unsendable" }
        artifact_store = { store = "file", root = "r" }
    """
    tree = trees(config).wait_ready()
    with tree.connect("Odd") as store:
        with pytest.raises(asm.Error) as caught:
            store.get_latest_sequence("ses_1")
        assert caught.value.code == "internal_error"
        with pytest.raises(asm.Error) as caught:
            store.get_session("ses_1")
        assert caught.value.code == "storage_error"
        assert caught.value.details == {"1": "Decimal('2')", "odd": "{1}", "text": "\\udcff"}
        assert store.list() == []


def test_a_read_that_failed_is_not_the_end(tree):
    with tree.connect() as store:
        store.put("key", os.urandom(8 * WINDOW))
        with store.open("key") as file:
            file.read(1)
            tree.child("dev.artifacts").kill()
            for _ in range(2):
                with pytest.raises(asm.StorageError):
                    file.read()


FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"


def test_few_open_files_are_said_at_the_start_and_most_of_them_are_for_connections(trees, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FEW_FILES)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    tree = trees(configuration(MEMORY), env={"PYTHONPATH": path}).wait_ready()
    with contextlib.ExitStack() as connected:
        stores = [connected.enter_context(tree.connect()) for _ in range(96)]  # the share of one process
        assert {store.get_latest_sequence("ses_1") for store in stores} == {0}
        more = [connected.enter_context(tree.connect()) for _ in range(10)]
        with pytest.raises(asm.StorageError) as caught:
            [store.get_latest_sequence("ses_1") for store in more]
        assert caught.value.details["reason"] == "overloaded"
        assert {store.get_latest_sequence("ses_1") for store in stores} == {0}
    assert tree.stop() == 0
    said = [json.loads(line) for line in tree.stderr if "RLIMIT_NOFILE" in line]
    assert sorted(line["child"] for line in said) == ["MyApp.Store", "dev.artifacts", "dev.sessions"]
    for line in said:
        assert line["level"] == "warning"
        assert (
            "(RLIMIT_NOFILE) is 256, which leaves room for 192 connections, and not 1024; to raise it to 1280" in line["event"]
        )


def test_a_supervisor_with_too_few_open_files_says_so(trees, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(FEW_FILES.replace("256", "140"))
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    tree = trees(configuration(MEMORY), env={"PYTHONPATH": path}).wait_ready()
    assert tree.stop() == 0
    (line,) = [line for line in map(json.loads, tree.stderr) if line["child"] == "dev" and "RLIMIT_NOFILE" in line["event"]]
    assert "(RLIMIT_NOFILE) is 140, which leaves room for 1 children, and not 3; to raise it to 152" in line["event"]
