"""``search_runs``."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

from asm.core.values import Run, RunStatus
from asm.testing.paging import QueriedStore, ids
from asm.testing.samples import (
    HUGE,
    INVALID_COUNTS,
    INVALID_NAMES,
    JSON,
    ODD_IDS,
    all_refused,
    argument_refused,
    at,
    refused,
    run,
    session,
)

__all__ = ["SearchingRuns"]

USAGES: list[tuple[dict[str, Any], float]] = [
    ({}, 0),
    ({"total_tokens": 100}, 100),
    ({"total_tokens": 10, "input_tokens": 500, "output_tokens": 500}, 10),
    ({"input_tokens": 60, "output_tokens": 41}, 101),
    ({"input_tokens": 7}, 7),
    ({"output_tokens": 2**53 - 1}, 2**53 - 1),
    ({"total_tokens": 2**53 - 2}, 2**53 - 2),
    ({"total_tokens": 99.5}, 99.5),
    ({"cached_tokens": 1000, "details": {"total_tokens": 1000}}, 0),
    ({"total_tokens": None, "input_tokens": 3, "output_tokens": None}, 3),
    ({"total_tokens": "many", "input_tokens": 4}, 4),
]
"""What runs say that they used, and how many tokens that is."""

FILTERS: dict[str, list[Any]] = {
    "session_id": ["ses 1", "ses 3", "ses 4", "ses nobody"],
    "agent_id": ["agent 1", "agent 0", "nobody"],
    "status": ["running", RunStatus.FAILED, ["failed", "running", "timeout"], list(RunStatus), []],
    "provider": ["anthropic", "openai", "nobody"],
    "started_after": [at(3), at(2.999_999), at(11)],
    "started_before": [at(6), at(6.000_001), at(0)],
    "min_tokens": [10, 0, 100, 101, 2**53 - 2, 2**53 - 1, HUGE],
}
"""Values of each filter."""


def fill(store: QueriedStore) -> list[tuple[Run, float]]:
    """Save 66 runs of five sessions, one of which is not saved; return them with their tokens."""
    for number in range(4):
        store.save_session(session(f"agent {number % 2}", id=f"ses {number}"))
    filled = []
    for number in range(66):
        usage, tokens = USAGES[number % 11]
        saved = run(
            f"ses {number // 2 % 5}",
            id=f"{'run' if number % 2 else 'RUN'} {number * 31 % 66:02}",
            status=list(RunStatus)[number % 6],
            provider=[None, "anthropic", "openai"][number // 3 % 3],
            token_usage=usage,
            started_at=at(number * 5 % 12),
        )
        store.save_run(saved)
        filled.append((saved, tokens))
    return filled


def several(given: Any) -> list[Any]:
    """Return what was given as a list: one or several."""
    return [given] if isinstance(given, str) else list(given)


CHECKS: dict[str, Any] = {
    "session_id": lambda item, _, given: item.session_id == given,
    "agent_id": lambda item, _, given: item.session_id != "ses 4" and f"agent {int(item.session_id[-1]) % 2}" == given,
    "status": lambda item, _, given: item.status in several(given),
    "provider": lambda item, _, given: item.provider == given,
    "started_after": lambda item, _, given: item.started_at > given,
    "started_before": lambda item, _, given: item.started_at < given,
    "min_tokens": lambda _, tokens, given: tokens >= given,
}
"""What each filter means, of a run and its tokens."""


def expected(filled: list[tuple[Run, float]], order: str = "started_at", **filters: Any) -> list[str]:
    """Return the ids of those that pass, in order."""
    found = [
        (item.started_at if order == "started_at" else tokens, item.id)
        for item, tokens in filled
        if all(CHECKS[name](item, tokens, given) for name, given in filters.items() if given is not None)
    ]
    return [key for _, key in sorted(found)]


class SearchingRuns:
    """Runs of all sessions are found by what they are, and by what they used."""

    def test_filters_of_a_search_for_runs(self, store: QueriedStore) -> None:
        """Each alone with each of its values, any two together, and all at once."""
        filled = fill(store)
        alone = [{name: value} for name, values in FILTERS.items() for value in values]
        pairs = [{name: FILTERS[name][0], other: FILTERS[other][0]} for name, other in itertools.combinations(FILTERS, 2)]
        together = {name: values[0] for name, values in FILTERS.items()} | {"status": list(RunStatus), "provider": "openai"}
        for filters in [{}, *alone, *pairs, together, dict.fromkeys(FILTERS)]:
            keys = expected(filled, **filters)
            assert ids(store.search_runs(**filters, limit=100)) == keys[::-1], filters

    def test_orders_of_runs(self, store: QueriedStore) -> None:
        """By their start and by their tokens, ids deciding ties; with ``-`` all of it the other way round."""
        filled = fill(store)
        orders: list[Any] = ["started_at", "tokens"]
        for name in orders:
            for filters in ({}, {"provider": "openai"}, {"session_id": "ses 2"}, {"min_tokens": 10}, {"agent_id": "agent 1"}):
                keys = expected(filled, name, **filters)
                assert ids(store.search_runs(order=name, limit=100, **filters)) == keys, (name, filters)
                assert ids(store.search_runs(order="-" + name, limit=100, **filters)) == keys[::-1]

    def test_a_run_that_is_found_is_whole(self, store: QueriedStore) -> None:
        """Every field, however odd its maps are."""
        saved = [
            run(input=value, output=value, error=value, provider_metadata=value, started_at=at(number))
            for number, value in enumerate(JSON.values())
        ]
        for item in saved:
            store.save_run(item)
        assert store.search_runs(order="started_at").items == saved

    def test_a_search_sees_runs_as_they_are_now(self, store: QueriedStore) -> None:
        """Saved again, with another agent of their session, and deleted with it."""
        store.save_session(session("first", id="ses"))
        saved = run(status="running", token_usage={"total_tokens": 5})
        store.save_run(saved)
        assert store.search_runs(agent_id="first", status="running", min_tokens=5).items == [saved]
        done = saved.set_output({}).update_token_usage({"total_tokens": 5})
        store.save_run(done)
        assert store.search_runs(status="running").items == []
        assert store.search_runs(min_tokens=10).items == [done]
        store.save_session(session("second", id="ses"))
        assert store.search_runs(agent_id="first").items == []
        assert store.search_runs(agent_id="second", session_id="ses").items == [done]
        store.delete_session("ses")
        assert store.search_runs().items == []

    def test_any_name_of_a_run_can_be_searched_for(self, store: QueriedStore) -> None:
        """However odd; each finds its own and no other."""
        for name in ODD_IDS:
            store.save_session(session(name, id=name))
            store.save_run(run(name, id=name, provider=name))
        for name in ODD_IDS:
            for filters in [dict[str, Any]({field: name}) for field in ("session_id", "agent_id", "provider")]:
                assert ids(store.search_runs(**filters)) == [name], filters

    def test_what_is_no_filter_of_runs_is_refused(self, store: Any) -> None:
        """``validation_error`` and ``invalid_status``."""
        for name in ("session_id", "agent_id", "provider"):
            argument_refused("validation_error", store.search_runs, name, ["", *INVALID_NAMES])
        times = [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 0, True]  # noqa: DTZ001  # naive is the point
        for name in ("started_after", "started_before"):
            argument_refused("validation_error", store.search_runs, name, times)
        all_refused("validation_error", lambda bad: store.search_runs(min_tokens=bad), INVALID_COUNTS)
        all_refused("invalid_status", lambda bad: store.search_runs(status=bad), ["active", "", 1, ["running", "nope"]])
        with refused("validation_error"):
            store.search_runs(ended_after=at(0))
