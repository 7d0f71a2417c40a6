"""Trees to measure: ``asm-supervise`` in a process of its own, stopped at the end of the measurement."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
from anchors.outside import ending
from measuring import PATIENCE

import asm
from asm.client import control

STORE = "Bench.Store"
SESSIONS = "bench.sessions"
ARTIFACTS = "bench.artifacts"

MEMORY = 'store = "memory"'
SQLITE = 'store = "sql"\nurl = "sqlite:///sessions.db"'

_CONFIG = """
[supervisor]
name = "bench"
max_restarts = 1000
[[backend]]
name = "{sessions}"
{store}
[[backend]]
name = "{artifacts}"
store = "file"
root = "artifacts"
[composite]
name = "{composite}"
session_store = "{sessions}"
artifact_store = "{artifacts}"
"""


class Tree:
    """A running tree in a directory of its own."""

    def __init__(self, process, directory):
        self.directory = directory
        self._supervisor = psutil.Process(process.pid)

    def connect(self, name=STORE, **options):
        """Return a blocking handle."""
        return asm.connect(name, runtime_dir=self.directory / "run", **{"timeout": PATIENCE, **options})

    def aconnect(self, name=STORE, **options):
        """Return an asyncio handle."""
        return asm.aio.connect(name, runtime_dir=self.directory / "run", **{"timeout": PATIENCE, **options})

    def processes(self):
        """Return every process of the tree."""
        return [self._supervisor, *self._supervisor.children(recursive=True)]

    def child(self, name):
        """Return the process that serves a name."""
        (found,) = [process for process in self.processes() if process.cmdline()[:1] == [f"asm: {name}"]]
        return found

    def wait_in_flight(self, name, calls):
        """Wait until a child has so many calls in flight."""
        deadline = time.monotonic() + PATIENCE
        with control.attach("bench", runtime_dir=self.directory / "run") as supervisor:
            while True:
                (child,) = [child for child in supervisor.status().children if child.name == name]
                if child.in_flight == calls:
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} has {child.in_flight} calls in flight, not {calls}")
                time.sleep(0.05)


def tree(bench, store):
    """Start a tree with a session store and files; a context manager that stops it.

    :param store: :data:`MEMORY` or :data:`SQLITE`.
    """
    if bench.size.share:
        return bench.shared(store, lambda: _started(bench, store))
    return _started(bench, store)


@contextlib.contextmanager
def _started(bench, store):
    directory = bench.directory()
    config = directory / "bench.toml"
    config.write_text(_CONFIG.format(store=store, sessions=SESSIONS, artifacts=ARTIFACTS, composite=STORE))
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("asm-supervise"), config],
            cwd=directory,
            env={**os.environ, "ASM_RUNTIME_DIR": str(directory / "run")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
    with ending(process), process.stdout:
        for line in process.stdout:
            if "ready: " in line:
                break
        else:
            raise RuntimeError(f"the tree did not start: {log.read_text()}")
        yield Tree(process, directory)
