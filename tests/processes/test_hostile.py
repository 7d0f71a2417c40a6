"""Hostile and broken peers, and a client that behaves among them: it gets right answers, no process dies, memory stays.

Short in the default run. With ``--campaign`` the figures are those of :data:`LONG`; ``--seed`` repeats a run.
"""

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from configurations import MEMORY, configuration
from peaks import NAMES, Peaks

import asm
from asm.wire.frames import MAX_FRAME, frame

PATIENCE = 30.0

MAX_GROWTH = 64 * 1024 * 1024
"""By how many bytes a process may grow, at its peak."""

GOOD_CLIENT = Path(__file__).parent / "programs" / "good_client.py"


class Scale(NamedTuple):
    """How much of everything, for all names together."""

    frames: int
    half_frames: int
    greedy: int
    flood: int
    connects: int
    connections: int
    calls: int
    """How many calls the good client makes at least while the attack lasts."""


SHORT = Scale(frames=300, half_frames=30, greedy=6, flood=6, connects=150, connections=100, calls=40)
LONG = Scale(frames=10_000, half_frames=200, greedy=20, flood=20, connects=3000, connections=1000, calls=1000)


@pytest.fixture
def scale(campaign):
    return LONG if campaign else SHORT


@pytest.fixture(autouse=True)
def room_for_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, before[1]) if before[1] > 0 else 8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Target:
    """A tree under attack."""

    def __init__(self, tree, scale, good):
        self.tree = tree
        self.scale = scale
        self.good = good
        self.pids = {process.pid for process in tree.processes()}
        self.peaks = Peaks(tree)

    def connect(self, name, stack=None):
        """Connect; a server that does not keep up is waited for."""
        connection = socket.socket(socket.AF_UNIX)
        if stack is not None:
            stack.enter_context(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(PATIENCE), 0))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(PATIENCE), 0))
        connection.connect(os.fspath(self.tree.runtime_dir / f"{name}.sock"))
        return connection

    def check(self, phase):
        """In the middle of it the good client goes on, every process lives, none has grown too much, and each name answers."""
        goal = int(self.good.stdout.readline()) + self.scale.calls
        while int(self.good.stdout.readline()) < goal:
            pass
        for name in NAMES:
            with self.connect(name) as connection:
                connection.sendall(frame(msgpack.packb([0, 1, "hello", [{}, {}]])))
                assert receive(connection)[3]["name"] == name, phase
        self.peaks.check(phase, MAX_GROWTH)
        assert {process.pid for process in self.tree.processes()} == self.pids, phase


def receive(connection):
    """Return the next message; None at the end of the connection."""
    with contextlib.suppress(ConnectionResetError):
        header = connection.recv(4, socket.MSG_WAITALL)
        if len(header) == 4:
            return msgpack.unpackb(connection.recv(struct.unpack("!i", header)[0], socket.MSG_WAITALL), timestamp=3)
    return None


def offer(connection, data):
    """Send as much as is taken now; return whether more may be."""
    try:
        return connection.send(data, socket.MSG_DONTWAIT) == len(data)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return False


@pytest.fixture
def target(trees, scale):
    """A tree with a session that takes a megabyte to read, and a client that behaves in the middle of what follows."""
    tree = trees(configuration(MEMORY, more=f"[limits]\nconnections = {scale.connections}")).wait_ready()
    with tree.connect() as store:
        event = {"type": "message_sent", "session_id": "ses_big", "data": {"padding": "x" * 1000}}
        store.append_events([asm.Event.new(**event) for _ in range(1000)])
        store.put("big", bytes(8 * 1024 * 1024))
        store.get("big")
    command = [sys.executable, GOOD_CLIENT, str(tree.runtime_dir), "MyApp.Store"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as good:
        try:
            assert good.stdout.readline() == "4\n"
            yield Target(tree, scale, good)
            told, _nothing = good.communicate(timeout=PATIENCE)
        finally:
            good.kill()
    assert good.returncode == 0
    told = json.loads(told.splitlines()[-1])
    print(f"good client: {told['calls']} calls, p50 {told['p50'] * 1000:.1f} ms, p99 {told['p99'] * 1000:.1f} ms")
    assert tree.stop() == 0


def request(msgid, method, arguments, meta=None):
    return frame(msgpack.packb([0, msgid, method, [meta or {}, arguments]]))


SEEDS = [
    request(1, "session.get_session", {"session_id": "ses_1"}, {"timeout_ms": 5000}),
    request(2, "session.get_events", {"session_id": "ses_1", "wait_timeout_ms": 50}, {"waits": True}),
    request(
        3, "session.append_events", {"events": [{"type": "message_sent", "session_id": "ses_1", "data": {"a": [1, 2.5, None]}}]}
    ),
    request(4, "artifact.put", {"key": "hostile", "data": b"x" * 100}),
    request(5, "artifact.put", {"key": "hostile", "data": None}, {"stream": True}),
    request(6, "artifact.open", {"key": "big"}, {"stream": True}),
    request(7, "hello", {"relay": True}),
    frame(msgpack.packb([2, "chunk", [5, b"abc"]])),
    frame(msgpack.packb([2, "more", [6, 100_000]])),
    frame(msgpack.packb([2, "cancel", [2]])),
]

HUGE = [
    frame(b"\x94\x00\x01\xb3session.get_session\x92\x80" + b"\xdd\xff\xff\xff\xff"),
    frame(b"\x94\x00\x01\xb3session.get_session\x92\x80\x81\xaasession_id" + b"\xdc\xff\xff" * 20_000),
    frame(b"\x94\x00\x01\xb3session.get_session\x92\x80\x81\xaasession_id\xdd\x00\x3f\x00\x00" + b"\x80" * 0x3F0000),
    struct.pack("!i", MAX_FRAME + 1),
]


def mutate(chance, data):
    """Change some bytes, or cut some out, or send others altogether."""
    kind = chance.random()
    if kind < 0.1:
        return frame(chance.randbytes(chance.randrange(1, 300)))
    if kind < 0.15:
        return chance.randbytes(chance.randrange(1, 300))
    body = bytearray(data[4:])
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(body))
        if chance.random() < 0.8:
            body[place] = chance.randrange(256)
        elif len(body) > 1:
            del body[place]
    return frame(bytes(body))


