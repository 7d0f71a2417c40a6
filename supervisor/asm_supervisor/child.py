"""One child, seen by its parent: its state, its listening socket, and the process that it has at the moment.

A child may be used in two ways. Alone, it is a process linked to this one: :meth:`Child.start`, :meth:`Child.wait_ready`,
:meth:`Child.stop`, and when this process ends, the child ends. Or a loop drives it, which waits for :meth:`Child.files` and
:attr:`Child.deadline`, calls :meth:`Child.step`, and decides what follows when a process has ended: the supervisor does.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from asm_supervisor.launch import Launcher
from asm_supervisor.link import Ending, Link, heartbeat, wait
from asm_supervisor.restarts import Restart
from asm_supervisor.sockets import Listener
from asm_supervisor.spec import ChildSpec, check_specs, check_start_method
from asm_supervisor.states import DOWN, UP, State, check_transition

__all__ = ["Child", "Snapshot", "StartFailed", "notify"]

logger = logging.getLogger("asm_supervisor")

EOF_PATIENCE: Final = 1.0
"""How many seconds a process may be there after it closed its lifeline. One that exits is gone within milliseconds."""

WAIT_AT_MOST: Final = 1.0
"""How many seconds one who drives a child alone waits without a look at Python's signals: one that comes right before the
system call does not interrupt it, and a program has no wake-up descriptor for it as the supervisor has."""

KILL_PATIENCE: Final = 5.0
"""How many seconds a stop waits for a killed process. Only one that is stuck in the kernel needs more."""

HISTORY: Final = 20
"""How many of a child's last restarts are remembered."""

LEVELS: Final[Mapping[State, int]] = {
    State.WAITING: logging.WARNING,
    State.BACKOFF: logging.WARNING,
    State.FAILED: logging.ERROR,
}
"""How loudly a log tells of a new state. The others are the usual course of things."""


