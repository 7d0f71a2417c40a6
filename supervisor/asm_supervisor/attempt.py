"""One process of a child, as its parent judges it: what it said of itself, what it owes and until when, and why it goes.

A child has one attempt after the other. Whatever is true of one process only stands here, and goes with it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from asm_supervisor.link import Ending, Link
from asm_supervisor.pipe import Message
from asm_supervisor.spec import ChildSpec

__all__ = ["Attempt"]

logger = logging.getLogger("asm_supervisor")

EOF_PATIENCE: Final = 1.0
"""How many seconds a process may be there after it closed its lifeline. One that exits is gone within milliseconds."""

KILL_PATIENCE: Final = 5.0
"""How many seconds a killed process is waited for that no other follows. Only one that is stuck in the kernel needs more."""

BROKE: Final = "broke the protocol of the lifeline: "


class Attempt:
    """A process, from the decision to start it to the moment when it is put away.

    :param spec: what it is to be; its timeouts may change meanwhile.
    :param link: the process, or how it ended before there was one.
    :param is_trial: whether it is to show that a child which failed can be there again.
    :ivar made_of: what it was started as.
    :ivar up_at: when it came up, ready or waiting; ``None`` as long as it has not.
    :ivar info: what it said when it became ready, or began to wait.
    :ivar stats: what it said with its last heartbeat.
    :ivar beat_at: when that was; ``None`` when it has not beaten yet.
    :ivar error: why it cannot come up, as it said itself.
    :ivar is_final: whether no other process follows, so that one which survives even SIGKILL is given up after a while.
    :ivar is_over: whether it has ended.

    Moments are those of ``time.monotonic``.
    """

    def __init__(self, spec: ChildSpec, link: Link | Ending, now: float, *, is_trial: bool = False) -> None:
        self.spec = self.made_of = spec
        self.is_trial = is_trial
        self.started_at = now
        self.up_at: float | None = None
        self.info: Mapping[str, Any] = {}
        self.stats: Mapping[str, Any] = {}
        self.beat_at: float | None = None
        self.error: Mapping[str, Any] | None = None
        self.is_final = False
        self.is_over = False
        self._link = link
        self._dismissed = False
        self._condemned: str | None = None
        """Why it was killed, in words that follow the child's name."""
        self._killed_at: float | None = None
        self._kill: tuple[float, str] | None = (now + spec.start_timeout, f"was not ready within {spec.start_timeout:g} s")
        """When it is to be killed, unless it does what it owes, and what will have been the reason."""
        self._hung_at: float | None = None
        self._overdue = False

    @property
    def pid(self) -> int | None:
        """The id of the process, as long as there is one and it is known."""
        link = self._link  # asked from other threads, too
        return link.pid if isinstance(link, Link) and not self.is_over else None

    @property
    def is_leaving(self) -> bool:
        """Whether it was told to go, or was killed."""
        return self._dismissed or self._condemned is not None

    def files(self) -> list[int]:
        """Return the descriptors to wait for."""
        return self._link.files() if isinstance(self._link, Link) and not self.is_over else []

    @property
    def deadline(self) -> float | None:
        """When something is due though nothing is readable."""
        if self.is_over:
            return None
        if isinstance(self._link, Ending):
            return 0.0
        times = [self._hung_at, self._link.deadline, self._give_up_at, None if self._kill is None else self._kill[0]]
        return min((moment for moment in times if moment is not None), default=None)

    # -- What has happened

    def hear(self, now: float) -> list[Message]:
        """Take note of what has happened; return what the process said."""
        return self._link.step(now) if isinstance(self._link, Link) else []

    def fault(self, now: float) -> str | None:
        """Return why it is to be killed now, in words that follow the child's name, if it is."""
        if isinstance(self._link, Ending):
            return None
        if self._link.broken is not None and self._condemned is None:
            return f"{BROKE}{self._link.broken}"
        if self._link.eof:
            self._kill_at(now + EOF_PATIENCE, "closed its lifeline")
        if self._kill is not None and now >= self._kill[0]:
            return self._kill[1]
        if self._hung_at is not None and now >= self._hung_at:
            return self._suspicion(now)
        return None

    def ending(self, now: float) -> Ending | None:
        """Return how the process ended, once it has. It is put away then."""
        if isinstance(self._link, Ending):
            self.is_over = True
            return self._link
        ending = self._link.ending(now)
        if ending is None and self._give_up_at is not None and now >= self._give_up_at:
            name, pid = self.spec.name, self.pid
            logger.error("%s: is there in spite of SIGKILL", name, extra={"child": name, "pid": pid})
            ending = Ending("is there in spite of SIGKILL")
        if ending is None:
            return None
        if self.error is not None:
            ending = replace(ending, reason=f"could not start: {self.error.get('message', self.error)}", error=self.error)
        elif self._condemned is not None:
            ending = replace(ending, reason=self._condemned)
        elif self._link.broken is not None:
            ending = replace(ending, reason=f"{BROKE}{self._link.broken}")
        elif self.up_at is None and not self._dismissed and self._link.pid is not None:
            ending = replace(ending, reason=f"{ending.reason} before it was ready")
        self._link.close()
        self.is_over = True
        return ending

    # -- What it said

    def come_up(self, info: Mapping[str, Any], now: float) -> None:
        """Note that it is up, or how it is now."""
        self.info = info
        if self.up_at is None:
            self.up_at = now
            self._kill = None
            self._await_beat(now)

    def fail(self, error: Mapping[str, Any], now: float) -> None:
        """Note that it cannot come up. It is to exit by itself."""
        self.error = error
        self._kill_at(now + self.spec.stop_timeout, "did not exit after it had failed")

    def beat(self, stats: Mapping[str, Any], now: float) -> None:
        """Note that it gets on with its work."""
        self.stats = stats
        self.beat_at = now
        if self._hung_at is not None:
            self._await_beat(now)

    # -- What it is told

    def tell(self, message: str, body: Mapping[str, Any], file: int | None = None) -> bool:
        """Tell it something; return whether there was room for it. A process that does not listen is stuck.

        :param file: a descriptor that goes with it.
        """
        return isinstance(self._link, Link) and self._link.tell(message, body, file)

    def dismiss(self, now: float) -> None:
        """Ask it to stop; it is to be killed when ``stop_timeout`` has passed."""
        if isinstance(self._link, Link) and not self.is_leaving:
            self._link.terminate()
            self._hung_at = None
            self._kill = (now + self.spec.stop_timeout, f"did not stop within {self.spec.stop_timeout:g} s")
        self._dismissed = True

    def kill(self, reason: str, now: float) -> None:
        """Kill it.

        :param reason: why, in words that follow the child's name.
        """
        if isinstance(self._link, Link):
            self._link.kill()
            self._kill = self._hung_at = None
            self._condemned = self._condemned or reason
            self._killed_at = self._killed_at or now

    # -- Inside

    @property
    def _give_up_at(self) -> float | None:
        return self._killed_at + KILL_PATIENCE if self.is_final and self._killed_at is not None else None

    def _kill_at(self, moment: float, reason: str) -> None:
        """Have it killed at ``moment``, unless that happens earlier."""
        if self._condemned is None and (self._kill is None or moment < self._kill[0]):
            self._kill = (moment, reason)

    def _await_beat(self, now: float) -> None:
        """Expect a heartbeat within its limit."""
        self._overdue = False
        self._hung_at = None if self.spec.heartbeat_timeout is None else now + self.spec.heartbeat_timeout

    def _suspicion(self, now: float) -> str | None:
        """Blame a process that has not beaten within its limit, and not within one more interval.

        Another interval, because it may be that everybody was frozen, this process, too, and the child is just waking up. If
        this process wakes up late itself, that is so, and the child has its whole limit once more.
        """
        timeout, interval = self.spec.heartbeat_timeout, self.spec.heartbeat
        assert timeout is not None
        assert interval is not None
        assert self._hung_at is not None
        if self._overdue:
            return f"made no progress for {timeout:g} s"
        was_frozen = now - self._hung_at > interval / 4
        self._overdue = True
        self._hung_at = now + (timeout if was_frozen else interval)
        return None
