"""Handles in several event loops and threads at once, and what is left of those that are gone: nothing."""

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import threading
import time

import pytest

import asm

PATIENCE = 30.0
MIB = 1024 * 1024


@pytest.fixture
def tree(lasting_memory_tree):
    return lasting_memory_tree


def event(session_id="ses_1"):
    return asm.Event.new(type="message_sent", session_id=session_id)


def descriptors():
    """How many this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def in_a_thread(work):
    """Run a coroutine in a loop of its own, in a thread of its own; return its result."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result(PATIENCE)


async def until(is_so):
    """Let the loop turn until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@contextlib.contextmanager
def running_loop():
    """A loop that runs in another thread until the block is left."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# -- Several loops --------------------------------------------------------------------------------------------------------


def test_a_loop_of_somebody_elses_disturbs_no_loop(tree):
    """A web application has a handle, and a tool in a thread of its own calls ``asyncio.run`` with it."""

    async def scenario():
        async with tree.aconnect() as store:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000))
            assert await store.get_latest_sequence("ses_1") == 0
            for number in range(3):
                assert await asyncio.to_thread(in_a_thread, store.get_latest_sequence("ses_2")) == number
                assert (await store.append_event_with_sequence(event("ses_2"))).sequence_number == number + 1
            stored = await store.append_event_with_sequence(event())
            assert await waiting == [stored]

    asyncio.run(scenario())


