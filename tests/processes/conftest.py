"""Real trees for the tests: ``asm-supervise`` in a process of its own, below a runtime directory of its own."""

import contextlib
import fcntl
import os
import queue
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from configurations import MEMORY, configuration
from warm import PROGRAM, Warm

import asm
from asm.client import control

PATIENCE = 30.0
"""Seconds after which a test gives up on an event. Nothing should take a tenth of it."""

ASMCTL = PROGRAM.with_name("asmctl")

STORES = Path(__file__).parent / "stores"
"""Stores that misbehave on purpose, importable in every tree."""


def title(process):
    """How a process calls itself; nothing if it is gone."""
    with contextlib.suppress(psutil.Error):
        return "".join(process.cmdline()[:1])
    return None


class Tree:
    """A running ``asm-supervise``.

    :param warm: starts it.
    """

    def __init__(self, warm, config, runtime_dir, *arguments, cwd, env=None, process_group=None):
        self.runtime_dir = runtime_dir
        environment = {
            **os.environ,
            "ASM_RUNTIME_DIR": str(runtime_dir),
            "PYTHONPATH": os.pathsep.join([str(STORES), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **(env or {}),
        }
        self.process = warm.start(config, *arguments, cwd=cwd, env=environment, process_group=process_group)
        self.stdout, self.stderr = [], []
        self._reads_stderr = threading.Event()
        self._reads_stderr.set()
        self._lines = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            if stream is self.process.stderr:
                self._reads_stderr.wait()
            lines.append(line.rstrip("\n"))
            self._lines.put(line)
        self._lines.put(None)

    def leave_stderr_unread(self):
        """Read no more of what the tree writes to stderr; the pipe has room for a page and no more."""
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        self._reads_stderr.clear()

    def read_stderr(self):
        """Read on."""
        self._reads_stderr.set()

    def wait_for(self, text):
        """Wait until a line with this text was written."""
        if any(text in line for line in [*self.stdout, *self.stderr]):
            return self
        ends = 0
        while ends < 2:
            line = self._lines.get(timeout=PATIENCE)
            if line is None:
                ends += 1
            elif text in line:
                return self
        pytest.fail(f"the tree ended without {text!r}: " + "\n".join([*self.stdout, *self.stderr]))

    def wait_ready(self):
        return self.wait_for("ready: ")

    def connect(self, name="MyApp.Store", **options):
        return asm.connect(name, runtime_dir=self.runtime_dir, **options)

    def aconnect(self, name="MyApp.Store", **options):
        return asm.aio.connect(name, runtime_dir=self.runtime_dir, **options)

    def ctl(self, *arguments):
        """Run ``asmctl`` in the tree's runtime directory."""
        command = [ASMCTL, *arguments, "--runtime-dir", self.runtime_dir]
        return subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE)

    def status(self, name="dev"):
        """What the supervisor says of the tree."""
        with control.attach(name, runtime_dir=self.runtime_dir) as supervisor:
            return supervisor.status()

    def child_status(self, name):
        """What the supervisor says of a child."""
        (found,) = [child for child in self.status().children if child.name == name]
        return found

    def wait_status(self, is_so):
        """Ask for the status of the tree until ``is_so`` of it."""
        deadline = time.monotonic() + PATIENCE
        while not is_so(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.01)

    def wait_child(self, name, is_so):
        """Ask for the status of a child until ``is_so`` of it; return it."""
        seen = []

        def look(status):
            seen[:] = [child for child in status.children if child.name == name]
            return is_so(*seen)

        self.wait_status(look)
        return seen[0]

    def wait_state(self, name, state):
        """Wait until a child is in a state; return its status."""
        return self.wait_child(name, lambda child: child.state == state)

    def processes(self):
        """Every process of the tree but the supervisor."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name):
        """The process that serves a name."""
        found = [process for process in self.processes() if title(process) == f"asm: {name}"]
        assert len(found) == 1, f"{len(found)} processes serve {name}"
        return found[0]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Wait for the end; return the exit code."""
        code = self.process.wait(PATIENCE)
        self.read_stderr()
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def stop(self):
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self):
        """End whatever is left, however the test ended."""
        self.read_stderr()
        with contextlib.suppress(psutil.NoSuchProcess):
            left = self.processes()
            if self.process.poll() is None:
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.resume()
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(PATIENCE)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Lasting:
    """Trees that one test after the other has for itself: each is emptied after a test, and used on if that left it whole."""

    def __init__(self, warm):
        self._warm = warm
        self._running = {}

    def tree(self, config):
        """The tree with this configuration, ready and empty."""
        if config not in self._running:
            directory = Path(tempfile.mkdtemp(prefix="asm-"))
            (directory / "tree.toml").write_text(config)
            tree = Tree(self._warm, directory / "tree.toml", directory / "run", cwd=directory).wait_ready()
            self._running[config] = (tree, self._pids(tree), directory)
        return self._running[config][0]

    def give_back(self, config):
        """Take a tree back. One that cannot be emptied ends here, so that no other test meets what this one left."""
        tree, pids, _ = self._running[config]
        is_whole = False
        try:
            is_whole = tree.process.poll() is None and self._pids(tree) == pids and self._empty(tree)
        except (
            asm.Error
        ):  # the last that the test did was to kill somebody, and the supervisor has to hear of that; or it is wrong
            tree.wait_status(lambda status: [child.pid for child in status.children] != pids)
        finally:
            if not is_whole:
                self._end(config)

    def _empty(self, tree):
        """Delete all that is found; return whether that was all."""
        with tree.connect() as store:
            found = [
                *store.search_sessions(limit=1000, include_deleted=True),
                *store.search_runs(limit=1000),
                *store.search_events(limit=1000),
            ]
            for session_id in {item.id if isinstance(item, asm.Session) else item.session_id for item in found}:
                store.delete_session(session_id)
            for info in store.list():
                store.delete(info.key)
        return len(found) < 1000

    def close(self):
        """End them all."""
        for config in list(self._running):
            self._end(config)

    def _pids(self, tree):
        return [child.pid for child in tree.status().children]

    def _end(self, config):
        tree, _, directory = self._running.pop(config)
        tree.close()
        shutil.rmtree(directory)


