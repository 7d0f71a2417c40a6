"""The terminal that a program was started on, and whether it is still there.

SIGHUP means two things. A terminal that goes sends it, by way of the shell or by itself, to all who run on it: nobody will see
what they do from now on, and they are to end. A person or a service manager sends it to have a configuration read again. The
terminal itself tells which of the two it is.
"""

from __future__ import annotations

import os
import select
from typing import Final

__all__ = ["Terminal"]

CONTROLLING: Final = "/dev/tty"
"""The terminal of a process's session, whatever its descriptors are. It can be opened as long as there is one."""


HANG_UP: Final = 1.0
"""Within how many seconds the terminal follows when a shell sends SIGHUP to its jobs before it goes itself, as some do."""


class Terminal:
    """The terminal of this process, if it has one when this is made.

    :ivar deadline: when to ask :meth:`is_gone`, by ``time.monotonic``; ``None``: nobody has sent SIGHUP.
    """

    def __init__(self) -> None:
        self.deadline: float | None = None
        self._is_controlled = _can_open(CONTROLLING)
        self._files = [file for file in (0, 1, 2) if os.isatty(file)]

    def sends_hangup(self, now: float) -> bool:
        """Tell, when SIGHUP has come, whether it is because the terminal is gone. If not, it may still go."""
        self.deadline = now + HANG_UP
        return self._has_hung_up()

    def is_gone(self, now: float) -> bool:
        """Tell, at :attr:`deadline`, whether the terminal has gone after SIGHUP had come."""
        if self.deadline is None or now < self.deadline:
            return False
        self.deadline = None
        return self._has_hung_up()

    def _has_hung_up(self) -> bool:
        return (self._is_controlled and not _can_open(CONTROLLING)) or any(map(_is_hung_up, self._files))


def _can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _is_hung_up(file: int) -> bool:
    poll = select.poll()
    poll.register(file, 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
