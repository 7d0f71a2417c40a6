"""Who strikes in a campaign of chaos: kills and stops processes of a tree, and starts the tree again when its supervisor died.

Between the blows it takes away what a tree may lose on a machine: what lies in the temporary directory, sockets in the runtime
directory, the reader of the log; and it sends SIGHUP to everybody, as a terminal does that is closed.

A blow is a target and a way: SIGKILL; SIGSTOP and SIGCONT after a while; SIGSTOP and SIGKILL after a while; or SIGSTOP alone,
which the supervisor has to find out. After a blow the monkey waits until the tree says that it is ready, with other processes
in the place of those that were killed; but sometimes it does not wait.
"""

import collections
import contextlib
import functools
import itertools
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil
from configurations import configuration

import asm

PATIENCE = 60.0

TURN = 0.02
"""Seconds between two looks at what has no event to wait for."""

INTERVAL = 0.1
"""Seconds between two looks at all processes."""

SESSIONS, ARTIFACTS, COMPOSITE = "dev.sessions", "dev.artifacts", "MyApp.Store"
FORK_SERVER, SUPERVISOR = "fork server", "supervisor"
CHILDREN = (SESSIONS, ARTIFACTS, COMPOSITE)

KILL, STOP, STOP_CONTINUE, STOP_KILL = "KILL", "STOP", "STOP, CONT", "STOP, KILL"

BLOWS = [
    *itertools.product(CHILDREN, (KILL, KILL, KILL, STOP, STOP_CONTINUE, STOP_KILL)),
    *itertools.product((FORK_SERVER, SUPERVISOR), (KILL, STOP_CONTINUE, STOP_KILL)),
]
"""What is dealt out as cards are: each once, in another order each time. First of all, everybody is killed once."""

SWEEP, UNLINK, HANG_UP, LEAVE_UNREAD = "temporary directory swept", "sockets unlinked", "SIGHUP to the group", "stderr not read"
TROUBLES = (SWEEP, UNLINK, HANG_UP, LEAVE_UNREAD)

TROUBLE = 0.3
"""The share of blows before which there is trouble, when there was each once."""

UNREAD = (0.5, 3.0)
"""For how many seconds the log is not read."""

PAIRS = 0.2
"""The share of blows that come together with another one."""

IMPATIENCE = 0.2
"""The share of blows after which the next one does not wait."""

STOPPED = (0.02, 0.6)
"""For how many seconds a process is stopped before it goes on, or is killed."""

CONFIG = configuration(
    supervisor="max_restarts = 100000\nbackoff = { first = 0.02, cap = 0.2, stable = 0.1 }",
    each="heartbeat_timeout = 1.0\nstart_timeout = 15.0",
)


def lives(process):
    """Whether a process is there, and not just waiting for its parent to take note of its end."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def inhabitants(directory):
    """Return every process that lives and has this working directory, which all of a tree have and nobody else."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == str(directory) and lives(process):
                found.append(process)
    return found


