"""A program that runs greenlets in the place of threads, and uses a store as any other does.

greenlets.py LIBRARY first|later NAME RUNTIME_DIR PID    PID: the process that serves the name
"""

import asyncio
import os
import signal
import sys
import warnings
from contextlib import contextmanager

import asm

LIBRARY, WHEN, NAME, RUNTIME_DIR, PID = sys.argv[1:]
DATA = os.urandom(5 * 1024 * 1024)
TIMEOUT = 0.3


def patch():
    """Put the library in the place of sockets, clocks and threads; return what starts a greenlet and what waits for one."""
    if LIBRARY == "gevent":
        import gevent.monkey  # noqa: PLC0415  # only one of them is loaded

        gevent.monkey.patch_all()
        return gevent.spawn, lambda greenlet: greenlet.get()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks everybody to leave it
        import eventlet  # noqa: PLC0415  # as above

        eventlet.monkey_patch()
    return eventlet.spawn, lambda greenlet: greenlet.wait()


def connect(**options):
    return asm.connect(NAME, runtime_dir=RUNTIME_DIR, **options)


def event(session_id):
    return asm.Event.new(type="message_sent", session_id=session_id)


@contextmanager
def stopped():
    os.kill(int(PID), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(int(PID), signal.SIGCONT)


def times_out(call, *arguments):
    try:
        call(*arguments)
    except asm.ExecutionError as error:
        assert error.code == "timeout", error
    else:
        raise AssertionError("the call did not end by its time")


def use(store, impatient):
    store.put("big", DATA)
    assert store.get("big") == DATA
    with store.open("big") as reader:
        assert reader.read() == DATA
    with impatient.open("big") as reader, stopped():
        times_out(impatient.get_latest_sequence, "ses")
        times_out(impatient.put, "key", DATA)
        times_out(reader.read)
    assert store.get_latest_sequence("ses") == 0


def share(store, spawn, wait):
    """Have many greenlets use a handle; one that waits lets the others go on."""
    waiting = [spawn(store.get_events, "ses", wait_timeout_ms=60_000) for _ in range(20)]
    appended = [spawn(store.append_event_with_sequence, event("ses")) for _ in range(20)]
    assert sorted(wait(greenlet).sequence_number for greenlet in appended) == list(range(1, 21))
    assert all(wait(greenlet)[0].sequence_number == 1 for greenlet in waiting)


async def use_with_asyncio():
    async with asm.aio.connect(NAME, runtime_dir=RUNTIME_DIR) as store:
        await store.put("big", DATA)
        assert await store.get("big") == DATA
        waiting = asyncio.create_task(store.get_events("other", wait_timeout_ms=60_000))
        stored = await store.append_event_with_sequence(event("other"))
        assert await waiting == [stored]


if WHEN == "later":
    store, impatient = connect(), connect(timeout=TIMEOUT)
    assert store.get_latest_sequence("ses") == impatient.get_latest_sequence("ses") == 0
    spawn, wait = patch()
else:
    spawn, wait = patch()
    store, impatient = connect(), connect(timeout=TIMEOUT)
use(store, impatient)
share(connect() if WHEN == "later" else store, spawn, wait)
asyncio.run(use_with_asyncio())
print("done")
