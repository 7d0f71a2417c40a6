"""Sessions and runs by id, and in sorted lists, one for each thing that they are asked for by.

::

    lists["created_at", ("agent", "a")] = [(created_at, id), …]     in each order, for what is often asked for
    lists["created_at", ("tag", "t")]   = [(created_at, id), …]     in the first order only, for what few have in common

A search goes along the shortest list of what it asks for, from where its cursor stands, and takes what passes the rest of its
filters. Where few values can pass at all, it takes these few and sorts them.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Generic, NamedTuple, TypeVar

from asm.core.values import Run, Session

__all__ = ["Few", "Table"]

V = TypeVar("V", Session, Run)

Position = tuple[Any, str]
"""Where a value stands in an order: its time or number, then its id."""

_first: Final = operator.itemgetter(0)


class Few(NamedTuple):
    """Values that are all that can pass one of the filters, if they are few."""

    size: int
    """How many they are at the most."""
    ids: Callable[[], Iterable[str]]


class Table(Generic[V]):
    """Values by id, and sorted lists of the values that share something.

    :param orders: what is compared in each order, by its name, before the id.
    :param groups: what a value is listed for in every order …
    :param labels: … and what only in the first.
    """

    def __init__(
        self,
        orders: Mapping[str, Callable[[V], Any]],
        groups: Callable[[V], Iterable[Hashable]],
        labels: Callable[[V], Iterable[Hashable]],
    ) -> None:
        self._orders: dict[str, Callable[[V], Any]] = dict(orders)
        self._default = next(iter(orders))
        self._groups: Callable[[V], Iterable[Hashable]] = groups
        self._labels: Callable[[V], Iterable[Hashable]] = labels
        self._values: dict[str, V] = {}
        self._lists: dict[Hashable, list[Position]] = {}
        self._ids: list[str] = []

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> V | None:
        """Return the value with this id."""
        return self._values.get(key)

    def put(self, value: V) -> None:
        """Insert a value, or replace the one with its id. In the lists only that is moved which changes its place."""
        old = self._values.get(value.id)
        if old is None:
            bisect.insort(self._ids, value.id)
        self._values[value.id] = value
        self._move(value.id, {} if old is None else self._places(old), self._places(value))

    def remove(self, key: str) -> None:
        """Remove the value with this id, if there is one."""
        value = self._values.pop(key, None)
        if value is not None:
            del self._ids[bisect.bisect_left(self._ids, key)]
            self._move(key, self._places(value), {})

    def _places(self, value: V) -> dict[Hashable, Any]:
        """Return the lists that a value is in, and what stands there before its id."""
        found: dict[Hashable, Any] = {}
        groups: Iterable[Hashable] = (*self._groups(value), *self._labels(value))
        for name, of in self._orders.items():
            place = of(value)
            for group in groups:
                found[name, group] = place
            groups = self._groups(value)
        return found

    def _move(self, key: str, before: Mapping[Hashable, Any], after: Mapping[Hashable, Any]) -> None:
        for name, place in before.items():
            if name not in after or after[name] != place:
                positions = self._lists[name]
                del positions[bisect.bisect_left(positions, (place, key))]
                if not positions:
                    del self._lists[name]
        for name, place in after.items():
            if name not in before or before[name] != place:
                bisect.insort(self._lists.setdefault(name, []), (place, key))

    # -- Reading --------------------------------------------------------------------------------------------------------

    def select(self, *groups: Hashable) -> Iterator[V]:
        """Yield the values of one group, or of several that have none in common, in the first order."""
        lists = [self._lists.get((self._default, group), []) for group in groups]
        merged: Iterable[Position] = lists[0] if len(lists) == 1 else heapq.merge(*lists)
        return (self._values[key] for _, key in merged)

    def last(self, group: Hashable) -> V | None:
        """Return the last value of a group."""
        positions = self._lists.get((self._default, group))
        return self._values[positions[-1][1]] if positions else None

    def count(self, group: Hashable) -> int:
        """Return how many values a group or label has."""
        return len(self._lists.get((self._default, group), ()))

    def few(self, group: Hashable) -> Few:
        """Return those of a group or label."""
        return Few(self.count(group), lambda: [key for _, key in self._lists.get((self._default, group), ())])

    def beginning(self, prefix: str) -> Few:
        """Return those whose ids begin so."""
        start = bisect.bisect_left(self._ids, prefix)
        stop = bisect.bisect_right(self._ids, prefix, start, key=lambda key: key[: len(prefix)])
        return Few(stop - start, lambda: self._ids[start:stop])

    def between(self, order: str, above: Any, below: Any) -> Few:
        """Return those for which what an order compares is greater than one and less than the other."""
        positions = self._lists.get((order, "all"), [])
        span = _cut(positions, above, below)
        return Few(len(span), lambda: [positions[place][1] for place in span])

    def position(self, order: str, value: V) -> Position:
        """Return where a value stands in an order."""
        return self._orders[order.removeprefix("-")](value), value.id

    def search(
        self,
        order: str,
        limit: int | None,
        passes: Callable[[V], bool],
        *,
        ways: Sequence[Sequence[Hashable]],
        few: Sequence[Few] = (),
        behind: Position | None = None,
        above: Any = None,
        below: Any = None,
    ) -> list[V]:
        """Return values in an order.

        :param order: the name of the order, with ``-`` in front to go backwards.
        :param limit: how many to return at the most.
        :param passes: whether a value is one of them.
        :param ways: groups that have all of them: any of the ways will do, and groups of one way have no value in common.
        :param few: values among which all of them are: any of these will do.
        :param behind: where to go on: only what comes behind this.
        :param above: what the order compares must be greater than this …
        :param below: … and less than this.
        """
        name, backwards = order.removeprefix("-"), order.startswith("-")

        def cut(positions: list[Position]) -> tuple[list[Position], range]:
            span = _cut(positions, above, below)
            if behind is not None and backwards:
                span = range(span.start, min(span.stop, bisect.bisect_left(positions, behind)))
            elif behind is not None:
                span = range(max(span.start, bisect.bisect_right(positions, behind)), span.stop)
            return positions, span

        spans = min(([cut(self._lists.get((name, group), [])) for group in way] for way in ways), key=_size)
        fewest = min(few, key=_first, default=None)
        if fewest is not None and fewest.size**2 <= (limit or fewest.size + 1) * _size(spans):
            of = self._orders[name]
            spans = [cut(sorted({(of(self._values[key]), key) for key in fewest.ids() if key in self._values}))]
        runs = [map(positions.__getitem__, reversed(span) if backwards else span) for positions, span in spans]
        merged: Iterable[Position] = runs[0] if len(runs) == 1 else heapq.merge(*runs, reverse=backwards)
        return list(islice(filter(passes, (self._values[key] for _, key in merged)), limit))


def _cut(positions: list[Position], above: Any, below: Any) -> range:
    """Return where those are that are greater than one and less than the other; ``None`` is no bound."""
    start = 0 if above is None else bisect.bisect_right(positions, above, key=_first)
    return range(start, len(positions) if below is None else bisect.bisect_left(positions, below, key=_first))


def _size(spans: list[tuple[list[Position], range]]) -> int:
    return sum(len(span) for _, span in spans)
