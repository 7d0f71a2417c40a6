"""The client handles: threads, forks, copies, deadlines, reconnecting, closing."""

import asyncio
import concurrent.futures
import copy
import multiprocessing
import pickle
import signal
import warnings

import elsewhere
import pytest

import asm

PATIENCE = 30.0


@pytest.fixture
def tree(lasting_tree):
    return lasting_tree


def event(session_id="ses_1", content=""):
    return asm.Event.new(type="message_sent", session_id=session_id, data={"content": content})


def test_no_tree_under_that_name(runtime_dir):
    with pytest.raises(asm.StorageError) as caught:
        asm.connect("Nobody", runtime_dir=runtime_dir)
    assert caught.value.code == "storage_connection_failed"
    assert f"{runtime_dir}/Nobody.sock" in caught.value.message
    assert "asm-supervise" in caught.value.message

    async def scenario():
        with pytest.raises(asm.StorageError) as caught:
            await asm.aio.connect("Nobody", runtime_dir=runtime_dir)
        assert caught.value.code == "storage_connection_failed"

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b", None, 5])
def test_what_is_no_name(runtime_dir, name):
    with pytest.raises(asm.ValidationError):
        asm.connect(name, runtime_dir=runtime_dir)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), None, True, "5"])
def test_what_is_no_timeout(tree, timeout):
    with pytest.raises(asm.ValidationError):
        tree.connect(timeout=timeout)


def test_threads_share_a_handle(tree):
    with tree.connect() as store, concurrent.futures.ThreadPoolExecutor(16) as pool:
        stored = list(pool.map(lambda number: store.append_event_with_sequence(event(content=str(number))), range(200)))
        assert sorted(item.sequence_number for item in stored) == list(range(1, 201))


def test_tasks_share_a_handle(tree):
    async def scenario():
        async with tree.aconnect() as store:
            stored = await asyncio.gather(*(store.append_event_with_sequence(event(content=str(n))) for n in range(200)))
            assert sorted(item.sequence_number for item in stored) == list(range(1, 201))
            assert await store.get_events("ses_1", after=0) == sorted(stored, key=lambda item: item.sequence_number)

    asyncio.run(scenario())


def test_both_contracts_with_asyncio(tree):
    async def scenario():
        store = await tree.aconnect()
        session = asm.Session.new(agent_id="a", metadata={"deep": [{"er": None}]})
        await store.save_session(session)
        assert await store.list_sessions(agent_id="a") == [session]
        await store.put("key", [b"in ", b"pieces"])
        async with await store.open("key") as reader:
            assert await reader.read(2) == b"in"
            assert [chunk async for chunk in reader] == [b" pieces"]
        assert (await store.stat("key")).byte_size == 9
        assert [info.key for info in await store.list(prefix="k")] == ["key"]
        await store.delete("key")
        with pytest.raises(asm.ResourceError):
            await store.get("key")
        with pytest.raises(asm.ValidationError):
            await store.get_events("ses_1", limit=0)
        await store.aclose()
        with pytest.raises(asm.Error) as caught:
            await store.get("key")
        assert caught.value.code == "invalid_operation"

    asyncio.run(scenario())


def test_a_handle_works_in_another_event_loop(tree):
    handle = tree.aconnect()

    async def append():
        return (await handle.append_event_with_sequence(event())).sequence_number

    assert [asyncio.run(append()), asyncio.run(append())] == [1, 2]
    asyncio.run(handle.aclose())


def test_a_cancelled_call_leaves_the_others_alone(tree):
    async def scenario():
        async with tree.aconnect() as store:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000))
            assert await store.get_latest_sequence("ses_1") == 0
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await store.append_event_with_sequence(event())).sequence_number == 1

    asyncio.run(scenario())


def test_a_long_poll_is_woken_by_an_append_and_holds_up_nobody(tree):
    async def scenario():
        async with tree.aconnect() as store:
            waiting = [asyncio.create_task(store.get_events("ses_1", after=n, wait_timeout_ms=60_000)) for n in range(3)]
            await store.get_latest_sequence("ses_1")
            stored = [await store.append_event_with_sequence(event()) for _ in range(3)]
            answers = await asyncio.gather(*waiting)
            assert [answer[0] for answer in answers] == stored

    asyncio.run(scenario())


def test_hundreds_of_long_polls_leave_room_for_others(tree):
    """Far more of them than a worker has threads."""

    async def scenario():
        async with tree.aconnect() as store:
            waiting = [asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=60_000)) for _ in range(300)]
            assert await store.get_latest_sequence("ses_1") == 0
            await store.put("key", b"")
            stored = await store.append_event_with_sequence(event())
            assert await asyncio.gather(*waiting) == [[stored]] * 300

    asyncio.run(scenario())


