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
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final, TypeVar

from asm_supervisor.driven import Driven, notify
from asm_supervisor.group import Group
from asm_supervisor.inbox import Inbox
from asm_supervisor.launch import Launcher
from asm_supervisor.link import wait
from asm_supervisor.notify import Notifier
from asm_supervisor.outcomes import Exit, Reloaded
from asm_supervisor.policy import DEFAULT_BACKOFF, Policy, in_words
from asm_supervisor.reaper import adopts_orphans, reap
from asm_supervisor.restarts import Backoff
from asm_supervisor.signals import Signals
from asm_supervisor.snapshot import Snapshot
from asm_supervisor.sockets import Listener, ListenError
from asm_supervisor.spec import ChildSpec, check_name, check_start_method
from asm_supervisor.states import DOWN, State
from asm_supervisor.terminal import Terminal
from asm_supervisor.watch import Watch, Watched

__all__ = ["Supervisor"]

logger = logging.getLogger("asm_supervisor")

T = TypeVar("T")

ONE_REQUEST: Final = 0.1
"""Signals that come within so many seconds are one request: a wrapper such as ``timeout`` sends its own besides the group's."""


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
    :param on_hangup: called at a SIGHUP that somebody sends. One of a terminal that is gone stops the tree, as does any without
        this parameter. Where SIGHUP is ignored (``nohup``), it stays so.
    :param prepare: called before the file of a socket is made again; makes its directory, and raises when that cannot be.
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
        prepare: Callable[[], None] | None = None,
    ) -> None:
        check_name(name)
        check_start_method(start_method)
        policy = Policy(strategy=strategy, max_restarts=max_restarts, max_seconds=max_seconds, backoff=backoff)
        self.name = name
        self._launcher = Launcher(start_method, preload)
        self._notifier = notifier or Notifier()
        self._on_change = on_change
        self._on_ready = on_ready
        self._on_message = on_message
        self._on_hangup = on_hangup
        self._group = Group(name, specs, policy, self._child)
        self._watch = Watch(prepare)
        self._others: list[Watched] = []
        self._inbox = Inbox()
        self._terminal = Terminal()
        self._signalled_at: float | None = None
        self._alive_at = 0.0
        self._has_news = True
        self._was_up = False
        self._is_announced = False
        """Whether the notifier was told that everybody is what the last description made of them."""
        self._exit: Exit | None = None
        self._has_run = False

    @property
    def children(self) -> list[Snapshot]:
        """What there is to know about each child now, in start order. May be asked from any thread."""
        return [child.snapshot for child in self._group.children]

    def post(self, function: Callable[[], T]) -> Future[T]:
        """Have a function called in the loop, at its next turn. From any thread.

        :return: what tells its result; cancelled when the run has ended before.
        """
        return self._inbox.post(function)

    def run(self, *, last: bool = False) -> Exit:
        """Start the children, keep them running, and return when the last one is gone.

        SIGTERM and SIGINT, also if whoever started us blocked them, stop the tree; a second one kills every child at once.

        :param last: whether the program has nothing else to do. It ends as it says then, whatever signals still come.
        :raises RuntimeError: outside the main thread, or when it was run before.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a supervisor runs in the main thread, which is where Python handles signals")
        if self._has_run:
            raise RuntimeError("a supervisor runs once; make a new one")
        self._has_run = True
        numbers = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}  # if the last is ignored, nobody learns how a child ended
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.add(signal.SIGHUP)
        with Signals(*numbers, last=last) as signals:
            try:
                self._take_names()
                self._loop(signals)
            except BaseException:
                self._abort(signals)
                raise
            finally:
                self._inbox.close()
                for child in reversed(self._group.children):
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
        self._group.restart(name)

    def reload(self, specs: Iterable[ChildSpec], **policy: Any) -> Reloaded:
        """Take a new description: start who is new, restart who needs another process, then stop who is not in it.

        :param policy: ``strategy``, ``max_restarts``, ``max_seconds``, ``backoff``; what is not given stays as it is.
        :return: what it changes. That it has been done is seen in :attr:`children`.
        :raises SpecError: when it cannot work, or changes a socket; nothing was changed then.
        :raises ListenError: when a new child cannot have its socket; nothing was changed then.
        :raises RuntimeError: when the tree is stopping.
        """
        self._refuse_when_stopping()
        reloaded = self._group.redescribe(specs, replace(self._group.policy, **policy))
        self._is_announced = False
        self._notifier.reloading()
        return reloaded

    def watch(self, name: str, listener: Listener, moved: Callable[[], None]) -> None:
        """Look after a name that is not a child's, as after those of children.

        :param name: what it is called in logs.
        :param moved: called in the loop when the listener has another socket.
        """
        self._others.append(Watched(name, listener, moved))

    # -- The loop ---------------------------------------------------------------------------------------------------

    def _child(self, spec: ChildSpec) -> Driven:
        return Driven(spec, self._launcher, on_change=self._changed, on_message=self._on_message)

    def _names(self) -> list[Watched | Driven]:
        return [*self._others, *self._group.described]

    def _changed(self, snapshot: Snapshot) -> None:
        self._has_news = True
        notify(self._on_change, snapshot)

    def _take_names(self) -> None:
        """Take all names before anything is started: what is in use now will not be free when its turn comes."""
        for child in self._group.children:
            try:
                child.listen()
            except ListenError as error:
                self._end(Exit(kind="start_failed", reason=str(error), child=child.name))
                return

    def _loop(self, signals: Signals) -> None:
        """Take turns until nobody is left."""
        while not self._turn(signals, now := time.monotonic()):
            files = [file for child in self._group.children for file in child.files()]
            deadlines = [self._terminal.deadline, *(child.deadline for child in self._group.children)]
            # One whose time has come and that was not started waits for others, and for no time.
            deadlines += [child.restart_at for child in self._group.children if (child.restart_at or 0) > now]
            deadlines += [self._watch.due if self._exit is None else None]
            deadlines += [self._alive_at if self._notifier.interval is not None else None]
            deadline = min((moment for moment in deadlines if moment is not None), default=None)
            left = None if deadline is None else deadline - time.monotonic()
            wait([signals.fileno(), self._inbox.fileno(), *files], left)

    def _turn(self, signals: Signals, now: float) -> bool:
        """Take what has happened, do what is due; return whether the run is over."""
        for number in signals.take():
            self._take_signal(number, now)
        if self._terminal.is_gone(now):
            self.stop("stopped by SIGHUP")
        self._inbox.serve()
        for child in self._group.children:
            ending = child.step(now)
            if ending is not None:
                why_to_end = self._group.take_ending(child, ending, now, tree_was_up=self._was_up)
                if why_to_end is not None:
                    self._end(why_to_end)
        if self._exit is None:
            self._group.go_on(now)
            self._announce()
            if now >= self._watch.due:
                self._has_news |= self._watch.look(self._names(), now)
        else:
            self._group.stop_last(now)
        self._tell(now)
        return self._exit is not None and all(child.state in DOWN for child in self._group.children)

    def _take_signal(self, number: signal.Signals, now: float) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            if self._terminal.sends_hangup(now) or self._on_hangup is None:
                self.stop("stopped by SIGHUP")
            else:
                notify(self._on_hangup)
        else:
            self.stop(f"stopped by {number.name}")
            if self._signalled_at is None:
                self._signalled_at = now
            elif now - self._signalled_at > ONE_REQUEST and self._exit is not None:
                self._exit = replace(self._exit, cut_short_by=number)
                self._group.kill_all(f"had no time to stop, because a second {number.name} came", now)

    def _announce(self) -> None:
        """Tell that the tree is as it is described, once it is: after its start, and after each reload."""
        if self._is_announced or not self._group.is_as_described:
            return
        self._is_announced = True
        self._notifier.ready()
        if not self._was_up:
            self._was_up = True
            waiting = [child.name for child in self._group.children if child.state is State.WAITING]
            logger.info("%s: all children are up%s", self.name, f"; {', '.join(waiting)} waiting" if waiting else "")
            notify(self._on_ready, self.children)

    def _end(self, exit_: Exit) -> None:
        """Begin the end of the run. The first reason counts."""
        if self._exit is None:
            self._exit = exit_
            logger.info("%s: stopping: %s", self.name, exit_.reason, extra={"child": exit_.child, "reason": exit_.reason})
            self._notifier.stopping()
            self._group.leave()

    def _abort(self, signals: Signals) -> None:
        """After a defect of the supervisor itself: leave nothing behind."""
        self.stop("the supervisor failed")
        with contextlib.suppress(Exception):
            self._group.kill_all("was killed because the supervisor failed", time.monotonic())
            self._loop(signals)

    def _tell(self, now: float) -> None:
        """Tell the service manager what is new, and that this loop goes on."""
        if self._has_news:
            self._has_news = False
            troubles = [(each.name, each.listener.trouble) for each in self._names() if each.listener is not None]
            self._notifier.status(in_words([(child.name, child.state) for child in self._group.children], troubles))
        if self._notifier.interval is not None and now >= self._alive_at:
            self._alive_at = now + self._notifier.interval
            self._notifier.alive()

    def _reap(self) -> None:
        """Take note of the ends of orphans that the kernel gave to this process, if it is one that gets them."""
        if not adopts_orphans():
            return
        known = set(self._launcher.helpers)
        if self._launcher.start_method != "forkserver":  # then multiprocess waits for them itself
            known |= {child.pid for child in self._group.children if child.pid is not None}
        for pid in reap(known):
            logger.debug("%s: reaped an orphan", self.name, extra={"pid": pid})

    def _refuse_when_stopping(self) -> None:
        if self._exit is not None:
            raise RuntimeError(f"{self.name} is stopping: {self._exit.reason}")
