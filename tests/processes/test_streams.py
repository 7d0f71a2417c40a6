"""Artifacts that move in pieces: how they arrive, what they cost, and what is left when one end goes away."""

import asyncio
import hashlib
import io
import random
import socket
import subprocess
import sys

import msgpack
import psutil
import pytest

import asm
from asm import CompositeSessionStore, FileArtifactStore, InMemorySessionStore
from asm.wire.frames import frame
from asm.wire.streams import PIECE, WINDOW

PATIENCE = 30.0
MIB = 1024 * 1024

SIZES = [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, WINDOW, WINDOW + 1, 5 * WINDOW + 12345]


def content(size):
    return random.Random(size).randbytes(size)


def leftovers(tmp_path):
    """Temporary files of the artifact store."""
    return list((tmp_path / "var" / "artifacts" / "tmp").iterdir())


@pytest.fixture
def tree(memory_tree):
    return memory_tree


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A tree that no test here disturbs."""
    directory = tmp_path_factory.mktemp("s")
    with (
        FileArtifactStore.start_link(root=str(directory / "artifacts"), runtime_dir=directory / "r") as files,
        CompositeSessionStore.start_link(
            session_store=(InMemorySessionStore, {}), artifact_store=files, runtime_dir=directory / "r"
        ) as store,
    ):
        yield store


@pytest.mark.parametrize("size", SIZES)
def test_every_size_arrives_as_it_was_sent(shared, size):
    data = content(size)
    for source in (data, bytearray(data), io.BytesIO(data), (data[start : start + 70_000] for start in range(0, size, 70_000))):
        shared.put("key", source)
        assert shared.stat("key").checksum_sha256 == hashlib.sha256(data).hexdigest()
    assert shared.get("key") == data
    with shared.open("key") as file:
        assert file.read(10) == data[:10]
        assert file.read() == data[10:]
        assert file.read() == b""


@pytest.mark.parametrize("size", SIZES)
def test_every_size_arrives_with_asyncio(shared, size):
    data = content(size)

    async def scenario():
        async with asm.aio.AsyncClient(shared.name, shared.path, 5.0) as store:
            for source in (data, io.BytesIO(data), iter([data[:7], data[7:]])):
                await store.put("key", source)
                assert await store.get("key") == data
            async with await store.open("key") as reader:
                assert b"".join([piece async for piece in reader]) == data

    asyncio.run(scenario())


def test_many_streams_at_once_do_not_mix(shared):
    async def one(store, number):
        data = content(WINDOW + number)
        await store.put(f"key-{number}", [data[:1], data[1:]])
        assert await store.get(f"key-{number}") == data

    async def scenario():
        async with asm.aio.AsyncClient(shared.name, shared.path, 30.0) as store:
            await asyncio.gather(*(one(store, number) for number in range(12)))

    asyncio.run(scenario())


def test_a_stream_holds_up_no_other_call(shared):
    shared.put("big", content(4 * WINDOW))
    with shared.open("big") as reader:
        assert shared.get_latest_sequence("ses_1") == 0
        shared.put("other", b"small")
        assert shared.get("other") == b"small"
        assert len(reader.read()) == 4 * WINDOW


def test_what_is_not_there_is_told_when_it_is_opened(shared):
    with pytest.raises(asm.ResourceError):
        shared.open("nothing")

    async def scenario():
        async with asm.aio.AsyncClient(shared.name, shared.path, 5.0) as store:
            with pytest.raises(asm.ResourceError):
                await store.open("nothing")

    asyncio.run(scenario())


def failing(data, error):
    yield data
    yield data
    raise error


@pytest.mark.parametrize("error", [RuntimeError("the source"), OSError(5, "the disk"), TimeoutError("slow")])
def test_a_source_that_raises_leaves_the_old_artifact_and_nothing_else(tree, tmp_path, error):
    with tree.connect() as store:
        store.put("key", b"old")
        with pytest.raises(type(error)) as caught:
            store.put("key", failing(content(WINDOW), error))
        assert caught.value is error
        assert store.get("key") == b"old"

    async def scenario():
        async with tree.aconnect() as store:
            with pytest.raises(type(error)) as caught:
                await store.put("key", failing(content(WINDOW), error))
            assert caught.value.args == error.args  # a copy, if it came out of a thread
            assert await store.get("key") == b"old"

    asyncio.run(scenario())
    while leftovers(tmp_path):
        assert tree.process.poll() is None


def test_a_source_that_yields_no_bytes_is_refused(shared):
    for odd in (["text"], [b"x" * PIECE, "text"], [b"x" * PIECE, b"x" * PIECE, 5]):
        with pytest.raises(asm.ValidationError):
            shared.put("odd", odd)
    assert [info.key for info in shared.list(prefix="odd")] == []


class Meeting:
    """An endless source that lets a test act while the upload is under way."""

    def __init__(self, act, after=40):
        self._act = act
        self._after = after

    def __iter__(self):
        for number in range(10_000):
            if number == self._after:
                self._act()
            yield content(PIECE)


@pytest.mark.parametrize("name", ["dev.artifacts", "MyApp.Store"])
def test_a_process_that_is_killed_during_a_put_leaves_the_old_artifact_and_nothing_else(tree, tmp_path, name):
    with tree.connect() as store:
        store.put("key", b"old")
        with pytest.raises(asm.StorageError) as caught:
            store.put("key", Meeting(tree.child(name).kill))
        assert caught.value.retryable
        while True:
            try:
                assert store.get("key") == b"old"
                break
            except asm.Error as error:
                assert error.retryable
    while leftovers(tmp_path):
        assert tree.process.poll() is None


def test_a_client_that_goes_away_during_a_put_leaves_nothing(tree, tmp_path):
    with tree.connect() as store, tree.connect() as leaving:
        store.put("key", b"old")

        def leave():
            for connection in list(leaving._all):
                connection.close()

        with pytest.raises(asm.StorageError):
            leaving.put("key", Meeting(leave))
        assert store.get("key") == b"old"
        while leftovers(tmp_path):
            assert store.get("key") == b"old"


def test_a_reader_that_stops_early_leaves_nothing_open(tree):
    worker = tree.child("dev.artifacts")
    with tree.connect() as store:
        store.put("key", content(4 * WINDOW))
        before = worker.num_fds()
        for _ in range(20):
            with store.open("key") as file:
                assert file.read(1)
        assert store.get_latest_sequence("ses_1") == 0
        while worker.num_fds() > before:
            assert store.stat("key").byte_size == 4 * WINDOW


def test_no_process_grows_with_the_artifact(tree):
    """256 MiB in and out; no process of the tree may take more than a window or two beside what it had."""
    size, piece = 256 * MIB, content(MIB)
    names = ["MyApp.Store", "dev.artifacts"]
    with tree.connect(timeout=PATIENCE) as store:
        store.put("warm", content(8 * WINDOW))
        store.get("warm")
        before = {name: tree.child(name).memory_info().rss for name in names}
        peak = dict(before)

        def watched(pieces):
            for number, item in enumerate(pieces):
                if number % 16 == 0:
                    for name in names:
                        peak[name] = max(peak[name], tree.child(name).memory_info().rss)
                yield item

        store.put("key", watched(piece for _ in range(size // MIB)))
        digest = hashlib.sha256()
        with store.open("key") as file:
            for item in watched(iter(lambda: file.read(MIB), b"")):
                digest.update(item)
        assert digest.hexdigest() == store.stat("key").checksum_sha256
    assert {name: (peak[name] - before[name]) // MIB for name in names if peak[name] - before[name] > 64 * MIB} == {}


def test_more_than_the_window_costs_the_connection(tree):
    """Whoever ignores the flow control is cut off, and nobody else."""
    for name in ("MyApp.Store", "dev.artifacts"):
        pids = {process.pid for process in psutil.Process(tree.process.pid).children(recursive=True)}
        with socket.socket(socket.AF_UNIX) as connection, tree.connect() as store:
            connection.settimeout(PATIENCE)
            connection.connect(str(tree.runtime_dir / f"{name}.sock"))
            connection.sendall(frame(msgpack.packb([0, 1, "artifact.put", [{"stream": True}, {"key": "k", "data": None}]])))
            flood = frame(msgpack.packb([2, "chunk", [1, bytes(WINDOW + 1)]]))
            connection.sendall(flood)
            assert connection.recv(1) == b""
            assert store.get_latest_sequence("ses_1") == 0
            assert store.list() == []
        assert {process.pid for process in psutil.Process(tree.process.pid).children(recursive=True)} == pids


PUT = """
import sys
import asm

