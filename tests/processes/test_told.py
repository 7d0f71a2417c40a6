"""How long it takes until callers are told that a worker was killed, and until there is another one.

The figures are printed. With ``--campaign`` they come from many kills, and are held to what is promised.
"""

import asyncio
import contextlib
import gc
import statistics
import time

import pytest
from chaos_monkey import ARTIFACTS, SESSIONS
from configurations import configuration

import asm

KILLS = {True: 200, False: 6}
"""How often something is killed, in a campaign and in the default run."""

IN_FLIGHT = 8

CONFIG = configuration(
    supervisor="max_restarts = 100000\nbackoff = { stable = 0.0 }"  # each death is the first one: its restart comes at once
)


def event():
    return asm.Event.new(type="message_sent", session_id="ses_1")


async def told(call):
    """Return when a call was told that its worker is gone."""
    with pytest.raises(asm.StorageError) as caught:
        await call
    moment = time.monotonic()
    assert caught.value.details["reason"] == "backend_exited"
    return moment


async def again(call):
    """Return when a call succeeds, repeated for as long as its worker is away."""
    while True:
        with contextlib.suppress(asm.StorageError):
            await call()
            return time.monotonic()
        await asyncio.sleep(0.001)


async def measure(tree, kills):
    """Kill both workers in turn, with calls in flight to them; return how many seconds it took to be told, and to be served."""
    waited, away = [], {SESSIONS: [], ARTIFACTS: []}
    async with tree.aconnect(timeout=30) as store:
        calls = {
            SESSIONS: (lambda: store.append_event(event()), lambda: store.get("key")),
            ARTIFACTS: (lambda: store.put("key", b"data"), lambda: store.get_latest_sequence("ses_1")),
        }
        await store.put("key", b"data")
        await store.append_event(event())
        for number in range(kills):
            name = (SESSIONS, ARTIFACTS)[number % 2]
            call, of_the_other_store = calls[name]
            worker = tree.child(name)
            worker.suspend()
            in_flight = [asyncio.create_task(told(call())) for _ in range(IN_FLIGHT)]
            # The composite takes the frames of a connection in order: when this is answered, it has passed on the others.
            await of_the_other_store()
            killed_at = time.monotonic()
            worker.kill()
            back = asyncio.create_task(again(call))
            waited += [moment - killed_at for moment in await asyncio.gather(*in_flight)]
            away[name].append(await back - killed_at)
    return waited, away


def test_callers_are_told_at_once_and_soon_served_again(trees, campaign):
    tree = trees(CONFIG).wait_ready()
    waited, away = asyncio.run(measure(tree, KILLS[campaign]))
    assert tree.stop() == 0
    waited.sort()
    p50, p99 = (waited[int(len(waited) * share)] for share in (0.5, 0.99))
    medians = {name: statistics.median(seconds) for name, seconds in away.items()}
    print(f"{len(waited)} calls in flight at {KILLS[campaign]} kills: told after {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    for name, seconds in medians.items():
        print(f"{name}: served again after {seconds * 1000:.1f} ms (median), {max(away[name]) * 1000:.1f} ms at the most")
    if campaign:
        assert p99 < 0.05
        assert medians[ARTIFACTS] < 0.06
        assert medians[SESSIONS] < 0.1


def test_an_error_that_comes_when_the_time_is_up_is_no_complaint(tree):
    worker = tree.child(ARTIFACTS)
    complaints = []

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        async with tree.aconnect(timeout=0.5) as store:
            await store.put("key", b"")
            worker.suspend()
            put = asyncio.create_task(store.put("key", bytes(4 * 1024 * 1024)))
            # Until it waits for the worker to take some of it.
            (connection,) = store._connections.values()
            while not any(call.sending and call.waiter for call in connection._conversation.calls.values()):  # noqa: ASYNC110
                await asyncio.sleep(0)
            worker.kill()
            time.sleep(1)  # noqa: ASYNC251  # the loop is busy: the error has come when it finds that the time is up
            with pytest.raises(asm.Error) as caught:
                await put
            assert caught.value.details["reason"] == "backend_exited"  # what came counts, however late it was looked at

    asyncio.run(scenario())
    gc.collect()
    assert complaints == []
