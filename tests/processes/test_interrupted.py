"""Callers that are interrupted in the middle: by signals that come all the time, and by greenlets in the place of threads."""

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import asm

PATIENCE = 30.0
PAUSE = 0.005
MANY = 2000
"""How many signals come at the most: far longer than a call may take here."""

TIMEOUT = 0.3
MIB = 1024 * 1024
GREENLETS = Path(__file__).parent / "programs" / "greenlets.py"


class Signals:
    """Signals that interrupt this thread again and again, as those of a profiler do."""

    def __init__(self):
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._interrupt, args=(threading.get_ident(),))

    def _interrupt(self, thread):
        for _ in range(MANY):
            if self._over.wait(PAUSE):
                return
            signal.pthread_kill(thread, signal.SIGUSR1)

    @property
    def still_come(self):
        return self._thread.is_alive()

    def __enter__(self):
        self._before = signal.signal(signal.SIGUSR1, lambda *_: None)
        self._thread.start()
        return self

    def __exit__(self, *_exception):
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def tree(lasting_memory_tree):
    return lasting_memory_tree


@pytest.fixture
def signals():
    with Signals() as coming:
        yield coming


@pytest.fixture
def stopped(tree):
    """A function that stops the composite until the test is over."""
    with contextlib.ExitStack() as stack:

        def stop():
            composite = tree.child("MyApp.Store")
            composite.suspend()
            stack.callback(composite.resume)

        yield stop


CALLS = {
    "waits for its answer": lambda store: store.get_latest_sequence("ses"),
    "waits for events": lambda store: store.get_events("ses", wait_timeout_ms=100),
    "sends much": lambda store: store.append_events(
        [asm.Event.new(type="message_sent", session_id="ses", data={"text": "x" * (4 * MIB)})]
    ),
    "sends an artifact": lambda store: store.put("key", b"x" * (8 * MIB)),
    "reads an artifact": lambda store: store.get("big"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_signal_keeps_a_call_beyond_its_time(tree, stopped, signals, call):
    with tree.connect() as store:
        store.put("big", b"x" * (4 * MIB))
    with tree.connect(timeout=TIMEOUT) as store:
        stopped()
        with pytest.raises(asm.ExecutionError) as caught:
            call(store)
    assert caught.value.code == "timeout"
    assert signals.still_come


def test_no_signal_keeps_a_reader_beyond_its_time(tree, stopped, signals):
    with tree.connect(timeout=PATIENCE) as store:
        store.put("big", b"x" * (8 * MIB))
    with tree.connect(timeout=TIMEOUT) as store, store.open("big") as reader:
        stopped()
        with pytest.raises(asm.ExecutionError) as caught:
            reader.read()
    assert caught.value.code == "timeout"
    assert signals.still_come


def test_no_signal_keeps_a_caller_in_a_queue_beyond_its_time(runtime_dir, signals):
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(os.fspath(runtime_dir / "Busy.sock"))
        busy.listen(0)
        queued = True
        while queued:  # until there is no room
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            queued = waiting.connect_ex(os.fspath(runtime_dir / "Busy.sock")) == 0
        with pytest.raises(asm.StorageError) as caught:
            asm.connect("Busy", runtime_dir=runtime_dir, timeout=TIMEOUT)
    assert caught.value.code == "storage_connection_failed"
    assert "too many wait" in caught.value.message
    assert signals.still_come


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_signal_keeps_a_task_beyond_its_time(tree, stopped, signals, call):
    with tree.connect() as store:
        store.put("big", b"x" * (4 * MIB))

    async def scenario():
        async with tree.aconnect(timeout=TIMEOUT) as store:
            stopped()
            with pytest.raises(asm.ExecutionError) as caught:
                await call(store)
            assert caught.value.code == "timeout"

    asyncio.run(scenario())
    assert signals.still_come


def test_what_is_interrupted_goes_on(tree, signals):
    """Nothing is lost, sent twice or mixed up."""
    data = os.urandom(8 * MIB)
    with tree.connect(timeout=PATIENCE) as store:
        store.put("big", data)
        assert store.get("big") == data
        stored = [store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses")) for _ in range(300)]
        assert [event.sequence_number for event in stored] == list(range(1, 301))
        assert signals.still_come


SIGPIPE = """
import asyncio, os, signal, sys
import asm

signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as programs do whose output goes into head
name, runtime_dir = sys.argv[1:]

async def scenario():
    with asm.connect(name, runtime_dir=runtime_dir) as store:
        async with asm.aio.connect(name, runtime_dir=runtime_dir) as other:
            await other.get_latest_sequence("ses")
            store.get_latest_sequence("ses")
            print("connected", flush=True)
            sys.stdin.readline()
            print(await other.get_latest_sequence("ses"))
            print(store.get_latest_sequence("ses"), await other.get_latest_sequence("ses"))

asyncio.run(scenario())
"""


def test_a_connection_that_breaks_ends_no_program(tree):
    """Whatever it does with SIGPIPE."""
    command = [sys.executable, "-c", SIGPIPE, "MyApp.Store", tree.runtime_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline() == "connected\n"
        pid = tree.child("MyApp.Store").pid
        tree.child("MyApp.Store").kill()
        tree.wait_child("MyApp.Store", lambda child: child.state == "ready" and child.pid != pid)
        said, _ = program.communicate("go on\n", timeout=PATIENCE)
        assert program.returncode == 0
        assert said.splitlines() == ["0", "0 0"]


@pytest.mark.parametrize("when", ["first", "later"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_greenlets(tree, library, when):
    """A handle made before the library has put its own sockets, clocks and threads in place of Python's, and one made after."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    command = [sys.executable, GREENLETS, library, when, "MyApp.Store", tree.runtime_dir, str(tree.child("MyApp.Store").pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
