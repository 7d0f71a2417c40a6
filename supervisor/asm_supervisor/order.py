"""Whose turn it is: pure functions of what the children are, in start order."""

from __future__ import annotations

from collections.abc import Sequence

from asm_supervisor.states import DOWN, SETTLED, State

__all__ = ["next_to_start", "next_to_stop"]


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