@pytest.fixture
def campaign(request):
    """Whether tests that are short by default run long."""
    return request.config.getoption("--campaign")


@pytest.fixture
def seed(request):
    """What everything follows from that depends on chance in a test; to be repeated with ``--seed``."""
    given = request.config.getoption("--seed")
    number = random.randrange(2**32) if given is None else given
    print(f"seed {number}")
    return number


@pytest.fixture
def chance(seed):
    """What decides whatever depends on chance."""
    return random.Random(seed)


@pytest.fixture
def runtime_dir():
    """A runtime directory with a path that is short enough for sockets."""
    path = tempfile.mkdtemp(prefix="asm-")
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def warm():
    """What starts trees."""
    started = Warm()
    yield started
    started.close()


@pytest.fixture
def trees(tmp_path, runtime_dir, warm):
    """A function that starts a tree from the text of a configuration."""
    started = []

    def start(config, *arguments, runtime_dir=runtime_dir, **options):
        path = tmp_path / f"tree{len(started)}.toml"
        path.write_text(config)
        tree = Tree(warm, path, runtime_dir, *arguments, cwd=tmp_path, **options)
        started.append(tree)
        return tree

    yield start
    for tree in started:
        tree.close()


SQL_AND_FILES = configuration()

MEMORY_AND_FILES = configuration(MEMORY)


@pytest.fixture(params=[SQL_AND_FILES, MEMORY_AND_FILES], ids=["sql+files", "memory+files"])
def any_tree(request, lasting):
    """A tree that is ready: SQLite + files, then memory + files. Its processes, its logs and its directory are older."""
    yield lasting.tree(request.param)
    lasting.give_back(request.param)


@pytest.fixture
def tree(trees):
    """A tree that is ready, with SQLite + files."""
    return trees(SQL_AND_FILES).wait_ready()


@pytest.fixture
def memory_tree(trees):
    """A tree that is ready, with memory + files."""
    return trees(MEMORY_AND_FILES).wait_ready()


@pytest.fixture(scope="session")
def lasting(warm):
    """The trees that last."""
    trees = Lasting(warm)
    yield trees
    trees.close()


@pytest.fixture
def lasting_tree(lasting):
    """A tree that is ready, with SQLite + files. Its processes, its logs and its directory are older than the test."""
    yield lasting.tree(SQL_AND_FILES)
    lasting.give_back(SQL_AND_FILES)


@pytest.fixture
def lasting_memory_tree(lasting):
    """A tree that is ready, with memory + files. Its processes, its logs and its directory are older than the test."""
    yield lasting.tree(MEMORY_AND_FILES)
    lasting.give_back(MEMORY_AND_FILES)
