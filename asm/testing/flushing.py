"""``flush``."""

from __future__ import annotations

from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import Run, Session
from asm.ports import ExecutionResult, SessionStore
from asm.testing.samples import event, refused, run, same, session

__all__ = ["Flushing"]


def result(session: Session, run: Run, count: int = 2, **more: Any) -> ExecutionResult:
    """Make what a run brought about."""
    events = [event(session.id, run_id=run.id, data={"number": number}) for number in range(count)]
    return {"session": session, "run": run, "events": events, **more}  # type: ignore[typeddict-item]


class Flushing:
    """The session, the run and its events are stored, all of it or none of it."""

    def test_all_of_it_is_stored(self, store: SessionStore) -> None:
        """And the events are numbered after those that are there."""
        saved = session(status="active")
        done = run(saved.id).set_output({"answer": 42})
        store.append_event(event(saved.id))
        given = result(saved, done)
        assert store.flush(given) is None
        assert same(store.get_session(saved.id), saved)
        assert same(store.get_run(done.id), done)
        assert store.get_events(saved.id, after=1) == [
            item.sequenced(number) for number, item in enumerate(given["events"], start=2)
        ]

    def test_it_replaces_what_is_there(self, store: SessionStore) -> None:
        """Session and run, as saving does."""
        saved = session(status="active", metadata={"old": True})
        started = run(saved.id, status="running")
        store.save_session(saved)
        store.save_run(started)
        ended, done = saved.update_status("completed"), started.set_error({"reason": "no"})
        store.flush(result(ended, done, count=0))
        assert same(store.get_session(saved.id), ended)
        assert same(store.get_run(started.id), done)
        assert store.get_active_run(saved.id) is None

    def test_provider_metadata_is_merged_into_the_run(self, store: SessionStore) -> None:
        """Key by key; where both have one, that of the result counts."""
        saved = session()
        done = run(saved.id, provider_metadata={"model": "old", "kept": 1})
        store.flush(result(saved, done, provider_metadata={"model": "new", "added": {"deep": []}}))
        assert store.get_run(done.id).provider_metadata == {"model": "new", "kept": 1, "added": {"deep": []}}

    @pytest.mark.parametrize("more", [{}, {"provider_metadata": {}}, {"provider_metadata": None}], ids=str)
    def test_provider_metadata_may_be_missing(self, store: SessionStore, more: dict[str, Any]) -> None:
        """The run stays as it is then."""
        saved = session()
        done = run(saved.id, provider_metadata={"kept": 1})
        store.flush(result(saved, done, **more))
        assert same(store.get_run(done.id), done)

    def test_flushing_again_changes_nothing(self, store: SessionStore) -> None:
        """Its events are stored once."""
        given = result(session(), run())
        given["run"] = run(given["session"].id)
        store.flush(given)
        before = store.get_events(given["session"].id)
        store.flush(given)
        assert store.get_events(given["session"].id) == before

    def test_events_of_other_sessions_may_come_along(self, store: SessionStore) -> None:
        """Each is numbered in its own."""
        given = result(session(), run())
        given["events"].append(event("ses_other"))
        store.flush(given)
        assert store.get_latest_sequence(given["session"].id) == 2
        assert store.get_latest_sequence("ses_other") == 1

    def test_one_bad_item_and_nothing_of_a_flush_is_stored(self, store: SessionStore) -> None:
        """``validation_error``, wherever it stands."""
        saved = session(metadata={"is": "old"})
        started = run(saved.id, status="running")
        store.save_session(saved)
        store.save_run(started)
        for name, bad in [
            ("session", None),
            ("session", "ses"),
            ("run", saved),
            ("events", "events"),
            ("events", None),
            ("events", [event(saved.id), None, event(saved.id)]),
            ("provider_metadata", "text"),
            ("provider_metadata", {"not JSON": object()}),
            ("unknown", 1),
        ]:
            given: Any = {**result(saved.update_status("failed"), started.set_output({})), name: bad}
            with refused("validation_error"):
                store.flush(given)
        assert same(store.get_session(saved.id), saved)
        assert same(store.get_run(started.id), started)
        assert store.get_events(saved.id) == []
        assert store.get_latest_sequence(saved.id) == 0

    @pytest.mark.parametrize("what", ["run", "event"])
    def test_what_another_session_has_is_not_flushed_over(self, store: SessionStore, what: str) -> None:
        """``session_mismatch`` for a run and for an event, and nothing of the flush is stored."""
        run_there, event_there = run("ses_owner"), store.append_event_with_sequence(event("ses_owner"))
        store.save_run(run_there)
        saved = session(metadata={"is": "old"})
        store.save_session(saved)
        given = result(saved.update_status("failed"), run(saved.id, id=run_there.id if what == "run" else None))
        if what == "event":
            given["events"].append(event(saved.id, id=event_there.id))
        with refused("session_mismatch", session_id=saved.id):
            store.flush(given)
        assert same(store.get_session(saved.id), saved)
        assert (store.list_runs(saved.id), store.get_events(saved.id)) == ([], [])
        assert store.get_latest_sequence(saved.id) == 0
        assert same(store.get_run(run_there.id), run_there)
        assert store.get_events("ses_owner") == [event_there]

    @pytest.mark.parametrize("name", ["session", "run", "events"])
    def test_nothing_may_be_missing(self, store: SessionStore, name: str) -> None:
        """``validation_error``."""
        given: Any = result(session(), run())
        del given[name]
        with refused("validation_error"):
            store.flush(given)
        assert store.list_sessions() == []

    @pytest.mark.parametrize("bad", [None, [], "result", 1], ids=repr)
    def test_what_is_no_result_is_refused(self, store: SessionStore, bad: Any) -> None:
        """``validation_error``."""
        with pytest.raises(Error) as caught:
            store.flush(bad)
        assert caught.value.code == "validation_error"