class StartFailed(Exception):  # noqa: N818  # says what happened
    """A child did not come up.

    :ivar child: its name.
    :ivar reason: why, in words that follow its name.
    :ivar error: why, as it said itself; ``None`` when it did not.
    """

    def __init__(self, child: str, reason: str, error: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{child} {reason}")
        self.child = child
        self.reason = reason
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What there is to know about a child at one moment."""

    name: str
    description: str
    state: State
    since: float
    """When it came into this state, by ``time.monotonic``."""
    pid: int | None
    started_at: float | None
    """When its process was started, by ``time.monotonic``; ``None`` when it has none."""
    restarts: int
    """How often it was started again."""
    history: tuple[Restart, ...]
    """The last of these restarts, the oldest first."""
    reason: str
    """In words that follow its name: what it waits for; else how its last process ended; empty when none has."""
    listen: Path | None
    info: Mapping[str, Any]
    """What it said when it became ready, or began to wait."""
    stats: Mapping[str, Any]
    """What it said with its last heartbeat."""
    beat_at: float | None
    """When that was, by ``time.monotonic``; ``None`` when its process has not beaten yet."""


class Child:
    """A child and its process.

    :param spec: what it is.
    :param start_method: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports, if this is the first process that it starts.
    :param launcher: starts the processes of several children; made from the two parameters before, unless given.
    :param on_change: called with a :class:`Snapshot` after each change of the state.
    :param on_message: called with a :class:`Snapshot`, the name and the map of each message that the child sends of its own.
    :raises SpecError: when ``spec`` or ``start_method`` cannot work.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        start_method: str = "forkserver",
        preload: Sequence[str] = (),
        launcher: Launcher | None = None,
        on_change: Callable[[Snapshot], None] | None = None,
        on_message: Callable[[Snapshot, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        check_specs([spec])
        check_start_method(start_method)
        self.spec = spec
        self.name = spec.name
        self.state = State.STOPPED
        self.reason = ""
        self.restarts = 0
        self.restart_at: float | None = None
        """When the next process is due, in the state ``backoff``."""
        self.up_at: float | None = None
        """When the current or the last process came up, ready or waiting; ``None`` when it never did."""
        self.ever_up = False
        self._launcher = launcher or Launcher(start_method, preload)
        self._on_change = on_change
        self._on_message = on_message
        self._since = time.monotonic()
        self._history: deque[Restart] = deque(maxlen=HISTORY)
        self._started_at: float | None = None
        self._info: Mapping[str, Any] = {}
        self._stats: Mapping[str, Any] = {}
        self._beat_at: float | None = None
        self._hung_at: float | None = None
        self._overdue = False
        self._listener: Listener | None = None
        self._link: Link | None = None
        self._stillborn: Ending | None = None
        self._error: Mapping[str, Any] | None = None
        self._condemned: str | None = None
        self._dismissed = self._for_good = False
        self._kill: tuple[float, str] | None = None
        self._give_up_at: float | None = None
        self._owner = os.getpid()
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The id of the process, as long as there is one and it is known."""
        link = self._link  # asked from other threads, too
        return None if link is None else link.pid

    @property
    def has_process(self) -> bool:
        """Whether there is, or may be, a process."""
        return self._link is not None or self._stillborn is not None

    @property
    def snapshot(self) -> Snapshot:
        """What there is to know at this moment."""
        return Snapshot(
            name=self.name,
            description=self.spec.description,
            state=self.state,
            since=self._since,
            pid=self.pid,
            started_at=self._started_at,
            restarts=self.restarts,
            history=tuple(self._history.copy()),
            reason=_waits(self._info) if self.state is State.WAITING else self.reason,
            listen=self.spec.listen,
            info=self._info,
            stats=self._stats,
            beat_at=self._beat_at,
        )

    # -- A linked process, without a supervisor ---------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the process is there and was not told to go."""
        if self._owner != os.getpid():
            return False
        with self._lock:
            self._settle()
            return self.state in UP | {State.STARTING}

    def start(self) -> None:
        """Take the name and start the process; :meth:`wait_ready` waits for it. It is stopped when this program exits.

        :raises NameInUse: when another process holds the name.
        :raises ListenError: when there can be no socket.
        :raises RuntimeError: when it is running, or belongs to the process that this one was forked from.
        """
        if self._owner != os.getpid():
            raise RuntimeError(f"the child {self.name!r} belongs to process {self._owner}")
        with self._lock:
            self._settle()
            if self.has_process:
                raise RuntimeError(f"the child {self.name!r} is running")
            _linked[self] = None
            try:
                self.listen()
                self.begin(time.monotonic())
                if self._listener is not None:
                    self._listener.hand_over()  # nobody restarts it: when it is gone, connections are to be refused
            except BaseException:
                self.stop()
                raise

    def wait_ready(self) -> None:
        """Wait until the process is ready, or serves its name and waits for something itself.

        :raises StartFailed: when it does not come up. Then nothing of it is left.
        """
        try:
            self._drive(lambda: self.state in UP or not self.has_process)
        except BaseException:
            self.stop()
            raise
        if self.state not in UP:
            raise StartFailed(self.name, self.reason or "was not started", self._error)

    def stop(self) -> None:
        """Stop the process: SIGTERM, and after ``stop_timeout`` SIGKILL. Remove the name. A second call does nothing."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._settle()
            if self.has_process:
                self.dismiss(time.monotonic())
        self._drive(lambda: not self.has_process)
        with self._lock:
            self.release()

    def _drive(self, done: Callable[[], bool]) -> None:
        """Do what a supervisor's loop does, for this child alone, until ``done``."""
        while True:
            with self._lock:
                self._settle()
                if done():
                    return
                files, deadline = self.files(), self.deadline
            left = WAIT_AT_MOST if deadline is None else min(deadline - time.monotonic(), WAIT_AT_MOST)
            wait(files, left)

    def _settle(self) -> None:
        """Take note of what has happened. One that ended stays so, because nobody restarts it."""
        ending = self.step(time.monotonic())
        if ending is not None:
            self.become(State.STOPPED if self._dismissed else State.FAILED, ending.reason)
            self.release()

    # -- What a loop needs ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take the name and listen, if the child has a socket, unless that is so already.

        :raises ListenError: when that cannot be.
        """
        if self.spec.listen is not None and self._listener is None:
            self._listener = Listener.acquire(self.spec.listen, mode=self.spec.listen_mode)
        if self._listener is not None:
            self._listener.listen()

    def refuse(self) -> None:
        """Let connections be refused from now on, and not queue for a process that will not come. The name is kept."""
        if self._listener is not None:
            self._listener.hand_over()

    def release(self) -> None:
        """Remove the socket and give the name back."""
        _linked.pop(self, None)
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def begin(self, now: float) -> None:
        """Start a process. Whatever is wrong with that is told by :meth:`step`."""
        self._error = self._condemned = self._give_up_at = self.up_at = self.restart_at = None
        self._beat_at = self._hung_at = None
        self._dismissed = self._for_good = self._overdue = False
        self._kill = (now + self.spec.start_timeout, f"was not ready within {self.spec.start_timeout:g} s")
        self._info = self._stats = {}
        self._started_at = now
        try:
            listening = None if self._listener is None else self._listener.socket
            self._link = Link(self.spec, self._launcher, listening, self.restarts)
        except (OSError, RuntimeError) as error:  # no descriptors, no threads
            self._stillborn = Ending(f"could not be started: {error}")
        self.become(State.STARTING)

    def await_restart(self, moment: float, reason: str) -> None:
        """Wait for the next process, which is due at ``moment``; then the caller calls :meth:`begin`."""
        now = time.monotonic()
        self.restart_at = moment
        self.restarts += 1
        self._history.append(Restart(now, self.name, reason))
        self.become(State.BACKOFF, reason, restarts=self.restarts, delay=round(max(0.0, moment - now), 3))

    def files(self) -> list[int]:
        """Return the descriptors to wait for."""
        return [] if self._link is None else self._link.files()

    @property
    def deadline(self) -> float | None:
        """When something is due though nothing is readable, by ``time.monotonic``."""
        times = [self.restart_at, self._give_up_at, self._hung_at]
        if self._kill is not None:
            times.append(self._kill[0])
        if self._link is not None:
            times.append(self._link.deadline)
        if self._stillborn is not None:
            times.append(0.0)
        return min((moment for moment in times if moment is not None), default=None)

    def step(self, now: float) -> Ending | None:
        """Take note of what has happened, and do what is due.

        :return: how the process ended, once, after which the caller lets the child :meth:`become` what it is then.
        """
        if self._stillborn is not None:
            stillborn, self._stillborn = self._stillborn, None
            return stillborn
        if self._link is None:
            return None
        self._hear(self._link, now)
        if self._link.broken is not None and self._condemned is None:
            self.kill(f"broke the protocol of the lifeline: {self._link.broken}", now)
        ending = self._link.ending(now)
        if ending is None and self._give_up_at is not None and now >= self._give_up_at:
            logger.error("%s: is there in spite of SIGKILL", self.name, extra={"child": self.name, "pid": self.pid})
            ending = Ending("is there in spite of SIGKILL")
        if ending is not None:
            return self._end(self._link, ending)
        if self._link.eof:
            self._kill_at(now + EOF_PATIENCE, "closed its lifeline")
        if self._kill is not None and now >= self._kill[0]:
            self.kill(self._kill[1], now)
        if self._hung_at is not None and now >= self._hung_at:
            self._suspect(now)
        return None

    def _hear(self, link: Link, now: float) -> None:
        """Take what the process says, and learn which one it is."""
        knew_it = link.pid is not None
        for message, body in link.step(now):
            self._take(message, body, now)
        if not knew_it and link.pid is not None and self._listener is not None:
            self._listener.handed_to(link.pid)

    def dismiss(self, now: float, *, for_good: bool = True) -> None:
        """Ask the process to stop; kill it when ``stop_timeout`` has passed.

        :param for_good: no other follows, so one that survives even SIGKILL is given up after a while.
        """
        self.restart_at = None
        if not self.has_process:
            if self.state not in DOWN:
                self.become(State.STOPPED)
            return
        if self._link is None:
            return
        if for_good and self._condemned is not None and self._give_up_at is None:
            self._give_up_at = now + KILL_PATIENCE
        self._for_good |= for_good
        if self._dismissed:
            return
        self._dismissed = True
        if self._condemned is not None:
            return
        self._link.terminate()
        self._hung_at = None
        self._kill = (now + self.spec.stop_timeout, f"did not stop within {self.spec.stop_timeout:g} s")
        if self.state is not State.STOPPING:
            self.become(State.STOPPING)

    def kill(self, reason: str, now: float) -> None:
        """Kill the process.

        :param reason: why, in words that follow the child's name.
        """
        if self._link is None:
            return
        self._link.kill()
        self._kill = self._hung_at = None
        self._condemned = self._condemned or reason
        if self._for_good and self._give_up_at is None:
            self._give_up_at = now + KILL_PATIENCE
        logger.warning("%s: %s; killed", self.name, reason, extra=self._extra(reason))
        if self.state is not State.STOPPING:
            self.become(State.STOPPING, reason)

    def become(self, state: State, reason: str = "", **more: Any) -> None:
        """Change the state. There is no other way to change it.

        :param reason: how the last process ended, in words that follow the child's name, if that is news.
        :param more: what else the log is to say.
        :raises IllegalTransition: when ``state`` may not follow the current one.
        """
        check_transition(self.name, self.state, state)
        self.state = state
        self._since = time.monotonic()
        if state is not State.WAITING:
            self.reason = reason or self.reason
        level = LEVELS.get(state, logging.INFO)
        logger.log(level, "%s: %s%s", self.name, state, f": {reason}" if reason else "", extra=self._extra(reason) | more)
        notify(self._on_change, self.snapshot)

    def _take(self, message: str, body: Mapping[str, Any], now: float) -> None:
        """Act on what the child says."""
        match message, self.state:
            case (("ready" | "waiting"), (State.STARTING | State.WAITING | State.READY)) if self._error is None:
                self._take_state(State(message), body, now)
            case "failed", (State.STARTING | State.WAITING) if self._error is None:
                self._error = body
                self._kill_at(now + self.spec.stop_timeout, "did not exit after it had failed")
            case "beat", _:
                self._stats = body
                self._beat_at = now
                if self._hung_at is not None:
                    self._await_beat(now)
            case (("ready" | "waiting" | "failed"), _):
                logger.debug("%s: said %s while it was %s", self.name, message, self.state, extra=self._extra(""))
            case _:
                notify(self._on_message, self.snapshot, message, body)

    def _take_state(self, state: State, info: Mapping[str, Any], now: float) -> None:
        """Note that the process is up, and whether it waits."""
        self._info = info
        if self.state is State.STARTING:
            self._kill = None
            self._await_beat(now)
            self.up_at = now
            self.ever_up = True
        if self.state is not state:
            self.become(state, _waits(info) if state is State.WAITING else "")

    def _kill_at(self, moment: float, reason: str) -> None:
        """Have the process killed at ``moment``, unless that happens earlier."""
        if self._condemned is None and (self._kill is None or moment < self._kill[0]):
            self._kill = (moment, reason)

    def _await_beat(self, now: float) -> None:
        """Expect a heartbeat within the child's limit."""
        self._overdue = False
        self._hung_at = None if self.spec.heartbeat_timeout is None else now + self.spec.heartbeat_timeout

    def _suspect(self, now: float) -> None:
        """Kill a process that has not beaten within its limit, and not within one more interval.

        Another interval, because it may be that everybody was frozen, this process, too, and the child is just waking up. If
        this process wakes up late itself, that is so, and the child has its whole limit once more.
        """
        timeout = self.spec.heartbeat_timeout
        assert timeout is not None
        assert self._hung_at is not None
        if self._overdue:
            self.kill(f"made no progress for {timeout:g} s", now)
        else:
            interval = heartbeat(timeout)
            was_frozen = now - self._hung_at > interval / 4
            self._overdue = True
            self._hung_at = now + (timeout if was_frozen else interval)

    def _end(self, link: Link, ending: Ending) -> Ending:
        """Put the process away, and say why it ended."""
        if self._error is not None:
            ending = replace(ending, reason=f"could not start: {self._error.get('message', self._error)}", error=self._error)
        elif self._condemned is not None:
            ending = replace(ending, reason=self._condemned)
        elif self.up_at is None and not self._dismissed and link.pid is not None:
            ending = replace(ending, reason=f"{ending.reason} before it was ready")
        link.close()
        self._link = self._kill = self._give_up_at = self._hung_at = self._started_at = None
        return ending

    def _extra(self, reason: str) -> dict[str, Any]:
        return {"child": self.name, "pid": self.pid, "reason": reason}


def _waits(info: Mapping[str, Any]) -> str:
    return f"waits for its store: {info.get('message', 'it is away')}"


def notify(callback: Callable[..., None] | None, *args: Any) -> None:
    """Call what the user gave, if anything. Whatever is wrong with it must not leave processes alone."""
    if callback is not None:
        try:
            callback(*args)
        except Exception:
            logger.exception("a callback failed")


_linked: Final[dict[Child, None]] = {}
"""The children that this program started without a supervisor. They live as long as it does, even if nobody holds them."""


@atexit.register
def _stop_linked() -> None:
    """Stop them, the last one first, so that their names are removed and nobody is cut off."""
    for child in reversed(list(_linked)):
        child.stop()
