"""The supervisor: starts children in order, restarts those that die, and stops all of them in reverse order.

::

    SIGTERM, SIGINT, SIGHUP ───┐
    calls of other threads ────┤                 ┌─► stop those that are to be started again, the last one first
    lifelines: ready, beats ───┼─► one wait ──►──┼─► start the next child, or one whose backoff is over
    pidfds: gone ──────────────┤   point         ├─► decide on a restart, or that there were too many
    timers: start, stop, kill, ┘     ▲           ├─► towards the end: stop the last child that is still there
            backoff, heartbeat       │           └─► when nobody is left: the end
                                     └──────────────────────┘

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
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

from asm_supervisor.child import Child, Snapshot, notify
from asm_supervisor.inbox import Inbox
from asm_supervisor.launch import Launcher
from asm_supervisor.link import Ending, wait
from asm_supervisor.notify import Notifier
from asm_supervisor.reaper import adopts_orphans, reap
from asm_supervisor.restarts import Backoff, Restart, add_restart, describe
from asm_supervisor.signals import Signals
from asm_supervisor.sockets import ListenError
from asm_supervisor.spec import STRATEGIES, ChildSpec, SpecError, check_settings, check_specs, check_start_method
from asm_supervisor.states import DOWN, SETTLED, UP, State

__all__ = ["Exit", "Reloaded", "Supervisor", "next_to_start", "next_to_stop"]

logger = logging.getLogger("asm_supervisor")

DEFAULT_BACKOFF: Final = Backoff()

T = TypeVar("T")

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a new description changed: names of children, in start order."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


class Supervisor:
    """A tree of one level: children that are started in order, watched and restarted.

    :param specs: the children, in the order in which they are started.
    :param name: what the tree is called in logs.
    :param strategy: who is restarted with a child that died: a key of :data:`~asm_supervisor.spec.STRATEGIES`.
    :param max_restarts: how many restarts of a child are borne …
    :param max_seconds: … within so many seconds. With one more, the child's ``on_failure`` decides.
    :param backoff: how long a child that died waits for its restart.
    :param start_method: how processes are made: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports once for all children.
    :param notifier: the service manager that is told how the tree is.
    :param on_change: called with the :class:`Snapshot` of a child after each change of its state.
    :param on_ready: called once, with the snapshots of all children, when all are up (ready, or waiting) for the first time.
    :param on_message: called with a snapshot, the name and the map of what a child sends with ``lifeline.send``.
    :param on_hangup: called at a SIGHUP, whose usual action, the end of the process, it replaces.
    :raises SpecError: when something in this cannot work; nothing was started then.

    The callbacks run in the loop: they must not take long. There, and in what is given to :meth:`post`, the supervisor may
    be told to :meth:`restart`, :meth:`reload` and :meth:`stop`.
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
        notifier: Notifier | None = None,
        on_change: Callable[[Snapshot], None] | None = None,
        on_ready: Callable[[list[Snapshot]], None] | None = None,
        on_message: Callable[[Snapshot, str, Mapping[str, Any]], None] | None = None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        check_settings(name=name, strategy=strategy, max_restarts=max_restarts, max_seconds=max_seconds)
        check_start_method(start_method)
        self.name = name
        self._launcher = Launcher(start_method, preload)
        self._notifier = notifier or Notifier()
        self._on_change = on_change
        self._on_ready = on_ready
        self._on_message = on_message
        self._on_hangup = on_hangup
        self._children = [self._child(spec) for spec in check_specs(specs)]
        self._leaving: list[Child] = []
        """Children that a reload took out of the description, and that are still there."""
        self._strategy = strategy
        self._max_restarts = max_restarts
        self._max_seconds = max_seconds
        self._backoff = backoff
        self._inbox = Inbox()
        self._asked: dict[str, str] = {}
        """Who is to be stopped and started again, and why, in words that follow the child's name."""
        self._deaths: dict[str, list[Restart]] = {}
        self._streaks: dict[str, int] = {}
        self._signalled_at: float | None = None
        self._alive_at = 0.0
        self._has_news = True
        self._was_up = False
        self._is_reloading = False
        self._exit: Exit | None = None
        self._has_run = False

    @property
    def children(self) -> list[Snapshot]:
        """What there is to know about each child now, in start order. May be asked from any thread."""
        return [child.snapshot for child in self._everyone()]

    def post(self, function: Callable[[], T]) -> Future[T]:
        """Have a function called in the loop, at its next turn. From any thread.

        :return: what tells its result; cancelled when the run has ended before.
        """
        return self._inbox.post(function)

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
        numbers = {signal.SIGTERM, signal.SIGINT}
        if self._on_hangup is not None:
            numbers.add(signal.SIGHUP)
        if adopts_orphans():
            numbers.add(signal.SIGCHLD)
        with Signals(*numbers) as signals:
            try:
                self._listen()
                self._loop(signals)
            except BaseException:
                self._abort(signals)
                raise
            finally:
                self._inbox.close()
                for child in reversed(self._everyone()):
                    child.release()
                self._launcher.stop_helpers()
        assert self._exit is not None
        logger.info("%s: %s", self.name, self._exit.reason, extra={"child": self._exit.child, "reason": self._exit.reason})
        return self._exit

    # -- What may be asked of it, in the loop -----------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Stop the tree, in reverse order.

        :param reason: why, as a sentence without a full stop; :attr:`Exit.reason`.
        """
        self._end(Exit(kind="stopped", reason=reason))

    def restart(self, name: str) -> None:
        """Stop a child and start it again; start one that failed or ended. Its history begins anew.

        :raises KeyError: when there is no such child.
        :raises ListenError: when a child that failed or ended cannot have its socket again.
        :raises RuntimeError: when the tree is stopping.
        """
        self._refuse_when_stopping()
        child = next((child for child in self._children if child.name == name), None)
        if child is None:
            raise KeyError(name)
        self._deaths.pop(name, None)
        self._streaks.pop(name, None)
        now = time.monotonic()
        if child.has_process:
            self._asked[name] = "was stopped to be started again"
        elif child.state is State.BACKOFF:
            child.restart_at = now
        elif child.state in DOWN - {State.STOPPED}:
            child.listen()
            child.await_restart(now, "is started again, as asked")

    def reload(
        self,
        specs: Iterable[ChildSpec],
        *,
        strategy: str | None = None,
        max_restarts: int | None = None,
        max_seconds: float | None = None,
        backoff: Backoff | None = None,
    ) -> Reloaded:
        """Take a new description: start who is new, restart who is described differently, then stop who is not in it.

        :return: what it changes. That it has been done is seen in :attr:`children`.
        :raises SpecError: when it cannot work, or changes a socket; nothing was changed then.
        :raises ListenError: when a new child cannot have its socket; nothing was changed then.
        :raises RuntimeError: when the tree is stopping, or is not done with the reload before.
        """
        self._refuse_when_stopping()
        if self._leaving:
            raise RuntimeError(f"{self.name} is not done with the reload before")
        strategy = strategy or self._strategy
        max_restarts = self._max_restarts if max_restarts is None else max_restarts
        max_seconds = self._max_seconds if max_seconds is None else max_seconds
        check_settings(name=self.name, strategy=strategy, max_restarts=max_restarts, max_seconds=max_seconds)
        checked = check_specs(specs)
        present = {child.name: child for child in self._children}
        for spec in checked:
            old = present[spec.name].spec if spec.name in present else spec
            if (old.listen, old.listen_mode) != (spec.listen, spec.listen_mode):
                raise SpecError(spec.name, "listen", "cannot change while the tree runs; give the child another name")
        added = self._acquire([self._child(spec) for spec in checked if spec.name not in present])

        self._is_reloading = True
        self._notifier.reloading()
        self._strategy, self._max_restarts, self._max_seconds = strategy, max_restarts, max_seconds
        self._backoff = backoff or self._backoff
        wanted = {spec.name: spec for spec in checked}
        changed = [name for name, spec in wanted.items() if name in present and present[name].spec != spec]
        self._leaving = [child for child in self._children if child.name not in wanted]
        everyone = present | {child.name: child for child in added}
        self._children = [everyone[name] for name in wanted]
        for name in changed:
            present[name].spec = wanted[name]
            with contextlib.suppress(ListenError):  # it failed before, and stays so
                self.restart(name)
        names = [child.name for child in added], changed, [child.name for child in self._leaving]
        return Reloaded(added=tuple(names[0]), changed=tuple(names[1]), removed=tuple(names[2]))

    # -- The loop ---------------------------------------------------------------------------------------------------

    def _everyone(self) -> list[Child]:
        """Those that leave come first, because they are stopped last."""
        return [*self._leaving, *self._children]

    def _child(self, spec: ChildSpec) -> Child:
        return Child(spec, launcher=self._launcher, on_change=self._changed, on_message=self._on_message)

    def _changed(self, snapshot: Snapshot) -> None:
        self._has_news = True
        notify(self._on_change, snapshot)

    def _acquire(self, children: list[Child]) -> list[Child]:
        """Take the names of new children: of all, or of none.

        :raises ListenError: when that cannot be.
        """
        try:
            for child in children:
                child.listen()
        except ListenError:
            for child in children:
                child.release()
            raise
        return children

    def _listen(self) -> None:
        """Take all names before anything is started: what is in use now will not be free when its turn comes."""
        for child in self._children:
            try:
                child.listen()
            except ListenError as error:
                self._end(Exit(kind="start_failed", reason=str(error), child=child.name))
                return

    def _loop(self, signals: Signals) -> None:
        """Take turns until nobody is left."""
        while not self._turn(signals, time.monotonic()):
            everyone = self._everyone()
            files = [file for child in everyone for file in child.files()]
            deadlines = [child.deadline for child in everyone]
            if self._notifier.interval is not None:
                deadlines.append(self._alive_at)
            deadline = min((moment for moment in deadlines if moment is not None), default=None)
            left = None if deadline is None else deadline - time.monotonic()
            wait([signals.fileno(), self._inbox.fileno(), *files], left)

    def _turn(self, signals: Signals, now: float) -> bool:
        """Take what has happened, do what is due; return whether the run is over."""
        for number in signals.take():
            self._take_signal(number, now)
        self._inbox.serve()
        for child in self._everyone():
            ending = child.step(now)
            if ending is not None:
                self._take_ending(child, ending, now)
        if self._exit is None:
            self._stop_asked(now)
            self._start_due(now)
            self._stop_leaving(now)
        else:
            self._stop_last(now)
        self._tell(now)
        return self._exit is not None and all(child.state in DOWN for child in self._everyone())

    def _take_signal(self, number: signal.Signals, now: float) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            notify(self._on_hangup)
        else:
            self.stop(f"stopped by {number.name}")
            if self._signalled_at is None:
                self._signalled_at = now
            elif now - self._signalled_at > ONE_REQUEST and self._exit is not None:
                self._exit = replace(self._exit, cut_short_by=number)
                self._kill_all(f"had no time to stop, because a second {number.name} came", now)

    def _take_ending(self, child: Child, ending: Ending, now: float) -> None:
        """Decide what follows when a process has ended."""
        restart = child.spec.restart
        if self._exit is not None or child in self._leaving:
            child.become(State.STOPPED, ending.reason)
        elif child.name in self._asked:
            child.await_restart(now, self._asked.pop(child.name))
        elif not child.ever_up and not self._was_up:
            child.become(State.FAILED, ending.reason)
            self._end(Exit(kind="start_failed", reason=f"{child.name} {ending.reason}", child=child.name, error=ending.error))
        elif restart == "temporary" or (restart == "transient" and ending.status == 0):
            child.become(State.ENDED, ending.reason)
            child.refuse()
        else:
            self._take_death(child, ending, now)

    def _take_death(self, child: Child, ending: Ending, now: float) -> None:
        """Restart a child that died, and whoever is restarted with it; unless it died too often."""
        death = Restart(now, child.name, ending.reason)
        deaths, too_many = add_restart(
            self._deaths.get(child.name, ()), death, max_restarts=self._max_restarts, max_seconds=self._max_seconds
        )
        self._deaths[child.name] = deaths
        if too_many:
            self._give_up(child, ending, describe(deaths))
            return
        up_for = None if child.up_at is None else now - child.up_at
        streak = self._streaks[child.name] = self._backoff.streak(self._streaks.get(child.name, 0), up_for)
        child.await_restart(now + self._backoff.delay(streak, random.random()), ending.reason)  # noqa: S311  # no secret
        again = STRATEGIES[self._strategy]([each.name for each in self._children], child.name)
        for other in self._children:
            if other.name in again and other is not child and other.has_process:
                self._asked.setdefault(other.name, f"was stopped, because {child.name} {ending.reason}")

    def _give_up(self, child: Child, ending: Ending, deaths: str) -> None:
        child.become(State.FAILED, ending.reason)
        reason = f"more than {self._max_restarts} restarts within {self._max_seconds:g} s: {deaths}"
        if child.spec.on_failure == "shutdown":
            self._end(Exit(kind="restarts_exceeded", reason=reason, child=child.name, error=ending.error))
        else:
            child.refuse()
            logger.error(
                "%s: goes on without %s: %s", self.name, child.name, reason, extra={"child": child.name, "reason": reason}
            )

    def _stop_asked(self, now: float) -> None:
        """Stop the last one of those that are to be started again."""
        last = next((child for child in reversed(self._children) if child.name in self._asked), None)
        if last is not None:
            last.dismiss(now, for_good=False)

    def _start_due(self, now: float) -> None:
        for index, child in enumerate(self._children):
            if child.restart_at is not None and now >= child.restart_at and self._may_restart(index):
                child.begin(now)
        states = [child.state for child in self._children]
        following = next_to_start(states)
        if following is not None:
            self._children[following].begin(now)
        elif not self._was_up and all(state in UP | {State.ENDED} for state in states):
            self._was_up = True
            waiting = [child.name for child in self._children if child.state is State.WAITING]
            logger.info("%s: all children are up%s", self.name, f"; {', '.join(waiting)} waiting" if waiting else "")
            self._notifier.ready()
            notify(self._on_ready, self.children)

    def _may_restart(self, index: int) -> bool:
        """Whether a child's turn has come. Children that are restarted together stop in reverse order, and start in order."""
        if self._strategy == "one_for_one":
            return True
        return not self._asked and all(before.state in SETTLED for before in self._children[:index])

    def _stop_leaving(self, now: float) -> None:
        """Stop who has no place in the description any more, once nobody can need it: when all others are settled."""
        for child in [child for child in self._leaving if child.state in DOWN]:
            child.release()
            self._leaving.remove(child)
        if self._is_reloading and not self._asked and all(child.state in SETTLED for child in self._children):
            if self._leaving:
                self._leaving[-1].dismiss(now)
            else:
                self._is_reloading = False
                self._notifier.ready()

    def _end(self, exit_: Exit) -> None:
        """Begin the end of the run. The first reason counts."""
        if self._exit is None:
            self._exit = exit_
            logger.info("%s: stopping: %s", self.name, exit_.reason, extra={"child": exit_.child, "reason": exit_.reason})
            self._notifier.stopping()

    def _stop_last(self, now: float) -> None:
        """Stop the last child that is there. Those before it stay as they are, because it may still need them."""
        everyone = self._everyone()
        for child in everyone:
            if child.state is State.BACKOFF:
                child.dismiss(now)
        last = next_to_stop([child.state for child in everyone])
        if last is not None:
            everyone[last].dismiss(now)

    def _kill_all(self, reason: str, now: float) -> None:
        for child in reversed(self._everyone()):
            child.dismiss(now)
            child.kill(reason, now)

    def _abort(self, signals: Signals) -> None:
        """After a defect of the supervisor itself: leave nothing behind."""
        self.stop("the supervisor failed")
        with contextlib.suppress(Exception):
            self._kill_all("was killed because the supervisor failed", time.monotonic())
            self._loop(signals)

    def _tell(self, now: float) -> None:
        """Tell the service manager what is new, and that this loop goes on."""
        if self._has_news:
            self._has_news = False
            states = [(child.name, child.state) for child in self._everyone()]
            ready = sum(state is State.READY for _, state in states)
            others = ", ".join(f"{name} {state}" for name, state in states if state is not State.READY)
            self._notifier.status(f"{ready} of {len(states)} ready{f': {others}' if others else ''}")
        if self._notifier.interval is not None and now >= self._alive_at:
            self._alive_at = now + self._notifier.interval
            self._notifier.alive()

    def _reap(self) -> None:
        """Take note of the ends of orphans that the kernel gave to this process."""
        known = set(self._launcher.helpers)
        if self._launcher.start_method != "forkserver":  # then multiprocess waits for them itself
            known |= {child.pid for child in self._everyone() if child.pid is not None}
        for pid in reap(known):
            logger.debug("%s: reaped an orphan", self.name, extra={"pid": pid})

    def _refuse_when_stopping(self) -> None:
        if self._exit is not None:
            raise RuntimeError(f"{self.name} is stopping: {self._exit.reason}")


def next_to_start(states: Sequence[State]) -> int | None:
    """Return the index of the child to start: the first one that was not yet started, when all before it are settled."""
    for index, state in enumerate(states):
        if state is State.STOPPED:
            return index
        if state not in SETTLED:
            return None
    return None


def next_to_stop(states: Sequence[State]) -> int | None:
    """Return the index of the child to stop, or that is being stopped: the last one that is not down."""
    return next((index for index in range(len(states) - 1, -1, -1) if states[index] not in DOWN), None)
