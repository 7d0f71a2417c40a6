"""``append_events`` and ``flush`` with ``expect``."""

from __future__ import annotations

from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import Event
from asm.ports import SessionStore
from asm.testing.samples import HUGE, INVALID_COUNTS, INVALID_NAMES, all_refused, at_once, event, refused, run, same, session

__all__ = ["Expecting"]


def conflicts(store: SessionStore, call: Any, session_id: str, expected: int, actual: int) -> None:
    """Expect a ``conflict`` over one session, after which it stands where it stood."""
    before = store.get_events(session_id)
    with pytest.raises(Error) as caught:
        call()
    error = caught.value
    assert (error.code, error.retryable) == ("conflict", False), error
    assert error.details == {"session_id": session_id, "expected": expected, "actual": actual}
    assert store.get_latest_sequence(session_id) == actual
    assert store.get_events(session_id) == before


class Expecting:
    """Nothing is stored unless each session stands where it is expected to."""

    def test_what_stands_as_expected_is_appended_to(self, store: SessionStore) -> None:
        """From 0, which is a session without events; more events than one at a time."""
        for number in range(0, 9, 3):
            given = [event() for _ in range(3)]
            stored = store.append_events(given, expect={"ses": number})
            assert stored == [item.sequenced(place) for place, item in enumerate(given, start=number + 1)]
        assert store.get_latest_sequence("ses") == 9
        assert len(store.append_events([event()], expect={})) == len(store.append_events([event()], expect=None)) == 1

    def test_what_stands_elsewhere_is_not_appended_to(self, store: SessionStore) -> None:
        """``conflict``, which says where: before it, behind it, and where there is nothing."""
        conflicts(store, lambda: store.append_events([event()], expect={"ses": 1}), "ses", 1, 0)
        store.append_events([event(), event()])
        for expected in (0, 1, 3, HUGE):
            conflicts(store, lambda at=expected: store.append_events([event()], expect={"ses": at}), "ses", expected, 2)
        assert store.append_events([event()], expect={"ses": 2})[0].sequence_number == 3

    def test_several_sessions_are_expected_together(self, store: SessionStore) -> None:
        """One that stands elsewhere, and nothing is stored in any; also one that none of the events belongs to."""
        store.append_events([event("a"), event("b"), event("b")])
        given = [event("a"), event("b"), event("c")]
        conflicts(store, lambda: store.append_events(given, expect={"a": 1, "b": 1, "c": 0}), "b", 1, 2)
        conflicts(store, lambda: store.append_events(given, expect={"a": 1, "b": 2, "c": 3}), "c", 3, 0)
        conflicts(store, lambda: store.append_events(given, expect={"elsewhere": 5}), "elsewhere", 5, 0)
        assert [store.get_latest_sequence(name) for name in "abc"] == [1, 2, 0]
        stored = store.append_events(given, expect={"a": 1, "b": 2, "c": 0, "elsewhere": 0})
        assert [item.sequence_number for item in stored] == [2, 3, 1]
        assert store.append_events([event("d"), event("a")], expect={"a": 2})[1].sequence_number == 3

    def test_a_repeat_gets_its_answer(self, store: SessionStore) -> None:
        """What is stored already comes back, wherever the sessions stand by now."""
        given = [event(), event("ses_other"), event()]
        stored = store.append_events(given, expect={"ses": 0, "ses_other": 0})
        store.append_events([event(), event("ses_other")])
        assert store.append_events(given, expect={"ses": 0, "ses_other": 0}) == stored
        assert store.append_events([given[2], given[0]], expect={"ses": 7}) == [stored[2], stored[0]]
        assert store.append_events([given[0], given[0]], expect={"ses": 0}) == [stored[0], stored[0]]
        assert store.get_latest_sequence("ses") == 3

    def test_one_new_event_and_it_is_no_repeat(self, store: SessionStore) -> None:
        """The expectation counts then, also for what is stored."""
        old = store.append_event_with_sequence(event())
        new = event()
        conflicts(store, lambda: store.append_events([old, new], expect={"ses": 0}), "ses", 0, 1)
        assert store.append_events([old, new], expect={"ses": 1}) == [old, new.sequenced(2)]

    def test_one_of_those_who_expect_the_same_comes_first(self, store: SessionStore) -> None:
        """The others are told where the session stands."""

        def append(_: int) -> Any:
            try:
                return store.append_events([event(), event()], expect={"ses": 0})
            except Error as error:
                return error.code, error.details["actual"]

        answers = at_once(8, append)
        assert sum(isinstance(answer, list) for answer in answers) == 1
        assert [answer for answer in answers if not isinstance(answer, list)] == [("conflict", 2)] * 7
        assert store.get_latest_sequence("ses") == 2

    def test_who_expects_again_gets_through(self, store: SessionStore) -> None:
        """Eight who write only upon what they have read; no one overlooks another's events."""

        def append_once() -> tuple[int, int]:
            for _ in range(100):  # each time that somebody else came first, they appended
                last = store.get_latest_sequence("ses")
                try:
                    return last, store.append_events([event(), event()], expect={"ses": last})[0].sequence_number or 0
                except Error as error:
                    assert error.code == "conflict"  # noqa: PT017  # any other ends the test
            pytest.fail("in conflict with nobody")

        def append(_: int) -> list[tuple[int, int]]:
            return [append_once() for _ in range(3)]

        pairs = sorted(pair for answer in at_once(8, append) for pair in answer)
        assert pairs == [(last, last + 1) for last in range(0, 48, 2)]

    def test_others_go_on_meanwhile(self, store: SessionStore) -> None:
        """One that is refused takes no other with it."""

        def append(number: int) -> str:
            try:
                store.append_events([event(f"ses {number}")], expect={f"ses {number}": number % 2})
            except Error as error:
                return error.code
            return "stored"

        assert at_once(16, append) == ["stored", "conflict"] * 8
        assert [store.get_latest_sequence(f"ses {number}") for number in range(16)] == [1, 0] * 8

    def test_a_deleted_session_stands_at_none(self, store: SessionStore) -> None:
        """It begins anew."""
        store.append_events([event(), event()])
        store.delete_session("ses")
        conflicts(store, lambda: store.append_events([event()], expect={"ses": 2}), "ses", 2, 0)
        assert store.append_events([event()], expect={"ses": 0})[0].sequence_number == 1

    def test_what_can_be_expected(self, store: SessionStore) -> None:
        """A map of ids and whole numbers from 0; all else is a ``validation_error``, and nothing is stored."""
        bad = ["ses", 0, 1, True, ["ses"], [("ses", 0)], {"": 0}, {None: 0}, {1: 0}, *({name: 0} for name in NAMES)]
        bad += [{"ses": number} for number in (*INVALID_COUNTS, None)] + [{"a": 0, "ses": -1}]
        all_refused("validation_error", lambda it: store.append_events([event()], expect=it), bad)
        all_refused("validation_error", lambda it: store.flush({"events": [event()]}, expect=it), bad)
        assert store.get_latest_sequence("ses") == 0

    # -- flush ------------------------------------------------------------------------------------------------------

    def test_a_flush_that_is_expected(self, store: SessionStore) -> None:
        """All of it is stored, and the events come back."""
        saved = session(id="ses")
        done = run("ses", status="completed")
        store.append_event(event())
        given = [event(run_id=done.id), event("ses_other")]
        stored = store.flush({"session": saved, "run": done, "events": given}, expect={"ses": 1, "ses_other": 0})
        assert stored == [given[0].sequenced(2), given[1].sequenced(1)]
        assert same(store.get_session("ses"), saved)
        assert same(store.get_run(done.id), done)

    @pytest.mark.parametrize("events", [1, 0])
    def test_nothing_of_a_flush_is_stored_otherwise(self, store: SessionStore, events: int) -> None:
        """Neither session nor run nor events, be there any or not."""
        saved = session(id="ses", metadata={"is": "old"})
        started = run("ses", status="running")
        store.flush({"session": saved, "run": started, "events": [event()]})
        given: Any = {
            "session": saved.update_status("failed"),
            "run": started.set_output({}),
            "events": [event() for _ in range(events)],
        }
        conflicts(store, lambda: store.flush(given, expect={"ses": 0}), "ses", 0, 1)
        conflicts(store, lambda: store.flush(given, expect={"ses": 1, "ses_other": 1}), "ses_other", 1, 0)
        assert same(store.get_session("ses"), saved)
        assert same(store.get_run(started.id), started)
        assert store.get_active_run("ses") == started
        store.flush(given, expect={"ses": 1, "ses_other": 0})
        assert same(store.get_run(started.id), given["run"])

    def test_a_flush_that_is_repeated(self, store: SessionStore) -> None:
        """Its events come back, wherever the session stands by now."""
        saved = session(id="ses")
        given: list[Event] = [event(), event()]
        stored = store.flush({"session": saved, "run": run("ses", id="run"), "events": given}, expect={"ses": 0})
        store.append_event(event())
        assert store.flush({"session": saved, "run": run("ses", id="run"), "events": given}, expect={"ses": 0}) == stored
        assert store.get_latest_sequence("ses") == 3

    def test_a_session_can_be_saved_upon_what_it_stands_at(self, store: SessionStore) -> None:
        """Without an event, and without a run."""
        store.append_event(event())
        saved = session(id="ses")
        with refused("conflict", session_id="ses", expected=2, actual=1):
            store.flush({"session": saved}, expect={"ses": 2})
        with refused("session_not_found"):
            store.get_session("ses")
        assert store.flush({"session": saved}, expect={"ses": 1}) == []
        assert same(store.get_session("ses"), saved)


NAMES = [name for name in INVALID_NAMES if isinstance(name, str | bytes | int)]
"""What no id can be, and yet a key of a map."""
