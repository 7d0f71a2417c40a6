"""Who is told of a fork: whatever holds locks, connections or threads, of which a forked process has only the looks."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["Inherited", "tell_of_forks"]


class Inherited(Protocol):
    """What a forked process inherits and must not use as it is."""

    def _forked(self) -> None:
        """Leave to the parent what is the parent's. Called in the forked process, before anything else happens there."""


_TOLD: Final[weakref.WeakValueDictionary[int, Inherited]] = weakref.WeakValueDictionary()


def tell_of_forks(inherited: Inherited) -> None:
    """Have ``inherited._forked()`` called in every process that is forked from this one, as long as it lives."""
    _TOLD[id(inherited)] = inherited


def _forked() -> None:
    for inherited in list(_TOLD.values()):
        inherited._forked()  # noqa: SLF001  # it is meant for nobody else


os.register_at_fork(after_in_child=_forked)
