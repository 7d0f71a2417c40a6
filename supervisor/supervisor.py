"""The supervisor: starts children in order, restarts those that die, and stops all of them in reverse order.

::

    SIGTERM, SIGINT ──► queue ──┐
    lifelines: ready, failed ───┤                 ┌─► start the next child, or the one whose backoff is over
    pidfds: gone ───────────────┼─► one wait ──►──┼─► decide on a restart, or that there were too many
    timers: start, stop, kill, ─┘   point         ├─► stop the last child that is still there
            backoff                               └─► when nobody is left: the end
                                         ▲                       │
                                         └───────────────────────┘

Nothing here waits for one child: each turn of the loop takes what has happened, decides, acts, and waits again. As long as
no end is in sight the rule is *start what is due*; from the first reason to end on it is *stop the last one*.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from supervisor.child import Child, Snapshot, notify
from supervisor.launch import Launcher
from supervisor.link import Ending, wait
from supervisor.restarts import Backoff, Restart, add_restart, describe
from supervisor.signals import Signals
from supervisor.sockets import ListenError
from supervisor.spec import STRATEGIES, ChildSpec, check_settings, check_specs, check_start_method
from supervisor.states import DOWN, State

__all__ = ["Exit", "Supervisor", "next_to_start", "next_to_stop"]

logger = logging.getLogger("supervisor")

DEFAULT_BACKOFF: Final = Backoff()

ONE_REQUEST: Final = 0.1
"""Signals that come within so many seconds are one request: a wrapper such as ``timeout`` sends its own besides the group's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What ended a run."""

    kind: Literal["stopped", "start_failed", "restarts_exceeded"]
    reason: str
    """One sentence for a person, without a full stop."""
    child: str | None = None
    """The name of the child that was the cause."""
    error: Mapping[str, Any] | None = None
    """What that child said about it, if it said anything."""
    cut_short_by: signal.Signals | None = None
    """The second signal, for which every child was killed at once."""


