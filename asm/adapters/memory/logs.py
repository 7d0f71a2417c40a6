"""The events of a session, and the events of all sessions by time.

A log is lists of events by their numbers: of all of them, and of those of each type, run and correlation. Numbers are looked
for in them by halving, so they may have gaps. The timeline costs nothing until somebody asks for it.
"""

from __future__ import annotations

import bisect
import heapq
import operator
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from asm.adapters.matching import has_text
from asm.core.values import Event

__all__ = ["Filter", "Log", "Timeline", "place"]

_number: Final = operator.attrgetter("sequence_number")

place: Final = operator.attrgetter("timestamp", "session_id", "sequence_number")
"""Where an event stands among those of all sessions."""


@dataclass(slots=True, kw_only=True)
class Filter:
    """Which events are asked for."""

    session_ids: Sequence[str] | None = None
    run_ids: Sequence[str] | None = None
    types: Sequence[str] | None = None
    correlation_id: str | None = None
    provider: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    """After :meth:`str.casefold`."""

    def passes(self, event: Event) -> bool:
        """Tell whether an event is one of them."""
        return (
            (self.session_ids is None or event.session_id in self.session_ids)
            and (self.run_ids is None or event.run_id in self.run_ids)
            and (self.types is None or event.type in self.types)
            and (self.correlation_id is None or event.correlation_id == self.correlation_id)
            and (self.provider is None or event.provider == self.provider)
            and (self.since is None or event.timestamp >= self.since)
            and (self.until is None or event.timestamp < self.until)
            and (self.text is None or has_text(event.data, self.text))
        )


EVERY: Final = Filter()


