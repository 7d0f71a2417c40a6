"""Print the walk of an append from the client to the disk and back: python tests/tools/walk.py [--all].

It starts a real tree, a composite over SQLite and files, and has every process note what it calls during one
``append_event_with_sequence``, in all of its threads, by ``sys.setprofile``. The walk is printed thread by thread, in the order
in which the call reaches them.

What is counted are *steps*: functions of ours that lead on, because they call something of ours in another file. What only
helps in its own file (packs a frame, counts bytes) is taken by its name; ``--all`` prints it as well. Not counted are
comprehensions, :mod:`asm.core` (what all of us know: the values, their checks, the errors), and what a package that we use
calls back (SQLAlchemy asks how a time is written). A *change of file* is what a reader has to do who follows the steps: into
one of another file, and out of it again, back to the step that called it.

Of several appends the one with the fewest calls is shown: heartbeats and the like only add to it.
"""

import argparse
import contextlib
import itertools
import mmap
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import asm
from asm.adapters.sql import SqlSessionStore  # noqa: F401  # the tree finds its store here, so that this is loaded in its processes
from asm.client import control

DIRECTORY = "WALK_DIRECTORY"
"""The environment variable that tells the processes of the tree where to note what they call."""

ROUNDS = 4
PATIENCE = 30.0
OURS = os.path.dirname(os.path.dirname(asm.__file__)) + os.sep
PACKAGES = (f"{OURS}asm{os.sep}", f"{OURS}supervisor{os.sep}")
CORE = f"asm{os.sep}core{os.sep}"
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})

CONFIGURATION = """
[supervisor]
name = "walk"

[[backend]]
name = "walk.sessions"
store = "walk:SqlSessionStore"
url = "sqlite:///sessions.db"

[[backend]]
name = "walk.artifacts"
store = "file"
root = "artifacts"

[composite]
name = "Walk.Store"
session_store = "walk.sessions"
artifact_store = "walk.artifacts"
"""

# -- In every process -------------------------------------------------------------------------------------------------


def watch(directory):
    """Note what this process, its threads and its forks call while the switch is on; return the switch."""
    switch = mmap.mmap(os.open(Path(directory, "switch"), os.O_RDWR), 1)
    log = os.open(
        Path(directory, "log"), os.O_WRONLY | os.O_APPEND
    )  # what is appended stands in the order in which it happened

    def note(frame, event, _argument):
        if not switch[0] or event not in ("call", "return") or not frame.f_code.co_filename.startswith(PACKAGES):
            return
        called_back = frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(LIBRARIES)
        code = frame.f_code
        text = f"{event} {called_back:d} {os.getpid()} {threading.get_native_id()} {code.co_filename} {code.co_qualname}\n"
        os.write(log, text.encode())

    threading.setprofile(note)
    sys.setprofile(note)
    return switch


# -- Around the call --------------------------------------------------------------------------------------------------


@dataclass
class Called:
    """A function that was called, and what it called."""

    file: str
    name: str
    depth: int
    called_back: bool
    calls: list = field(default_factory=list)

    @property
    def leads_on(self):
        return self.counts and any(below.file != self.file for below in self.below())

    @property
    def counts(self):
        return not self.called_back and not self.file.startswith(CORE)

    def read(self):
        """Yield the file that a reader has open, step by step."""
        yield self.file
        for called in self.calls:
            if called.leads_on:
                yield from called.read()
                yield self.file

    def below(self):
        """Yield what was called by it, and by that, as far as it is counted."""
        for called in self.calls:
            if called.counts:
                yield called
                yield from called.below()


@dataclass
class Walk:
    """One append: for each thread, by its name, what it called."""

    threads: dict

    def calls(self):
        return [called for calls in self.threads.values() for called in calls]

    def steps(self):
        return [called for called in self.calls() if called.leads_on]

    def files(self):
        return list(dict.fromkeys(step.file for step in self.steps()))

    def changes(self):
        """Count the changes of file."""
        read = [file for step in self.steps() if step.depth == 0 for file in step.read()]
        return sum(before != after for before, after in itertools.pairwise(read))