def test_a_deadline_is_a_typed_error_and_the_handle_goes_on(tree):
    worker = tree.child("dev.sessions")
    with tree.connect(timeout=0.3) as store:
        worker.suspend()
        with pytest.raises(asm.ExecutionError) as caught:
            store.get_session("ses_1")
        assert (caught.value.code, caught.value.retryable) == ("timeout", True)
        worker.resume()
    with tree.connect() as store:
        assert store.get_latest_sequence("ses_1") == 0

    async def scenario():
        async with tree.aconnect(timeout=0.3) as store:
            worker.suspend()
            with pytest.raises(asm.ExecutionError) as caught:
                await store.get_session("ses_1")
            assert caught.value.code == "timeout"
            worker.resume()

    asyncio.run(scenario())


def test_a_long_poll_may_last_longer_than_the_timeout(tree):
    with tree.connect(timeout=0.2) as store:
        assert store.get_events("ses_1", wait_timeout_ms=500) == []


def test_a_handle_survives_a_fork(tree, in_a_fork):
    with tree.connect() as store:
        store.append_event(event(content="parent"))

        def child():
            assert store.get_latest_sequence("ses_1") == 1
            for _ in range(20):
                store.append_event(event(content="child"))

        assert in_a_fork(child) == 0
        assert store.append_event_with_sequence(event(content="parent")).sequence_number == 22


def test_an_async_handle_survives_a_fork(tree, in_a_fork):
    handle = tree.aconnect()

    async def append():
        return (await handle.append_event_with_sequence(event())).sequence_number

    assert asyncio.run(append()) == 1
    assert in_a_fork(lambda: asyncio.run(append())) == 0
    assert asyncio.run(append()) == 3
    asyncio.run(handle.aclose())


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda handle: pickle.loads(pickle.dumps(handle))}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_handle_has_connections_of_its_own(tree, duplicate):
    with tree.connect(timeout=0.3) as store:
        assert store.get_latest_sequence("ses_1") == 0
        other = duplicate(store)
        store.close()
        assert (other.name, other.path) == (store.name, store.path)
        assert other.append_event_with_sequence(event()).sequence_number == 1
        with pytest.raises(asm.ConcurrencyError):
            duplicate(store).get_latest_sequence("ses_1")  # as closed as what it is a copy of
        tree.child("dev.sessions").suspend()
        with pytest.raises(asm.ExecutionError) as caught:
            other.get_latest_sequence("ses_1")
        assert caught.value.details["timeout_seconds"] == 0.3
        tree.child("dev.sessions").resume()
        other.close()

    async def scenario():
        async with tree.aconnect() as store:
            waiting = asyncio.create_task(store.get_events("ses_2", wait_timeout_ms=60_000))
            assert await store.get_latest_sequence("ses_1") == 1
            async with duplicate(store) as other:
                stored = await other.append_event_with_sequence(event("ses_2"))
            assert await waiting == [stored]
        with pytest.raises(asm.ConcurrencyError):
            await duplicate(store).get_latest_sequence("ses_1")

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_handles_are_sent_to_other_processes(tree, method):
    with (
        warnings.catch_warnings(action="ignore", category=DeprecationWarning),  # newer Pythons warn of threads and a fork
        multiprocessing.get_context(method).Pool(2) as pool,
        tree.connect() as store,
    ):
        assert sorted(pool.map(elsewhere.append, [store] * 4)) == [1, 2, 3, 4]
        assert sorted(pool.map(elsewhere.append_in_a_loop, [tree.aconnect()] * 4)) == [5, 6, 7, 8]


def test_what_comes_out_of_a_pickle_connects_when_it_is_used(tree):
    blocking, others = pickle.dumps(tree.connect()), pickle.dumps(tree.aconnect())
    assert tree.stop() == 0
    with pickle.loads(blocking) as store, pytest.raises(asm.StorageError) as caught:
        store.get_latest_sequence("ses_1")
    assert caught.value.code == "storage_connection_failed"
    with pytest.raises(asm.StorageError):
        asyncio.run(pickle.loads(others).get_latest_sequence("ses_1"))


def test_a_copy_of_a_linked_handle_does_not_own_the_process(runtime_dir):
    with asm.InMemorySessionStore.start_link(runtime_dir=runtime_dir) as store:
        for duplicate in COPIES.values():
            with duplicate(store) as other:
                assert type(other) is asm.Client
                other.append_event(event())
        assert store.get_latest_sequence("ses_1") == 3
        other = duplicate(store)
    with other, pytest.raises(asm.StorageError):
        other.get_latest_sequence("ses_1")


def test_a_closed_handle_says_so(tree):
    store = tree.connect()
    store.close()
    store.close()
    with pytest.raises(asm.Error) as caught:
        store.get_latest_sequence("ses_1")
    assert caught.value.code == "invalid_operation"