def test_whoever_connects_next_is_heard(tree, runtime_dir):
    """The descriptor of a connection is given back before the next one gets its number."""

    async def echo(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def call_and_close(store):
        await store.get_latest_sequence("ses_1")
        await store.aclose()

    async def scenario():
        store = await tree.aconnect()
        async with await asyncio.start_unix_server(echo, runtime_dir / "echo"):
            await store.get_latest_sequence("ses_1")
            await asyncio.to_thread(in_a_thread, call_and_close(store))
            for _ in range(5):
                reader, writer = await asyncio.open_unix_connection(runtime_dir / "echo")
                writer.write(b"hello\n")
                assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"hello\n"
                writer.close()
                await writer.wait_closed()

    asyncio.run(scenario())


def test_many_loops_call_at_once(tree):
    store = tree.aconnect()

    async def append(session_id):
        for _ in range(10):
            await asyncio.gather(*(store.append_event_with_sequence(event(session_id)) for _ in range(10)))
        return [item.sequence_number for item in await store.get_events(session_id)]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        logs = list(pool.map(lambda number: asyncio.run(append(f"ses_{number % 2}")), range(8)))
    assert all(log == list(range(1, len(log) + 1)) for log in logs)
    assert max(map(len, logs)) == 400
    asyncio.run(store.aclose())


def test_loops_that_are_gone_leave_nothing(tree):
    """Also those whose handle is not closed, and those that are closed in the middle of a call."""
    store = tree.aconnect()

    def abandon(call):
        loop = asyncio.new_event_loop()
        task = loop.create_task(call)
        loop.run_until_complete(store.get_latest_sequence("ses_1"))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    asyncio.run(store.get_latest_sequence("ses_1"))
    before = descriptors()
    for _ in range(20):
        asyncio.run(store.get_latest_sequence("ses_1"))
        abandon(store.get_events("ses_1", wait_timeout_ms=60_000))
    assert descriptors() <= before
    assert not store._connections
    asyncio.run(store.aclose())


def test_closing_closes_the_connections_of_all_loops(tree):
    """Of one that runs, whose callers are told, of one that does not run, and of one that is closed."""
    before = descriptors()
    store = tree.aconnect()
    asyncio.run(store.get_latest_sequence("ses_1"))
    with running_loop() as running, contextlib.closing(asyncio.new_event_loop()) as resting:
        resting.run_until_complete(store.get_latest_sequence("ses_1"))
        waiting = asyncio.run_coroutine_threadsafe(store.get_events("ses_1", wait_timeout_ms=60_000), running)
        asyncio.run_coroutine_threadsafe(store.get_latest_sequence("ses_1"), running).result(PATIENCE)
        asyncio.run(store.aclose())
        with pytest.raises(asm.StorageError):
            waiting.result(PATIENCE)
        for loop in (running, resting):
            call = store.get_latest_sequence("ses_1")
            with pytest.raises(asm.ConcurrencyError) as caught:
                asyncio.run_coroutine_threadsafe(call, loop).result() if loop is running else loop.run_until_complete(call)
            assert caught.value.code == "invalid_operation"
        del waiting, call, caught, loop
    del running, resting
    assert descriptors() == before


# -- Handles that are dropped -----------------------------------------------------------------------------------------------


def test_handles_that_are_dropped_leave_nothing(tree):
    async def scenario():
        await (await tree.aconnect()).get_latest_sequence("ses_1")
        gc.collect()
        before = descriptors()
        watched = len(asyncio.get_running_loop()._selector.get_map())
        for _ in range(50):
            assert await (await tree.aconnect()).get_latest_sequence("ses_1") == 0
        await until(lambda: descriptors() < before + 1)
        assert len(asyncio.get_running_loop()._selector.get_map()) <= watched

    asyncio.run(scenario())


def test_a_handle_that_is_dropped_in_another_thread_leaves_nothing(tree):
    async def scenario():
        handles = [await tree.aconnect() for _ in range(10)]
        before = descriptors()
        await asyncio.to_thread(handles.clear)
        await until(lambda: descriptors() == before - 10)
        return await tree.aconnect()

    store = asyncio.run(scenario())  # and one whose loop is closed
    before = descriptors()
    del store
    assert descriptors() <= before


def test_blocking_handles_that_are_dropped_leave_nothing(tree):
    before = descriptors()
    for _ in range(50):
        assert tree.connect().get_latest_sequence("ses_1") == 0
    assert descriptors() == before


def test_readers_that_are_dropped_leave_nothing(tree):
    with tree.connect() as store:
        store.put("big", b"x" * (8 * MIB))
        before = descriptors()
        for _ in range(5):
            assert store.open("big").read(10) == b"x" * 10
            assert tree.connect().open("big").read(10) == b"x" * 10
        assert descriptors() <= before  # they took what the handle kept
        before = descriptors()

        async def scenario():
            async with tree.aconnect() as other:
                await other.get_latest_sequence("ses_1")
                in_use = descriptors()
                for _ in range(20):  # more than move at once
                    assert await (await other.open("big")).read(10) == b"x" * 10
                    assert await (await (await tree.aconnect()).open("big")).read(10) == b"x" * 10
                await until(lambda: descriptors() == in_use)
                (connection,) = other._connections.values()
                await until(lambda: not connection._conversation.calls)
            kept = await (await tree.aconnect()).open("big")
            assert await kept.read(10) == b"x" * 10
            return kept

        kept = asyncio.run(scenario())  # and one whose loop is closed
        del kept
        assert descriptors() == before


# -- Forks ----------------------------------------------------------------------------------------------------------------


def test_a_fork_leaves_the_loops_of_its_parent_alone(tree, in_a_fork):
    """While a loop runs in another thread, and a call of it is under way."""
    store = tree.aconnect()

    async def append():
        return (await store.append_event_with_sequence(event("ses_2"))).sequence_number

    with running_loop() as loop:
        waiting = asyncio.run_coroutine_threadsafe(store.get_events("ses_1", wait_timeout_ms=60_000), loop)
        assert asyncio.run_coroutine_threadsafe(append(), loop).result(PATIENCE) == 1

        def child():
            assert asyncio.run(append()) == 2
            asyncio.run(store.aclose())
            gc.collect()

        assert in_a_fork(child) == 0
        assert asyncio.run_coroutine_threadsafe(append(), loop).result(PATIENCE) == 3
        with tree.connect() as other:
            stored = other.append_event_with_sequence(event())
        assert waiting.result(PATIENCE) == [stored]
        asyncio.run_coroutine_threadsafe(store.aclose(), loop).result(PATIENCE)


@pytest.mark.parametrize("calls", [16])
def test_forks_in_the_middle_of_calls(tree, in_a_fork, calls):
    """Threads and loops are in calls, and in anything that calls need, when the process forks; their copies are of no use."""
    blocking, others = tree.connect(), tree.aconnect()
    over = threading.Event()

    def call():
        while not over.is_set():
            blocking.append_event(event("ses_blocking"))

    async def call_in_tasks():
        async def one():
            while not over.is_set():
                await others.append_event(event("ses_tasks"))

        await asyncio.gather(*(one() for _ in range(8)))

    def child():
        blocking.append_event(event("ses_child"))
        asyncio.run(others.append_event(event("ses_child")))

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        working = [pool.submit(call) for _ in range(3)] + [pool.submit(asyncio.run, call_in_tasks()) for _ in range(2)]
        try:
            for number in range(calls):
                assert in_a_fork(child) == 0
                assert blocking.get_latest_sequence("ses_child") == 2 * number + 2
        finally:
            over.set()
        for work in working:
            work.result(PATIENCE)
    blocking.close()
    asyncio.run(others.aclose())
