"""Who is started, stopped and restarted: decisions, made of what the children are in start order. Nothing here acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from asm_supervisor.restarts import Backoff, Restart, add_restart, describe
from asm_supervisor.spec import STRATEGIES, check_settings
from asm_supervisor.states import DOWN, SETTLED, State, Wanted

__all__ = ["DEFAULT_BACKOFF", "Policy", "in_words", "next_to_start", "next_to_stop", "what_follows"]

DEFAULT_BACKOFF: Final = Backoff()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who is restarted with a child that died, how soon, and when that was too often. A reload may bring another one.

    :param strategy: a key of :data:`~asm_supervisor.spec.STRATEGIES`.
    :param max_restarts: how many restarts of a child are borne …
    :param max_seconds: … within so many seconds.
    :param backoff: how long a child that died waits for its restart.
    :raises SpecError: when a value is none.
    """

    strategy: str = "one_for_one"
    max_restarts: int = 10
    max_seconds: float = 30.0
    backoff: Backoff = DEFAULT_BACKOFF

    def __post_init__(self) -> None:
        check_settings(strategy=self.strategy, max_restarts=self.max_restarts, max_seconds=self.max_seconds)

    @property
    def in_order(self) -> bool:
        """Whether children are restarted together: then the last one is stopped first, and the first one is started first."""
        return self.strategy != "one_for_one"

    def together(self, order: Sequence[str], died: str) -> Sequence[str]:
        """Return the names of those who are started again when a child died, in start order."""
        return STRATEGIES[self.strategy](order, died)

    def add_death(self, deaths: Sequence[Restart], death: Restart) -> tuple[list[Restart], bool]:
        """Return the deaths that count, and whether these are too many."""
        return add_restart(deaths, death, max_restarts=self.max_restarts, max_seconds=self.max_seconds)

    def too_many(self, deaths: Sequence[Restart]) -> str:
        """Say for a person that these were too many."""
        return f"more than {self.max_restarts} restarts within {self.max_seconds:g} s: {describe(deaths)}"


def what_follows(
    wanted: Wanted, restart: str, status: int | None, *, has_come_up: bool
) -> Literal["stopped", "restart", "ended", "death", "no start"]:
    """Return what the end of a process means.

    :param wanted: what is to become of the child.
    :param restart: when it is started again, as it is described.
    :param status: the exit status, if it is known.
    :param has_come_up: whether the child, or the tree, was up before.
    """
    if wanted is Wanted.LEAVE:
        return "stopped"
    if wanted is Wanted.RESTART:
        return "restart"
    if wanted is Wanted.END:
        return "ended"
    if not has_come_up:
        return "no start"
    return "ended" if restart == "temporary" or (restart == "transient" and status == 0) else "death"


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


def in_words(states: Sequence[tuple[str, State]], troubles: Sequence[tuple[str, str]]) -> str:
    """Say in one line how a tree is.

    :param troubles: why names are lost, in words that follow them; empty where they are not.
    """
    others = [f"{name} {state}" for name, state in states if state is not State.READY]
    ready = len(states) - len(others)
    others += [f"{name} {trouble}" for name, trouble in troubles if trouble]
    return f"{ready} of {len(states)} ready" + (f": {', '.join(others)}" if others else "")
