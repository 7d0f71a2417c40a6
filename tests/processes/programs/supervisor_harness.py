"""Runs a supervised tree as a program of its own, and waits for what happens in it."""

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

PROGRAMS = Path(__file__).parent
ROOT = PROGRAMS.parents[2]
PATIENCE = 30.0
"""How long an event may take before a test fails. Events take milliseconds; this only bounds a defect."""


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(PROGRAMS)])}


def session(sid):
    """Return the pids of all processes of a session that run."""
    pids = set()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getsid(process.pid) == sid and process.status() != psutil.STATUS_ZOMBIE:
                pids.add(process.pid)
    return pids


def wait_gone(pids, timeout=PATIENCE):
    """Wait until none of these processes runs; return those that still do."""
    deadline = time.monotonic() + timeout
    left = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if not select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    left.add(pid)
            finally:
                os.close(pidfd)
    return left


def ask(path, timeout=PATIENCE):
    """Connect to a child that serves, and return the pid that it answers with."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        client.connect(os.fspath(path))
        return int(client.recv(100))


class Program:
    """A program in a session of its own that writes JSON lines. A context manager that leaves nothing running."""

    def __init__(self, directory, *command, cwd=None, **variables):
        self.stderr = directory / f"stderr-{time.monotonic_ns()}"
        with self.stderr.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment() | variables,
                cwd=cwd,
                start_new_session=True,
                text=True,
            )
        self.pid = self.process.pid
        self.events = []
        self._queue = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stdout.close()

    def wait_for(self, **wanted):
        """Return the next event that has these values, and everything else besides."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                event = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                raise AssertionError(f"no {wanted}; {self.events}\n{self.stderr.read_text()}")
            self.events.append(event)
            if all(key in event and value in (event[key], ...) for key, value in wanted.items()):
                return event

    def signal(self, number):
        self.process.send_signal(number)

    def ask(self, **what):
        """Write a line to the program's input."""
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def children(self):
        """Return the processes of the session without the program itself."""
        return session(self.pid) - {self.pid}

    def finish(self):
        """Let the program go on after its end, and return its exit status."""
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def _read(self):
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)


class Tree(Program):
    """A supervised tree. See ``supervisor_tree.py`` for the settings."""

    def __init__(self, directory, *specs, cwd=None, variables=None, program="supervisor_tree.py", **settings):
        arguments = str(PROGRAMS / program), json.dumps({"specs": specs, **settings})
        super().__init__(directory, *arguments, cwd=cwd, **variables or {})

    def up(self):
        """Wait until all children are ready; return their pids by name."""
        return self.wait_for(ready=...)["ready"]

    def exit(self):
        """Wait for the end of the run; return what it was. No process of the tree is left then."""
        event = self.wait_for(exit=...)
        assert self.children() == set()
        assert self.finish() == 0
        return event

    def states(self):
        """Return the states that the children went through, as the supervisor told them."""
        return [(event["child"], event["state"]) for event in self.events if "state" in event]

    def fork_server(self):
        """Return the pid of the fork server."""
        for pid in self.children():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if process.ppid() == self.pid and "forkserver" in " ".join(process.cmdline()):
                    return pid
        raise AssertionError("there is no fork server")
