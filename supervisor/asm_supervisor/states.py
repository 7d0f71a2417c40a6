"""The states of a child, which may follow which, and what a child is to become."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum, StrEnum
from typing import Final

__all__ = ["DOWN", "SETTLED", "TRANSITIONS", "UP", "IllegalTransition", "State", "Wanted", "check_transition"]


class State(StrEnum):
    """What a child is doing, as its parent sees it."""

    STOPPED = "stopped"
    """There is no process, and none is wanted. Where every child begins."""
    STARTING = "starting"
    """A process was asked for, and has not said yet how it is."""
    WAITING = "waiting"
    """The process serves its name, and has said that what it needs is away."""
    READY = "ready"
    """The process has said that it is ready."""
    STOPPING = "stopping"
    """The process was told to go, or was killed, and may still be there."""
    BACKOFF = "backoff"
    """The process is gone, and the next one waits for its time."""
    FAILED = "failed"
    """The process is gone, and there will be no other: it did not come up, or came down too often."""
    ENDED = "ended"
    """The process is gone, and there will be no other, as its description has it: ``transient`` or ``temporary``."""


class Wanted(Enum):
    """What is to become of a child. Everything that is done to it follows from this and from its state."""

    RUN = "run"
    """A process is to be there. What follows when it ends is a matter of the child's description."""
    RESTART = "restart"
    """The process that is there is to go, and another one is to come."""
    END = "end"
    """The process that is there is to go, and no other is to come until somebody asks: a temporary one goes with another."""
    LEAVE = "leave"
    """The child is to go: it is not described any more, or the tree stops."""


DOWN: Final[AbstractSet[State]] = frozenset({State.STOPPED, State.FAILED, State.ENDED})
"""No process, and none to come."""

UP: Final[AbstractSet[State]] = frozenset({State.WAITING, State.READY})
"""The process has come up, and serves its name."""

SETTLED: Final[AbstractSet[State]] = UP | {State.FAILED, State.ENDED}
"""Nothing is being waited for: what comes after such a child may start."""

_GONE: Final[AbstractSet[State]] = DOWN | {State.BACKOFF}

TRANSITIONS: Final[Mapping[State, AbstractSet[State]]] = {
    State.STOPPED: {State.STARTING},
    State.STARTING: UP | _GONE | {State.STOPPING},
    State.WAITING: _GONE | {State.READY, State.STOPPING},
    State.READY: _GONE | {State.WAITING, State.STOPPING},
    State.STOPPING: _GONE,
    State.BACKOFF: {State.STARTING, State.STOPPED, State.FAILED},
    State.FAILED: {State.BACKOFF, State.STARTING},
    State.ENDED: {State.BACKOFF, State.STARTING},
}
"""Every state, and those that may follow it."""


class IllegalTransition(RuntimeError):  # noqa: N818  # says what happened
    """A defect of this library: a child was to change into a state that cannot follow its own."""


def check_transition(name: str, old: State, new: State) -> None:
    """Let a legal transition pass.

    :raises IllegalTransition: when ``new`` may not follow ``old``.
    """
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"the child {name!r} is {old}, and cannot become {new}")
