"""What queries return beside sessions, runs and events: pages of them, and what is counted and summed.

Immutable, as all values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Generic, TypeVar

from asm.core import checks
from asm.core.fields import Count, Map, OptionalTime, Value, fields_of
from asm.core.frozen import FrozenList, FrozenMap

__all__ = ["Page", "SessionStats", "Usage"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of what a search finds, in its order. Iterating over it yields the items."""

    items: list[T]
    cursor: str | None = None
    """Where the next page begins: to be given to the same search. ``None`` when there is none."""

    def __iter__(self) -> Iterator[T]:
        """Yield the items."""
        return iter(self.items)


Amount = Annotated[float, checks.amount, checks.held_amount]
Names = Annotated[list[str], checks.tags, checks.held_tags]


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStats(Value):
    """What a session amounts to."""

    event_count: Count = 0
    run_count: Count = 0
    token_totals: Map = field(default_factory=FrozenMap)
    """The ``token_usage`` of its runs, added up number by number, also in nested maps."""
    cost_usd: Amount = 0.0
    """What its runs cost, as far as they say."""
    providers_used: Names = field(default_factory=FrozenList)
    """Those of its runs and events, each once, sorted."""
    first_event_at: OptionalTime = None
    """The earliest timestamp of an event …"""
    last_event_at: OptionalTime = None
    """… and the latest."""
    status_counts: Map = field(default_factory=FrozenMap)
    """How many of its runs have each status that any has."""


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """What the runs of one group used together."""

    group: Map = field(default_factory=FrozenMap)
    """What they have in common, by the names that were given to ``group_by``; ``None`` where a run does not say."""
    run_count: Count = 0
    token_totals: Map = field(default_factory=FrozenMap)
    """Their ``token_usage``, added up number by number, also in nested maps."""
    cost_usd: Amount = 0.0
    """What they cost, as far as they say."""
    runs_without_cost: Count = 0
    """How many do not."""
