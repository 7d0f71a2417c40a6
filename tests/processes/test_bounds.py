"""What one client may cost, and that the others do not pay for it."""

import asyncio
import contextlib
import json
import os
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
def tree(memory_tree):
    return memory_tree


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
        empty = msgpack.packb([0, 1, "put", [{"key": "k", "data": bytes(70_000)}, {}]])
        body = msgpack.packb([0, 1, "put", [{"key": "k", "data": bytes(MAX_FRAME - len(empty) + 70_000)}, {}]])
        assert len(body) == MAX_FRAME
        connection.sendall(frame(body))
        header = connection.recv(4, socket.MSG_WAITALL)
        answer = msgpack.unpackb(connection.recv(struct.unpack("!i", header)[0], socket.MSG_WAITALL), timestamp=3)
        assert answer[2]["code"] == "validation_error"
        assert store.list() == []
    assert not any("store lost" in line for line in tree.stderr)


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
        connection.sendall(frame(msgpack.packb([0, 1, "get_session", [1, 2]])))
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
        stores = [connected.enter_context(tree.connect()) for _ in range(190)]
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
