"""What handles have beside the operations: following, updating, waiting and repeating, over whatever is killed meanwhile."""

import asyncio
import contextlib
import inspect
import io
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from configurations import MEMORY, configuration
from scripted import Server

import asm
import asm.aio
from asm.client.blocking import Client
from asm.core.errors import Error
from asm.wire.streams import opened

PATIENCE = 60.0
COUNTING = Path(__file__).parent / "programs" / "counting.py"
WHEN = datetime(2026, 1, 2, tzinfo=UTC)
PIECE = 256 * 1024


def event(content="", **fields):
    return asm.Event.new(type=fields.pop("type", "message_sent"), session_id="ses_1", data={"content": content}, **fields)


def append(store, count, **fields):
    return [store.append_event_with_sequence(event(str(number), **fields)) for number in range(count)]


@contextlib.contextmanager
def collecting(tree, how, count, **options):
    """Follow a session in a thread until so many events have come; a list of them, complete at the end."""
    found = []

    def blocking():
        with tree.connect() as store, contextlib.closing(store.follow("ses_1", **options)) as events:
            for item in events:
                found.append(item)
                if len(found) == count:
                    return

    async def with_asyncio():
        async with tree.aconnect() as store, contextlib.aclosing(store.follow("ses_1", **options)) as events:
            async for item in events:
                found.append(item)
                if len(found) == count:
                    return

    thread = threading.Thread(target=blocking if how == "blocking" else lambda: asyncio.run(with_asyncio()))
    thread.start()
    yield found
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_session_is_followed_over_restarts_of_every_process(tree):
    with tree.connect(timeout=PATIENCE, retries=1000) as store:
        stored = append(store, 5)
        with collecting(tree, "blocking", 20) as one, collecting(tree, "asyncio", 20) as other:
            for name in ("dev.sessions", "MyApp.Store", "dev.sessions"):
                wait_for(lambda stored=stored: len(one) == len(other) == len(stored))  # both wait for more
                killed = tree.child(name)
                killed.kill()
                tree.wait_child(name, lambda child, pid=killed.pid: child.state == "ready" and child.pid != pid)
                stored += append(store, 5)
        assert one == other == stored


def wait_for(is_so):
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_only_what_is_asked_for_is_followed(lasting_memory_tree, how):
    with lasting_memory_tree.connect() as store:
        append(store, 600)  # more than one page
        wanted = append(store, 3, run_id="r", type="tool_call_started")
        append(store, 3, run_id="r")
        with collecting(lasting_memory_tree, how, 4, after=2, run_id="r", type=["tool_call_started", "app.thought"]) as found:
            wanted += append(store, 1, run_id="r", type="app.thought")
    assert found == wanted
    with collecting(lasting_memory_tree, how, 605) as everything:
        pass
    assert [item.sequence_number for item in everything] == list(range(1, 606))


def test_what_cannot_be_followed_is_said_at_once(lasting_memory_tree):
    with lasting_memory_tree.connect() as store:
        for wrong in ({"after": -1}, {"type": "nothing"}, {"run_id": ""}):
            with pytest.raises(asm.Error) as caught:
                store.follow("ses_1", **wrong)
            assert caught.value.category in ("validation", "state")
        follower = store.follow("ses_1")
    with pytest.raises(asm.Error) as caught:
        next(follower)
    assert caught.value.code == "invalid_operation"  # the handle is closed


@pytest.mark.parametrize("config", [configuration(), configuration(MEMORY)], ids=["sql", "memory"])
def test_four_processes_that_update_one_run_lose_nothing(trees, config):
    tree = trees(config).wait_ready()
    run = asm.Run.new(session_id="ses_1")
    with tree.connect() as store:
        store.save_run(run)
        counters = [count(tree, run, 25, *how) for how in ([], [], ["async"], ["async"])]
        if "memory" not in config:  # with which the run would be gone
            for name in ("dev.sessions", "MyApp.Store", "dev.sessions"):
                seen = retried(store.get_run, run.id).turn_count
                wait_for(lambda seen=seen: retried(store.get_run, run.id).turn_count > min(seen + 2, 99))
                killed = tree.child(name)
                killed.kill()
                tree.wait_child(name, lambda child, pid=killed.pid: child.state == "ready" and child.pid != pid)
        for counter in counters:
            assert counter.wait(PATIENCE) == 0
        counted = retried(store.get_run, run.id)
    assert (counted.turn_count, len(counted.metadata)) == (100, 100)


def count(tree, run, times, *how):
    return subprocess.Popen([sys.executable, COUNTING, "MyApp.Store", tree.runtime_dir, run.id, str(times), *how])


