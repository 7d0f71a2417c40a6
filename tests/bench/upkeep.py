"""What it costs to have a tree: until a killed worker is back, to import the client, and when nothing happens."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
from anchors import restarts
from measuring import PATIENCE
from table import Row, at_most
from trees import ARTIFACTS, MEMORY, SESSIONS, SQLITE, STORE, tree

import asm

MIB = 1024**2

RESTARTS = {"circus": restarts.circus, "supervisord": restarts.supervisord}

KILLED = (
    Row("SIGKILL of the file worker until a put succeeds", "ms", "restart", goal=at_most(30)),
    *(Row("SIGKILL of the file worker until a put succeeds", "ms", "restart", f"{name}, started again") for name in RESTARTS),
)
IMPORTED = (Row("import asm", "ms", "import", goal=at_most(60)),)
IDLE = (
    Row("idle tree, of a core", "%", "cpu", goal=at_most(0.5)),
    Row("memory of the composite, idle (PSS)", "MiB", STORE, goal=at_most(30)),
    Row("memory of the file worker, idle (PSS)", "MiB", ARTIFACTS, goal=at_most(30)),
    Row("memory of the SQLite worker, idle (PSS)", "MiB", SESSIONS, goal=at_most(45)),
)

_IMPORT = "import time; began = time.perf_counter(); import asm; print(time.perf_counter() - began)"


def killed(bench):
    """Measure for how long a client cannot put after a worker was killed. Each kill is of a worker that had settled."""
    with contextlib.ExitStack() as stack:
        others = {}
        for name, make in RESTARTS.items():
            anchor = f"{name}, started again"
            make = stack.enter_context(  # noqa: PLW2901
                bench.anchor([anchor], lambda make=make: make(bench.directory(), bench.peers_python))
            )
            if make:
                others[anchor] = make
        running = stack.enter_context(tree(bench, MEMORY))
        store = stack.enter_context(running.connect())
        for _ in range(bench.rounds):
            figures = {"restart": statistics.median(_kill(running, store) for _ in range(bench.size.kills)) * 1000}
            for name, restart in others.items():
                figures[name] = statistics.median(restart() for _ in range(max(bench.size.kills // 2, 1))) * 1000
            yield figures


def _kill(running, store):
    """Kill the file worker; return the seconds until a put succeeds."""
    store.put("small", b"before")
    time.sleep(restarts.SETTLED)
    worker = running.child(ARTIFACTS)
    began = time.monotonic()
    worker.kill()
    failed = False
    while time.monotonic() < began + PATIENCE:
        try:
            store.put("small", b"after")
        except asm.Error as error:
            if not error.retryable:
                raise
            failed = True
            time.sleep(0.0005)
        else:
            if failed:  # before that the signal was on its way
                return time.monotonic() - began
    raise TimeoutError("the file worker does not come back")


def imported(bench):
    """Measure importing the client in a fresh interpreter, without the interpreter's own start.

    Everything is compiled, as where it is installed. A checkout may not be, for one that is told to write no byte code.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bench.directory())

    def fresh():
        command = [sys.executable, "-c", _IMPORT]
        return float(subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE).stdout)

    fresh()
    for _ in range(bench.rounds):
        yield {"import": statistics.median(fresh() for _ in range(bench.size.kills * 2)) * 1000}


def idle(bench):
    """Measure the processor time and the memory of a tree that nobody calls."""
    with tree(bench, SQLITE) as running:
        with running.connect() as store:  # it has worked before
            store.put("small", b"data")
            store.list_sessions()
        time.sleep(min(bench.size.seconds, 1))
        for _ in range(bench.rounds):
            began, before = time.monotonic(), _processor_seconds(running)
            time.sleep(bench.size.seconds)
            used = (_processor_seconds(running) - before) / (time.monotonic() - began)
            memory = {name: running.child(name).memory_full_info().pss / MIB for name in (STORE, ARTIFACTS, SESSIONS)}
            yield {"cpu": used * 100, **memory}


def _processor_seconds(running):
    """Return what all processes of a tree have had, to the nanosecond: the usual counters have ticks of 10 ms."""
    nanoseconds = 0
    for process in running.processes():
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9