def take():
    """Make an append in a tree of its own; return its walk."""
    with tempfile.TemporaryDirectory(prefix="asm-walk-") as name:
        directory = Path(name)
        (directory / "switch").write_bytes(b"\0")
        (directory / "log").touch()
        with tree(directory) as names:
            switch = watch(directory)
            try:
                with asm.connect("Walk.Store", runtime_dir=directory / "run", timeout=PATIENCE) as store:
                    walks = [one(store, switch, directory / "log", names) for _ in range(ROUNDS)]
            finally:
                threading.setprofile(None)
                sys.setprofile(None)
        return min(walks[1:], key=lambda walk: len(walk.calls()))  # the first one connects


@contextlib.contextmanager
def tree(directory):
    """Start the tree; the names of its processes by their pids."""
    (directory / "walk.toml").write_text(CONFIGURATION)
    here = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, DIRECTORY: str(directory), "ASM_RUNTIME_DIR": str(directory / "run"), "PYTHONPATH": here}
    with (directory / "stderr").open("wb") as stderr:
        program = Path(sys.executable).with_name("asm-supervise")
        process = subprocess.Popen(
            [program, "walk.toml"], cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        if not any("ready: " in line for line in process.stdout):
            raise RuntimeError((directory / "stderr").read_text())
        with control.attach("walk", runtime_dir=directory / "run") as supervisor:
            children = supervisor.status().children
        yield {os.getpid(): "client", **{child.pid: child.name for child in children}}
    finally:
        process.terminate()
        process.communicate()


def one(store, switch, log, names):
    """Make one append; return its walk."""
    event = asm.Event.new(type="message_received", session_id="ses_1", data={"content": "Hi"})
    before = log.stat().st_size
    switch[0] = 1
    store.append_event_with_sequence(event)
    wait_for_silence(log)
    switch[0] = 0
    with log.open() as lines:
        lines.seek(before)
        return read(lines, names)


def wait_for_silence(log):
    """Wait until nobody does anything any more: what follows the answer belongs to the walk."""
    deadline, size = time.monotonic() + PATIENCE, -1
    while size != log.stat().st_size and time.monotonic() < deadline:
        size = log.stat().st_size
        time.sleep(0.05)


def read(lines, names):
    """Make a walk of what was noted."""
    threads, stacks = {}, {}
    for line in lines:
        event, called_back, pid, thread, file, name = line.rstrip("\n").split(" ", 5)
        if names.get(int(pid)) is None or name.endswith(("comp>", "<genexpr>")):
            continue  # the supervisor, or what is no function in every version of Python
        stack = stacks.setdefault(thread, [])
        if event == "call":
            called = Called(file.removeprefix(OURS), name, len(stack), called_back == "1" and bool(stack))
            if stack:
                stack[-1].calls.append(called)
                called.called_back |= stack[-1].called_back
            stack.append(called)
            threads.setdefault((names[int(pid)], thread), []).append(called)
        elif stack:
            stack.pop()
    return Walk(threads)


# -- For people -------------------------------------------------------------------------------------------------------


def show(walk, *, everything):
    """Print a walk."""
    for (process, _), calls in walk.threads.items():
        shown = calls if everything else [called for called in calls if called.leads_on]
        if shown:
            print(f"\n{process}")
        for called in shown:
            mark = "→" if called.leads_on else " "
            print(f"  {mark} {called.file:40} {'  ' * called.depth}{called.name}")
    print(f"\n{len(walk.calls())} calls, {len(walk.steps())} of them steps")
    print(f"{len(walk.files())} files: {', '.join(walk.files())}")
    print(f"{walk.changes()} changes of file")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="also print what is not counted")
    show(take(), everything=parser.parse_args().all)
elif DIRECTORY in os.environ:
    watch(os.environ[DIRECTORY])