def test_mutated_and_random_frames(target, chance):
    for number in range(target.scale.frames):
        with target.connect(chance.choice(NAMES)) as connection:
            for _ in range(chance.randrange(3)):
                offer(connection, chance.choice(SEEDS))
            offer(connection, mutate(chance, chance.choice(SEEDS)))
            if chance.random() < 0.5:  # half of them leave before they are answered
                connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while connection.recv(65536):
                        pass
        if number % 1000 == 0:
            for data in HUGE:
                with target.connect(chance.choice(NAMES[:2])) as connection:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        connection.sendall(data)
                    assert receive(connection) is None
    target.check("frames")


def test_half_frames(target):
    with contextlib.ExitStack() as stack:
        for number in range(target.scale.half_frames):
            connection = target.connect(NAMES[number % 3], stack)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                connection.sendall(struct.pack("!i", MAX_FRAME) + bytes(2 * 1024 * 1024))
        target.check("half frames")


def test_readers_that_never_read(target):
    with contextlib.ExitStack() as stack:
        for number in range(target.scale.greedy):
            connection = target.connect(("MyApp.Store", "dev.sessions", "MyApp.Store", "dev.artifacts")[number % 4], stack)
            for msgid in range(300):
                sessions, artifacts = ("session.get_events", {"session_id": "ses_big"}), ("artifact.open", {"key": "big"})
                method, arguments = artifacts if number % 4 > 1 else sessions
                if not offer(connection, request(msgid, method, arguments, {"stream": True})):
                    break
        target.check("greedy readers")


def test_floods(target):
    """Of calls, of long-polls and of uploads that do not go on; the answers are not read."""
    with contextlib.ExitStack() as stack:
        calls = b"".join(request(msgid, "session.get_events", {"session_id": "ses_1"}) for msgid in range(3000))
        polls = b"".join(
            request(msgid, "session.get_events", {"session_id": "ses_1", "wait_timeout_ms": 60_000}, {"waits": True})
            for msgid in range(3000)
        )
        uploads = b"".join(
            request(msgid, "artifact.put", {"key": f"u{msgid}", "data": None}, {"stream": True}) for msgid in range(200)
        )
        for number in range(target.scale.flood):
            connection = target.connect("MyApp.Store", stack)
            offer(connection, (calls, polls, uploads)[number % 3])
        target.check("floods")


def test_a_storm_of_connections(target):
    """Beyond the bound each is told why it is not taken, and others can connect once there is room again."""
    told = []
    with contextlib.ExitStack() as stack:
        for _ in range(target.scale.connects):
            connection = target.connect("MyApp.Store", stack)
            told.append(connection)
        answers = [receive(connection) for connection in told[target.scale.connections :]]
        assert {answer[2][0]["details"]["reason"] for answer in answers} == {"overloaded"}
        with pytest.raises(asm.StorageError) as caught, target.tree.connect() as store:
            store.list()
        assert (caught.value.details["reason"], caught.value.retryable) == ("overloaded", True)
    with contextlib.ExitStack() as stack:
        for _ in range(target.scale.connects):
            target.connect("MyApp.Store").close()
    while True:
        with contextlib.suppress(asm.StorageError), target.tree.connect() as store:
            assert store.get_latest_sequence("ses_big") == 1000
            break
    target.check("storm")
