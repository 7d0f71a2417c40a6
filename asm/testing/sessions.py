"""``save_session``, ``get_session``, ``list_sessions``, ``delete_session``."""

from __future__ import annotations

from typing import Any

from asm.core.values import SessionStatus
from asm.ports import SessionStore
from asm.testing.samples import (
    HUGE,
    INVALID_COUNTS,
    INVALID_IDS,
    INVALID_LIMITS,
    JSON,
    LONGEST_IDS,
    MOMENTS,
    ODD_IDS,
    all_refused,
    at,
    event,
    refused,
    run,
    same,
    session,
)

__all__ = ["Sessions"]


class Sessions:
    """Sessions are kept, found, listed in order, and deleted with all that is theirs."""

    def test_a_saved_session_comes_back(self, store: SessionStore) -> None:
        """Every field of it."""
        saved = session(
            "agent-7",
            status="active",
            parent_session_id="ses_parent",
            metadata={"a": 1},
            context={"b": [2]},
            tags=["one", "two", "ключ", ""],
            created_at=at(0),
            updated_at=at(1),
            deleted_at=at(2),
        )
        assert store.save_session(saved) is None  # type: ignore[func-returns-value]
        assert same(store.get_session(saved.id), saved)

    def test_a_session_of_defaults_comes_back(self, store: SessionStore) -> None:
        """With nothing given but the agent."""
        saved = session()
        store.save_session(saved)
        assert same(store.get_session(saved.id), saved)

    def test_the_longest_names_of_a_session(self, store: SessionStore) -> None:
        """All of them at once, stored and found."""
        for name in LONGEST_IDS:
            saved = session(name, id=name, parent_session_id=name)
            store.save_session(saved)
            assert store.list_sessions(agent_id=name) == [saved]
            assert same(store.get_session(name), saved)

    def test_maps_of_a_session_come_back_exactly(self, store: SessionStore) -> None:
        """No value, type or digit changes on the way."""
        for name, value in JSON.items():
            saved = session(metadata=value, context=value)
            store.save_session(saved)
            assert same(store.get_session(saved.id), saved), name

    def test_times_of_a_session_come_back_exactly(self, store: SessionStore) -> None:
        """Before 1970, and with microseconds."""
        for moment in MOMENTS:
            saved = session(created_at=moment, updated_at=moment, deleted_at=moment)
            store.save_session(saved)
            assert same(store.get_session(saved.id), saved)
        assert [item.created_at for item in store.list_sessions()] == MOMENTS

    def test_saving_a_session_again_replaces(self, store: SessionStore) -> None:
        """A session is what was last saved under its id."""
        first = session(metadata={"a": 1}, tags=["old"])
        second = session("other", id=first.id, status="completed", context={"b": 2})
        store.save_session(first)
        store.save_session(second)
        assert same(store.get_session(first.id), second)
        assert store.list_sessions() == [second]

    def test_odd_ids_are_different_sessions(self, store: SessionStore) -> None:
        """An id is text and nothing else, told apart to the last character."""
        saved = [session(f"agent of {item[:20]}", id=item) for item in ODD_IDS]
        for item in saved:
            store.save_session(item)
        assert [store.get_session(item.id) for item in saved] == saved
        assert len(store.list_sessions()) == len(saved)

    def test_an_unknown_session_is_not_found(self, store: SessionStore) -> None:
        """``session_not_found``, also when others are there."""
        store.save_session(session())
        with refused("session_not_found"):
            store.get_session("ses_nobody")

    def test_what_is_no_id_of_a_session_is_refused(self, store: SessionStore) -> None:
        """``validation_error``, not ``session_not_found``."""
        all_refused("validation_error", store.get_session, INVALID_IDS)
        all_refused("validation_error", store.delete_session, INVALID_IDS)

    def test_what_is_no_session_is_refused(self, store: SessionStore) -> None:
        """``validation_error``."""
        all_refused("validation_error", store.save_session, [None, "ses", {"id": "ses"}, 1, run()])
        assert store.list_sessions() == []

    # -- list_sessions ----------------------------------------------------------------------------------------------

    def test_an_empty_store_lists_nothing(self, store: SessionStore) -> None:
        """An empty list, no error."""
        assert store.list_sessions() == []
        assert store.list_sessions(status="active", agent_id="nobody", limit=5, offset=5) == []

    def test_the_oldest_session_comes_first_and_ids_decide_ties(self, store: SessionStore) -> None:
        """Whatever order they were saved in."""
        ordered = [
            session(id="z", created_at=at(-5)),
            session(id="B", created_at=at(0)),
            session(id="a", created_at=at(0)),
            session(id="b", created_at=at(0)),
            session(id="é", created_at=at(0)),
            session(id="\uffff", created_at=at(0)),
            session(id="\U0001f9ea", created_at=at(0)),
            session(id="a0", created_at=at(0.000_001)),
        ]
        for item in (ordered[index] for index in (3, 0, 7, 5, 1, 6, 2, 4)):
            store.save_session(item)
        assert store.list_sessions() == ordered

    def test_a_session_moves_when_its_time_changes(self, store: SessionStore) -> None:
        """The order is that of what is saved now."""
        first, second = session(created_at=at(1)), session(created_at=at(2))
        moved = session(id=first.id, created_at=at(3))
        for item in (first, second, moved):
            store.save_session(item)
        assert store.list_sessions() == [second, moved]

    def test_statuses_filter_sessions(self, store: SessionStore) -> None:
        """One or several, as text or as members."""
        saved = {status: session(status=status, created_at=at(number)) for number, status in enumerate(SessionStatus)}
        for item in reversed(saved.values()):
            store.save_session(item)
        for status, item in saved.items():
            assert store.list_sessions(status=status) == [item]
            text: Any = str(status)
            assert store.list_sessions(status=text) == [item]
        expected = [saved[SessionStatus.ACTIVE], saved[SessionStatus.FAILED]]
        assert store.list_sessions(status=["failed", SessionStatus.ACTIVE, "failed"]) == expected
        assert store.list_sessions(status=list(SessionStatus)) == list(saved.values())
        assert store.list_sessions(status=[]) == []

    def test_a_changed_status_is_found_under_the_new_one_only(self, store: SessionStore) -> None:
        """A filter sees what is saved now."""
        saved = session(status="active")
        store.save_session(saved)
        changed = saved.update_status("completed")
        store.save_session(changed)
        assert store.list_sessions(status="active") == []
        assert store.list_sessions(status="completed") == [changed]

    def test_agents_filter_sessions(self, store: SessionStore) -> None:
        """Exactly that agent, and with a status both."""
        mine = [
            session("a", created_at=at(number), status=status) for number, status in enumerate(["active", "failed", "active"])
        ]
        for item in [*mine, session("A"), session("ab")]:
            store.save_session(item)
        assert store.list_sessions(agent_id="a") == mine
        assert store.list_sessions(agent_id="a", status="active") == [mine[0], mine[2]]
        assert store.list_sessions(agent_id="a", status=["active", "failed"], limit=1, offset=1) == [mine[1]]
        assert store.list_sessions(agent_id="nobody") == []

    def test_limit_and_offset_cut_a_page(self, store: SessionStore) -> None:
        """After the filter, and beyond the end there is nothing."""
        saved = [session(created_at=at(number), status="active" if number % 2 else "paused") for number in range(10)]
        for item in saved:
            store.save_session(item)
        assert store.list_sessions(limit=3) == saved[:3]
        assert store.list_sessions(limit=3, offset=8) == saved[8:]
        assert store.list_sessions(offset=9) == saved[9:]
        assert store.list_sessions(offset=10) == []
        assert store.list_sessions(limit=HUGE, offset=HUGE) == []
        assert store.list_sessions(limit=HUGE) == saved
        assert store.list_sessions(status="active", limit=2, offset=1) == [saved[3], saved[5]]

    def test_sessions_are_listed_however_large_they_are(self, store: SessionStore) -> None:
        """Also when no single message between processes may hold them."""
        saved = [session(created_at=at(number), metadata={"text": f"{number}" * 6_000_000}) for number in range(3)]
        for item in saved:
            store.save_session(item)
        assert store.list_sessions() == saved

    def test_a_filter_of_none_does_not_filter_sessions(self, store: SessionStore) -> None:
        """``None`` is as good as not given."""
        store.save_session(session())
        assert len(store.list_sessions(status=None, agent_id=None, limit=None)) == 1

    def test_a_limit_of_sessions_is_positive(self, store: SessionStore) -> None:
        """Anything but an integer above 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.list_sessions(limit=bad), INVALID_LIMITS)

    def test_an_offset_is_not_negative(self, store: SessionStore) -> None:
        """Anything but an integer from 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.list_sessions(offset=bad), INVALID_COUNTS)

    def test_an_unknown_status_of_sessions_is_refused(self, store: SessionStore) -> None:
        """``invalid_status``; a run's status is none of a session's."""
        unknown = ["running", "", "ACTIVE", 1, ["active", "nope"]]
        all_refused("invalid_status", lambda bad: store.list_sessions(status=bad), unknown)

    def test_an_unknown_filter_of_sessions_is_refused(self, store: Any) -> None:
        """``validation_error``."""
        with refused("validation_error"):
            store.list_sessions(colour="blue")
        with refused("validation_error"):
            store.list_sessions(agent_id="")

    # -- delete_session -----------------------------------------------------------------------------------------------

    def test_a_deleted_session_is_gone_with_all_that_is_its(self, store: SessionStore) -> None:
        """Its runs, its events and its sequence; and nothing of anybody else's."""
        gone, stays = session(), session()
        runs = [run(item.id, status="running") for item in (gone, stays)]
        events = [event(item.id) for item in (gone, stays) for _ in range(3)]
        for item in (gone, stays):
            store.save_session(item)
        for saved in runs:
            store.save_run(saved)
        store.append_events(events)

        assert store.delete_session(gone.id) is None  # type: ignore[func-returns-value]

        with refused("session_not_found"):
            store.get_session(gone.id)
        with refused("run_not_found"):
            store.get_run(runs[0].id)
        assert store.list_sessions() == [stays]
        assert store.list_runs(gone.id) == []
        assert store.get_active_run(gone.id) is None
        assert store.get_events(gone.id) == []
        assert store.get_latest_sequence(gone.id) == 0

        assert store.get_run(runs[1].id) == runs[1]
        assert store.get_active_run(stays.id) == runs[1]
        assert [item.id for item in store.get_events(stays.id)] == [item.id for item in events[3:]]
        assert store.get_latest_sequence(stays.id) == 3

    def test_after_a_deletion_sequences_start_anew(self, store: SessionStore) -> None:
        """At 1, also for an event that had been stored before."""
        saved = session()
        first = event(saved.id)
        store.save_session(saved)
        store.append_events([first, event(saved.id)])
        store.delete_session(saved.id)
        assert store.append_event_with_sequence(event(saved.id)).sequence_number == 1
        assert store.append_event_with_sequence(first).sequence_number == 2

    def test_deleting_what_is_not_there_is_no_error(self, store: SessionStore) -> None:
        """Twice is as good as once."""
        store.delete_session("ses_nobody")
        saved = session()
        store.save_session(saved)
        store.delete_session(saved.id)
        store.delete_session(saved.id)
        assert store.list_sessions() == []

    def test_deleting_reaches_what_never_had_a_session(self, store: SessionStore) -> None:
        """Runs and events need no saved session, and go all the same."""
        store.save_run(run("ses_unsaved", id="run_1"))
        store.append_event(event("ses_unsaved"))
        store.delete_session("ses_unsaved")
        assert store.list_runs("ses_unsaved") == []
        assert store.get_events("ses_unsaved") == []

    def test_a_deleted_session_can_be_saved_again(self, store: SessionStore) -> None:
        """Its id is free."""
        saved = session()
        store.save_session(saved)
        store.delete_session(saved.id)
        store.save_session(saved)
        assert store.list_sessions() == [saved]
