"""``flush``."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import Run, Session
from asm.ports import ExecutionResult, SessionStore
from asm.testing.samples import all_refused, event, refused, run, same, session

__all__ = ["Flushing"]

ALL = ("session", "run", "events", "provider_metadata")

PARTS = [
    names
    for count in range(1, 5)
    for names in itertools.combinations(ALL, count)
    if "run" in names or "provider_metadata" not in names
]
"""What can be flushed together."""


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
        stored = [item.sequenced(number) for number, item in enumerate(given["events"], start=2)]
        assert store.flush(given) == stored
        assert same(store.get_session(saved.id), saved)
        assert same(store.get_run(done.id), done)
        assert store.get_events(saved.id, after=1) == stored

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
        """Its events are stored once, and come back as they are stored."""
        given = result(session(), run())
        given["run"] = run(given["session"].id)
        stored = store.flush(given)
        assert store.get_events(given["session"].id) == stored
        given["events"].append(event(given["session"].id))
        assert store.flush(given)[:2] == stored
        assert store.flush({"events": [given["events"][1]] * 2}) == [stored[1]] * 2
        assert store.get_latest_sequence(given["session"].id) == 3

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
            ("session", "ses"),
            ("run", saved),
            ("events", "events"),
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

    @pytest.mark.parametrize("names", PARTS, ids=" and ".join)
    @pytest.mark.parametrize("absent", [{}, dict.fromkeys(ALL)], ids=["left out", "None"])
    def test_any_of_it_may_be_missing(self, store: SessionStore, names: tuple[str, ...], absent: dict[str, Any]) -> None:
        """What is given is stored, and what is not stays as it is."""
        saved = session(id="ses", metadata={"is": "old"})
        started = run("ses", status="running", provider_metadata={"kept": 1})
        store.flush({"session": saved, "run": started, "events": [event()]})
        new: Any = result(saved.update_status("failed"), started.set_output({}), provider_metadata={"added": 2})
        given: Any = {**absent, **{name: new[name] for name in names}}
        stored = store.flush(given)
        assert stored == ([item.sequenced(number) for number, item in enumerate(new["events"], 2)] if "events" in names else [])
        assert store.get_events("ses", after=1) == stored
        assert same(store.get_session("ses"), new["session"] if "session" in names else saved)
        expected = new["run"] if "run" in names else started
        if "provider_metadata" in names:
            expected = expected.changed(provider_metadata={"kept": 1, "added": 2})
        assert same(store.get_run(started.id), expected)

    def test_a_part_alone_makes_nothing_else(self, store: SessionStore) -> None:
        """Events need no session, and neither does a run."""
        assert store.flush({"events": [event(), event("ses_other")]}) != []
        assert store.flush({"run": run()}) == []
        assert store.flush({"events": []}) == []
        assert store.list_sessions() == []
        with refused("session_not_found"):
            store.get_session("ses")
        assert len(store.list_runs("ses")) == len(store.get_events("ses")) == 1

    def test_something_must_be_given(self, store: SessionStore) -> None:
        """``validation_error`` for nothing at all, and for what is merged into a run without one."""
        bad: list[Any] = [
            {},
            dict.fromkeys(ALL),
            {"provider_metadata": {"a": 1}},
            {"events": [event()], "provider_metadata": {"a": 1}},
        ]
        all_refused("validation_error", store.flush, bad)
        assert store.get_latest_sequence("ses") == 0

    @pytest.mark.parametrize("bad", [None, [], "result", 1], ids=repr)
    def test_what_is_no_result_is_refused(self, store: SessionStore, bad: Any) -> None:
        """``validation_error``."""
        with pytest.raises(Error) as caught:
            store.flush(bad)
        assert caught.value.code == "validation_error"
