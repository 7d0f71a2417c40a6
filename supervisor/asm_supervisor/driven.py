"""One child, seen by its parent: its state, its listening socket, and the process that it has at the moment.

A loop drives it, which waits for :meth:`Driven.files` and :attr:`Driven.deadline`, calls :meth:`Driven.step`, and decides what
follows when a process has ended: that of the supervisor, or for a child alone that of :class:`~asm_supervisor.child.Child`.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from asm_supervisor.attempt import Attempt
from asm_supervisor.launch import Launcher
from asm_supervisor.link import Ending, Link
from asm_supervisor.restarts import Restart
from asm_supervisor.snapshot import Snapshot
from asm_supervisor.sockets import Listener
from asm_supervisor.spec import ChildSpec, check_specs
from asm_supervisor.states import DOWN, State, Wanted, check_transition

__all__ = ["Driven", "notify"]

logger = logging.getLogger("asm_supervisor")

HISTORY: Final = 20
"""How many of a child's last restarts are remembered."""

LEVELS: Final[Mapping[State | tuple[State, State], int]] = {
    State.WAITING: logging.WARNING,
    State.BACKOFF: logging.WARNING,
    State.FAILED: logging.ERROR,
    (State.FAILED, State.STARTING): logging.DEBUG,
}
"""How loudly a log tells of a new state. Others are the usual course of things; one that failed is tried again and again."""


