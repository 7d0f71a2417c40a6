"""``search_events`` and ``count_events``."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from asm.core.values import Event, EventType
from asm.testing.paging import QueriedStore, ids
from asm.testing.samples import INVALID_NAMES, JSON, MOMENTS, ODD_IDS, argument_refused, at, event, refused

__all__ = ["SearchingEvents"]

DATA: list[dict[str, Any]] = [
    {},
    {"text": "The Quick brown fox"},
    {"deep": [{"Quick": None}, ["x", {"y": "quiet"}]]},
    {"number": 42, "flag": True, "nothing": None, "float": 1.5},
    {"text": "100% of C:\\temp\\new_file [a-z]* 'q' \"quoted\""},
    {"Ключ": "ÄÖÜ straße 漢字 🙂", "lines": "one\ntwo\tthree"},
]

TYPES = [EventType.MESSAGE_SENT, EventType.MESSAGE_RECEIVED, "myapp.thought"]

TEXTS = [
    "quick",
    "QUICK",
    "Quick Brown",
    "qui",
    "brown fox",
    "fox the",
    "",
    "text",
    "%",
    "_",
    "100%",
    "1%f",
    "new_file",
    "new-file",
    "new?file",
    "*",
    "[a-z]",
    "[A-Z]*",
    "\\",
    "C:\\Temp\\new",
    "\\\\",
    "'q'",
    '"quoted"',
    '\\"',
    "ключ",
    "КЛЮЧ",
    "äöü",
    "Straße",
    "STRASSE",
    "漢字",
    "🙂",
    "one\ntwo",
    "one\\ntwo",
    "\\u00c4",
    "two\tthree",
    '"text"',
    '": "',
    "{",
    "null",
    "xy",
    "'; DROP TABLE asm_events; --",
]
"""What to look for: each occurs in a key or a value or nowhere, and nothing in it has a meaning of its own."""

FILTERS: dict[str, list[Any]] = {
    "session_ids": ["ses 1", ["ses 1"], ["ses 2", "ses 0", "ses nobody"], [], ["ses nobody"]],
    "run_ids": ["run_a", ["run_a", "run_b"], [], "run_nobody"],
    "type": ["message_sent", TYPES[1:], "myapp.thought", "run_failed", []],
    "provider": ["openai", "nobody"],
    "correlation_id": ["request 1", "request 9"],
    "text": ["quick", *TEXTS],
    "since": [at(3), at(3.000_001), MOMENTS[0], MOMENTS[-1]],
    "until": [at(8), at(8.000_001), MOMENTS[0], MOMENTS[-1]],
}
"""Values of each filter."""


def fill(store: QueriedStore) -> list[Event]:
    """Store 72 events of four sessions, whose fields change in steps of their own."""
    return store.append_events(
        [
            event(
                f"ses {number // 5 % 4}",
                type=TYPES[number % 3],
                timestamp=at(number * 7 % 12),
                run_id=[None, "run_a", "run_b"][number // 2 % 3],
                data=DATA[number % 6],
                metadata={"not": "quick searched %"},
                provider=[None, "anthropic", "openai"][number // 4 % 3],
                correlation_id=[None, "request 1", "request 2"][number // 6 % 3],
            )
            for number in range(72)
        ]
    )


def texts(value: Any) -> list[str]:
    """Return every key, and every value that is text, however deep."""
    if isinstance(value, dict):
        return [text for item in (*value, *value.values()) for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


def several(given: Any) -> list[Any]:
    """Return what was given as a list: one or several."""
    return [given] if isinstance(given, str) else list(given)


CHECKS: dict[str, Any] = {
    "session_ids": lambda item, given: item.session_id in several(given),
    "run_ids": lambda item, given: item.run_id in several(given),
    "type": lambda item, given: item.type in several(given),
    "provider": lambda item, given: item.provider == given,
    "correlation_id": lambda item, given: item.correlation_id == given,
    "text": lambda item, given: not given or any(given.casefold() in text.casefold() for text in texts(item.data)),
    "since": lambda item, given: item.timestamp >= given,
    "until": lambda item, given: item.timestamp < given,
}
"""What each filter means."""


def expected(stored: list[Event], **filters: Any) -> list[str]:
    """Return the ids of those that pass, in order."""
    found = [item for item in stored if all(CHECKS[name](item, given) for name, given in filters.items() if given is not None)]
    return ids(sorted(found, key=lambda item: (item.timestamp, item.session_id, item.sequence_number)))


class SearchingEvents:
    """Events of all sessions are found by what they are and what they say, and counted."""

    def test_filters_of_a_search_for_events(self, store: QueriedStore) -> None:
        """Each alone with each of its values, any two together, and all at once; the count is that of what is found."""
        stored = fill(store)
        alone = [{name: value} for name, values in FILTERS.items() for value in values]
        pairs = [{name: FILTERS[name][0], other: FILTERS[other][0]} for name, other in itertools.combinations(FILTERS, 2)]
        for filters in [{}, *alone, *pairs, dict.fromkeys(FILTERS)]:
            keys = expected(stored, **filters)
            assert ids(store.search_events(**filters, limit=100)) == keys, filters
            assert store.count_events(**filters) == len(keys), filters
        one = stored[13]
        together: dict[str, Any] = {
            "session_ids": [one.session_id],
            "run_ids": [one.run_id or "none"],
            "type": one.type,
            "provider": "anthropic",
            "correlation_id": "request 2",
            "text": "QUICK",
            "since": one.timestamp,
            "until": MOMENTS[-1],
        }
        keys = expected(stored, **together)
        assert ids(store.search_events(**together)) == keys
        assert store.count_events(**together) == len(keys)

    def test_orders_of_events(self, store: QueriedStore) -> None:
        """By time, session and number deciding ties; with ``-`` all of it the other way round."""
        stored = fill(store)
        for filters in ({}, {"session_ids": ["ses 1", "ses 3"]}, {"text": "quick"}, {"type": "message_sent", "until": at(8)}):
            keys = expected(stored, **filters)
            assert ids(store.search_events(order="timestamp", limit=100, **filters)) == keys, filters
            assert ids(store.search_events(order="-timestamp", limit=100, **filters)) == keys[::-1]

    def test_an_event_that_is_found_is_whole(self, store: QueriedStore) -> None:
        """As it was stored, with its number."""
        stored = store.append_events(
            [event(data=value, metadata=value, timestamp=at(number)) for number, value in enumerate(JSON.values())]
        )
        assert store.search_events().items == stored

    def test_text_that_is_hard_to_keep_is_found(self, store: QueriedStore) -> None:
        """Control characters, and what looks like an escape."""
        kept = ["\x01\x7f", "\u2028", "e\u0301", "\\x01", "a\\/b", "</script>", "\r\n"]
        for number, text in enumerate(kept):
            store.append_event(event(id=f"evt {number}", data={"text": f"<{text}>", text: 1}))
        for number, text in enumerate(kept):
            assert ids(store.search_events(text=text)) == [f"evt {number}"], text

    def test_any_name_of_an_event_can_be_searched_for(self, store: QueriedStore) -> None:
        """However odd; each finds its own and no other."""
        for name in ODD_IDS:
            store.append_event(event(name, id=name, run_id=name, provider=name, correlation_id=name))
        for name in ODD_IDS:
            names = ("session_ids", "run_ids", "provider", "correlation_id")
            for filters in [dict[str, Any]({field: name}) for field in names]:
                assert ids(store.search_events(**filters)) == [name], filters
        assert len(store.search_events(session_ids=ODD_IDS).items) == len(ODD_IDS)

    def test_events_that_went_are_not_found(self, store: QueriedStore) -> None:
        """Neither searched nor counted."""
        stored = fill(store)
        gone = store.delete_events("ses 1", type="message_sent") + store.delete_events("ses 2", through=5)
        store.delete_session("ses 3")
        left = [
            item
            for item in stored
            if item.session_id != "ses 3"
            and not (item.session_id == "ses 1" and item.type == "message_sent")
            and not (item.session_id == "ses 2" and (item.sequence_number or 0) <= 5)
        ]
        assert gone > 5
        assert ids(store.search_events(limit=100)) == expected(left)
        assert store.count_events() == len(left)

    def test_many_sessions_can_be_named(self, store: QueriedStore) -> None:
        """More than a database takes parameters in one breath, or nearly."""
        stored = fill(store)
        names = [f"ses {number}" for number in range(1500)]
        assert store.count_events(session_ids=names, run_ids=[*names, "run_a", "run_b"]) == len(
            [item for item in stored if item.run_id]
        )

    def test_what_is_no_filter_of_events_is_refused(self, store: Any) -> None:
        """``validation_error`` and ``invalid_event_type``, of the search and of the count."""
        for search in (store.search_events, store.count_events):
            for name in ("session_ids", "run_ids"):
                bad_ids = ["", 7, b"ses", ["a", ""], ["a", None], ["a", 7], "a\0b"]
                argument_refused("validation_error", search, name, bad_ids)
            for name in ("provider", "correlation_id"):
                given = ["", *INVALID_NAMES]
                argument_refused("validation_error", search, name, given)
            times = [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 0, True]  # noqa: DTZ001  # naive is the point
            for name in ("since", "until"):
                argument_refused("validation_error", search, name, times)
            argument_refused("validation_error", search, "text", [1, b"a", ["a"], "a\0b", "\ud800"])
            unknown = ["nope", "", 1, ["message_sent", "nope"]]
            argument_refused("invalid_event_type", search, "type", unknown)
            with refused("validation_error"):
                search(after=5)
        with refused("validation_error"):
            store.count_events(limit=5)
