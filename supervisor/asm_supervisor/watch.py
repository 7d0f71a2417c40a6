"""The names of a tree: taken together before anything starts, and watched from then on.

A file in a runtime directory may be removed by anybody who tidies up, and the directory with it: at the end of a session, by a
program that sweeps old files, by hand. Once a second, and without opening anything, each name is looked at: are the socket
and the lock at their paths still those that were made here? If not, they are made again, and whoever serves the name is
handed the new socket. When somebody else has taken the name, it is his, and that is said; it is tried again until he is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from asm_supervisor.driven import Driven
from asm_supervisor.sockets import Listener, ListenError

__all__ = ["Watch", "Watched", "take_names"]

logger = logging.getLogger("asm_supervisor")

INTERVAL: Final = 1.0
"""Every how many seconds the names are looked at."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A name that is looked after, and that is no child's. A child has the same fields."""

    name: str
    listener: Listener
    moved: Callable[[], None]
    """Called when the listener has another socket."""


class Watch:
    """Looks after names.

    :param prepare: called before anything is made again; makes the directory, and raises when that cannot be.
    :ivar due: when to look the next time, by ``time.monotonic``.
    """

    def __init__(self, prepare: Callable[[], None] | None) -> None:
        self._prepare = prepare
        self.due = 0.0

    def look(self, names: Iterable[Watched | Driven], now: float) -> bool:
        """Make again what is gone from its place; return whether anything is otherwise than at the last look."""
        self.due = now + INTERVAL
        changes = [self._look_at(each.name, each.listener, each.moved) for each in names if each.listener is not None]
        return any(changes)

    def _look_at(self, name: str, listener: Listener, moved: Callable[[], None]) -> bool:
        before = listener.trouble
        if listener.is_in_place():
            listener.trouble = ""
            return bool(before)
        extra = {"child": name, "path": str(listener.path)}
        try:
            if self._prepare is not None:
                self._prepare()
            is_new = listener.restore()
        except Exception as error:  # noqa: BLE001  # whatever it was, it is said, and tried again
            listener.trouble = f"has lost its name: {error}"
            if listener.trouble != before:
                logger.error("%s: %s", name, listener.trouble, extra=extra)  # noqa: TRY400  # no defect
        else:
            listener.trouble = ""
            logger.warning("%s: its %s was gone, and was made again", name, "socket" if is_new else "lock", extra=extra)
            if is_new:
                moved()
        return listener.trouble != before


def take_names(children: Iterable[Driven]) -> None:
    """Take the names of children: of all, or of none.

    :raises ListenError: when that cannot be.
    """
    taken: list[Driven] = []
    try:
        for child in children:
            taken.append(child)
            child.listen()
    except ListenError:
        for child in taken:
            child.release()
        raise