class Supervisor:
    """A tree of one level: children that are started in order, watched and restarted.

    :param specs: the children, in the order in which they are started.
    :param name: what the tree is called in logs.
    :param strategy: who is restarted with a child that died: a key of :data:`~supervisor.spec.STRATEGIES`.
    :param max_restarts: how many restarts, of all children together, are borne …
    :param max_seconds: … within so many seconds. One more ends the run.
    :param backoff: how long a child that died waits for its restart.
    :param start_method: how processes are made: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports once for all children.
    :param on_change: called with the :class:`Snapshot` of a child after each change of its state.
    :param on_ready: called once, with the snapshots of all children, when all are ready for the first time.
    :param on_message: called with a snapshot, the name and the map of what a child sends with ``lifeline.send``.
    :raises SpecError: when something in this cannot work; nothing was started then.

    The callbacks run in the loop: they must not take long.
    """

    def __init__(
        self,
        specs: Iterable[ChildSpec],
        *,
        name: str,
        strategy: str = "one_for_one",
        max_restarts: int = 10,
        max_seconds: float = 30.0,
        backoff: Backoff = DEFAULT_BACKOFF,
        start_method: str = "forkserver",
        preload: Sequence[str] = (),
        on_change: Callable[[Snapshot], None] | None = None,
        on_ready: Callable[[list[Snapshot]], None] | None = None,
        on_message: Callable[[Snapshot, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        check_settings(name=name, strategy=strategy, max_restarts=max_restarts, max_seconds=max_seconds)
        check_start_method(start_method)
        self.name = name
        self._launcher = Launcher(start_method, preload)
        self._children = [
            Child(spec, launcher=self._launcher, on_change=on_change, on_message=on_message) for spec in check_specs(specs)
        ]
        self._strategy = STRATEGIES[strategy]
        self._max_restarts = max_restarts
        self._max_seconds = max_seconds
        self._backoff = backoff
        self._on_ready = on_ready
        self._signals = Signals(signal.SIGTERM, signal.SIGINT)
        self._asked_at: float | None = None
        self._restarts: list[Restart] = []
        self._streaks = {child.name: 0 for child in self._children}
        self._was_ready = False
        self._exit: Exit | None = None
        self._has_run = False

    @property
    def children(self) -> list[Snapshot]:
        """What there is to know about each child now, in start order. May be asked from any thread."""
        return [child.snapshot for child in self._children]

    def run(self) -> Exit:
        """Start the children, keep them running, and return when the last one is gone.

        SIGTERM and SIGINT stop the tree, whatever it is doing; a second one kills every child at once.

        :raises RuntimeError: outside the main thread, or when it was run before.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a supervisor runs in the main thread, which is where Python handles signals")
        if self._has_run:
            raise RuntimeError("a supervisor runs once; make a new one")
        self._has_run = True
        with self._signals:
            try:
                self._listen()
                self._loop()
            except BaseException:
                self._abort()
                raise
            finally:
                for child in reversed(self._children):
                    child.release()
                self._launcher.stop_helpers()
        assert self._exit is not None
        logger.info("%s: %s", self.name, self._exit.reason, extra={"child": self._exit.child, "reason": self._exit.reason})
        return self._exit

    def _listen(self) -> None:
        """Take all names before anything is started: what is in use now will not be free when its turn comes."""
        for child in self._children:
            try:
                child.listen()
            except ListenError as error:
                self._end(Exit(kind="start_failed", reason=str(error), child=child.name))
                return

    def _loop(self) -> None:
        """Take turns until nobody is left."""
        while not self._turn(time.monotonic()):
            files = [file for child in self._children for file in child.files()]
            deadline = min((child.deadline for child in self._children if child.deadline is not None), default=None)
            wait([self._signals.fileno(), *files], None if deadline is None else deadline - time.monotonic())

    def _turn(self, now: float) -> bool:
        """Take what has happened, do what is due; return whether the run is over."""
        for number in self._signals.take():
            self._take_signal(number, now)
        for child in self._children:
            ending = child.step(now)
            if ending is not None:
                self._take_ending(child, ending, now)
        if self._exit is None:
            self._start_due(now)
        else:
            self._stop_last(now)
        return self._exit is not None and all(child.state in DOWN for child in self._children)

    def _take_signal(self, number: signal.Signals, now: float) -> None:
        self._end(Exit(kind="stopped", reason=f"stopped by {number.name}"))
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > ONE_REQUEST and self._exit is not None:
            self._exit = replace(self._exit, cut_short_by=number)
            self._kill_all(f"had no time to stop, because a second {number.name} came", now)

    def _take_ending(self, child: Child, ending: Ending, now: float) -> None:
        """Decide what follows when a process has ended."""
        if self._exit is not None:
            child.become(State.STOPPED, ending.reason)
            return
        if not child.ever_ready:
            child.become(State.FAILED, ending.reason)
            self._end(Exit(kind="start_failed", reason=f"{child.name} {ending.reason}", child=child.name, error=ending.error))
            return
        self._restarts, too_many = add_restart(
            self._restarts,
            Restart(now, child.name, ending.reason),
            max_restarts=self._max_restarts,
            max_seconds=self._max_seconds,
        )
        if too_many:
            child.become(State.FAILED, ending.reason)
            reason = f"more than {self._max_restarts} restarts within {self._max_seconds:g} s: {describe(self._restarts)}"
            self._end(Exit(kind="restarts_exceeded", reason=reason, child=child.name, error=ending.error))
            return
        order = [each.name for each in self._children]
        again = self._strategy(order, child.name)
        for each in self._children:
            if each.name in again:
                self._restart_later(each, ending, now)

    def _restart_later(self, child: Child, ending: Ending, now: float) -> None:
        ready_for = None if child.ready_at is None else now - child.ready_at
        streak = self._streaks[child.name] = self._backoff.streak(self._streaks[child.name], ready_for)
        child.await_restart(now + self._backoff.delay(streak, random.random()), ending.reason)  # noqa: S311  # no secret

    def _start_due(self, now: float) -> None:
        for child in self._children:
            if child.restart_at is not None and now >= child.restart_at:
                child.begin(now)
        states = [child.state for child in self._children]
        following = next_to_start(states)
        if following is not None:
            self._children[following].begin(now)
        elif not self._was_ready and all(state is State.READY for state in states):
            self._was_ready = True
            logger.info("%s: all children are ready", self.name)
            notify(self._on_ready, self.children)

    def _end(self, exit_: Exit) -> None:
        """Begin the end of the run. The first reason counts."""
        if self._exit is None:
            self._exit = exit_
            logger.info("%s: stopping: %s", self.name, exit_.reason, extra={"child": exit_.child, "reason": exit_.reason})

    def _stop_last(self, now: float) -> None:
        """Stop the last child that is there. Those before it stay as they are, because it may still need them."""
        for child in self._children:
            if child.state is State.BACKOFF:
                child.dismiss(now)
        last = next_to_stop([child.state for child in self._children])
        if last is not None:
            self._children[last].dismiss(now)

    def _kill_all(self, reason: str, now: float) -> None:
        for child in reversed(self._children):
            child.dismiss(now)
            child.kill(reason, now)

    def _abort(self) -> None:
        """After a defect of the supervisor itself: leave nothing behind."""
        self._end(Exit(kind="stopped", reason="the supervisor failed"))
        with contextlib.suppress(Exception):
            self._kill_all("was killed because the supervisor failed", time.monotonic())
            self._loop()


def next_to_start(states: Sequence[State]) -> int | None:
    """Return the index of the child to start: the first one that was not yet started, when all before it are ready."""
    for index, state in enumerate(states):
        if state is State.STOPPED:
            return index
        if state is not State.READY:
            return None
    return None


def next_to_stop(states: Sequence[State]) -> int | None:
    """Return the index of the child to stop, or that is being stopped: the last one that is not down."""
    return next((index for index in range(len(states) - 1, -1, -1) if states[index] not in DOWN), None)