class Log:
    """The events of one session."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.last = 0
        """The greatest number that was given. It stays when events are deleted."""
        self._types: dict[Hashable, list[Event]] = {}
        self._runs: dict[Hashable, list[Event]] = {}
        self._correlations: dict[Hashable, list[Event]] = {}
        self._summed = _Sums()

    def append(self, event: Event) -> None:
        """Take an event that has its number."""
        self.last = event.sequence_number or 0
        self.events.append(event)
        self._types.setdefault(event.type, []).append(event)
        if event.run_id is not None:
            self._runs.setdefault(event.run_id, []).append(event)
        if event.correlation_id is not None:
            self._correlations.setdefault(event.correlation_id, []).append(event)

    def remove(self, gone: Sequence[Event]) -> None:
        """Remove events, given by their numbers, ascending."""
        parts: dict[tuple[int, Hashable], list[Event]] = {}
        for event in gone:
            for index, key in enumerate((event.type, event.run_id, event.correlation_id)):
                if key is not None:
                    parts.setdefault((index, key), []).append(event)
        for (index, of), these in parts.items():
            lists = (self._types, self._runs, self._correlations)[index]
            _without(lists[of], these)
            if not lists[of]:
                del lists[of]
        _without(self.events, gone)
        self._summed = _Sums()

    def select(
        self,
        wanted: Filter = EVERY,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        last: int | None = None,
    ) -> list[Event]:
        """Return the events that pass the filter, by their numbers: the first ones up to a limit, or the last ones."""
        if wanted == EVERY:
            _, span = _between(self.events, after, before)
            span = span[:limit] if last is None else span[-last:]
            return self.events[span.start : span.stop]
        spans = [_between(events, after, before) for events in self.narrowest(wanted)]
        runs = [map(events.__getitem__, span if last is None else reversed(span)) for events, span in spans]
        merged: Iterable[Event] = runs[0] if len(runs) == 1 else heapq.merge(*runs, key=_number, reverse=last is not None)
        found = list(islice(filter(wanted.passes, merged), limit if last is None else last))
        return found if last is None else found[::-1]

    def narrowest(self, wanted: Filter) -> list[list[Event]]:
        """Return the fewest lists that have all events that pass a filter, and none in common."""
        ways = [[self.events]]
        for lists, keys in (
            (self._types, wanted.types),
            (self._runs, wanted.run_ids),
            (self._correlations, None if wanted.correlation_id is None else [wanted.correlation_id]),
        ):
            if keys is not None:
                ways.append([lists[key] for key in keys if key in lists])
        return min(ways, key=lambda way: sum(map(len, way))) or [[]]

    def sums(self) -> _Sums:
        """Return what the events amount to. Only those are looked at that came since the last time."""
        self._summed.add(islice(self.events, self._summed.count, None))
        return self._summed


class _Sums:
    """What events amount to, as far as they were looked at."""

    def __init__(self) -> None:
        self.count = 0
        self.providers: set[str] = set()
        self.first: datetime | None = None
        """The earliest timestamp …"""
        self.latest: datetime | None = None
        """… and the latest."""

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            self.count += 1
            if event.provider is not None:
                self.providers.add(event.provider)
            self.first = event.timestamp if self.first is None else min(self.first, event.timestamp)
            self.latest = event.timestamp if self.latest is None else max(self.latest, event.timestamp)


def _between(events: list[Event], after: int | None, before: int | None) -> tuple[list[Event], range]:
    """Return the list, and which part of it has numbers greater than one and less than the other."""
    start = 0 if not after else bisect.bisect_right(events, after, key=_number)
    stop = len(events) if before is None else bisect.bisect_left(events, before, key=_number)
    return events, range(start, stop)


def _without(events: list[Event], gone: Sequence[Event]) -> None:
    """Take events out of a list that has them all; both are by number."""
    if gone and events[len(gone) - 1] is gone[-1]:  # they are its beginning, as those that are too old are
        del events[: len(gone)]
    else:
        numbers = set(map(_number, gone))
        events[:] = [event for event in events if event.sequence_number not in numbers]


class Timeline:
    """The events of all sessions by their timestamps.

    Appends only note what is new. What is new is sorted in when somebody asks, and what was deleted is passed over until it is
    more than what is there.

    :param stored: the events that are stored, by id.
    """

    FEW: Final = 64
    """When what is new is this many times less than what is sorted, each goes to its place by itself."""

    def __init__(self, stored: Mapping[str, Event]) -> None:
        self._stored = stored
        self._sorted: list[Event] = []
        self._new: list[Event] = []
        self._gone = 0

    def append(self, event: Event) -> None:
        """Note an event."""
        self._new.append(event)

    def forget(self, count: int) -> None:
        """Note that so many events are not stored any more."""
        self._gone += count
        if self._gone > len(self._stored):
            self._sorted = [event for event in self._sorted if self._is_stored(event)]
            self._new = [event for event in self._new if self._is_stored(event)]
            self._gone = 0

    def between(
        self, since: datetime | None, until: datetime | None, behind: tuple[object, ...] | None, *, backwards: bool
    ) -> Iterator[Event]:
        """Yield the events of a time, in their order.

        :param behind: where to go on: only what comes behind this place.
        """
        self._settle()
        start = 0 if since is None else bisect.bisect_left(self._sorted, since, key=_timestamp)
        stop = len(self._sorted) if until is None else bisect.bisect_left(self._sorted, until, key=_timestamp)
        if behind is not None and backwards:
            stop = min(stop, bisect.bisect_left(self._sorted, behind, key=place))
        elif behind is not None:
            start = max(start, bisect.bisect_right(self._sorted, behind, key=place))
        span = range(start, stop)
        return filter(self._is_stored, map(self._sorted.__getitem__, reversed(span) if backwards else span))

    def _settle(self) -> None:
        """Sort in what is new."""
        if not self._new:
            return
        self._new.sort(key=place)
        if not self._sorted or place(self._sorted[-1]) < place(self._new[0]):
            self._sorted += self._new
        elif len(self._new) * self.FEW < len(self._sorted):
            for event in self._new:
                bisect.insort(self._sorted, event, key=place)
        else:
            self._sorted += self._new
            self._sorted.sort(key=place)
        self._new = []

    def _is_stored(self, event: Event) -> bool:
        return self._stored.get(event.id) is event


_timestamp: Final = operator.attrgetter("timestamp")