def title(process):
    """Return how a process calls itself; empty when it is about to be gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return "".join(process.cmdline()[:1])
    return ""


def is_stopped(process):
    with contextlib.suppress(psutil.Error, OSError):
        return process.status() == psutil.STATUS_STOPPED
    return False


def is_child(process, parent):
    """Whether a process is, or was until just now, a child of this one; also when it is gone."""
    with contextlib.suppress(psutil.Error, OSError):
        return process.ppid() == parent.pid
    return True


def describe(process):
    """Return all that may tell who a process is."""
    with contextlib.suppress(psutil.Error, OSError):
        command = " ".join(process.cmdline()).strip()[:150]
        return f"{process.pid}, {process.status()}, child of {process.ppid()}, {process.num_threads()} threads: {command}"
    return f"{process}"


@dataclass
class End:
    """The end of a supervisor, and who is still there."""

    killed_at: float
    since: float
    """Since when nobody of these is stopped."""
    left: list


class Watch:
    """Looks at all processes again and again: no two serve one name, and nobody outlives his supervisor.

    :param directory: the working directory of the trees.
    :param seconds: how long the processes of a killed supervisor may be there. One that was stopped may be there until the next
        supervisor comes; and those who wait for it, the fork server and the resource tracker.
    :param findings: takes what it sees.
    """

    def __init__(self, directory, seconds, findings):
        self.longest_end = 0.0
        self._directory = directory
        self._seconds = seconds
        self._findings = findings
        self._ends = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def supervisor_killed(self, processes):
        """Note who should end now."""
        self._ends.append(End(time.monotonic(), time.monotonic(), processes))

    def wait_ended(self):
        """Wait until everybody has ended with his supervisor, or has not."""
        while self._ends:
            time.sleep(TURN)

    def close(self):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(INTERVAL):
            self._look_for_twins()
            for end in list(self._ends):
                if self._is_settled(end):
                    self._ends.remove(end)

    def _look_for_twins(self):
        first = {}
        for process in inhabitants(self._directory):
            name = title(process)
            if name.startswith("asm: "):
                other = first.setdefault(name, process)
                # The other one was looked at before this one was: it may have died, and this one be its successor.
                # A child of the other one is about to become another program.
                if other is not process and lives(other) and title(other) == name and not is_child(process, other):
                    self._findings["twins"].append(f"{name}: {other} and {process}")

    def _is_settled(self, end):
        """Whether it is known what became of the processes of a supervisor."""
        end.left = [process for process in end.left if lives(process)]
        now = time.monotonic()
        if not end.left:
            self.longest_end = max(self.longest_end, now - end.since)
            return True
        if any(is_stopped(process) for process in end.left):
            end.since = now
        if now - end.since < self._seconds and now - end.killed_at < PATIENCE:
            return False
        seconds = f"{now - end.killed_at:.1f} s after its supervisor was killed"
        self._findings["orphans"] += [f"{seconds}: {describe(process)}" for process in end.left]
        return True


class Monkey:
    """Strikes at a tree, and keeps it up.

    :param start: starts the tree in a process group of its own; takes its environment, and returns it before it is ready.
    :param directory: its working directory.
    :param temporary: its temporary directory.
    :param watch: is told whose supervisor was killed.
    """

    def __init__(self, start, directory, temporary, chance, watch):
        self.blows = collections.Counter()
        self.troubles = collections.Counter()
        self.log = []
        """One line a blow or a trouble."""
        self._temporary = temporary
        self._start = functools.partial(start, env={"TMPDIR": str(temporary)}, process_group=0)
        self.tree = self._start()
        self.trees = [self.tree]
        self._directory = directory
        self._chance = chance
        self._watch = watch
        self._cards = [(target, KILL) for target in (*CHILDREN, FORK_SERVER, SUPERVISOR)]
        chance.shuffle(self._cards)
        self._troubles = list(TROUBLES)
        chance.shuffle(self._troubles)
        self._struck = set()
        """The pids of those who must not be there when the tree is ready again."""
        self._may_end = False
        """Whether the tree may have ended: its supervisor was killed, or a child was hit before all had come up."""

    # -- the tree

    def keep(self):
        """Start the tree again if it has ended."""
        code = self.tree.process.poll()
        if code is not None:
            assert self._may_end, f"the tree ended with {code}: {self.situation()}"
            self._start_tree()

    def wait_ready(self):
        """Wait until the tree says that it is ready, without any process that was killed; return its status."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.keep()
            with contextlib.suppress(asm.Error):  # nobody answers, or not in time
                status = self.tree.status()
                pids = {child.pid for child in status.children}
                if (status.pid, status.state) == (self.tree.process.pid, "ready") and not pids & self._struck:
                    self._struck.clear()
                    return status
            assert time.monotonic() < deadline, f"the tree does not come back: {self.situation()}"
            time.sleep(TURN)

    def start_again(self):
        """Start the tree anew after it was stopped; return it when it is ready."""
        self._start_tree()
        return self.tree.wait_ready()

    def _start_tree(self):
        self.tree = self._start()
        self.trees.append(self.tree)
        self._may_end = False

    def situation(self):
        """Return what may tell why something is not as it should be."""
        processes = [describe(process) for process in inhabitants(self._directory)]
        return "\n".join(["", *self.log[-20:], *self.tree.stderr[-30:], *processes])

    # -- blows

    def strike(self):
        """Strike as chance will have it."""
        if self._troubles or self._chance.random() < TROUBLE:
            self.trouble(self._troubles.pop() if self._troubles else self._chance.choice(TROUBLES))
        blows = dict([self._deal()] if self._chance.random() >= PAIRS else [self._deal(), self._deal()])
        self.hit(*blows.items())
        if self._chance.random() >= IMPATIENCE:
            self.wait_ready()

    def trouble(self, kind):
        """Take away something that the tree does not own, or disturb all of it."""
        self.troubles[kind] += 1
        self._note(kind)
        if kind == SWEEP:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir()
        elif kind == UNLINK:
            sockets = list(self.tree.runtime_dir.glob("*.sock"))
            for socket in self._chance.sample(sockets, self._chance.randint(0, len(sockets))):
                socket.unlink(missing_ok=True)
        elif kind == HANG_UP:
            self._may_end |= not self._has_come_up()  # before its first line, a program ends as any other does
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.tree.process.pid, signal.SIGHUP)
        else:
            self.tree.leave_stderr_unread()
            threading.Timer(self._chance.uniform(*UNREAD), self.tree.read_stderr).start()

    def hit(self, *blows):
        """Strike at all of these targets at once, each in its way; return when the last signal was sent."""
        self.keep()
        victims = [(target, way, victim) for target, way in blows if (victim := self._find(target)) is not None]
        victims = [(target, way, victim) for target, way, victim in victims if victim.pid not in self._struck]
        for target, way, victim in victims:
            self.blows[target, way] += 1
            self._note(f"{target}: {way}: {describe(victim)}")
            self._send(victim, signal.SIGKILL if way == KILL else signal.SIGSTOP)
            if way == STOP:
                self._struck.add(victim.pid)
        for _target, way, victim in victims:
            if way in (STOP_CONTINUE, STOP_KILL):
                time.sleep(self._chance.uniform(*STOPPED))
                self._send(victim, signal.SIGCONT if way == STOP_CONTINUE else signal.SIGKILL)

    def _has_come_up(self):
        return any(line.startswith("ready: ") for line in self.tree.stdout)

    def _note(self, what):
        self.log.append(f"{datetime.now(UTC).isoformat()} ({time.monotonic():.3f}) {what}")

    def _send(self, victim, number):
        is_supervisor = victim.pid == self.tree.process.pid
        self._may_end |= not self._has_come_up()
        if number == signal.SIGKILL:
            self._struck.add(victim.pid)
            self._may_end |= is_supervisor
            others = [process for process in inhabitants(self._directory) if process != victim] if is_supervisor else []
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(number)
        if number == signal.SIGKILL and is_supervisor:
            self._watch.supervisor_killed(others)
            self.tree.process.wait(PATIENCE)

    def _deal(self):
        if not self._cards:
            self._cards = list(BLOWS)
            self._chance.shuffle(self._cards)
        return self._cards.pop()

    def _find(self, target):
        """Return the process to strike at; ``None`` when it is not there: it was struck already."""
        supervisor = psutil.Process(self.tree.process.pid)
        if target == SUPERVISOR:
            return supervisor
        for process in inhabitants(self._directory):
            with contextlib.suppress(psutil.Error):
                is_fork_server = process.ppid() == supervisor.pid and "forkserver" in " ".join(process.cmdline())
                if is_fork_server if target == FORK_SERVER else title(process) == f"asm: {target}":
                    return process
        return None
