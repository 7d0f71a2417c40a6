"""``get_events`` without waiting, and ``get_latest_sequence``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from asm.core.values import Event
from asm.ports import SessionStore
from asm.testing.samples import (
    HUGE,
    INVALID_COUNTS,
    INVALID_IDS,
    INVALID_LIMITS,
    INVALID_NAMES,
    MOMENTS,
    ODD_IDS,
    all_refused,
    at,
    event,
    refused,
)

__all__ = ["Reading"]

MIB = 1024 * 1024

TYPES = ["message_sent", "message_received", "tool_call_started"]


PARTS: list[tuple[dict[str, Any], Iterable[int]]] = [
    ({"after": 0}, range(1, 13)),
    ({"after": 1}, range(2, 13)),
    ({"after": 11}, [12]),
    ({"after": 12}, []),
    ({"after": HUGE}, []),
    ({"before": 0}, []),
    ({"before": 1}, []),
    ({"before": 2}, [1]),
    ({"before": 13}, range(1, 13)),
    ({"before": HUGE}, range(1, 13)),
    ({"after": 3, "before": 7}, [4, 5, 6]),
    ({"after": 3, "before": 4}, []),
    ({"after": 7, "before": 3}, []),
    ({"limit": 1}, [1]),
    ({"limit": 12}, range(1, 13)),
    ({"limit": HUGE}, range(1, 13)),
    ({"after": 5, "limit": 2}, [6, 7]),
    ({"after": 5, "before": 7, "limit": 5}, [6]),
    ({"after": HUGE, "before": HUGE, "limit": HUGE}, []),
    ({"last": 1}, [12]),
    ({"last": 3}, [10, 11, 12]),
    ({"last": 12}, range(1, 13)),
    ({"last": HUGE}, range(1, 13)),
    ({"after": 10, "last": 5}, [11, 12]),
    ({"before": 5, "last": 2}, [3, 4]),
    ({"after": 3, "before": 9, "last": 4}, [5, 6, 7, 8]),
    ({"after": 12, "last": 1}, []),
    ({"before": 1, "last": HUGE}, []),
]
"""Parts of a sequence of twelve, and the numbers in them."""

FILTERS: list[dict[str, Any]] = [
    {"run_id": "run_a"},
    {"run_id": "run_nobody"},
    {"type": "message_sent"},
    {"type": TYPES[:2]},
    {"type": TYPES},
    {"type": "run_failed"},
    {"type": []},
    {"since": at(6)},
    {"since": at(11)},
    {"since": at(11.000_001)},
    {"since": MOMENTS[0]},
    {"since": MOMENTS[-1]},
    {"until": at(6)},
    {"until": at(6.000_001)},
    {"until": at(0)},
    {"until": MOMENTS[0]},
    {"until": MOMENTS[-1]},
    {"since": at(3), "until": at(8)},
    {"since": at(8), "until": at(3)},
    {"since": at(5), "until": at(5)},
    {"correlation_id": "request 1"},
    {"correlation_id": "Request 1"},
    {"correlation_id": "request 1", "until": at(7)},
    {"correlation_id": "request 2", "type": "message_sent"},
    {"correlation_id": "request 2", "run_id": "run_a", "type": TYPES, "since": at(1), "until": at(11)},
    {"run_id": "run_b", "until": at(9)},
    {"type": TYPES[:2], "since": at(2), "until": at(9)},
    {"run_id": "run_b", "type": "message_sent"},
    {"run_id": "run_a", "since": at(4)},
    {"run_id": "run_a", "type": TYPES[1:], "since": at(2)},
    {"type": "message_received", "since": at(5)},
]
"""Filters by what an event holds."""


def fill(store: SessionStore) -> list[Event]:
    """Store twelve events whose types, runs, requests and times change in steps of their own, and some of another session."""
    given = [
        event(
            type=TYPES[number % 3],
            run_id=[None, "run_a", "run_b", "run_a"][number % 4],
            correlation_id=[None, "request 1", "request 2", "request 2", "Request 1"][number % 5],
            timestamp=at((number * 5) % 12),
        )
        for number in range(12)
    ]
    other = {"run_id": "run_a", "type": "message_sent", "correlation_id": "request 1", "timestamp": at(0)}
    others = [event("ses_other", **other) for _ in range(3)]
    return store.append_events([*others, *given])[3:]


def numbers(events: list[Event]) -> list[int | None]:
    """Return the sequence numbers."""
    return [item.sequence_number for item in events]


CHECKS: dict[str, Any] = {
    "run_id": lambda item, given: item.run_id == given,
    "type": lambda item, given: item.type in ([given] if isinstance(given, str) else given),
    "correlation_id": lambda item, given: item.correlation_id == given,
    "since": lambda item, given: item.timestamp >= given,
    "until": lambda item, given: item.timestamp < given,
}
"""What each filter means."""


def matches(item: Event, filters: dict[str, Any]) -> bool:
    """Tell whether an event passes the filters."""
    return all(CHECKS[name](item, given) for name, given in filters.items())


class Reading:
    """Events come back by sequence, filtered by any of their properties."""

    def test_all_events_come_in_order(self, store: SessionStore) -> None:
        """Those of the session and of no other, by sequence and not by time."""
        stored = fill(store)
        assert store.get_events("ses") == stored
        assert numbers(stored) == list(range(1, 13))
        assert len(store.get_events("ses_other")) == 3

    def test_an_unknown_session_has_none(self, store: SessionStore) -> None:
        """No error."""
        fill(store)
        assert store.get_events("ses_nobody") == []
        assert store.get_events("ses_nobody", after=3, limit=5, type="message_sent", run_id="run_a", since=at(0)) == []
        assert store.get_latest_sequence("ses_nobody") == 0

    def test_the_latest_sequence(self, store: SessionStore) -> None:
        """That of the session."""
        fill(store)
        assert store.get_latest_sequence("ses") == 12
        assert store.get_latest_sequence("ses_other") == 3

    def test_a_part_of_the_sequence(self, store: SessionStore) -> None:
        """``after`` and ``before`` are not part of it, and a limit counts from its beginning."""
        fill(store)
        for filters, expected in PARTS:
            assert numbers(store.get_events("ses", **filters)) == list(expected), filters

    def test_filters_of_events(self, store: SessionStore) -> None:
        """Alone and together, and with every part of the sequence."""
        stored = fill(store)
        for filters in FILTERS:
            expected = [item for item in stored if matches(item, filters)]
            assert store.get_events("ses", **filters) == expected, filters
            assert store.get_events("ses", **filters, limit=2) == expected[:2], filters
            inner = [item for item in expected if item.sequence_number in range(4, 10)]
            assert store.get_events("ses", **filters, after=3, before=10) == inner, filters
            assert store.get_events("ses", **filters, after=3, before=10, limit=1) == inner[:1], filters
            for last in (1, 2, 100):
                assert store.get_events("ses", **filters, last=last) == expected[-last:], filters
                assert store.get_events("ses", **filters, after=3, before=10, last=last) == inner[-last:], filters

    def test_a_filter_of_none_does_not_filter_events(self, store: SessionStore) -> None:
        """``None`` is as good as not given."""
        stored = fill(store)
        names = ("run_id", "type", "correlation_id", "since", "until", "after", "before", "limit", "last", "wait_timeout_ms")
        filters: Any = dict.fromkeys(names)
        assert store.get_events("ses", **filters) == stored
        assert store.get_events("ses", **{**filters, "last": 2}) == stored[-2:]

    def test_a_time_is_a_moment_wherever_its_clock_hangs(self, store: SessionStore) -> None:
        """The same one in another time zone; to the microsecond, and itself is part of ``since`` and not of ``until``."""
        store.append_events([event(timestamp=moment) for moment in MOMENTS])
        for index, moment in enumerate(MOMENTS[1:-1], start=1):
            zoned = moment.astimezone(timezone(timedelta(hours=-7, minutes=30)))
            assert numbers(store.get_events("ses", since=zoned)) == list(range(index + 1, len(MOMENTS) + 1))
            assert numbers(store.get_events("ses", until=zoned)) == list(range(1, index + 1))

    def test_pages_give_every_event_once(self, store: SessionStore) -> None:
        """The way to read a long log."""
        stored, found, last = fill(store), [], 0
        while page := store.get_events("ses", after=last, limit=5):
            found += page
            last = page[-1].sequence_number or 0
        assert found == stored

    def test_any_request_can_be_asked_for(self, store: SessionStore) -> None:
        """However odd its name; each finds its own events and no other."""
        stored = store.append_events([event(correlation_id=name) for name in ODD_IDS])
        for item in stored:
            assert store.get_events("ses", correlation_id=item.correlation_id) == [item]

    def test_the_newest_come_from_the_end(self, store: SessionStore) -> None:
        """Of a log that is long, of a type that is rare, and of one that there is not."""
        given = [event(type="run_failed" if number % 100 == 50 else "message_sent") for number in range(1000)]
        stored = store.append_events(given)
        assert store.get_events("ses", last=20) == stored[-20:]
        assert numbers(store.get_events("ses", type="run_failed", last=3)) == [751, 851, 951]
        assert numbers(store.get_events("ses", type="run_failed", last=3, before=500)) == [251, 351, 451]
        assert store.get_events("ses", type="run_completed", last=3) == store.get_events("ses_nobody", last=3) == []

    def test_the_newest_are_not_asked_for_otherwise(self, store: SessionStore) -> None:
        """``validation_error``: together with a limit or a wait, and for anything but an integer above 0."""
        with refused("validation_error"):
            store.get_events("ses", last=1, limit=1)
        with refused("validation_error"):
            store.get_events("ses", last=1, wait_timeout_ms=1)
        all_refused("validation_error", lambda bad: store.get_events("ses", last=bad), INVALID_LIMITS)

    def test_a_session_is_read_whole_however_large_it_is(self, store: SessionStore) -> None:
        """Also when no single message between processes may hold it."""
        large = [event(data={"text": f"{number:02}" * (MIB // 2)}) for number in range(17)]
        stored = store.append_events(large[:9]) + store.append_events(large[9:])
        assert store.get_events("ses") == stored

    def test_what_is_no_id_of_an_events_session_is_refused(self, store: SessionStore) -> None:
        """``validation_error``, and so is a run's and a request's."""
        all_refused("validation_error", lambda bad: store.get_events("ses", run_id=bad), ["", *INVALID_NAMES])
        all_refused("validation_error", lambda bad: store.get_events("ses", correlation_id=bad), ["", *INVALID_NAMES])
        all_refused("validation_error", store.get_events, INVALID_IDS)
        all_refused("validation_error", store.get_latest_sequence, INVALID_IDS)

    def test_counts_are_not_negative(self, store: SessionStore) -> None:
        """Anything but an integer from 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.get_events("ses", after=bad), INVALID_COUNTS)
        all_refused("validation_error", lambda bad: store.get_events("ses", before=bad), INVALID_COUNTS)
        all_refused("validation_error", lambda bad: store.get_events("ses", wait_timeout_ms=bad), INVALID_COUNTS)

    def test_a_limit_of_events_is_positive(self, store: SessionStore) -> None:
        """Anything but an integer above 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.get_events("ses", limit=bad), INVALID_LIMITS)

    def test_an_unknown_type_is_refused(self, store: SessionStore) -> None:
        """``invalid_event_type``."""
        unknown = ["nope", "", 1, ["message_sent", "nope"], "No.Type", "myapp.", ".", "my app.x", "x." + "y" * 127]
        all_refused("invalid_event_type", lambda bad: store.get_events("ses", type=bad), unknown)

    def test_types_of_ones_own_filter_events(self, store: SessionStore) -> None:
        """Alone and beside others; of a type that nothing has there are none."""
        stored = store.append_events([event(type=item) for item in ("myapp.thought", "message_sent", "myapp.plan")])
        assert store.get_events("ses", type="myapp.thought") == stored[:1]
        assert store.get_events("ses", type=["message_sent", "myapp.plan"]) == stored[1:]
        assert store.get_events("ses", type="myapp.other") == []

    def test_times_are_aware(self, store: SessionStore) -> None:
        """Anything else is a ``validation_error``."""
        unaware = [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 0, True]  # noqa: DTZ001  # naive is the point
        all_refused("validation_error", lambda bad: store.get_events("ses", since=bad), unaware)
        all_refused("validation_error", lambda bad: store.get_events("ses", until=bad), unaware)

    def test_an_unknown_filter_of_events_is_refused(self, store: Any) -> None:
        """``validation_error``, and so is a second positional argument."""
        with refused("validation_error"):
            store.get_events("ses", colour="blue")
        with refused("validation_error"):
            store.get_events("ses", "run_a")
        assert store.get_events("ses", since=datetime.now(UTC)) == []
