"""Stores that are used in the process itself, when it forks: as web servers do that load the application before they fork."""

import concurrent.futures
import contextlib
import os
import subprocess
import sys
import threading

import pytest

import asm
from asm import FileArtifactStore, InMemorySessionStore, S3ArtifactStore, SqlSessionStore
from asm.operations import OPERATIONS

PATIENCE = 30.0

ARGUMENTS = {
    "session": asm.Session.new(agent_id="a", id="ses"),
    "session_id": "ses",
    "run": asm.Run.new(session_id="ses", id="run"),
    "run_id": "run",
    "event": asm.Event.new(type="message_sent", session_id="ses"),
    "events": [asm.Event.new(type="message_sent", session_id="ses")],
    "key": "key",
    "prefix": "key",
    "data": b"data",
}
ARGUMENTS["result"] = {"session": ARGUMENTS["session"], "run": ARGUMENTS["run"], "events": ARGUMENTS["events"]}


def event(session_id="ses"):
    return asm.Event.new(type="message_sent", session_id=session_id)


@pytest.fixture
def makers(tmp_path, request):
    """Functions that open a store, each time the same."""

    def s3():
        server = request.getfixturevalue("s3_server")
        return S3ArtifactStore, {"bucket": server.new_bucket(), "endpoint_url": server.url}

    return {
        "memory": lambda: (InMemorySessionStore, {}),
        "sqlite": lambda: (SqlSessionStore, {"url": f"sqlite:///{tmp_path}/asm.db"}),
        "postgres": lambda: (SqlSessionStore, {"url": request.getfixturevalue("postgres_url")}),
        "s3": s3,
    }


@pytest.fixture
def kind(makers, name):
    return makers[name]()


@pytest.fixture
def store(kind):
    made, options = kind
    with made(**options) as store:
        yield store


def contract(store):
    return "artifact" if isinstance(store, S3ArtifactStore | FileArtifactStore) else "session"


def calls(store):
    """Every operation of a store, with arguments that suit it, by name."""
    for operation in OPERATIONS.values():
        if operation.contract == contract(store):
            arguments = {name: ARGUMENTS[name] for name in operation.required}
            if "wait_timeout_ms" in operation.parameters:
                arguments["wait_timeout_ms"] = 60_000
            if "through" in operation.parameters:  # without a condition it is refused
                arguments["through"] = 1
            yield operation.name, lambda name=operation.name, given=arguments: getattr(store, name)(**given)


def use(store):
    """Write and read something."""
    if contract(store) == "session":
        store.append_event(event())
        assert store.get_events("ses")
    else:
        store.put("key", b"data")
        assert store.get("key") == b"data"


@pytest.mark.parametrize("name", ["memory", "sqlite", "postgres", "s3"])
def test_a_fork_is_told_to_open_a_store_of_its_own(store, kind, in_a_fork):
    use(store)

    def child():
        for name, call in calls(store):
            with pytest.raises(asm.Error) as caught:
                call()
            assert (caught.value.code, caught.value.details) == ("storage_error", {"reason": "forked"}), name
        assert "before this process was forked" in caught.value.message
        store.close()
        made, options = kind
        with made(**options) as own:
            use(own)

    assert in_a_fork(child) == 0
    use(store)


@pytest.mark.parametrize("name", ["memory", "sqlite", "postgres", "s3"])
def test_forks_in_the_middle_of_calls(store, in_a_fork):
    """Threads are in the middle of anything, and may hold any lock."""
    over = threading.Event()

    def work(number):
        while not over.is_set():
            if contract(store) == "session":
                store.append_event(event(f"ses_{number}"))
                store.get_events("ses", after=10**9, wait_timeout_ms=1)
            else:
                store.put(f"key-{number}", b"data")
                store.list()

    def child():
        for _, call in calls(store):
            with pytest.raises(asm.Error) as caught:
                call()
            assert caught.value.details == {"reason": "forked"}
        store.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        try:
            assert [in_a_fork(child) for _ in range(10)] == [0] * 10
        finally:
            over.set()
        for thread in working:
            thread.result(PATIENCE)
    use(store)


@pytest.mark.parametrize("name", ["memory", "sqlite", "postgres", "s3"])
def test_closing_waits_for_no_fork(kind, in_a_fork):
    """The fork holds all that the process had open."""
    made, options = kind
    store = made(**options)
    use(store)
    closed, ready = os.pipe(), os.pipe()

    def child():
        os.close(closed[1])
        os.write(ready[1], b"x")
        os.read(closed[0], 1)

    def close():
        os.read(ready[0], 1)
        closing = threading.Thread(target=store.close, daemon=True)
        closing.start()
        closing.join(PATIENCE / 2)
        ended.append(not closing.is_alive())
        os.close(closed[1])

    ended = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(close)
        assert in_a_fork(child) == 0
        done.result(PATIENCE)
    assert ended == [True]
    for end in (closed[0], *ready):
        os.close(end)


PROGRAM = """
import os, sys
import asm

def event():
    return asm.Event.new(type="message_sent", session_id="ses")

store = asm.SqlSessionStore(url=sys.argv[1])
store.append_event(event())
here, there = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    own = asm.SqlSessionStore(url=sys.argv[1])
    own.append_event(event())
    os.write(there[1], b"x")
    os.read(here[0], 1)
    own.append_event(event())
    sys.exit()  # not os._exit: whatever this process has is taken down
os.read(there[0], 1)
if sys.argv[2] == "parent first":
    store.close()
os.write(here[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
if sys.argv[2] == "fork first":
    assert store.append_event_with_sequence(event()).sequence_number == 4
    store.close()
with asm.SqlSessionStore(url=sys.argv[1]) as store:
    print(store.get_latest_sequence("ses"), len(store.get_events("ses")))
"""


@pytest.mark.parametrize("order", ["parent first", "fork first"])
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_neither_harms_the_other(makers, database, order):
    """A fork opens the same database anew. Whoever closes it first, nothing that was acknowledged is lost."""
    _, options = makers[database]()
    command = [sys.executable, "-c", PROGRAM, options["url"], order]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    events = 3 if order == "parent first" else 4
    assert done.stdout == f"{events} {events}\n"


@pytest.mark.parametrize("name", ["sqlite"])
def test_sqlite_that_was_at_work_is_refused_in_a_fork(store, tmp_path, in_a_fork):
    def child():
        for path in ("asm.db", "other.db"):
            with pytest.raises(asm.Error) as caught:
                SqlSessionStore(url=f"sqlite:///{tmp_path}/{path}")
            assert (caught.value.code, caught.value.details) == ("storage_error", {"reason": "forked"})
            assert "was at work" in caught.value.message

    with store._database.transaction():
        assert in_a_fork(child) == 0
    with contextlib.closing(store):
        store.append_event(event())


def test_files_need_no_opening_anew(tmp_path, in_a_fork):
    with FileArtifactStore(root=tmp_path / "artifacts") as store:
        store.put("key", b"parent")
        reader = store.open("key")

        def child():
            with reader:
                assert reader.read() == b"parent"
            for number in range(20):
                store.put(f"key-{number}", b"child")

        assert in_a_fork(child) == 0
        for number in range(20):
            store.put(f"key-{number}", b"parent")
        with reader:
            assert reader.read() == b"parent"
        assert len(store.list()) == 21