def retried(call, *arguments):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call(*arguments)
        except asm.Error as error:
            assert error.retryable
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_update_says_what_it_saved_and_what_was_wrong(lasting_memory_tree):
    session = asm.Session.new(agent_id="a")

    async def asked(session):
        return session.update_status("paused")

    async def scenario():
        async with lasting_memory_tree.aconnect() as store:
            saved = await store.update_session(session.id, asked)
            assert saved == await store.get_session(session.id)
            saved = await store.update_session(session.id, lambda session: session.update_status("completed"))
            assert saved.status == "completed"
            with pytest.raises(asm.ResourceError):
                await store.update_run("none", lambda run: run)

    with lasting_memory_tree.connect() as store:
        store.save_session(session)
        saved = store.update_session(session.id, lambda session: session.update_status("active"))
        assert saved == store.get_session(session.id)
        assert saved.status == "active"
        asyncio.run(scenario())
        for change, problem in (
            (None, "function"),
            (lambda _: None, "Session"),
            (lambda _: asm.Session.new(agent_id="a"), "replac"),
        ):
            with pytest.raises(asm.ValidationError, match=problem):
                store.update_session(session.id, change)
        with pytest.raises(ZeroDivisionError):
            store.update_session(session.id, lambda _: 1 / 0)
        with pytest.raises(asm.ResourceError) as caught:
            store.update_session("none", lambda session: session)
        assert caught.value.code == "session_not_found"
        assert store.get_session(session.id).status == "completed"


def test_a_call_is_repeated_over_a_killed_worker(tree):
    with tree.connect(timeout=PATIENCE, retries=1000) as store:
        for _ in range(3):
            killed = tree.child("dev.sessions")
            killed.kill()
            append(store, 3)
            tree.wait_child("dev.sessions", lambda child, pid=killed.pid: child.state == "ready" and child.pid != pid)
        assert [item.data["content"] for item in store.get_events("ses_1")] == ["0", "1", "2"] * 3


def test_a_tree_that_starts_later_is_waited_for(trees, runtime_dir):
    found = []

    def wait():
        with asm.connect("MyApp.Store", runtime_dir=runtime_dir, wait=PATIENCE) as store:
            found.append(store.get_latest_sequence("ses_1"))

    async def wait_with_asyncio():
        async with asm.aio.connect("MyApp.Store", runtime_dir=runtime_dir, wait=PATIENCE) as store:
            found.append(await store.get_latest_sequence("ses_1"))

    unpickled = Client("MyApp.Store", f"{runtime_dir}/MyApp.Store.sock", 5.0, PATIENCE)
    unpickled = pickle.loads(pickle.dumps(unpickled))
    threads = [
        threading.Thread(target=work)
        for work in (
            wait,
            lambda: asyncio.run(wait_with_asyncio()),
            lambda: found.append(unpickled.get_latest_sequence("ses_1")),
        )
    ]
    for thread in threads:
        thread.start()
    trees(configuration(MEMORY)).wait_ready()
    for thread in threads:
        thread.join(PATIENCE)
    unpickled.close()
    assert found == [0, 0, 0]
    with pytest.raises(asm.StorageError, match="no store is running"):
        asm.connect("Nobody", runtime_dir=runtime_dir, wait=0.05)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("wait", -1), ("wait", "5"), ("wait", None), ("wait", float("inf")), ("retries", -1), ("retries", 1.5), ("retries", True)],
)
def test_what_is_no_setting(runtime_dir, setting, value):
    for connect in (asm.connect, asm.aio.connect):
        with pytest.raises(asm.ValidationError) as caught:
            connect("S", runtime_dir=runtime_dir, **{setting: value})
        assert caught.value.details == {"field": setting}