class Driven:
    """A child and its processes, one after the other.

    :param spec: what it is.
    :param launcher: starts its processes.
    :param on_change: called with a :class:`Snapshot` after each change of the state.
    :param on_message: called with a :class:`Snapshot`, the name and the map of each message that the child sends of its own.
    :ivar wanted: what is to become of it.
    :ivar restart_at: when the next process is due; ``None`` when none is.
    :ivar deaths: those that count for the restart intensity.
    :ivar streak: how many deaths in a row there were, as the backoff counts them.
    :ivar listener: its name, as long as it has one.
    :ivar ever_up: whether any process of it came up.
    :raises SpecError: when ``spec`` cannot work.
    """

    def __init__(
        self,
        spec: ChildSpec,
        launcher: Launcher,
        *,
        on_change: Callable[[Snapshot], None] | None = None,
        on_message: Callable[[Snapshot, str, Mapping[str, Any]], None] | None = None,
    ) -> None:
        check_specs([spec])
        self.spec = spec
        self.name = spec.name
        self.state = State.STOPPED
        self.wanted = Wanted.RUN
        self.reason = ""
        self.restart_at: float | None = None
        self.deaths: list[Restart] = []
        self.streak = 0
        self.listener: Listener | None = None
        self.ever_up = False
        self._launcher = launcher
        self._on_change = on_change
        self._on_message = on_message
        self._since = time.monotonic()
        self._restarts = 0
        self._history: deque[Restart] = deque(maxlen=HISTORY)
        self._wish = ""
        """Why another process is wanted, in words that follow the child's name, and of what kind that is."""
        self._kind: Literal["asked", "needed"] = "asked"
        self._begun = 0
        self._attempt: Attempt | None = None
        """The current process, or the last one."""

    @property
    def pid(self) -> int | None:
        """The id of the process, as long as there is one and it is known."""
        attempt = self._attempt  # asked from other threads, too
        return None if attempt is None else attempt.pid

    @property
    def has_process(self) -> bool:
        """Whether there is, or may be, a process."""
        return self._attempt is not None and not self._attempt.is_over

    @property
    def up_at(self) -> float | None:
        """When the current or the last process came up; ``None`` when it did not."""
        return None if self._attempt is None else self._attempt.up_at

    @property
    def snapshot(self) -> Snapshot:
        """What there is to know at this moment."""
        attempt = self._attempt
        return Snapshot(
            name=self.name,
            description=self.spec.description,
            state=self.state,
            since=self._since,
            pid=None if attempt is None else attempt.pid,
            started_at=None if attempt is None or attempt.is_over else attempt.started_at,
            restarts=self._restarts,
            history=tuple(self._history.copy()),
            reason=_waits(attempt.info) if attempt is not None and self.state is State.WAITING else self.reason,
            listen=self.spec.listen,
            info={} if attempt is None else attempt.info,
            stats={} if attempt is None else attempt.stats,
            trouble=listener.trouble if (listener := self.listener) is not None else "",
            due_at=self.restart_at,
            beat_at=None if attempt is None else attempt.beat_at,
        )

    # -- What a loop needs ------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Take the name and listen, if the child has a socket, unless that is so already.

        :raises ListenError: when that cannot be.
        """
        if self.spec.listen is not None and self.listener is None:
            self.listener = Listener.acquire(self.spec.listen, mode=self.spec.listen_mode)
        if self.listener is not None:
            self.listener.listen()

    def moved(self) -> None:
        """Hand the process the socket that had to be made again; if it cannot take that, another process is needed."""
        attempt, listener = self._attempt, self.listener
        if attempt is None or attempt.is_over or listener is None or listener.socket is None or self.wanted is not Wanted.RUN:
            return
        if attempt.pid is not None:
            listener.handed_to(attempt.pid)
        if not self.spec.rebinds or not attempt.tell("socket", {}, listener.socket.fileno()):
            self.want(Wanted.RESTART, "was stopped, because its socket had to be made again", "needed")

    def release(self) -> None:
        """Remove the socket and give the name back."""
        if self.listener is not None:
            self.listener.close()
            self.listener = None

    def want(self, wanted: Wanted, why: str = "", kind: Literal["asked", "needed"] = "asked") -> None:
        """Decide what is to become of the child.

        :param why: why another process is wanted, in words that follow the child's name: how this one will have ended.
        :param kind: whether somebody asked for that, or the supervisor needs it.
        """
        self.wanted, self._wish, self._kind = wanted, why, kind
        if wanted is Wanted.LEAVE:
            self.restart_at = None

    def describe(self, spec: ChildSpec) -> bool:
        """Be what ``spec`` says from now on; return whether another process is needed for that."""
        before, self.spec = self.spec, spec
        is_to_end = self.state is State.ENDED or self.wanted is Wanted.END
        made_of = spec if self._attempt is None else self._attempt.made_of  # a reload may come before that of another was done
        needed = not spec.makes_the_same(made_of) or (is_to_end and spec.restart == "permanent")
        if self._attempt is not None and self.has_process:
            self._attempt.spec = spec
            if spec.settings != before.settings:
                needed |= not self._attempt.tell("settings", spec.settings)
        if self.state is State.FAILED:
            self.restart_at = self._retry_at(self._since)
        return needed

    @property
    def is_on_trial(self) -> bool:
        """Whether its last process was to show that it need not be ``failed``, and has not."""
        return self._attempt is not None and self._attempt.is_trial and self._attempt.up_at is None

    def forget(self) -> None:
        """Let the history of the deaths begin anew."""
        self.deaths, self.streak = [], 0

    def begin(self, now: float) -> None:
        """Start a process. Whatever is wrong with that is told by :meth:`step`."""
        self.restart_at = None
        link: Link | Ending
        try:
            listening = None if self.listener is None else self.listener.socket
            link = Link(self.spec, self._launcher, listening, self._begun, recovers=self._recovers)
        except (OSError, RuntimeError) as error:  # no descriptors, no threads
            link = Ending(f"could not be started: {error}")
        self._begun += 1
        self._attempt = Attempt(self.spec, link, now, is_trial=self.state is State.FAILED)
        self.become(State.STARTING)

    @property
    def _recovers(self) -> bool:
        """Whether the next process is to go on where one died that had come up; not, when another one was asked for."""
        return self.ever_up and bool(self._history) and self._history[-1].kind != "asked"

    def await_restart(self, moment: float, reason: str = "") -> None:
        """Wait for the next process, which is due at ``moment``; then the caller calls :meth:`begin`.

        :param reason: how the process died; not given when another process is wanted, and the reason of that counts.
        """
        now = time.monotonic()
        self.restart_at = moment
        self._history.append(Restart(now, self.name, reason or self._wish, "crash" if reason else self._kind))
        self._restarts += bool(reason)
        self.want(Wanted.RUN)
        delay = round(max(0.0, moment - now), 3)
        self.become(State.BACKOFF, self._history[-1].reason, restarts=self._restarts, delay=delay)

    def rest(self, state: State, reason: str) -> None:
        """Have no process until somebody asks for one, or it is time to try again. Connections are refused; the name is kept.

        :param state: ``failed`` or ``ended``.
        """
        self.want(Wanted.RUN)
        self.restart_at = self._retry_at(time.monotonic()) if state is State.FAILED else None
        if self.listener is not None:
            self.listener.hand_over()
        self.become(state, reason)

    def files(self) -> list[int]:
        """Return the descriptors to wait for."""
        return [] if self._attempt is None else self._attempt.files()

    @property
    def deadline(self) -> float | None:
        """When something is due to its process though nothing is readable, by ``time.monotonic``."""
        return None if self._attempt is None else self._attempt.deadline

    def step(self, now: float) -> Ending | None:
        """Take note of what has happened, and do what is due.

        :return: how the process ended, once, after which the caller lets the child :meth:`become` what it is then.
        """
        attempt = self._attempt
        if attempt is None or attempt.is_over:
            return None
        knew_it = attempt.pid is not None
        for message, body in attempt.hear(now):
            self._take(attempt, message, body, now)
        if not knew_it and attempt.pid is not None and self.listener is not None:
            self.listener.handed_to(attempt.pid)
        ending = attempt.ending(now)
        if ending is None and (fault := attempt.fault(now)) is not None:
            self.kill(fault, now)
        return ending

    def dismiss(self, now: float) -> None:
        """Ask the process to stop; kill it when ``stop_timeout`` has passed. Without one, the child is stopped already."""
        self.restart_at = None
        if self._attempt is not None and self.has_process:
            self._attempt.is_final = self.wanted is not Wanted.RESTART
            self._attempt.dismiss(now)
            if self.state is not State.STOPPING:
                self.become(State.STOPPING)
        elif self.state not in DOWN:
            self.become(State.STOPPED)

    def kill(self, reason: str, now: float) -> None:
        """Kill the process.

        :param reason: why, in words that follow the child's name.
        """
        if self._attempt is not None and self.has_process:
            self._attempt.kill(reason, now)
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
        level = LEVELS.get((self.state, state), LEVELS.get(state, logging.INFO))
        self.state = state
        self._since = time.monotonic()
        if state is not State.WAITING:
            self.reason = reason or self.reason
        logger.log(level, "%s: %s%s", self.name, state, f": {reason}" if reason else "", extra=self._extra(reason) | more)
        notify(self._on_change, self.snapshot)

    def _take(self, attempt: Attempt, message: str, body: Mapping[str, Any], now: float) -> None:
        """Act on what the process says."""
        speaks_of_itself = not attempt.is_leaving and attempt.error is None
        match message:
            case "ready" | "waiting" if speaks_of_itself:
                if self.is_on_trial:
                    self.forget()
                attempt.come_up(body, now)
                self.ever_up = True
                if (state := State(message)) is not self.state:
                    self.become(state, _waits(body) if state is State.WAITING else "")
            case "failed" if speaks_of_itself and self.state is not State.READY:
                attempt.fail(body, now)
            case "beat":
                attempt.beat(body, now)
            case "ready" | "waiting" | "failed":
                logger.debug("%s: said %s while it was %s", self.name, message, self.state, extra=self._extra(""))
            case _:
                notify(self._on_message, self.snapshot, message, body)

    def _retry_at(self, failed_at: float) -> float | None:
        """Return when a child that failed is tried again, as it is described."""
        return failed_at + self.spec.retry_after if self.spec.retry_after else None

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