def source():
    for _ in range(48):
        yield bytes(256 * 1024)
    print("halfway", flush=True)
    sys.stdin.read()  # until the test has acted
    for _ in range(10_000):
        yield bytes(256 * 1024)

with asm.connect("MyApp.Store", runtime_dir=sys.argv[1], timeout=60.0) as store:
    try:
        store.put("key", source())
    except asm.Error as error:
        print(error.code, error.retryable, flush=True)
"""
"""A client in a process of its own that replaces an artifact, and stops after 12 MiB of it."""


@pytest.mark.parametrize(
    ("name", "told"),
    [("client", ""), ("MyApp.Store", "storage_connection_failed True\n"), ("artifacts", "storage_error True\n")],
    ids=["client", "composite", "worker"],
)
def test_whoever_is_killed_during_a_put_to_s3_the_old_artifact_stays_and_no_part_of_the_new(trees, s3_server, name, told):
    bucket, old = s3_server.new_bucket(), content(6 * MIB)
    config = f"""
        [supervisor]
        name = "s3"
        [[backend]]
        name = "artifacts"
        store = "s3"
        bucket = "{bucket}"
        endpoint_url = "{s3_server.url}"
        [composite]
        name = "MyApp.Store"
        session_store = {{ store = "memory" }}
        artifact_store = "artifacts"
    """

    def uploads():
        return s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])

    def objects():
        """The names of all that is in the bucket, the records of uploads included."""
        return [item["Key"] for item in s3_server.client.list_objects_v2(Bucket=bucket).get("Contents", [])]

    tree = trees(config).wait_ready()
    with tree.connect(timeout=PATIENCE) as store:
        store.put("key", old)
        assert uploads() == []
        (before,) = objects()
        command = [sys.executable, "-c", PUT, tree.runtime_dir]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout.readline() == "halfway\n"
            while len(objects()) < 2:  # the record of the upload, which is written before its first part is sent
                assert client.poll() is None
            assert len(uploads()) == 1
            assert store.get("key") == old
            (client if name == "client" else tree.child(name)).kill()
            assert client.communicate()[0] == told
        while True:
            try:
                assert store.get("key") == old
                break
            except asm.Error as error:
                assert error.retryable
        while uploads() or objects() != [before]:
            assert tree.process.poll() is None
        assert [info.key for info in store.list()] == ["key"]
        assert store.get("key") == old


@pytest.mark.parametrize("size", [10, PIECE, 3 * WINDOW])
def test_a_flipped_byte_is_told_and_never_returned(tree, tmp_path, size):
    with tree.connect() as store:
        store.put("key", content(size))
        (path,) = [path for path in (tmp_path / "var" / "artifacts" / "objects").rglob("*") if path.is_file()]
        damaged = bytearray(path.read_bytes())
        damaged[-1] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(asm.StorageError) as caught:
            store.get("key")
        assert caught.value.code == "storage_read_failed"
        with pytest.raises(asm.StorageError) as caught, store.open("key") as file:
            file.read()
        assert caught.value.code == "storage_read_failed"
        store.put("key", b"whole again")
        assert store.get("key") == b"whole again"
