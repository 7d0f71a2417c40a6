"""``get_session_stats`` and ``get_usage``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from asm.core.results import SessionStats, Usage
from asm.core.values import Run
from asm.testing.paging import QueriedStore
from asm.testing.samples import (
    HUGE,
    INVALID_IDS,
    INVALID_NAMES,
    ODD_IDS,
    all_refused,
    argument_refused,
    at,
    event,
    refused,
    run,
    same,
    session,
)

__all__ = ["Summing"]

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)

TICK = timedelta(microseconds=1)

STARTS = [MIDNIGHT - TICK, MIDNIGHT, MIDNIGHT + timedelta(hours=23, minutes=59), MIDNIGHT + timedelta(days=1), MIDNIGHT]
"""Moments about the end of a day in UTC."""

USAGES: list[dict[str, Any]] = [
    {"input_tokens": 1, "output_tokens": 2},
    {"input_tokens": 10, "details": {"cached": 3, "deeper": {"still": 1}}},
    {},
    {"output_tokens": 20, "details": {"cached": 4, "audio": 1}, "model": "text is no number", "flag": True, "nothing": None},
    {"input_tokens": 0.5, "details": {"deeper": {"still": 2}}, "list": [1, 2]},
]
"""What runs say that they used."""

COSTS = [0.25, None, 0.5, 0.0, None, 2.0, -0.25]
"""What they cost; sums of these are exact."""

MODELS: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"model": "m1"}, {}, "m1"),
    ({"model": "m1"}, {"model": "m2"}, "m1"),
    ({}, {"model": "m2"}, "m2"),
    ({"other": "m1"}, {}, None),
]
"""``provider_metadata``, ``metadata``, and the model that they say."""


def fill(store: QueriedStore) -> list[tuple[Run, dict[str, Any]]]:
    """Save 70 runs of four sessions, one of which is not saved; return them with what they can be grouped by."""
    for number in range(3):
        store.save_session(session(f"agent {number % 2}", id=f"ses {number}"))
    filled = []
    for number in range(70):
        provider_metadata, metadata, model = MODELS[number % 4]
        saved = run(
            f"ses {number // 3 % 4}",
            status=["completed", "failed", "running"][number % 3],
            provider=[None, "anthropic", "openai"][number // 2 % 3],
            token_usage=USAGES[number % 5],
            cost_usd=COSTS[number % 7],
            started_at=STARTS[number // 5 % 5],
            provider_metadata=provider_metadata,
            metadata=metadata,
        )
        store.save_run(saved)
        number_of_session = number // 3 % 4
        filled.append(
            (
                saved,
                {
                    "provider": saved.provider,
                    "model": model,
                    "agent": None if number_of_session == 3 else f"agent {number_of_session % 2}",
                    "status": str(saved.status),
                    "day": saved.started_at.strftime("%Y-%m-%d"),
                },
            )
        )
    return filled


def added(usages: Iterable[Any]) -> dict[str, Any]:
    """Add maps up, number by number."""
    total: dict[str, Any] = {}
    for usage in usages:
        for key, value in usage.items():
            if isinstance(value, dict):
                total[key] = added([total.get(key, {}), value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[key] = total.get(key, 0) + value
    return total


def summed(filled: list[tuple[Run, dict[str, Any]]], group_by: tuple[str, ...]) -> list[Usage]:
    """Return what runs used, by group."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for item, names in filled:
        groups.setdefault(tuple(names[name] for name in group_by), []).append(item)
    return [
        Usage(
            group=dict(zip(group_by, key, strict=True)),
            run_count=len(runs),
            token_totals=added(item.token_usage for item in runs),
            cost_usd=sum(item.cost_usd or 0.0 for item in runs),
            runs_without_cost=sum(item.cost_usd is None for item in runs),
        )
        for key, runs in groups.items()
    ]


def agree(found: list[Usage], expected: list[Usage]) -> bool:
    """Tell whether both say the same to the last digit, in any order; 1 is not 1.0."""

    def key(usage: Usage) -> str:
        return repr(sorted(usage.group.items()))

    found, expected = sorted(found, key=key), sorted(expected, key=key)
    return len(found) == len(expected) and all(map(same, found, expected))


