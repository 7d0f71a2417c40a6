"""When a child that died is started again, and when that has happened too often: pure functions of (history, now).

Two rules work together, each for one child. *Backoff*: the first restart comes at once, each further one later, until the
child was ready for a while. *Intensity*, as in OTP: more than ``max_restarts`` deaths within ``max_seconds`` mean that
restarting does not help. It is not shared among the children, as it is there, because one that is given up here need not
end the others. For the intensity to be reached by a child that dies again and again, the backoff's cap must be small against
``max_seconds / max_restarts``; with the defaults it takes some 15 seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Backoff", "Restart", "add_restart", "describe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a child waits for its restart.

    :param first: seconds before the second restart in a row; the first restart comes at once.
    :param factor: by which each further delay is longer.
    :param cap: the longest delay, in seconds.
    :param jitter: the share of a delay that is left to chance, 0 to 1: children that died together come back one by one.
    :param stable: a child that was up for this many seconds begins anew with a restart at once.
    :raises ValueError: when a value is out of its range.
    """

    first: float = 0.1
    factor: float = 2.0
    cap: float = 2.0
    jitter: float = 0.2
    stable: float = 1.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("first", 0, math.inf),
            ("factor", 1, math.inf),
            ("cap", 0, math.inf),
            ("jitter", 0, 1),
            ("stable", 0, math.inf),
        ):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not math.isfinite(value) or not least <= value <= most:
                raise ValueError(f"backoff: {name} must be a finite number from {least} to {most}, not {value!r}")

    def streak(self, before: int, up_for: float | None) -> int:
        """Return which death in a row this one is, 1 for the first.

        :param before: what this function returned at the death before; 0 when there was none.
        :param up_for: for how many seconds the child was up, ready or waiting; ``None`` when it never was.
        """
        return 1 if up_for is not None and up_for >= self.stable else before + 1

    def delay(self, streak: int, chance: float) -> float:
        """Return how many seconds to wait before the restart.

        :param streak: from :meth:`streak`.
        :param chance: a random number, 0 ≤ chance < 1.
        """
        if streak <= 1:
            return 0.0
        # The exponent is bounded, because a float to the power of some thousand restarts overflows.
        longest = min(self.cap, self.first * self.factor ** min(streak - 2, 64))
        return longest * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart, or a death that calls for one."""

    at: float
    """When, by ``time.monotonic``."""
    child: str
    reason: str
    """How the process before had ended, in words that follow the child's name."""
    kind: Literal["crash", "asked", "needed"] = "crash"
    """Whether it died; or somebody asked for another process; or the supervisor needed one, since another child died."""


def add_restart(
    history: Sequence[Restart], restart: Restart, *, max_restarts: int, max_seconds: float
) -> tuple[list[Restart], bool]:
    """Return the history with ``restart``, without what is too old to count, and whether these are too many."""
    kept = [old for old in history if restart.at - old.at <= max_seconds] + [restart]
    return kept, len(kept) > max_restarts


def describe(history: Sequence[Restart]) -> str:
    """Say for a person who died of what, and how often."""
    deaths = Counter((restart.child, restart.reason) for restart in history)
    return "; ".join(
        f"{child} {reason}" + (f" ({count} times)" if count > 1 else "") for (child, reason), count in deaths.items()
    )
