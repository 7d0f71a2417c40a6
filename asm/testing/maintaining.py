"""``health_check``, ``compact``, ``expired``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from asm.core.policies import RetentionPolicy
from asm.core.values import Session, SessionStatus
from asm.ports import Maintenance, SessionStore
from asm.testing.samples import INVALID_LIMITS, all_refused, argument_refused, event, refused, run, same, session

__all__ = ["Maintaining"]

ENDED = [SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED]

NEVER = RetentionPolicy(max_completed_age_days=None, hard_delete_after_days=None)
"""A policy for which nothing is ever due."""


class MaintainedStore(SessionStore, Maintenance, Protocol):
    """A session store that lets itself be looked after, too."""


def aged(days: float, **fields: Any) -> Session:
    """Make a session that was last updated so many days ago."""
    moment = datetime.now(UTC) - timedelta(days=days)
    return session(**{"created_at": moment - timedelta(days=1), "updated_at": moment, **fields})


def due(store: MaintainedStore, policy: RetentionPolicy) -> set[str]:
    """Return the ids of the sessions for which something is due."""
    found = store.expired(policy, limit=1000)
    for item in found:
        assert same(item, store.get_session(item.id))
    assert len({item.id for item in found}) == len(found)
    return {item.id for item in found}


class Maintaining:
    """What is whole is said to be, room is given back, and what is old is found."""

    # -- health_check and compact -------------------------------------------------------------------------------------

    def test_an_empty_store_is_healthy(self, store: MaintainedStore) -> None:
        """Nothing is wrong with nothing, and there is nothing to give back."""
        assert store.health_check() == []
        assert store.compact() >= 0
        assert store.expired(RetentionPolicy(), limit=10) == []

    def test_a_store_stays_healthy_whatever_is_done(self, store: MaintainedStore) -> None:
        """Appends, flushes and deletions of every kind leave nothing that is wrong; no deletion is taken for a loss."""
        for name in ("whole", "a gap", "the first", "the last", "empty", "gone"):
            store.append_events([event(name, type="run_started", run_id=f"run of {name}") for _ in range(5)])
            store.append_event(event(name))
        store.flush({"session": session(id="whole"), "run": run("whole"), "events": [event("whole")]})
        store.delete_events("a gap", type="message_received")
        store.append_event(event("a gap"))
        store.delete_events("the first", through=3)
        store.delete_events("the last", type="message_received")
        store.delete_events("empty", through=100)
        store.delete_session("gone")
        store.append_event(event("gone"))
        assert store.health_check() == []
        store.compact()
        assert store.health_check() == []

    def test_compacting_loses_nothing(self, store: MaintainedStore) -> None:
        """However much went before; and it can be done again."""
        store.append_events([event("gone", data={"text": "x" * 10_000}) for _ in range(100)])
        stored = store.append_events([event(data={"number": number}) for number in range(50)])
        saved, done = session(), run()
        store.save_session(saved)
        store.save_run(done)
        store.delete_session("gone")
        store.delete_events("ses", through=10)
        for _ in range(2):
            size = store.compact()
            assert type(size) is int
            assert size >= 0
            assert store.get_events("ses") == stored[10:]
            assert store.get_latest_sequence("ses") == 50
            assert same(store.get_session(saved.id), saved)
            assert same(store.get_run(done.id), done)
        assert store.append_event_with_sequence(event()).sequence_number == 51

    # -- expired ------------------------------------------------------------------------------------------------------

    def test_what_has_ended_is_due_after_a_time(self, store: MaintainedStore) -> None:
        """``max_completed_age_days`` after its last update; with ``None`` never."""
        saved = {(status, days): aged(days, status=status) for status in SessionStatus for days in (0, 9.9, 10.1, 1000)}
        for item in saved.values():
            store.save_session(item)
        for days, old in ((10, (10.1, 1000)), (0, (0, 9.9, 10.1, 1000)), (11, (1000,)), (90, (1000,)), (2000, ()), (None, ())):
            expected = {item.id for (status, age), item in saved.items() if status in ENDED and age in old}
            assert due(store, RetentionPolicy(max_completed_age_days=days)) == expected, days

    def test_what_has_not_ended_is_due_after_a_longer_time(self, store: MaintainedStore) -> None:
        """``max_age_days`` counts for every other status, except for those that are exempt."""
        saved = {(status, days): aged(days, status=status) for status in SessionStatus for days in (9.9, 10.1)}
        for item in saved.values():
            store.save_session(item)
        for exempt in ((), ("active", "paused"), ("pending",), tuple(SessionStatus)):
            policy = RetentionPolicy(max_completed_age_days=None, max_age_days=10, exempt_statuses=exempt)
            expected = {item.id for (status, age), item in saved.items() if status not in (*ENDED, *exempt) and age > 10}
            assert due(store, policy) == expected, exempt
        assert due(store, NEVER) == set()

    def test_what_is_soft_deleted_is_due_again(self, store: MaintainedStore) -> None:
        """``hard_delete_after_days`` after its ``deleted_at``, whatever its other ages; it is not soft-deleted twice."""
        now = datetime.now(UTC)
        saved = {days: aged(1000, status="completed", deleted_at=now - timedelta(days=days)) for days in (0, 9.9, 10.1, 500)}
        for item in saved.values():
            store.save_session(item)
        for days, old in ((10, (10.1, 500)), (0, (0, 9.9, 10.1, 500)), (30, (500,)), (1000, ()), (None, ())):
            assert due(store, RetentionPolicy(hard_delete_after_days=days)) == {saved[age].id for age in old}, days

    def test_what_has_too_many_events_is_due(self, store: MaintainedStore) -> None:
        """``max_events_per_session``, of what is there and not of what was."""
        saved = [aged(0, id=f"ses {number}") for number in range(4)]
        for number, item in enumerate(saved):
            store.save_session(item)
            store.append_events([event(item.id) for _ in range(number * 5)])
        store.delete_events("ses 3", through=11)
        store.append_events([event("ses unsaved") for _ in range(20)])
        for most, many in ((3, {1, 2, 3}), (4, {1, 2}), (5, {2}), (9, {2}), (10, set()), (None, set())):
            expected = {f"ses {number}" for number in many}
            assert due(store, RetentionPolicy(max_events_per_session=most)) == expected, most

    def test_what_is_exempt_is_never_due(self, store: MaintainedStore) -> None:
        """By its status or by any of its tags, to the letter, whatever else it is."""
        tags = [["pinned"], ["a", "pinned"], ["a"], ["PINNED"], []]
        saved = [aged(1000, status="completed", tags=item, id=f"ses {number}") for number, item in enumerate(tags)]
        for item in saved:
            store.save_session(item)
            store.append_events([event(item.id) for _ in range(3)])
        assert due(store, RetentionPolicy()) == {"ses 2", "ses 3", "ses 4"}
        assert due(store, RetentionPolicy(exempt_tags=["a", "b"])) == {"ses 0", "ses 3", "ses 4"}
        assert len(due(store, RetentionPolicy(exempt_tags=[]))) == 5
        assert due(store, RetentionPolicy(exempt_statuses=ENDED)) == set()
        assert due(store, RetentionPolicy(max_completed_age_days=None, max_events_per_session=1)) == {"ses 2", "ses 3", "ses 4"}
        assert due(store, RetentionPolicy(exempt_statuses=ENDED, max_events_per_session=1)) == set()

    def test_what_is_asked_for_with_a_limit_is_the_oldest(self, store: MaintainedStore) -> None:
        """First what was updated first; as much as the limit lets."""
        saved = [aged(100 + number, status="failed") for number in range(10)]
        for item in saved[::2] + saved[1::2]:
            store.save_session(item)
        for limit in (1, 4, 10, 100):
            found = store.expired(RetentionPolicy(), limit=limit)
            assert [item.id for item in found] == [item.id for item in saved[::-1][:limit]]

    def test_what_was_dealt_with_is_not_due_any_more(self, store: MaintainedStore) -> None:
        """So whoever asks again and again comes to an end."""
        store.save_session(saved := aged(100, status="completed"))
        assert due(store, RetentionPolicy()) == {saved.id}
        deleted = saved.changed(deleted_at=datetime.now(UTC), updated_at=saved.updated_at)
        store.save_session(deleted)
        assert due(store, RetentionPolicy()) == set()
        assert due(store, RetentionPolicy(hard_delete_after_days=0)) == {saved.id}
        store.delete_session(saved.id)
        assert due(store, RetentionPolicy(hard_delete_after_days=0)) == set()

    def test_what_is_no_policy_is_refused(self, store: Any) -> None:
        """``validation_error``: a negative age in one, what is none, and a limit that is none."""
        for name in (
            "max_completed_age_days",
            "max_age_days",
            "hard_delete_after_days",
            "max_events_per_session",
            "batch_size",
        ):
            argument_refused("validation_error", RetentionPolicy, name, [-1, 1.5, "90", True])
        argument_refused("invalid_status", RetentionPolicy, "exempt_statuses", [["running"], ["active", ""], [1]])
        all_refused("validation_error", lambda bad: store.expired(bad, limit=1), [None, {}, "policy", 90, session()])
        all_refused("validation_error", lambda bad: store.expired(NEVER, limit=bad), [*INVALID_LIMITS, None])
        with refused("validation_error"):
            store.expired(NEVER)
        with refused("validation_error"):
            store.expired(NEVER, 10)
        for operation in (store.health_check, store.compact):
            with refused("validation_error"):
                operation(1)
