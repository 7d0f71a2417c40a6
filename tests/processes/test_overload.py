"""What one process asks for beyond what it may have: it is told, others do not notice, and memory stays bounded at its peak."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
from configurations import MEMORY, configuration
from peaks import Peaks
from raw import connected, receive

import asm
from asm.wire.frames import frame
from asm.wire.streams import PIECE, WINDOW

PATIENCE = 30.0

HOG = Path(__file__).parent / "programs" / "hog.py"

MIB = 1024 * 1024


@contextlib.contextmanager
def hogs(tree, name, count, *, connections, uploads=0):
    """Processes that hold what they can get of a name."""
    command = [sys.executable, HOG, os.fspath(tree.runtime_dir / f"{name}.sock"), str(connections), str(uploads)]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            hog = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(hog.kill)
            assert hog.stdout.readline() == "there\n"
        yield


def reasons(errors):
    return {error.details.get("reason") for error in errors if isinstance(error, asm.StorageError)}


def test_a_put_that_hangs_is_counted_until_it_comes_back_and_bounded(trees, tmp_path):
    """16 clients that try again and again. What they have given up is not kept, and more is refused once nothing goes on."""
    away = tmp_path / "away"
    hanging = f'store = "misbehaving:Hanging"\nroot = "r"\naway = "{away}"'
    tree = trees(configuration(MEMORY, hanging, more="[limits]\nbytes_untaken = 16_777_216")).wait_ready()
    data = os.urandom(200_000)

    async def insist(number, told):
        store = tree.aconnect(timeout=0.05)
        while len(told) < 640 or not any(error.details.get("reason") == "overloaded" for error in told):
            try:
                await store.put(f"key{number}", data)
            except asm.Error as error:
                told.append(error)
        await store.aclose()

    async def scenario():
        told = []
        async with asyncio.timeout(2 * PATIENCE):
            await asyncio.gather(*(insist(number, told) for number in range(16)))
        # On a busy machine not even connecting takes so little time.
        assert {error.code for error in told} - {"storage_connection_failed"} == {"timeout", "storage_error"}

    with tree.connect() as store:
        store.put("before", data)
        peaks = Peaks(tree)
        away.touch()
        asyncio.run(scenario())
        assert tree.wait_child("dev.artifacts", lambda child: child.in_flight > 0).in_flight <= 64
        with pytest.raises(asm.StorageError) as caught:
            store.put("other", b"small")
        assert (caught.value.details["reason"], caught.value.retryable) == ("overloaded", True)
        assert store.get_latest_sequence("ses_1") == 0
        away.unlink()
        tree.wait_child("dev.artifacts", lambda child: child.in_flight == 0)
        store.put("after", b"small")
        peaks.check("puts that hang", 64 * MIB)


ROOM = """
[limits]
connections = 10
total_connections = 20
"""


def test_processes_that_take_all_connections_lock_out_neither_others_nor_the_tree(trees):
    tree = trees(configuration(MEMORY, more=ROOM)).wait_ready()
    with hogs(tree, "dev.sessions", 1, connections=30), tree.connect("dev.sessions") as store:
        assert store.get_latest_sequence("ses_1") == 0  # there is room left for others
    with hogs(tree, "dev.sessions", 3, connections=30):
        with tree.connect("dev.sessions") as store, pytest.raises(asm.StorageError) as caught:
            store.get_latest_sequence("ses_1")
        assert (caught.value.details["reason"], caught.value.retryable) == ("overloaded", True)
        tree.child("MyApp.Store").kill()
        with tree.connect(timeout=PATIENCE) as store:
            while True:
                with contextlib.suppress(asm.StorageError):
                    assert store.get_latest_sequence("ses_1") == 0
                    break
            for _ in range(10):
                store.append_event(asm.Event.new(type="message_sent", session_id="ses_1"))


def test_uploads_of_one_process_that_stall_are_no_bound_for_others(trees):
    tree = trees(configuration(MEMORY)).wait_ready()
    data = os.urandom(3 * WINDOW)
    with hogs(tree, "MyApp.Store", 1, connections=4, uploads=16), tree.connect(timeout=PATIENCE) as store:
        tree.wait_child("dev.artifacts", lambda child: child.in_flight == 16)
        store.put("key", iter([data]))
        assert store.get("key") == data


def test_how_many_uploads_there_may_be_is_a_setting(trees):
    """There were 64 once, whatever was set."""
    tree = trees(configuration(MEMORY, more="[limits]\nuploads = 80\ntotal_uploads = 80")).wait_ready()
    with connected(tree) as connection:
        for msgid in range(81):
            request = [0, msgid, "artifact.put", [{"stream": True}, {"key": f"key{msgid}", "data": None}]]
            connection.sendall(frame(msgpack.packb(request)))
        _kind, msgid, error, _result = receive(connection)
        assert (msgid, error["details"]) == (80, {"reason": "overloaded"})
        tree.wait_child("dev.artifacts", lambda child: child.in_flight == 80)
        for msgid in range(80):
            for carried in (b"data", 4):
                connection.sendall(frame(msgpack.packb([2, "chunk", [msgid, carried]])))
        done = set()
        while len(done) < 80:
            message = receive(connection)
            if message[0] == 1:
                assert message[2] is None
                done.add(message[1])
    with tree.connect() as store:
        assert len(store.list()) == 80


def test_who_reads_is_not_cut_off_however_much_it_asks_for_at_once(trees):
    tree = trees(configuration(MEMORY)).wait_ready()
    with tree.connect() as store:
        for _ in range(8):
            events = [asm.Event.new(type="message_sent", session_id="ses_1", data={"text": "x" * 10_000}) for _ in range(100)]
            store.append_events(events)
        store.put("big", bytes(8 * MIB))

    async def scenario():
        async with tree.aconnect(timeout=2 * PATIENCE) as store:
            for _ in range(2):
                await asyncio.gather(*(store.get_latest_sequence("ses_1") for _ in range(60)))  # small answers are foreseen
                answers = await asyncio.gather(*(store.get_events("ses_1") for _ in range(20)))
                assert {len(events) for events in answers} == {800}
                assert {len(data) for data in await asyncio.gather(*(store.get("big") for _ in range(20)))} == {8 * MIB}
                waits = [store.get_events("ses_1", wait_timeout_ms=1000) for _ in range(20)]
                assert {len(events) for events in await asyncio.gather(*waits)} == {800}

    asyncio.run(scenario())
    assert not any("broke the protocol" in line for line in tree.stderr)


def test_connections_that_never_read_cost_little_at_the_peak(trees):
    """Long-polls, too: what they find at once is an answer as any other."""
    tree = trees(configuration(MEMORY)).wait_ready()
    with tree.connect() as store:
        for _ in range(10):
            events = [asm.Event.new(type="message_sent", session_id="ses_1", data={"text": "x" * 1000}) for _ in range(100)]
            store.append_events(events)
        store.get_events("ses_1")
        polls = b"".join(
            frame(
                msgpack.packb(
                    [0, msgid, "session.get_events", [{"waits": True}, {"session_id": "ses_1", "wait_timeout_ms": 1}]]
                )
            )
            for msgid in range(200)  # fewer than one process may have
        )
        peaks = Peaks(tree)
        for name in ("MyApp.Store", "dev.sessions"):
            with contextlib.ExitStack() as stack:
                for _ in range(20):
                    connection = stack.enter_context(connected(tree, name))
                    with contextlib.suppress(BlockingIOError):
                        connection.send(polls, socket.MSG_DONTWAIT)
                for _ in range(50):
                    assert len(store.get_events("ses_1", limit=10)) == 10
            tree.wait_child(name, lambda child: child.in_flight == 0)
        peaks.check("long-polls that are not read", 64 * MIB)
    assert PIECE < MIB