class Summing:
    """What runs used is added up, whole numbers stay whole, and nobody else's comes in."""

    # -- get_session_stats --------------------------------------------------------------------------------------------

    def test_stats_of_a_session(self, store: QueriedStore) -> None:
        """All that its runs and events say, and nothing of another session's."""
        store.save_session(session(id="ses"))
        for number, usage in enumerate(USAGES):
            status = ["completed", "failed"][number % 2]
            item = run(status=status, token_usage=usage, cost_usd=COSTS[number], provider=[None, "openai", "b"][number % 3])
            store.save_run(item)
        store.append_events(
            [event(timestamp=at(second), provider=provider) for second, provider in ((3, "a"), (1, "b"), (2, None))]
        )
        store.save_run(run("ses_other", token_usage={"input_tokens": 1000}, cost_usd=1000.0, provider="other"))
        store.append_event(event("ses_other", timestamp=at(0), provider="other"))
        expected = SessionStats(
            event_count=3,
            run_count=5,
            token_totals=added(USAGES),
            cost_usd=0.75,
            providers_used=["a", "b", "openai"],
            first_event_at=at(1),
            last_event_at=at(3),
            status_counts={"completed": 3, "failed": 2},
        )
        assert same(store.get_session_stats("ses"), expected)
        assert store.delete_events("ses", through=2) == 2
        found = store.get_session_stats("ses")
        assert (found.event_count, found.first_event_at, found.last_event_at) == (1, at(2), at(2))
        assert found.providers_used == ["b", "openai"]

    def test_stats_of_a_session_without_anything(self, store: QueriedStore) -> None:
        """Zeros, also when it is soft-deleted."""
        for deleted_at in (None, at(0)):
            store.save_session(saved := session(deleted_at=deleted_at))
            assert same(store.get_session_stats(saved.id), SessionStats())

    def test_stats_of_what_was_never_saved(self, store: QueriedStore) -> None:
        """A run is enough, or an event; with none of them it is ``session_not_found``."""
        store.append_event(event("ses events", timestamp=at(5)))
        found = store.get_session_stats("ses events")
        assert (found.event_count, found.run_count, found.first_event_at) == (1, 0, at(5))
        store.save_run(run("ses runs"))
        found = store.get_session_stats("ses runs")
        assert (found.event_count, found.run_count, found.last_event_at) == (0, 1, None)
        for absent in ("ses", "ses_nobody", "SES RUNS"):
            with refused("session_not_found", session_id=absent):
                store.get_session_stats(absent)
        store.delete_session("ses runs")
        with refused("session_not_found"):
            store.get_session_stats("ses runs")
        all_refused("validation_error", store.get_session_stats, INVALID_IDS)

    def test_stats_of_any_session(self, store: QueriedStore) -> None:
        """However odd its id."""
        for number, name in enumerate(ODD_IDS):
            store.append_events([event(name, provider=name) for _ in range(number + 1)])
        for number, name in enumerate(ODD_IDS):
            found = store.get_session_stats(name)
            assert (found.event_count, found.providers_used) == (number + 1, [name])

    # -- get_usage ----------------------------------------------------------------------------------------------------

    def test_groups_of_usage(self, store: QueriedStore) -> None:
        """By each thing alone, by any two, and by all; ``None`` is a group, and so is everything."""
        filled = fill(store)
        names: Any = ("provider", "model", "agent", "status", "day")
        assert agree(store.get_usage(), summed(filled, ("provider",)))
        for group_by in [(), *((name,) for name in names), *itertools.permutations(names, 2), names]:
            found = store.get_usage(group_by=group_by)
            assert agree(found, summed(filled, group_by)), group_by
            assert [list(usage.group) for usage in found] == [list(group_by)] * len(found), group_by
        assert store.get_usage(group_by="day") == store.get_usage(group_by=["day"])

    def test_groups_come_in_order(self, store: QueriedStore) -> None:
        """By the first name that was given, then by the next; ``None`` comes first."""
        fill(store)
        groups: list[Any] = [("day",), ("status", "day"), ("provider", "model"), ("agent", "status")]
        for group_by in groups:
            keys = [tuple(usage.group[name] for name in group_by) for usage in store.get_usage(group_by=group_by)]
            assert keys == sorted(keys, key=lambda key: [(item is not None, item) for item in key]), group_by

    def test_filters_of_usage(self, store: QueriedStore) -> None:
        """Each alone, and all together; ``since`` is part of it, and ``until`` is not."""
        filled = fill(store)
        checks: dict[str, Any] = {
            "session_id": lambda item, _, given: item.session_id == given,
            "agent_id": lambda _, names, given: names["agent"] == given,
            "provider": lambda item, _, given: item.provider == given,
            "since": lambda item, _, given: item.started_at >= given,
            "until": lambda item, _, given: item.started_at < given,
        }
        for filters in (
            {"session_id": "ses 1"},
            {"session_id": "ses 3"},
            {"session_id": "ses nobody"},
            {"agent_id": "agent 0"},
            {"provider": "openai"},
            {"since": MIDNIGHT},
            {"since": MIDNIGHT + TICK},
            {"until": MIDNIGHT},
            {"until": MIDNIGHT + TICK},
            {"since": MIDNIGHT, "until": MIDNIGHT + timedelta(days=1)},
            {"session_id": "ses 2", "agent_id": "agent 0", "provider": "anthropic", "since": MIDNIGHT},
            {"session_id": "ses 2", "agent_id": "agent 1"},
            dict.fromkeys(checks),
        ):
            left = [
                (item, names)
                for item, names in filled
                if all(checks[name](item, names, given) for name, given in filters.items() if given is not None)
            ]
            for group_by in (("provider",), ("day", "agent")):
                assert agree(store.get_usage(**filters, group_by=group_by), summed(left, group_by)), filters

    def test_a_day_ends_at_midnight_in_utc(self, store: QueriedStore) -> None:
        """To the microsecond."""
        for moment in STARTS:
            store.save_run(run(started_at=moment))
        days = {usage.group["day"]: usage.run_count for usage in store.get_usage(group_by="day")}
        assert days == {"2026-02-28": 1, "2026-03-01": 3, "2026-03-02": 1}

    def test_whole_numbers_stay_whole(self, store: QueriedStore) -> None:
        """Also beyond what a float tells apart; one that is not whole makes a sum that is not."""
        store.save_run(run(provider="a", token_usage={"tokens": 2**53 + 1, "deep": {"tokens": 2**62}, "huge": HUGE}))
        store.save_run(run(provider="a", token_usage={"tokens": 2**53 + 2, "deep": {"tokens": 2**61}}))
        store.save_run(run(provider="b", token_usage={"tokens": 1, "float": 1.0}))
        store.save_run(run(provider="b", token_usage={"tokens": 0.5}))
        first, second = store.get_usage()
        assert first.token_totals == {"tokens": 2**54 + 3, "deep": {"tokens": 2**62 + 2**61}, "huge": HUGE}
        assert type(first.token_totals["tokens"]) is type(first.token_totals["deep"]["tokens"]) is int
        assert second.token_totals == {"tokens": 1.5, "float": 1.0}
        assert type(second.token_totals["float"]) is float
        store.save_run(run("ses_huge", token_usage={"tokens": HUGE}))
        store.save_run(run("ses_huge", token_usage={"tokens": HUGE}))
        assert store.get_session_stats("ses_huge").token_totals["tokens"] == float(2 * HUGE)

    def test_keys_of_usage_are_text(self, store: QueriedStore) -> None:
        """However odd, at any depth."""
        for _ in range(2):
            store.save_run(run(token_usage={name[:100]: 1 for name in ODD_IDS} | {"in": {"a.b": 1, '"': 2, "": 3, "$[0]": 4}}))
        (found,) = store.get_usage()
        assert found.token_totals == {name[:100]: 2 for name in ODD_IDS} | {"in": {"a.b": 2, '"': 4, "": 6, "$[0]": 8}}

    def test_nothing_is_used_where_nothing_runs(self, store: QueriedStore) -> None:
        """No groups; but everything together is one always."""
        store.save_session(session())
        assert store.get_usage() == store.get_usage(group_by=["day", "agent"]) == []
        assert store.get_usage(group_by=()) == store.get_usage(group_by=[], provider="nobody") == [Usage()]

    def test_usage_is_that_of_runs_as_they_are_now(self, store: QueriedStore) -> None:
        """Saved again, and deleted with their session."""
        saved = run(provider="a", token_usage={"tokens": 1})
        store.save_run(saved)
        store.save_run(saved.update_token_usage({"tokens": 2}))
        assert [usage.token_totals for usage in store.get_usage()] == [{"tokens": 3}]
        store.delete_session("ses")
        assert store.get_usage() == []

    def test_what_is_no_question_of_usage_is_refused(self, store: Any) -> None:
        """``validation_error``."""
        for name in ("session_id", "agent_id", "provider"):
            argument_refused("validation_error", store.get_usage, name, ["", *INVALID_NAMES])
        times = [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 0, True]  # noqa: DTZ001  # naive is the point
        for name in ("since", "until"):
            argument_refused("validation_error", store.get_usage, name, times)
        groups = ["nope", "", 1, ["provider", "nope"], ["provider", None], "Provider"]
        all_refused("validation_error", lambda bad: store.get_usage(group_by=bad), groups)
        with refused("validation_error"):
            store.get_usage(status="failed")
