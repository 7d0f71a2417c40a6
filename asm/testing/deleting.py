"""``delete_events``."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asm.core.values import Event
from asm.ports import SessionStore
from asm.testing.samples import HUGE, INVALID_COUNTS, INVALID_IDS, all_refused, at_once, event, refused, session

__all__ = ["Deleting"]

TYPES = ["message_sent", "message_received", "myapp.thought"]

RUNS = [None, "run_a", "run_b", "run_a"]

CONDITIONS: list[tuple[dict[str, Any], Iterable[int]]] = [
    ({"through": 0}, []),
    ({"through": 1}, [1]),
    ({"through": 5}, range(1, 6)),
    ({"through": 12}, range(1, 13)),
    ({"through": HUGE}, range(1, 13)),
    ({"run_id": "run_a"}, [2, 4, 6, 8, 10, 12]),
    ({"run_id": "run_nobody"}, []),
    ({"type": "message_sent"}, [1, 4, 7, 10]),
    ({"type": TYPES[1:]}, [2, 3, 5, 6, 8, 9, 11, 12]),
    ({"type": "run_failed"}, []),
    ({"type": []}, []),
    ({"through": 6, "run_id": "run_a"}, [2, 4, 6]),
    ({"through": 7, "type": "message_sent"}, [1, 4, 7]),
    ({"run_id": "run_a", "type": "message_sent"}, [4, 10]),
    ({"through": 9, "run_id": "run_a", "type": ["myapp.thought", "message_sent"]}, [4, 6]),
]
"""Conditions upon twelve events, and the numbers of those that meet them."""


def fill(store: SessionStore) -> list[Event]:
    """Store twelve events whose types and runs change in steps of their own, and some of another session."""
    given = [event(type=TYPES[number % 3], run_id=RUNS[number % 4]) for number in range(12)]
    others = [event("ses_other", run_id="run_a", type="message_sent") for _ in range(3)]
    return store.append_events([*others, *given])[3:]


class Deleting:
    """Events that match are gone for good, and leave their numbers behind."""

    def test_conditions_of_a_deletion(self, store: SessionStore) -> None:
        """Alone and together; the number of those that went comes back, and of nobody else's does any go."""
        for conditions, expected in CONDITIONS:
            stored, gone = fill(store), set(expected)
            assert store.delete_events("ses", **conditions) == len(gone), conditions
            left = [item for item in stored if item.sequence_number not in gone]
            assert store.get_events("ses") == left, conditions
            assert store.get_latest_sequence("ses") == 12
            assert len(store.get_events("ses_other")) == 3
            assert store.delete_events("ses", **conditions) == 0
            store.delete_session("ses")
            store.delete_session("ses_other")

    def test_gaps_stay_and_numbers_are_not_given_again(self, store: SessionStore) -> None:
        """Also when all events went, and when the last did."""
        stored = fill(store)
        assert store.delete_events("ses", through=12) == 12
        assert store.get_events("ses") == []
        assert store.get_latest_sequence("ses") == 12
        more = store.append_events([event(type="run_failed"), event(), event(type="run_failed")])
        assert [item.sequence_number for item in more] == [13, 14, 15]
        assert store.delete_events("ses", type="run_failed") == 2
        assert store.get_latest_sequence("ses") == 15
        assert store.append_event_with_sequence(event()).sequence_number == 16
        assert [item.sequence_number for item in store.get_events("ses")] == [14, 16]
        again = store.append_event_with_sequence(stored[0])
        assert again.sequence_number == 17
        assert store.get_events("ses", after=16) == [again]

    def test_filters_look_past_gaps(self, store: SessionStore) -> None:
        """By number, from both ends, and page by page."""
        stored = fill(store)
        store.delete_events("ses", type="message_received")
        left = [item for item in stored if item.type != "message_received"]
        assert [item.sequence_number for item in left] == [1, 3, 4, 6, 7, 9, 10, 12]
        assert store.get_events("ses", after=2, before=9) == left[1:5]
        assert store.get_events("ses", after=4, limit=2) == left[3:5]
        assert store.get_events("ses", last=3) == left[-3:]
        assert store.get_events("ses", before=11, last=2) == left[5:7]
        assert store.get_events("ses", run_id="run_a") == [item for item in left if item.run_id == "run_a"]
        assert store.get_events("ses", type="message_received") == []
        found: list[Event] = []
        while page := store.get_events("ses", after=(found[-1].sequence_number or 0) if found else 0, limit=3):
            found += page
        assert found == left

    def test_an_expectation_still_sees_what_went(self, store: SessionStore) -> None:
        """The session stands where it stood."""
        fill(store)
        store.delete_events("ses", through=12)
        with refused("conflict", session_id="ses", expected=0, actual=12):
            store.append_events([event()], expect={"ses": 0})
        assert store.append_events([event()], expect={"ses": 12})[0].sequence_number == 13

    def test_a_wait_goes_on_behind_what_went(self, store: SessionStore) -> None:
        """For the next event, and not for a number that is gone."""
        fill(store)
        store.delete_events("ses", through=12)
        assert store.get_events("ses", wait_timeout_ms=1) == []
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: store.get_events("ses", after=3, wait_timeout_ms=30_000))
            stored = store.append_event_with_sequence(event())
            assert waiting.result(timeout=20) == [stored]

    def test_everything_else_stays(self, store: SessionStore) -> None:
        """Of an unknown session nothing goes, and the session itself and its runs are not touched."""
        saved = session(id="ses")
        store.save_session(saved)
        fill(store)
        assert store.delete_events("ses_nobody", through=HUGE) == 0
        assert store.delete_events("ses", through=HUGE) == 12
        assert store.get_session("ses") == saved
        assert len(store.get_events("ses_other")) == 3

    def test_a_deleted_session_forgets_the_numbers(self, store: SessionStore) -> None:
        """A new log begins at 1."""
        fill(store)
        store.delete_events("ses", through=12)
        store.delete_session("ses")
        assert store.get_latest_sequence("ses") == 0
        assert store.append_event_with_sequence(event()).sequence_number == 1

    def test_appends_and_deletions_at_once(self, store: SessionStore) -> None:
        """Every event is counted or there; every number was given once."""

        def work(thread: int) -> tuple[list[int], int]:
            if thread:
                return [store.append_event_with_sequence(event()).sequence_number or 0 for _ in range(12)], 0
            return [], sum(store.delete_events("ses", through=store.get_latest_sequence("ses")) for _ in range(12))

        answers = at_once(5, work)
        assert sorted(number for given, _ in answers for number in given) == list(range(1, 49))
        assert sum(gone for _, gone in answers) + len(store.get_events("ses")) == 48
        assert store.get_latest_sequence("ses") == 48

    def test_a_deletion_needs_a_condition(self, store: SessionStore) -> None:
        """``validation_error`` without, and nothing goes."""
        fill(store)
        none = dict.fromkeys(("through", "run_id", "type"))
        all_refused("validation_error", lambda bad: store.delete_events("ses", **bad), [{}, none, {"type": None}])
        assert len(store.get_events("ses")) == 12

    def test_what_is_no_condition_is_refused(self, store: Any) -> None:
        """``validation_error`` or ``invalid_event_type``, and nothing goes."""
        fill(store)
        all_refused("validation_error", lambda bad: store.delete_events("ses", through=bad), INVALID_COUNTS)
        no_run = [bad for bad in INVALID_IDS if bad is not None]
        all_refused("validation_error", lambda bad: store.delete_events("ses", run_id=bad), no_run)
        all_refused("validation_error", lambda bad: store.delete_events(bad, through=1), INVALID_IDS)
        all_refused("invalid_event_type", lambda bad: store.delete_events("ses", type=bad), ["nope", "", 1, [TYPES[0], "nope"]])
        with refused("validation_error"):
            store.delete_events("ses", 5)
        with refused("validation_error"):
            store.delete_events("ses", through=5, since=1)
        assert len(store.get_events("ses")) == 12
