"""``append_event``, ``append_event_with_sequence``, ``append_events``."""

from __future__ import annotations

from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import Event, EventType
from asm.ports import SessionStore
from asm.testing.samples import JSON, LONGEST_IDS, MOMENTS, ODD_IDS, all_refused, at, at_once, event, refused, same

__all__ = ["Appending"]


class Appending:
    """Events are stored once, in order, without a gap, and never change."""

    def test_sequences_count_from_one(self, store: SessionStore) -> None:
        """Each event comes back with its number, and is else what was given."""
        for number in (1, 2, 3):
            given = event(data={"number": number})
            assert same(store.append_event_with_sequence(given), given.sequenced(number))
        assert store.get_latest_sequence("ses") == 3

    def test_append_event_stores_and_returns_nothing(self, store: SessionStore) -> None:
        """It is the other one without the reply."""
        given = [event(), event()]
        for item in given:
            assert store.append_event(item) is None  # type: ignore[func-returns-value]
        assert store.get_events("ses") == [given[0].sequenced(1), given[1].sequenced(2)]

    def test_every_field_comes_back(self, store: SessionStore) -> None:
        """From the append, and from a later read."""
        given = event(
            type="tool_call_started",
            timestamp=at(0),
            run_id="run",
            data={"a": 1},
            metadata={"b": 2},
            schema_version=7,
            provider="anthropic",
            correlation_id="correlation",
        )
        assert same(store.append_event_with_sequence(given), given.sequenced(1))
        assert same(store.get_events("ses")[0], given.sequenced(1))

    def test_maps_of_an_event_come_back_exactly(self, store: SessionStore) -> None:
        """No value, type or digit changes on the way."""
        for number, (name, value) in enumerate(JSON.items(), start=1):
            given = event(data=value, metadata=value)
            assert same(store.append_event_with_sequence(given), given.sequenced(number)), name
            assert same(store.get_events("ses", after=number - 1)[0], given.sequenced(number)), name

    def test_times_of_an_event_come_back_exactly(self, store: SessionStore) -> None:
        """Before 1970, and with microseconds."""
        given = [event(timestamp=moment) for moment in MOMENTS]
        stored = store.append_events(given)
        for number, (item, answer, found) in enumerate(zip(given, stored, store.get_events("ses"), strict=True), start=1):
            assert same(answer, item.sequenced(number))
            assert same(found, item.sequenced(number))

    def test_every_type_is_stored(self, store: SessionStore) -> None:
        """All that the contract names."""
        given = [event(type=item) for item in EventType]
        assert [item.type for item in store.append_events(given)] == list(EventType)
        assert [item.type for item in store.get_events("ses")] == list(EventType)

    def test_types_of_ones_own_are_stored(self, store: SessionStore) -> None:
        """They have a dot, and are plain strings; others can be read beside them."""
        own = ["myapp.thought", "openai.item", "a.b.c_1.2", "x." + "y" * 126]
        given = [event(type=item) for item in [*own, "message_sent"]]
        for stored in (store.append_events(given), store.get_events("ses")):
            assert [item.type for item in stored] == [*own, "message_sent"]
            assert [type(item.type) for item in stored] == [str] * len(own) + [EventType]
        assert store.append_event_with_sequence(event(type=own[0])).type == own[0]

    def test_a_number_that_came_along_is_not_taken(self, store: SessionStore) -> None:
        """The store alone numbers."""
        assert store.append_event_with_sequence(event(sequence_number=99)).sequence_number == 1
        assert [item.sequence_number for item in store.append_events([event(sequence_number=1)])] == [2]

    def test_each_session_counts_for_itself(self, store: SessionStore) -> None:
        """However odd its id."""
        for _ in range(2):
            for session_id in ODD_IDS:
                store.append_event(event(session_id))
        for session_id in ODD_IDS:
            assert [item.sequence_number for item in store.get_events(session_id)] == [1, 2]
            assert store.get_latest_sequence(session_id) == 2

    # -- An event that is stored already ------------------------------------------------------------------------------

    def test_an_event_is_stored_once(self, store: SessionStore) -> None:
        """Appended again, the stored one comes back, and no number is used up."""
        given = event(data={"a": 1})
        stored = store.append_event_with_sequence(given)
        store.append_event(event())
        assert store.append_event_with_sequence(given) == stored
        assert store.append_event(given) is None  # type: ignore[func-returns-value]
        assert store.append_events([given]) == [stored]
        assert store.get_latest_sequence("ses") == 2
        assert store.append_event_with_sequence(event()).sequence_number == 3

    def test_a_stored_event_never_changes(self, store: SessionStore) -> None:
        """Whatever else comes under its id."""
        stored = store.append_event_with_sequence(event(data={"a": 1}))
        other = event(id=stored.id, data={"b": 2}, type="run_failed", timestamp=at(99))
        assert same(store.append_event_with_sequence(other), stored)
        assert same(store.get_events("ses")[0], stored)

    def test_an_id_belongs_to_one_event_in_all_sessions(self, store: SessionStore) -> None:
        """``session_mismatch``: nothing is stored under it elsewhere, and nothing of its session is shown."""
        stored = store.append_event_with_sequence(event("ses_owner", data={"a": "secret"}))
        other = event("ses_b", id=stored.id)
        for call in (
            lambda: store.append_event(other),
            lambda: store.append_event_with_sequence(other),
            lambda: store.append_events([event("ses_b"), event("ses_c"), other, event("ses_owner")]),
        ):
            with pytest.raises(Error) as caught:
                call()
            assert caught.value.code == "session_mismatch"
            assert caught.value.details == {"event_id": stored.id, "session_id": "ses_b"}
            assert "owner" not in caught.value.message
        assert store.get_events("ses_b") == store.get_events("ses_c") == []
        assert store.get_latest_sequence("ses_b") == 0
        assert store.get_events("ses_owner") == [stored]
        assert store.append_event_with_sequence(event("ses_b")).sequence_number == 1

    def test_the_longest_names_of_an_event(self, store: SessionStore) -> None:
        """All of them at once, stored and found."""
        for name in LONGEST_IDS:
            given = event(name, id=name, run_id=name, provider=name, correlation_id=name)
            assert same(store.append_event_with_sequence(given), given.sequenced(1))
            assert store.get_events(name, run_id=name) == [given.sequenced(1)]
            assert store.append_event_with_sequence(given) == given.sequenced(1)

    # -- append_events ----------------------------------------------------------------------------------------------

    def test_a_batch_keeps_its_order(self, store: SessionStore) -> None:
        """Contiguous, after what is there; timestamps order nothing."""
        store.append_event(event())
        given = [event(timestamp=at(-number)) for number in range(5)]
        stored = store.append_events(given)
        assert stored == [item.sequenced(number) for number, item in enumerate(given, start=2)]
        assert store.get_events("ses", after=1) == stored

    def test_sessions_may_mix_in_a_batch(self, store: SessionStore) -> None:
        """Each is contiguous for itself."""
        given = [event(session_id) for session_id in ("b", "a", "b", "c", "a", "b")]
        assert [item.sequence_number for item in store.append_events(given)] == [1, 1, 2, 1, 2, 3]
        assert [item.id for item in store.get_events("b")] == [given[0].id, given[2].id, given[5].id]

    def test_a_batch_of_many_sessions(self, store: SessionStore) -> None:
        """More than a database counts with one statement."""
        names = [f"ses {number}" for number in range(1200)]
        store.append_event(event(session_id=names[-1]))
        stored = store.append_events([event(session_id=name) for name in names])
        assert [item.session_id for item in stored] == names
        assert [item.sequence_number for item in stored] == [1] * (len(names) - 1) + [2]

    def test_duplicates_in_a_batch_give_back_the_stored_one(self, store: SessionStore) -> None:
        """Those of the batch itself and those that were stored before, and none uses up a number."""
        old = store.append_event_with_sequence(event(data={"is": "old"}))
        first, last = event(data={"is": "first"}), event()
        given = [first, event(id=old.id), event(id=first.id, data={"is": "second"}), old, last]
        stored = store.append_events(given)
        assert stored == [first.sequenced(2), old, first.sequenced(2), old, last.sequenced(3)]
        assert store.get_events("ses") == [old, first.sequenced(2), last.sequenced(3)]

    def test_a_duplicate_in_another_session_of_the_batch(self, store: SessionStore) -> None:
        """``session_mismatch``, and nothing of the batch is stored."""
        first = event("ses_a")
        with refused("session_mismatch", event_id=first.id, session_id="ses_b"):
            store.append_events([first, event("ses_b"), event("ses_b", id=first.id)])
        assert store.get_events("ses_a") == store.get_events("ses_b") == []
        assert store.append_event_with_sequence(first).sequence_number == 1

    def test_an_empty_batch_is_no_error(self, store: SessionStore) -> None:
        """Nothing comes back."""
        assert store.append_events([]) == []

    def test_a_large_batch(self, store: SessionStore) -> None:
        """In one piece; and a second time, it is all there already."""
        given = [event(data={"number": number}) for number in range(1200)]
        stored = store.append_events(given)
        assert [item.sequence_number for item in stored] == list(range(1, 1201))
        assert store.append_events(given) == stored
        assert store.get_events("ses") == stored

    def test_one_bad_item_and_nothing_of_a_batch_is_stored(self, store: SessionStore) -> None:
        """``validation_error``, wherever in the batch it stands."""
        store.append_event(event())
        for place in (0, 2, 4):
            good: list[Any] = [event() for _ in range(4)]
            batches = [[*good[:place], bad, *good[place:]] for bad in (None, "event", {"id": "evt"}, 1)]
            all_refused("validation_error", store.append_events, batches)
        assert store.get_latest_sequence("ses") == 1
        assert len(store.get_events("ses")) == 1

    def test_what_is_no_event_is_refused(self, store: SessionStore) -> None:
        """``validation_error``, and neither is one event a list of events."""
        for operation in (store.append_event, store.append_event_with_sequence):
            all_refused("validation_error", operation, [None, "event", {"id": "evt"}, 1, [event()]])
        all_refused("validation_error", store.append_events, [None, "events", {"id": "evt"}, 1, event()])

    def test_sessions_that_want_one_id_at_once(self, store: SessionStore) -> None:
        """It is that of whoever comes first, and all others are told; their own events are stored."""
        shared = event("ses 0").id

        def append(thread: int) -> str:
            store.append_event(event(f"ses {thread}"))
            try:
                store.append_event(event(f"ses {thread}", id=shared))
            except Error as error:
                return error.code
            return "stored"

        assert sorted(at_once(8, append)) == ["session_mismatch"] * 7 + ["stored"]
        assert sum(store.get_latest_sequence(f"ses {thread}") for thread in range(8)) == 9

    # -- Many at once -------------------------------------------------------------------------------------------------

    def test_threads_that_append_at_once_leave_no_gap(self, store: SessionStore) -> None:
        """Eight of them: every number once, and every answer is true."""

        def append(thread: int) -> list[Event]:
            return [store.append_event_with_sequence(event(data={"thread": thread, "number": number})) for number in range(15)]

        answers = [item for answer in at_once(8, append) for item in answer]
        stored = store.get_events("ses")
        assert [item.sequence_number for item in stored] == list(range(1, 121))
        assert sorted(answers, key=lambda item: item.sequence_number or 0) == stored
        for thread in range(8):
            assert [item.data["number"] for item in stored if item.data["thread"] == thread] == list(range(15))

    def test_batches_that_come_at_once_do_not_mingle(self, store: SessionStore) -> None:
        """Each stays contiguous."""
        answers = at_once(8, lambda _: [store.append_events([event() for _ in range(5)]) for _ in range(3)])
        for batch in (batch for answer in answers for batch in answer):
            first = batch[0].sequence_number or 0
            assert [item.sequence_number for item in batch] == list(range(first, first + 5))
        assert store.get_latest_sequence("ses") == len(store.get_events("ses")) == 120

    def test_one_event_from_many_threads_is_stored_once(self, store: SessionStore) -> None:
        """Everybody is told the same."""
        given = event()
        answers = at_once(8, lambda _: store.append_event_with_sequence(given))
        assert answers == [given.sequenced(1)] * 8
        assert store.get_events("ses") == [given.sequenced(1)]

    def test_batches_in_opposite_orders_do_not_block_each_other(self, store: SessionStore) -> None:
        """Two sessions, eight threads, half of them the other way round."""

        def append(thread: int) -> None:
            order = ("a", "b") if thread % 2 else ("b", "a")
            for _ in range(5):
                store.append_events([event(session_id) for session_id in order])

        at_once(8, append)
        for session_id in ("a", "b"):
            assert [item.sequence_number for item in store.get_events(session_id)] == list(range(1, 41))
