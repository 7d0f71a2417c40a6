"""A bare asyncio relay: the shape of ours with nothing in it. No checks, no limits, no turns, no store.

    client ──► relay: puts its own id into each frame ──► worker: decodes, and answers with what it was sent
    64 tasks ◄── puts the id of the client back       ◄──

A frame is four bytes of length, then four bytes of id, then MessagePack, which only the two ends look at. What one read
brought goes out in one write.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import struct
import time

import msgpack
from measuring import PATIENCE

_HEAD = struct.Struct("!II")
_FORK = multiprocessing.get_context("fork")


@contextlib.contextmanager
def relay(directory):
    """Start a relay and a worker; the value is the path at which the relay serves."""
    paths = {serve: str(directory / f"bare-{serve.__name__}.sock") for serve in (_worker, _relay)}
    with contextlib.ExitStack() as stack:
        for serve in paths:  # the worker first: the relay connects to it
            here, there = _FORK.Pipe()
            process = _FORK.Process(target=lambda serve=serve, there=there: asyncio.run(serve(paths, there)), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            if not here.poll(PATIENCE):
                raise TimeoutError(f"the bare {serve.__name__} did not start")
            here.recv_bytes()
        yield paths[_relay]


async def calls_a_second(path, message, calls, in_flight):
    """Make calls from one connection, with so many in flight; return calls a second."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_unix_connection(_Client, path)
    numbers = iter(range(calls))

    async def caller():
        for number in numbers:
            await client.call(number, message)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    seconds = time.perf_counter() - began
    transport.close()
    return calls / seconds


class _Frames(asyncio.Protocol):
    """Cuts what arrives into frames, ``(id, body)``."""

    def __init__(self):
        self._left = b""
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        data = self._left + data if self._left else data
        frames, at = [], 0
        while len(data) - at >= 8:
            size, msgid = _HEAD.unpack_from(data, at)
            if len(data) - at < 4 + size:
                break
            frames.append((msgid, data[at + 8 : at + 4 + size]))
            at += 4 + size
        self._left = data[at:]
        self.received(frames)

    def send(self, frames):
        parts = []
        for msgid, body in frames:
            parts += _HEAD.pack(4 + len(body), msgid), body
        self.transport.write(b"".join(parts))


class _Client(_Frames):
    def __init__(self):
        super().__init__()
        self._waiting = {}
        self._loop = asyncio.get_running_loop()

    async def call(self, msgid, message):
        self._waiting[msgid] = future = self._loop.create_future()
        self.send([(msgid, msgpack.packb(["append", message]))])
        return msgpack.unpackb(await future)

    def received(self, frames):
        for msgid, body in frames:
            self._waiting.pop(msgid).set_result(body)


class _Server(_Frames):
    """What the relay has for each client."""

    def __init__(self, backend):
        super().__init__()
        self._backend = backend

    def received(self, frames):
        self._backend.ask(self, frames)


class _Backend(_Frames):
    """The relay's connection to the worker."""

    def __init__(self):
        super().__init__()
        self._asked = {}
        self._numbers = itertools.count()

    def ask(self, client, frames):
        passed = []
        for msgid, body in frames:
            number = next(self._numbers) & 0xFFFFFFFF
            self._asked[number] = client, msgid
            passed.append((number, body))
        self.send(passed)

    def received(self, frames):
        answers = {}
        for number, body in frames:
            client, msgid = self._asked.pop(number)
            answers.setdefault(client, []).append((msgid, body))
        for client, answered in answers.items():
            client.send(answered)


class _Echo(_Frames):
    def received(self, frames):
        self.send([(msgid, msgpack.packb([None, msgpack.unpackb(body)[1]])) for msgid, body in frames])


async def _worker(paths, started):
    server = await asyncio.get_running_loop().create_unix_server(_Echo, paths[_worker])
    started.send_bytes(b"ready")
    await server.serve_forever()


async def _relay(paths, started):
    loop = asyncio.get_running_loop()
    _transport, backend = await loop.create_unix_connection(_Backend, paths[_worker])
    server = await loop.create_unix_server(lambda: _Server(backend), paths[_relay])
    started.send_bytes(b"ready")
    await server.serve_forever()