def test_what_is_large_comes_whole_and_from_anywhere(lasting_memory_tree):
    """Rows of more than a message may have, a page of them, and an archive that is read where it lies."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        for number in range(3):
            writing.writestr(f"{number}", bytes([number]) * 2_000_000)

    async def scenario():
        async with lasting_memory_tree.aconnect() as store:
            assert await store.get_events("ses_1") == stored
            page = await store.search_events(session_ids=["ses_1"], limit=1900)
            rest = await store.search_events(session_ids=["ses_1"], limit=1900, cursor=page.cursor)
            assert [*page, *rest] == stored
            async with await store.open("archive") as file:
                assert (await file.seek(-4, 2), await file.read()) == (len(archive.getvalue()) - 4, archive.getvalue()[-4:])

    with lasting_memory_tree.connect() as store:
        stored = []
        for _ in range(20):
            stored += store.append_events([event("x" * 10_000) for _ in range(100)])
        assert store.get_events("ses_1") == stored
        page = store.search_events(session_ids=["ses_1"], limit=1900)
        assert [*page, *store.search_events(session_ids=["ses_1"], cursor=page.cursor)] == stored
        store.put("archive", archive.getvalue())
        with store.open("archive") as file, zipfile.ZipFile(file) as reading:
            assert [reading.read(name) for name in reading.namelist()] == [bytes([n]) * 2_000_000 for n in range(3)]
        asyncio.run(scenario())


# -- With a server that says what the test tells it to --------------------------------------------------------------------


def ask(runtime_dir, how, work, **options):
    """Have a handle do something, blocking or with asyncio; ``work`` may return what is to be awaited."""
    if how == "blocking":
        with asm.connect("S", runtime_dir=runtime_dir, timeout=PATIENCE, **options) as store:
            return work(store)

    async def scenario():
        async with asm.aio.connect("S", runtime_dir=runtime_dir, timeout=PATIENCE, **options) as store:
            done = work(store)
            return await done if inspect.isawaitable(done) else done

    return asyncio.run(scenario())


class Failing:
    """Fails so many calls, with an error that is worth repeating them, and answers the others."""

    def __init__(self, times, reason="backend_restarting"):
        self.times, self.asked = times, 0
        self._error = Error("storage_error", "away", details={"reason": reason})

    def __call__(self, wire):
        while True:
            message = wire.request()
            self.asked += 1
            if self.asked <= self.times:
                wire.fail(message[1], self._error)
            else:
                wire.answer(message[1], 7 if message[2] == "session.get_latest_sequence" else None)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_what_is_safe_to_repeat_is_repeated_so_often_and_nothing_else(runtime_dir, how):
    session = asm.Session.new(agent_id="a")
    for work, retries, reason, asked in [
        (lambda store: store.get_latest_sequence("s"), 2, "backend_exited", 3),
        (lambda store: store.get_latest_sequence("s"), 1, "backend_exited", 2),
        (lambda store: store.get_latest_sequence("s"), 0, "backend_exited", 1),
        (lambda store: store.get_latest_sequence("s"), 5, "full", 1),
        (lambda store: store.put("k", b"data"), 2, "overloaded", 3),
        (lambda store: store.put("k", [b"da", b"ta"]), 2, "overloaded", 3),
        (lambda store: store.put("k", iter([b"data"])), 2, "overloaded", 1),
        (lambda store: store.put("k", io.BytesIO(b"data")), 2, "overloaded", 1),
        (lambda store: store.save_session(session), 2, "backend_exited", 1),
    ]:
        failing = Failing(2, reason)
        with Server(runtime_dir, failing), contextlib.suppress(asm.StorageError):
            ask(runtime_dir, how, work, retries=retries)
        assert failing.asked == asked, (retries, reason)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_a_save_whose_outcome_is_unknown_is_looked_up(runtime_dir, how):
    """It was done, or it was not and is tried again; or somebody else saved something, and the error stands."""
    run = asm.Run.new(session_id="ses_1")
    for was_done, somebody_else, saves, turns in [(True, False, 1, 1), (False, False, 2, 1), (True, True, 1, None)]:
        stored, saved = [run], []

        def serve(wire, stored=stored, saved=saved, was_done=was_done, somebody_else=somebody_else):
            while True:
                _kind, msgid, method, (_meta, arguments) = wire.request()
                if method == "session.get_run":
                    wire.answer(msgid, stored[-1].held_fields())
                    continue
                saved.append(asm.Run.read(arguments["run"]))
                if len(saved) > 1 or was_done:
                    stored.append(saved[-1])
                if somebody_else:
                    stored.append(stored[-1].changed(provider="another"))
                if len(saved) == 1:
                    return  # without an answer
                wire.answer(msgid, None)

        with Server(runtime_dir, serve):
            if turns is None:
                with pytest.raises(asm.StorageError) as caught:
                    ask(runtime_dir, how, lambda store: store.update_run(run.id, lambda run: run.increment_turn()))
                assert caught.value.code == "storage_connection_failed"
            else:
                done = ask(runtime_dir, how, lambda store: store.update_run(run.id, lambda run: run.increment_turn()))
                assert done == stored[-1]
                assert done.turn_count == turns
        assert len(saved) == saves


def test_an_export_is_read_from_its_start_to_its_end(lasting_memory_tree):
    async def scenario():
        async with lasting_memory_tree.aconnect() as store, await store.export_session("ses_1") as file:
            assert await file.read(10) == exported[:10]
            with pytest.raises(io.UnsupportedOperation):
                await file.seek(0)
            assert (await file.tell(), await file.read()) == (10, exported[10:])

    with lasting_memory_tree.connect() as store:
        for number in range(5):
            store.append_event(event(f"{number}" * PIECE))
        with store.export_session("ses_1") as file:
            assert not file.seekable()
            exported = file.read(10)
            with pytest.raises(io.UnsupportedOperation):
                file.seek(0)
            exported += file.read()
    assert len(exported) > 5 * PIECE
    asyncio.run(scenario())


class Artifact:
    """Serves one artifact, also from somewhere in it, as long as it is the same."""

    def __init__(self, data):
        self.data = data
        self.asked = []

    def __call__(self, wire):
        while True:
            _kind, msgid, method, (meta, _arguments) = wire.request()
            checksum = sha256(self.data).hexdigest()
            self.asked.append((method.partition(".")[2], meta.get("offset")))
            if meta.get("version", checksum) != checksum:
                wire.fail(msgid, Error("storage_read_failed", "changed", details={"reason": "changed"}))
            else:
                head = opened(len(self.data), checksum) if meta.get("info") else b""
                self.send(wire, msgid, head + self.data[meta.get("offset", 0) :])

    @staticmethod
    def send(wire, msgid, data):
        window, at = 1024 * 1024, 0
        while len(data) - at > PIECE:
            while window < PIECE:
                message = wire.read()
                if message[:2] != [2, "more"]:  # who asks for something else has sought, and reads on elsewhere
                    wire.unread(message)
                    return
                window += message[2][1]
            wire.chunk(msgid, data[at : at + PIECE])
            at, window = at + PIECE, window - PIECE
        wire.answer(msgid, [data[at:], len(data)])


DATA = bytes(range(256)) * 16 * 1024  # 4 MiB


def test_an_archive_is_read_where_it_lies(runtime_dir):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writing:
        for number in range(4):
            writing.writestr(f"{number}", DATA)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Server(runtime_dir, artifact := Artifact(archive.getvalue())))
        store = stack.enter_context(asm.connect("S", runtime_dir=runtime_dir))
        with store.open("k") as file, zipfile.ZipFile(file) as reading:
            assert reading.namelist() == ["0", "1", "2", "3"]
            assert reading.read("2") == DATA
    assert artifact.asked.count(("open", None)) == 1


def test_a_file_is_read_from_anywhere(runtime_dir):
    with contextlib.ExitStack() as stack:
        stack.enter_context(Server(runtime_dir, artifact := Artifact(DATA)))
        store = stack.enter_context(asm.connect("S", runtime_dir=runtime_dir))
        with store.open("k") as file:
            assert file.seekable()
            assert file.read(10) == DATA[:10]
            assert (file.seek(5), file.read(5), file.tell()) == (5, DATA[5:10], 10)
            assert artifact.asked == [("open", None)]
            assert (file.seek(-3, 2), file.read()) == (len(DATA) - 3, DATA[-3:])
            assert (file.seek(3_000_001), file.read(7)) == (3_000_001, DATA[3_000_001:3_000_008])
            assert (file.seek(0), file.read()) == (0, DATA)
            assert (file.seek(10, 2), file.read(), file.read()) == (len(DATA) + 10, b"", b"")
            artifact.data = DATA[::-1]
            file.seek(1_000_000)
            with pytest.raises(asm.StorageError) as caught:
                file.read(1)
            assert caught.value.details == {"reason": "changed"}


def test_a_file_is_read_from_anywhere_with_asyncio(runtime_dir):
    async def scenario():
        async with asm.aio.connect("S", runtime_dir=runtime_dir) as store, await store.open("k") as file:
            assert await file.read(10) == DATA[:10]
            assert (await file.seek(20), await file.read(5), await file.tell()) == (20, DATA[20:25], 25)
            assert artifact.asked == [("open", None)]
            assert (await file.seek(-3, 2), await file.read()) == (len(DATA) - 3, DATA[-3:])
            assert (await file.seek(3_000_001), await file.read(7)) == (3_000_001, DATA[3_000_001:3_000_008])
            assert (await file.seek(0), await file.read()) == (0, DATA)
            for place, whence in ((-1, 0), (-len(DATA) - 1, 2), (-len(DATA) - 1, 1), (0, 5)):
                with pytest.raises(ValueError, match=r"before the start|whence"):
                    await file.seek(place, whence)
            assert await file.tell() == len(DATA)
            artifact.data = DATA[::-1]
            await file.seek(5)
            with pytest.raises(asm.StorageError) as caught:
                await file.read(1)
            assert caught.value.details == {"reason": "changed"}
            await file.aclose()

    with Server(runtime_dir, artifact := Artifact(DATA)):
        asyncio.run(scenario())
