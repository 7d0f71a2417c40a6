"""What a fork must not keep: the descriptors that stand for *this* process's children, names and signals.

A copy of a lifeline's parent end in a forked process hides the parent's death from the child, and a copy of a lock's
descriptor keeps a name taken. So whatever holds such descriptors is registered here, and every fork of this process,
whoever makes it, begins by closing its copies.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any, Final, Protocol

__all__ = ["Owner", "close_in_forks", "descriptors", "guard"]

guard: Final = threading.RLock()
"""Held while descriptors are made and registered, so that no other thread forks in between."""


class Owner(Protocol):
    """Something that holds descriptors which are of no use to a fork."""

    def abandon(self) -> None:
        """Close the copies that a fork has, and leave everything else as it is: it belongs to the parent."""


def close_in_forks(owner: Owner) -> None:
    """Have ``owner.abandon()`` called in every fork of this process, for as long as ``owner`` exists."""
    _owners.add(owner)


def descriptors(process: Any) -> list[int]:
    """Return the descriptors that multiprocess keeps in the parent for a process: it has no name for them."""
    try:
        return list(process._popen.finalizer._args)  # noqa: SLF001
    except (AttributeError, TypeError):
        return []


_owners: Final[weakref.WeakSet[Owner]] = weakref.WeakSet()


def _abandon_all() -> None:
    for owner in list(_owners):
        with contextlib.suppress(Exception):  # the others are to be closed all the same
            owner.abandon()
    _owners.clear()
    guard.release()


os.register_at_fork(before=guard.acquire, after_in_parent=guard.release, after_in_child=_abandon_all)
