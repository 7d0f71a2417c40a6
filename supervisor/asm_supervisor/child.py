"""A child alone: a process that is linked to this one. Nobody restarts it, and when this process ends, it ends."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from asm_supervisor.driven import Driven
from asm_supervisor.launch import Launcher
from asm_supervisor.link import wait
from asm_supervisor.snapshot import Snapshot
from asm_supervisor.spec import ChildSpec, check_start_method
from asm_supervisor.states import UP, State, Wanted

__all__ = ["Child", "StartFailed"]

WAIT_AT_MOST: Final = 1.0
"""How many seconds one who drives a child alone waits without a look at Python's signals: one that comes right before the
system call does not interrupt it, and a program has no wake-up descriptor for it as the supervisor has."""


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


class Child(Driven):
    """A process that is linked to this one.

    :param spec: what it is.
    :param start_method: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports, if this is the first process that it starts.
    :param launcher: starts the processes of several children; made from the two parameters before, unless given.
    :param on_change: called with a :class:`~asm_supervisor.snapshot.Snapshot` after each change of the state.
    :param on_message: called with a snapshot, the name and the map of each message that the child sends of its own.
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
        check_start_method(start_method)
        super().__init__(spec, launcher or Launcher(start_method, preload), on_change=on_change, on_message=on_message)
        self._owner = os.getpid()
        self._lock = threading.RLock()

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
            self.want(Wanted.RUN)
            _linked[self] = None
            try:
                self.listen()
                self.begin(time.monotonic())
                if self.listener is not None:
                    self.listener.hand_over()  # nobody restarts it: when it is gone, connections are to be refused
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
            error = None if self._attempt is None else self._attempt.error
            raise StartFailed(self.name, self.reason or "was not started", error)

    def stop(self) -> None:
        """Stop the process: SIGTERM, and after ``stop_timeout`` SIGKILL. Remove the name. A second call does nothing."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._settle()
            if self.has_process:
                self.want(Wanted.LEAVE)
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
            self.become(State.STOPPED if self.wanted is Wanted.LEAVE else State.FAILED, ending.reason)
            self.release()

    def release(self) -> None:
        """Remove the socket and give the name back."""
        _linked.pop(self, None)
        super().release()


_linked: Final[dict[Child, None]] = {}
"""The children that this program started without a supervisor. They live as long as it does, even if nobody holds them."""


@atexit.register
def _stop_linked() -> None:
    """Stop them, the last one first, so that their names are removed and nobody is cut off."""
    for child in reversed(list(_linked)):
        child.stop()