def test_a_handle_that_is_dropped_closes_its_connections(tree):
    worker = tree.child("MyApp.Store")
    before = worker.num_fds()
    for _ in range(10):
        tree.connect().get_latest_sequence("ses_1")
    with tree.connect() as store:
        store.get_latest_sequence("ses_1")  # the composite has seen the others go by then, or sees them go soon
        while worker.num_fds() > before + 1:
            store.get_latest_sequence("ses_1")


def test_a_session_operation_is_refused_by_an_artifact_store(tree):
    with tree.connect("dev.artifacts") as artifacts:
        with pytest.raises(asm.Error) as caught:
            artifacts.get_session("ses_1")
        assert caught.value.code == "capability_not_supported"
        assert "dev.artifacts" in caught.value.message


def test_bad_arguments_are_refused_before_a_byte_is_sent(tree):
    with tree.connect() as store:
        tree.signal(signal.SIGSTOP)
        for process in tree.processes():
            process.suspend()
        try:
            for bad in (
                lambda: store.list_sessions(unknown=1),
                lambda: store.list_sessions(limit=0),
                lambda: store.list_sessions(status="asleep"),
                lambda: store.get_events("ses_1", after=-1),
                store.get_session,
                lambda: store.get_session(5),
                lambda: store.get_session("a", "b"),
                lambda: store.save_session({"id": "x"}),
                lambda: store.append_events([1]),
                lambda: store.put("", b""),
                lambda: store.put("key", "text"),
                lambda: store.put("key", ["text"]),
                lambda: store.put("k" * 1025, b""),
                lambda: store.flush({"session": None}),
            ):
                with pytest.raises(asm.Error) as caught:
                    bad()
                assert caught.value.code in ("validation_error", "invalid_status")
        finally:
            for process in tree.processes():
                process.resume()
            tree.signal(signal.SIGCONT)


def test_what_is_too_large_for_a_frame_is_refused(tree):
    with tree.connect() as store:
        with pytest.raises(asm.ValidationError) as caught:
            store.save_session(asm.Session.new(agent_id="a", metadata={"text": "x" * (17 * 1024 * 1024)}))
        assert caught.value.details["limit"] == 16 * 1024 * 1024
        assert store.list_sessions() == []


EMBEDDINGS = [[0.5] * 1536] * 700


def too_many():
    """Events with more values in them than a message may have, of which each could be sent."""
    return [asm.Event.new(type="message_sent", session_id="ses_1", data={"vector": vector}) for vector in EMBEDDINGS]


def is_told_to_split(error):
    assert error.code == "validation_error"
    assert not error.retryable
    assert error.details["limit"] == 1_000_000 < error.details["values"]
    assert f"{error.details['values']:,}" in error.message
    assert "split it" in error.message


def test_a_batch_of_too_many_values_is_refused_and_others_on_the_handle_go_on(tree):
    events, session, run = too_many(), asm.Session.new(id="ses_1", agent_id="a"), asm.Run.new(session_id="ses_1")
    with tree.connect(timeout=PATIENCE) as store, concurrent.futures.ThreadPoolExecutor(1) as others:
        waiting = others.submit(store.get_events, "ses_1", wait_timeout_ms=60_000)
        for call in (
            lambda: store.append_events(events),
            lambda: store.flush({"session": session, "run": run, "events": events}),
        ):
            with pytest.raises(asm.ValidationError) as caught:
                call()
            is_told_to_split(caught.value)
        assert store.get_latest_sequence("ses_1") == 0
        stored = [*store.append_events(events[:300]), *store.append_events(events[300:600]), *store.append_events(events[600:])]
        assert waiting.result(PATIENCE)
        assert [item.sequence_number for item in stored] == list(range(1, 701))

    async def scenario():
        async with tree.aconnect(timeout=PATIENCE) as store:
            waiting = asyncio.create_task(store.get_events("ses_2", wait_timeout_ms=60_000))
            beside = [asyncio.create_task(store.get_latest_sequence("ses_1")) for _ in range(10)]
            with pytest.raises(asm.ValidationError) as caught:
                await store.append_events(events)
            is_told_to_split(caught.value)
            assert await asyncio.gather(*beside) == [700] * 10
            event = await store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses_2"))
            assert await waiting == [event]

    asyncio.run(scenario())


def test_an_answer_of_more_values_than_a_message_may_bring_to_a_store_arrives(tree):
    events = [asm.Event.new(type="message_sent", session_id="ses_1", data={"bits": [1] * 600_000}) for _ in range(2)]

    async def scenario():
        async with tree.aconnect(timeout=PATIENCE) as store:
            return await store.get_events("ses_1")

    with tree.connect(timeout=PATIENCE) as store:
        stored = [store.append_event_with_sequence(event) for event in events]
        assert store.get_events("ses_1") == stored
        assert asyncio.run(scenario()) == stored
        assert store.get_latest_sequence("ses_1") == 2
