"""How a store is, as far as its process has seen: what it said when it was asked, and which of its operations fail.

Pure decisions on plain state: whoever has a clock and a store tells what happened, and asks.
"""

from __future__ import annotations

from typing import Final

from asm.core.errors import Error

__all__ = ["Health"]

FORGETTING: Final = 60.0
"""For how many seconds a failed operation counts that nobody has tried again since."""

ANSWERS: Final = frozenset({"overloaded", "conflict", "damaged", "too_large"})
"""The reasons of storage errors that say something of one call, and nothing of the store."""


class Health:
    """What is known of a store's condition. Times are by ``time.monotonic``."""

    def __init__(self) -> None:
        self._said: Error | None = None
        self._failing: dict[str, tuple[float, Error]] = {}

    def heard(self, error: Error | None) -> bool:
        """Note what the store said when it was asked how it is, ``None``: well; return whether that is news."""
        before, self._said = self._said, error
        if error is None:  # what could not be reached is there again
            self._failing = {name: seen for name, seen in self._failing.items() if seen[1].details.get("away") is not True}
        return (before is None) != (error is None)

    def failed(self, operation: str, error: Error, now: float) -> bool:
        """Note that a call failed; return whether that says something of the store."""
        tells = error.category == "storage" and error.details.get("reason") not in ANSWERS
        if tells:
            self._failing[operation] = (now, error)
        return tells

    def succeeded(self, operation: str) -> None:
        """Note that a call went well."""
        if self._failing:
            self._failing.pop(operation, None)

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with the store; ``None`` if nothing is known to be."""
        self._failing = {name: seen for name, seen in self._failing.items() if now - seen[0] < FORGETTING}
        latest = max(self._failing.values(), key=lambda seen: seen[0], default=(0.0, None))
        return self._said or latest[1]
