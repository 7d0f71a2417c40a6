"""A client in a campaign of chaos: it makes calls of every kind until its input ends, and keeps a journal of what it is told.

chaos_client.py RUNTIME_DIR JOURNAL NUMBER SEED (blocking | asyncio) SECONDS

The journal is what ``chaos_journal.py`` reads. Each operation has one line that says what is intended, before its first call;
then one line for each of its calls. A call that failed with a retryable error is repeated as it was, with the same ids, as
users do; some callers give up at once. Several roles (``chaos_roles.py``) do this at the same time.
"""

import asyncio
import itertools
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import chaos_roles as roles
from chaos_roles import PIECE, SHARED

import asm
import asm.aio

NAME = "MyApp.Store"

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
        self.handle = asm.connect(NAME, runtime_dir=runtime_dir, timeout=timeout)
        self._threads = ThreadPoolExecutor(32)

    def call(self, operation, *args, **kwargs):
        return self.run(lambda: getattr(self.handle, operation)(*args, **kwargs))

    def run(self, work, *args):
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    def read(self, operation, argument, *, step):
        """Read what an operation returns as a file, piece by piece."""
        return self.run(self._read, operation, argument, step)

    def _read(self, operation, argument, step):
        pieces = []
        with getattr(self.handle, operation)(argument) as file:
            while piece := file.read1(PIECE):
                step()
                pieces.append(piece)
        return b"".join(pieces)


class Asynchronous:
    """The asyncio client."""

    def __init__(self, runtime_dir, timeout):
        self._store = asm.aio.connect(NAME, runtime_dir=runtime_dir, timeout=timeout)

    async def call(self, operation, *args, **kwargs):
        return await getattr(self._store, operation)(*args, **kwargs)

    async def read(self, operation, argument, *, step):
        pieces = []
        async with await getattr(self._store, operation)(argument) as reader:
            async for piece in reader:
                step()
                pieces.append(piece)
        return b"".join(pieces)


class Caller:
    """Makes the calls of one client and keeps its journal."""

    def __init__(self, store, journal, number, timeout, ended):
        self.store = store
        self.number = number
        self.ended = ended
        self.flushed = {}
        """The sessions that were flushed, each with the ids of its events."""
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
    played = [
        (roles.append_alone, own, 0.05),
        *((roles.append_alone, session_id, 0.1) for session_id in SHARED),
        (roles.append_batch, own, 0.1),
        (roles.append_expecting, roles.EXPECTING, 0.1),
        (roles.append_and_prune, f"ses_pruned_{number}", 0.1),
        (roles.flush, own, 0.1),
        (roles.save_and_get, own, 0.1),
        (roles.put_and_get, [f"{number}/{key}" for key in range(5)], 0.2),
        (roles.put_and_get, roles.SHARED_KEYS, 0.3),
        (roles.follower(own), own, 0.1),
        (roles.follower(SHARED[int(number) % 2]), own, 0.1),
        (roles.search, own, 0.5),
        (roles.export, own, 0.3),
    ]
    if kind == "blocking":
        played.append((roles.retire, own, 0.5))
    async with asyncio.TaskGroup() as tasks:
        for place, (role, argument, pause) in enumerate(played):
            tasks.create_task(repeat(role, caller, random.Random(f"{seed}/{number}/{place}"), argument, pause))


asyncio.run(main(*sys.argv[1:]))
