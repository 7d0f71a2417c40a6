"""A client in a campaign of chaos: it makes calls of every kind until its input ends, and keeps a journal of what it is told.

chaos_client.py RUNTIME_DIR JOURNAL NUMBER SEED (blocking | asyncio) SECONDS

The journal is what ``chaos_journal.py`` reads. Each operation has one line that says what is intended, before its first call;
then one line for each of its calls. A call that failed with a retryable error is repeated as it was, with the same ids, as
users do; some callers give up at once. Several roles do this at the same time: sessions, batches, flushes, artifacts, readers.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import asm
import asm.aio

NAME = "MyApp.Store"

PIECE = 64 * 1024

SHARED = ("ses_shared_1", "ses_shared_2")
"""Sessions to which all clients append."""

SHARED_KEYS = ("shared/1", "shared/2", "shared/3")

SIZES = ((40, 2000), (4000, 64_000), (100_000, 700_000), (1_000_000, 4_000_000))
"""Of artifacts, in bytes: the second half moves in pieces."""

POLL_MS = 1000

LONGEST_PAUSE = 0.2
"""How many seconds a caller waits at most before it repeats a call."""

LAST_WORDS = 30.0
"""For how many seconds calls are repeated after the end was asked for."""


class Steps:
    """When a call showed that it goes on. In one that moves data each step has the time that another call has in all."""

    def __init__(self):
        self._at = time.monotonic()
        self.longest = 0.0

    def step(self):
        now = time.monotonic()
        self.longest, self._at = max(self.longest, now - self._at), now


class Blocking:
    """The blocking client, each call in a thread of its own."""

    def __init__(self, runtime_dir, timeout):
        self._store = asm.connect(NAME, runtime_dir=runtime_dir, timeout=timeout)
        self._threads = ThreadPoolExecutor(32)

    def call(self, operation, *args, **kwargs):
        return asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: getattr(self._store, operation)(*args, **kwargs)
        )

    def digest(self, key, step):
        return asyncio.get_running_loop().run_in_executor(self._threads, self._digest, key, step)

    def _digest(self, key, step):
        digest = hashlib.sha256()
        with self._store.open(key) as file:
            while piece := file.read1(PIECE):
                step()
                digest.update(piece)
        return digest.hexdigest()


class Asynchronous:
    """The asyncio client."""

    def __init__(self, runtime_dir, timeout):
        self._store = asm.aio.connect(NAME, runtime_dir=runtime_dir, timeout=timeout)

    async def call(self, operation, *args, **kwargs):
        return await getattr(self._store, operation)(*args, **kwargs)

    async def digest(self, key, step):
        digest = hashlib.sha256()
        async with await self._store.open(key) as reader:
            async for piece in reader:
                step()
                digest.update(piece)
        return digest.hexdigest()


class Caller:
    """Makes the calls of one client and keeps its journal."""

    def __init__(self, store, journal, number, timeout, ended):
        self.store = store
        self.number = number
        self.ended = ended
        self._timeout = timeout
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()
        self._undone_at = None

    def write(self, **record):
        os.write(self._journal, json.dumps(record).encode() + b"\n")

    async def perform(self, chance, call, *, wait=0.0, moves_data=False, **intent):
        """Make a call until it is answered; return what it was answered with, ``None`` if it was given up.

        :param call: makes it, told of a :class:`Steps`; returns what the journal is to keep.
        :param wait: how many seconds a long-poll adds to the timeout.
        :param moves_data: whether it moves in pieces, each of which has the time of a call.
        :param intent: what the journal says of it beforehand.
        """
        number = next(self._numbers)
        self.write(n=number, at=time.monotonic(), **intent)
        limit = (2 if moves_data else 1) * self._timeout + wait  # between two steps that we see may lie two of the client
        pause = 0.01
        gives_up = chance.random() < 0.1
        while True:
            began, steps = time.monotonic(), Steps()
            result, error = None, None
            try:
                result = await call(steps)
            except Exception as caught:  # noqa: BLE001  # whatever it is, the journal tells
                error = caught
            steps.step()
            code, reason, retryable = described(error)
            self.write(
                n=number,
                began=began,
                ended=time.monotonic(),
                waited=steps.longest,
                limit=limit,
                code=code,
                reason=reason,
                result=result,
            )
            if error is None:
                return result
            if not retryable or gives_up or self._too_late():
                return None
            await asyncio.sleep(chance.uniform(0.5, 1) * pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _too_late(self):
        if not self.ended.is_set():
            return False
        self._undone_at = self._undone_at or time.monotonic() + LAST_WORDS
        return time.monotonic() > self._undone_at


def described(error):
    """Return code, reason and whether to repeat the call. What is no error of ours has the code ``undocumented``."""
    if error is None:
        return "ok", None, False
    if isinstance(error, asm.Error):
        reason = error.details.get("reason")
        return error.code, reason if error.retryable or reason else error.message, error.retryable
    return "undocumented", repr(error), False


def event(session_id, chance):
    return asm.Event.new(type="message_sent", session_id=session_id, data={"text": "x" * chance.randrange(200)})


def places(events):
    """Return where events are, as JSON values."""
    return [[item.session_id, item.id, item.sequence_number] for item in events]


# -- Roles: each goes on until the end is asked for ----------------------------------------------------------------------


async def append_alone(caller, chance, session_id):
    """One event after the other to one session."""
    new = event(session_id, chance)

    async def call(_steps):
        return places([await caller.store.call("append_event_with_sequence", new)])

    await caller.perform(chance, call, op="append", events=[[new.session_id, new.id]])


async def append_batch(caller, chance, own):
    """Batches over a session of its own and shared ones."""
    batch = [event(chance.choice([own, *SHARED]), chance) for _ in range(chance.randrange(2, 20))]

    async def call(_steps):
        return places(await caller.store.call("append_events", batch))

    await caller.perform(chance, call, op="batch", events=[[item.session_id, item.id] for item in batch])


async def flush(caller, chance, _own):
    """A session, its run and its events at once, each time others."""
    session = asm.Session.new(agent_id=f"flush-{caller.number}")
    run = asm.Run.new(session_id=session.id)
    events = [event(session.id, chance) for _ in range(chance.randrange(1, 8))]
    result = {"session": session, "run": run, "events": events, "provider_metadata": {"by": caller.number}}

    async def call(_steps):
        await caller.store.call("flush", result)

    intended = [[item.session_id, item.id] for item in events]
    await caller.perform(chance, call, op="flush", events=intended, session=session.id, run=run.id)


async def save_and_get(caller, chance, own):
    """Sessions and runs that are replaced again and again."""
    kind, value = chance.choice(["session", "run"]), f"{chance.getrandbits(64):x}"
    identifier = f"{own}_{kind}_{chance.randrange(3)}"
    if kind == "session":
        saved = asm.Session.new(agent_id="saver", id=identifier, metadata={"value": value})
    else:
        saved = asm.Run.new(session_id=own, id=identifier, metadata={"value": value})

    async def save(_steps):
        await caller.store.call(f"save_{kind}", saved)

    async def get(_steps):
        return await unless_missing(caller.store.call(f"get_{kind}", identifier), lambda found: found.metadata["value"])

    await caller.perform(chance, save, op="write", key=f"{kind}:{identifier}", value=value)
    await caller.perform(chance, get, op="read", key=f"{kind}:{identifier}")


async def put_and_get(caller, chance, keys):
    """Artifacts under one of the keys; small ones whole, larger ones in pieces."""
    if chance.random() < 0.6:
        key = chance.choice(keys)
        data = chance.randbytes(chance.randint(*chance.choices(SIZES, (6, 3, 2, 1))[0]))
        whole = chance.random() < 0.5

        async def put(steps):
            await caller.store.call("put", key, data if whole else pieces(data, steps))

        digest = hashlib.sha256(data).hexdigest()
        await caller.perform(chance, put, moves_data=True, op="write", key=f"artifact:{key}", value=digest)
    key = chance.choice(keys)

    async def get(steps):
        if chance.random() < 0.5:
            return await unless_missing(caller.store.digest(key, steps.step), str)
        return await unless_missing(caller.store.call("get", key), lambda data: hashlib.sha256(data).hexdigest())

    await caller.perform(chance, get, moves_data=True, op="read", key=f"artifact:{key}")


def pieces(data, steps):
    for start in range(0, len(data), PIECE):
        steps.step()
        yield data[start : start + PIECE]


async def unless_missing(awaitable, of):
    """Return something of what a call returned, and ``None`` when what was asked for is not there."""
    try:
        return of(await awaitable)
    except asm.ResourceError:
        return None


def follower(session_id):
    """Return a role that reads a session as it grows, with long-polls."""
    last = 0

    async def follow(caller, chance, _own):
        nonlocal last

        async def call(_steps):
            found = await caller.store.call("get_events", session_id, after=last, limit=2000, wait_timeout_ms=POLL_MS)
            return [[item.id, item.sequence_number] for item in found]

        seen = await caller.perform(chance, call, wait=POLL_MS / 1000, op="poll", session=session_id, after=last)
        last = seen[-1][1] if seen else last

    return follow


async def repeat(role, caller, chance, argument, pause):
    while not caller.ended.is_set():
        await role(caller, chance, argument)
        await asyncio.sleep(chance.uniform(0, pause))


async def main(runtime_dir, journal, number, seed, kind, seconds):
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: sys.stdin.buffer.read1() or (loop.remove_reader(sys.stdin), ended.set()))
    store = {"blocking": Blocking, "asyncio": Asynchronous}[kind](runtime_dir, float(seconds))
    caller = Caller(store, journal, int(number), float(seconds), ended)
    own = f"ses_client_{number}"
    roles = [
        (append_alone, own, 0.05),
        *((append_alone, session_id, 0.1) for session_id in SHARED),
        (append_batch, own, 0.1),
        (flush, own, 0.1),
        (save_and_get, own, 0.1),
        (put_and_get, [f"{number}/{key}" for key in range(5)], 0.2),
        (put_and_get, SHARED_KEYS, 0.3),
        (follower(own), own, 0.1),
        (follower(SHARED[int(number) % 2]), own, 0.1),
    ]
    async with asyncio.TaskGroup() as tasks:
        for place, (role, argument, pause) in enumerate(roles):
            tasks.create_task(repeat(role, caller, random.Random(f"{seed}/{number}/{place}"), argument, pause))


asyncio.run(main(*sys.argv[1:]))
