"""``get_events`` with ``wait_timeout_ms``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from asm.core.values import Event
from asm.ports import SessionStore
from asm.testing.samples import at, event, run, session

__all__ = ["Waiting"]

LONG: int = 30_000
"""Milliseconds that no test waits for: who is not woken shows up as a test that ran out of time."""

PATIENCE: float = 20
"""Seconds until a test gives up."""


class Waiting:
    """A long-poll returns when there is something, and when its time is up."""

    def test_what_is_there_comes_at_once(self, store: SessionStore) -> None:
        """A wait is only for nothing."""
        stored = store.append_events([event(), event()])
        assert store.get_events("ses", wait_timeout_ms=LONG) == stored
        assert store.get_events("ses", after=1, wait_timeout_ms=LONG) == stored[1:]
        assert store.get_events("ses", limit=1, wait_timeout_ms=LONG) == stored[:1]

    @pytest.mark.parametrize("timeout", [0, 1, 50])
    def test_when_the_time_is_up_there_is_nothing(self, store: SessionStore, timeout: int) -> None:
        """An empty list, no error; 0 does not wait."""
        store.append_event(event())
        assert store.get_events("ses", after=1, wait_timeout_ms=timeout) == []
        assert store.get_events("ses_nobody", wait_timeout_ms=timeout) == []
        assert store.get_events("ses", type="run_failed", wait_timeout_ms=timeout) == []

    def test_two_who_wait_for_each_other(self, store: SessionStore) -> None:
        """Each answers what the other appends, twenty times: no append is missed."""

        def answer(first: int) -> list[Event]:
            seen: list[Event] = []
            for number in range(first, 40, 2):
                seen += store.get_events("ses", after=number, limit=1, wait_timeout_ms=LONG)
                store.append_event(event(data={"answers": number}))
            return seen

        with ThreadPoolExecutor(2) as pool:
            players = [pool.submit(answer, first) for first in (0, 1)]
            store.append_event(event())
            seen = [player.result(timeout=PATIENCE) for player in players]
        assert [item.sequence_number for item in seen[0]] == list(range(1, 41, 2))
        assert [item.sequence_number for item in seen[1]] == list(range(2, 41, 2))

    @pytest.mark.parametrize(
        ("filters", "other", "match"),
        [
            ({"type": "run_completed"}, {"type": "run_started"}, {"type": "run_completed"}),
            ({"type": ["run_failed", "run_completed"]}, {"type": "run_started"}, {"type": "run_failed"}),
            ({"run_id": "run_a"}, {"run_id": "run_b"}, {"run_id": "run_a"}),
            ({"since": at(10)}, {"timestamp": at(9)}, {"timestamp": at(10)}),
            ({"until": at(10)}, {"timestamp": at(10)}, {"timestamp": at(9)}),
            ({"correlation_id": "a"}, {"correlation_id": "b"}, {"correlation_id": "a"}),
            (
                {"correlation_id": "a", "type": "run_failed"},
                {"correlation_id": "a"},
                {"correlation_id": "a", "type": "run_failed"},
            ),
            ({"after": 3}, {}, {}),
            ({"run_id": "run_a", "type": "run_failed"}, {"run_id": "run_a"}, {"run_id": "run_a", "type": "run_failed"}),
        ],
        ids=str,
    )
    def test_only_what_matches_ends_a_wait(
        self, store: SessionStore, filters: dict[str, Any], other: dict[str, Any], match: dict[str, Any]
    ) -> None:
        """Three appends that do not match come first, and are neither returned nor an end of it."""
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: store.get_events("ses", **filters, wait_timeout_ms=LONG))
            for _ in range(3):
                store.append_event(event(**other))
                store.append_event(event("ses_other", **match))
            expected = store.append_event_with_sequence(event(**match))
            assert waiting.result(timeout=PATIENCE) == [expected]

    @pytest.mark.parametrize("how", ["append_event", "append_events", "flush"])
    def test_every_way_to_append_wakes(self, store: SessionStore, how: str) -> None:
        """A batch and a flush as well as one event."""
        given = event()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: store.get_events("ses", wait_timeout_ms=LONG))
            if how == "append_event":
                store.append_event(given)
            elif how == "append_events":
                store.append_events([event("ses_other"), given])
            else:
                store.flush({"session": session(id="ses"), "run": run(), "events": [given]})
            assert waiting.result(timeout=PATIENCE) == [given.sequenced(1)]

    def test_one_append_wakes_everybody(self, store: SessionStore) -> None:
        """Of those who wait for that session; the others wait on."""
        with ThreadPoolExecutor(6) as pool:
            here = [pool.submit(lambda: store.get_events("ses", wait_timeout_ms=LONG)) for _ in range(5)]
            there = pool.submit(lambda: store.get_events("ses_other", wait_timeout_ms=LONG))
            stored = store.append_event_with_sequence(event())
            assert [waiting.result(timeout=PATIENCE) for waiting in here] == [[stored]] * 5
            assert not there.done()
            other = store.append_event_with_sequence(event("ses_other"))
            assert there.result(timeout=PATIENCE) == [other]

    def test_other_calls_go_on_meanwhile(self, store: SessionStore) -> None:
        """Who waits holds up nobody."""
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(lambda: store.get_events("ses_later", wait_timeout_ms=LONG)) for _ in range(8)]
            for number in range(1, 6):
                assert store.append_event_with_sequence(event()).sequence_number == number
                assert len(store.get_events("ses")) == number
            stored = store.append_event_with_sequence(event("ses_later"))
            assert [item.result(timeout=PATIENCE) for item in waiting] == [[stored]] * 8
