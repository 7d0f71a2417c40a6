"""Clients that put load on a tree: they write one thing after another, and repeat what failed, as the contract lets them."""

import asyncio
import contextlib
import itertools
import time

import asm

PATIENCE = 60.0
"""Seconds after which a client, and whoever waits for one, gives up. Far more than any store takes that keeps its word."""

PAUSE = 0.005
"""Seconds between two calls of a client, whether it was told of trouble or not. Nothing is measured here."""


async def until(happens):
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


class Writer:
    """A client that makes one write after another, each until it is acknowledged.

    :param write: makes a write, the one of that number, and returns what is acknowledged.
    """

    def __init__(self, write):
        self._write = write
        self.acknowledged = []
        self.told = []

    async def run(self, ended):
        for number in itertools.count():
            while not ended.is_set():
                await asyncio.sleep(PAUSE)
                try:
                    self.acknowledged.append(await self._write(number))
                    break
                except asm.Error as error:
                    self.told.append(error)
            if ended.is_set():
                return


class Load:
    """Clients of a tree, each with a connection of its own.

    :param event_size: how many bytes an event has.
    :param artifact_size: how many bytes an artifact has.
    """

    def __init__(self, tree, *, event_size=100, artifact_size=20_000):
        self._tree = tree
        self._event_size, self._artifact_size = event_size, artifact_size
        self._ended = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()
        self.events, self.artifacts = [], []

    async def __aenter__(self):
        self.store = await self._connect()
        for writer in range(4):
            self.events.append(Writer(self._append(await self._connect(), writer)))
        for writer in range(2):
            self.artifacts.append(Writer(self._put(await self._connect(), writer)))
        self._running = [asyncio.create_task(writer.run(self._ended)) for writer in (*self.events, *self.artifacts)]
        return self

    async def __aexit__(self, kind, *_):
        async with self._stack:
            self._ended.set()
            await asyncio.gather(*self._running)
            if kind is None:
                await self.check()

    async def _connect(self):
        return await self._stack.enter_async_context(self._tree.aconnect(timeout=PATIENCE))

    def _append(self, store, writer):
        def write(number):
            given = {"id": f"{writer} {number}", "type": "message_sent", "session_id": "ses"}
            return store.append_event_with_sequence(asm.Event.new(**given, data={"text": "x" * self._event_size}))

        return write

    def _put(self, store, writer):
        async def write(number):
            data = bytes([number % 256]) * self._artifact_size
            await store.put(f"{writer}", data)
            assert await store.get(f"{writer}") == data
            return number

        return write

    async def all_go_on(self, writers):
        """Wait until each has been acknowledged something that it began from now on."""
        before = [len(writer.acknowledged) for writer in writers]
        await self._until(lambda: all(len(w.acknowledged) > count + 1 for w, count in zip(writers, before, strict=True)))

    async def all_are_told(self, writers, told):
        """Wait until each was told of the trouble from now on."""
        before = [len(writer.told) for writer in writers]
        await self._until(lambda: all(any(map(told, w.told[count:])) for w, count in zip(writers, before, strict=True)))

    async def _until(self, happens):
        """Wait until something is so, for as long as no client has failed."""
        await until(lambda: any(task.done() for task in self._running) or happens())
        for task in self._running:
            if task.done():
                task.result()

    async def log(self):
        """All events of the session."""
        found = []
        while page := await self.store.get_events("ses", after=len(found), limit=500):
            found += page
        return found

    async def check(self):
        """See that what was acknowledged is there, once and at its place; and in the end, no more than was not finished."""
        acknowledged = [event for writer in self.events for event in writer.acknowledged]
        log = await self.log()
        assert [event.sequence_number for event in log] == list(range(1, len(log) + 1))
        stored = {event.id: event for event in log}
        assert len(stored) == len(log)
        for event in acknowledged:
            assert stored.pop(event.id) == event
        for name, writer in enumerate(self.artifacts):
            data = await self.store.get(str(name))
            assert data == data[:1] * self._artifact_size
            if self._ended.is_set():
                assert data[0] - writer.acknowledged[-1] % 256 in (0, 1, -255)
        if self._ended.is_set():
            assert len(stored) <= len(self.events)
