"""File descriptors: how many a process may have, and what is left of them for connections."""

from __future__ import annotations

import logging
import resource
from typing import Final

__all__ = ["room_for_children", "room_for_connections"]

_log = logging.getLogger(__name__)

RESERVE: Final = 256
"""How many are kept for what is no connection: files, databases, pipes. Of few, a quarter."""

OWN: Final = 128
"""How many a supervisor needs for itself, and for those who ask it something."""

PER_CHILD: Final = 8
"""How many it needs for each child: its socket and lock, its lifeline and status, and what its start takes."""


def room_for_connections(wanted: int) -> int:
    """Raise the limit of open files, as far as that is allowed; return for how many connections it leaves room.

    :param wanted: how many connections there may be.
    """
    needed = wanted + RESERVE
    allowed = _raise_limit(needed)
    room = min(wanted, max(allowed - min(RESERVE, allowed // 4), 1))
    if room < wanted:
        _tell(f"{room} connections, and not {wanted}", needed, allowed)
    return room


def room_for_children(children: int) -> None:
    """Raise the limit of open files of a supervisor, as far as that is allowed, and say so if it is too low."""
    needed = OWN + PER_CHILD * children
    allowed = _raise_limit(needed)
    if allowed < needed:
        _tell(f"{max(allowed - OWN, 0) // PER_CHILD} children, and not {children}", needed, allowed)


def _tell(room: str, needed: int, allowed: int) -> None:
    _log.warning(
        "the limit of open files (RLIMIT_NOFILE) is %d, which leaves room for %s; to raise it to %d: ulimit -Hn, LimitNOFILE=",
        allowed,
        room,
        needed,
        extra={"rlimit_nofile": allowed, "needed": needed},
    )


def _raise_limit(needed: int) -> int:
    """Have at least so many descriptors, if that is allowed; return how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return needed if soft == resource.RLIM_INFINITY else soft
