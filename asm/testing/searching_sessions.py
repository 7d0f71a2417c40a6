"""``search_sessions``."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta, timezone
from typing import Any

from asm.core.values import Session, SessionStatus
from asm.testing.paging import QueriedStore, ids
from asm.testing.samples import INVALID_NAMES, JSON, ODD_IDS, all_refused, argument_refused, at, refused, run, session

__all__ = ["SearchingSessions"]

METADATA: list[dict[str, Any]] = [
    {},
    {"team": "red", "size": 1},
    {"team": "red", "size": 2, "nested": {"a": [1, {"b": None}]}},
    {"team": None, "size": "1", "nested": {"a": [1]}},
    {"a.b": "dotted", "a": {"b": "nested"}, "": "empty", "ключ": "é", 'it\'s "quoted"': "'", "$": "$", "*": "*", "0": 0},
    {"team": "red\nblue", "list": ["x", "y"], "size": 1.5, "flag": True, "other": False},
]

TAGS: list[list[str]] = [
    [],
    ["pinned"],
    ["pinned", "a"],
    ["a", "b", "pinned"],
    ["PINNED"],
    ["it's", '"', "%", "a,b", "", "ключ"],
]

PARENTS = [None, "ses_parent", "ses_Parent", "ключ"]

PROVIDERS: list[tuple[str, ...]] = [(), ("anthropic",), ("anthropic", "openai"), ("openai", "openai")]

FILTERS: dict[str, list[Any]] = {
    "agent_id": ["agent 1", "Agent 1", "nobody"],
    "status": ["active", SessionStatus.FAILED, ["paused", "active"], list(SessionStatus), []],
    "provider": ["anthropic", "openai", "nobody"],
    "tags": [["pinned"], "pinned", ["a", "pinned"], ["b", "c"], ["PINNED"], ["it's"], '"', "%", ["a,b", "", "ключ"], []],
    "parent_session_id": ["ses_parent", "ses_Parent", "ключ", "ses_p%"],
    "id_prefix": ["a_", "a", "A_", "a%", "a_0", "ключ", "_", "%", "a_01"],
    "metadata": [
        {"team": "red"},
        {"size": 1},
        {"size": 1.5},
        {"size": "1"},
        {"team": "red", "size": 2},
        {"team": None},
        {"absent": None},
        {"nested": {"a": [1, {"b": None}]}},
        {"nested": {"a": [1]}},
        {"nested": {}},
        {"list": ["x", "y"]},
        {"list": ["y", "x"]},
        {"a.b": "dotted"},
        {"a": {"b": "nested"}},
        {"": "empty"},
        {"ключ": "é"},
        {'it\'s "quoted"': "'"},
        {"$": "$", "*": "*"},
        {"0": 0},
        {"flag": True},
        {"other": False},
        {"team": "red\nblue"},
        {},
    ],
    "created_after": [at(5), at(4.999_999), at(11), at(-1)],
    "created_before": [at(5), at(5.000_001), at(0), at(99)],
    "updated_after": [at(6), at(11)],
    "updated_before": [at(6), at(0)],
    "include_deleted": [True, False],
}
"""Values of each filter."""


def fill(store: QueriedStore) -> dict[str, tuple[Session, tuple[str, ...]]]:
    """Save 48 sessions whose fields change in steps of their own; return them with the providers of their runs, by id."""
    filled = {}
    for number in range(48):
        saved = session(
            f"{'Agent' if number % 5 == 0 else 'agent'} {number % 3}",
            id=f"{['a_', 'A_', 'a%', 'ключ'][number % 4]}{number:02}",
            status=list(SessionStatus)[number % 6],
            parent_session_id=PARENTS[number // 3 % 4],
            metadata=METADATA[number // 2 % 6],
            tags=TAGS[number // 4 % 6],
            created_at=at(number * 5 % 12),
            updated_at=at(number * 7 % 12),
            deleted_at=at(0) if number % 7 == 6 else None,
        )
        store.save_session(saved)
        providers = PROVIDERS[number * 3 % 16 // 4]
        for provider in providers:
            store.save_run(run(saved.id, provider=provider))
        filled[saved.id] = saved, providers
    store.save_run(run("ses_unsaved", provider="anthropic"))
    return filled


def several(given: Any) -> list[Any]:
    """Return what was given as a list: one or several."""
    return [given] if isinstance(given, str) else list(given)


CHECKS: dict[str, Any] = {
    "agent_id": lambda item, _, given: item.agent_id == given,
    "status": lambda item, _, given: item.status in several(given),
    "provider": lambda _, providers, given: given in providers,
    "tags": lambda item, _, given: set(several(given)) <= set(item.tags),
    "parent_session_id": lambda item, _, given: item.parent_session_id == given,
    "id_prefix": lambda item, _, given: item.id.startswith(given),
    "metadata": lambda item, _, given: all(key in item.metadata and item.metadata[key] == given[key] for key in given),
    "created_after": lambda item, _, given: item.created_at > given,
    "created_before": lambda item, _, given: item.created_at < given,
    "updated_after": lambda item, _, given: item.updated_at > given,
    "updated_before": lambda item, _, given: item.updated_at < given,
}
"""What each filter means, of a session and the providers of its runs."""


class SearchingSessions:
    """Sessions are found by what they are, and by all of it together."""

    def test_filters_of_a_search_for_sessions(self, store: QueriedStore) -> None:
        """Each alone with each of its values, any two together, and all at once."""
        filled = fill(store)
        alone = [{name: value} for name, values in FILTERS.items() for value in values]
        pairs = [{name: FILTERS[name][0], other: FILTERS[other][0]} for name, other in itertools.combinations(FILTERS, 2)]
        together = {name: values[0] for name, values in FILTERS.items()} | {"agent_id": None, "tags": None, "id_prefix": "a"}
        counts = []
        for filters in [*alone, *pairs, together, dict.fromkeys(FILTERS) | {"include_deleted": False}]:
            expected = self._expected(filled, "updated_at", **filters)[::-1]
            assert ids(store.search_sessions(**filters, limit=100)) == expected, filters
            counts.append(len(expected))
        assert len([count for count in counts if count]) > 60  # else there would be little to tell apart

    def test_orders_of_sessions(self, store: QueriedStore) -> None:
        """By either time, ids deciding ties; with ``-`` all of it the other way round."""
        filled = fill(store)
        orders: list[Any] = ["created_at", "updated_at"]
        for name in orders:
            for filters in ({}, {"status": "active"}, {"provider": "openai"}, {"tags": "pinned", "include_deleted": True}):
                expected = self._expected(filled, name, **filters)
                assert ids(store.search_sessions(order=name, limit=100, **filters)) == expected, (name, filters)
                assert ids(store.search_sessions(order="-" + name, limit=100, **filters)) == expected[::-1]

    def _expected(self, filled: Any, order: str, *, include_deleted: bool = False, **filters: Any) -> list[str]:
        found = [
            item
            for item, providers in filled.values()
            if (include_deleted or item.deleted_at is None)
            and all(CHECKS[name](item, providers, given) for name, given in filters.items() if given is not None)
        ]
        return ids(sorted(found, key=lambda item: (getattr(item, order), item.id)))

    def test_a_session_that_is_found_is_whole(self, store: QueriedStore) -> None:
        """Every field, however odd its maps are."""
        saved = [session(metadata=value, context=value, updated_at=at(number)) for number, value in enumerate(JSON.values())]
        for item in saved:
            store.save_session(item)
        assert store.search_sessions(order="updated_at").items == saved

    def test_a_search_sees_sessions_as_they_are_now(self, store: QueriedStore) -> None:
        """Saved again, soft-deleted, brought back, and deleted."""
        saved = session(status="active")
        store.save_session(saved)
        assert store.search_sessions(status="active").items == [saved]
        done = saved.update_status("completed")
        store.save_session(done)
        assert store.search_sessions(status="active").items == []
        gone = done.changed(deleted_at=at(0))
        store.save_session(gone)
        assert store.search_sessions().items == []
        assert store.search_sessions(include_deleted=True, status="completed").items == [gone]
        assert store.get_session(saved.id) == gone
        store.save_session(done)
        assert store.search_sessions().items == [done]
        store.delete_session(saved.id)
        assert store.search_sessions(include_deleted=True).items == []

    def test_any_name_can_be_searched_for(self, store: QueriedStore) -> None:
        """However odd; each finds its own and no other."""
        for name in ODD_IDS:
            saved = session(name, id=name, parent_session_id=name, tags=[name[:100]], metadata={name[:100]: name})
            store.save_session(saved)
            store.save_run(run(name, id=name, provider=name))
        for name in ODD_IDS:
            for filters in (
                {"agent_id": name},
                {"provider": name},
                {"parent_session_id": name},
                {"metadata": {name[:100]: name}},
            ):
                assert ids(store.search_sessions(**filters)) == [name], filters
            assert set(ids(store.search_sessions(id_prefix=name))) == {other for other in ODD_IDS if other.startswith(name)}

    def test_a_moment_is_the_same_wherever_its_clock_hangs(self, store: QueriedStore) -> None:
        """In another time zone."""
        store.save_session(saved := session(created_at=at(0)))
        zone = timezone(timedelta(hours=-7, minutes=30))
        assert store.search_sessions(created_after=at(0).astimezone(zone)).items == []
        assert store.search_sessions(created_after=at(-0.000_001).astimezone(zone)).items == [saved]

    def test_what_is_no_filter_of_sessions_is_refused(self, store: Any) -> None:
        """``validation_error`` and ``invalid_status``."""
        for name in ("agent_id", "provider", "parent_session_id", "id_prefix"):
            argument_refused("validation_error", store.search_sessions, name, ["", *INVALID_NAMES])
        times = [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 0, True]  # noqa: DTZ001  # naive is the point
        for name in ("created_after", "created_before", "updated_after", "updated_before"):
            argument_refused("validation_error", store.search_sessions, name, times)
        all_refused("invalid_status", lambda bad: store.search_sessions(status=bad), ["running", "", 1, ["active", "nope"]])
        all_refused("validation_error", lambda bad: store.search_sessions(tags=bad), [1, [1], [None], ["a\0"]])
        maps = ["a", 1, [("a", 1)], {1: 2}, {"a": object()}, {"a": at(0)}]
        all_refused("validation_error", lambda bad: store.search_sessions(metadata=bad), maps)
        all_refused("validation_error", lambda bad: store.search_sessions(include_deleted=bad), [1, 0, "yes", None])
        with refused("validation_error"):
            store.search_sessions(deleted=True)
