"""``save_run``, ``get_run``, ``list_runs``, ``get_active_run``."""

from __future__ import annotations

from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import RunStatus
from asm.ports import SessionStore
from asm.testing.samples import (
    HUGE,
    INVALID_IDS,
    INVALID_LIMITS,
    JSON,
    LONGEST_IDS,
    MOMENTS,
    ODD_IDS,
    all_refused,
    at,
    refused,
    run,
    same,
)

__all__ = ["Runs"]


class Runs:
    """Runs are kept, found, and listed by session in order."""

    def test_a_saved_run_comes_back(self, store: SessionStore) -> None:
        """Every field of it, without a saved session."""
        saved = run(
            "ses_unsaved",
            status="failed",
            input={"a": 1},
            output={"b": 2},
            error={"c": 3},
            metadata={"d": 4},
            turn_count=HUGE,
            token_usage={"input": 10, "output": 0.5},
            cost_usd=0.1,
            started_at=at(0),
            ended_at=at(1),
            provider="anthropic",
            provider_metadata={"e": 5},
        )
        assert store.save_run(saved) is None  # type: ignore[func-returns-value]
        assert same(store.get_run(saved.id), saved)

    def test_a_run_of_defaults_comes_back(self, store: SessionStore) -> None:
        """What was not given stays ``None``, which is not an empty map."""
        saved = run()
        store.save_run(saved)
        found = store.get_run(saved.id)
        assert same(found, saved)
        assert (found.input, found.output, found.error, found.cost_usd, found.ended_at) == (None,) * 5

    def test_an_empty_map_is_not_none(self, store: SessionStore) -> None:
        """Neither turns into the other."""
        saved = run(input={}, output={}, error={})
        store.save_run(saved)
        assert same(store.get_run(saved.id), saved)

    def test_maps_of_a_run_come_back_exactly(self, store: SessionStore) -> None:
        """No value, type or digit changes on the way."""
        for name, value in JSON.items():
            saved = run(input=value, output=value, error=value, metadata=value, provider_metadata=value)
            store.save_run(saved)
            assert same(store.get_run(saved.id), saved), name

    def test_times_of_a_run_come_back_exactly(self, store: SessionStore) -> None:
        """Before 1970, and with microseconds."""
        for moment in MOMENTS:
            saved = run(started_at=moment, ended_at=moment)
            store.save_run(saved)
            assert same(store.get_run(saved.id), saved)
        assert [item.started_at for item in store.list_runs("ses")] == MOMENTS

    def test_costs_come_back_exactly(self, store: SessionStore) -> None:
        """To the last digit."""
        for cost in (0.0, 0.1, 0.1 + 0.2, 1e-300, 1.7976931348623157e308, 3.0, -2.5):
            saved = run(cost_usd=cost)
            store.save_run(saved)
            assert same(store.get_run(saved.id), saved)

    def test_saving_a_run_again_replaces(self, store: SessionStore) -> None:
        """A run is what was last saved under its id."""
        first = run(input={"a": 1}, status="running")
        second = run(id=first.id, output={"b": 2}, status="completed")
        store.save_run(first)
        store.save_run(second)
        assert same(store.get_run(first.id), second)
        assert store.get_active_run("ses") is None
        assert store.list_runs("ses") == [second]

    def test_odd_ids_are_different_runs(self, store: SessionStore) -> None:
        """Of different sessions, too."""
        saved = [run(item, id=item) for item in ODD_IDS]
        for item in saved:
            store.save_run(item)
        assert [store.get_run(item.id) for item in saved] == saved
        assert [store.list_runs(item.session_id) for item in saved] == [[item] for item in saved]

    def test_an_unknown_run_is_not_found(self, store: SessionStore) -> None:
        """``run_not_found``, also when others are there."""
        store.save_run(run())
        with refused("run_not_found"):
            store.get_run("run_nobody")

    def test_what_is_no_id_of_a_run_is_refused(self, store: SessionStore) -> None:
        """``validation_error``."""
        for operation in (store.get_run, store.list_runs, store.get_active_run):
            all_refused("validation_error", operation, INVALID_IDS)

    def test_a_run_of_another_session_is_not_replaced(self, store: SessionStore) -> None:
        """``session_mismatch``, and the one that is there stays as it is."""
        saved = run("ses_owner", output={"a": "secret"})
        store.save_run(saved)
        with pytest.raises(Error) as caught:
            store.save_run(run("ses_other", id=saved.id))
        assert caught.value.code == "session_mismatch"
        assert caught.value.details == {"run_id": saved.id, "session_id": "ses_other"}
        assert "owner" not in caught.value.message
        assert same(store.get_run(saved.id), saved)
        assert store.list_runs("ses_other") == []
        store.delete_session("ses_owner")
        store.save_run(run("ses_other", id=saved.id))
        assert store.get_run(saved.id).session_id == "ses_other"

    def test_the_longest_names_of_a_run(self, store: SessionStore) -> None:
        """All of them at once, stored and found."""
        for name in LONGEST_IDS:
            saved = run(name, id=name, provider=name, status="running")
            store.save_run(saved)
            assert store.get_run(name) == store.get_active_run(name) == store.list_runs(name)[0] == saved

    def test_what_is_no_run_is_refused(self, store: SessionStore) -> None:
        """``validation_error``."""
        all_refused("validation_error", store.save_run, [None, "run", {"id": "run"}, 1])

    # -- list_runs --------------------------------------------------------------------------------------------------

    def test_the_oldest_run_comes_first_and_ids_decide_ties(self, store: SessionStore) -> None:
        """Those of the session, and of no other."""
        ordered = [
            run(id="z", started_at=at(-5)),
            run(id="B", started_at=at(0)),
            run(id="a", started_at=at(0)),
            run(id="é", started_at=at(0)),
            run(id="a0", started_at=at(0.000_001)),
        ]
        for item in (ordered[index] for index in (3, 0, 4, 2, 1)):
            store.save_run(item)
        store.save_run(run("ses_other"))
        assert store.list_runs("ses") == ordered
        assert store.list_runs("ses", limit=2) == ordered[:2]
        assert store.list_runs("ses", limit=HUGE) == ordered
        assert store.list_runs("ses_nobody") == []

    def test_statuses_filter_runs(self, store: SessionStore) -> None:
        """One or several, as text or as members."""
        saved = {status: run(status=status, started_at=at(number)) for number, status in enumerate(RunStatus)}
        for item in reversed(saved.values()):
            store.save_run(item)
        for status, item in saved.items():
            assert store.list_runs("ses", status=status) == [item]
            text: Any = str(status)
            assert store.list_runs("ses", status=text) == [item]
        expected = [saved[RunStatus.RUNNING], saved[RunStatus.TIMEOUT]]
        assert store.list_runs("ses", status=("timeout", "running")) == expected
        assert store.list_runs("ses", status=("timeout", "running"), limit=1) == expected[:1]
        assert store.list_runs("ses", status=None) == list(saved.values())
        assert store.list_runs("ses", status=[]) == []

    def test_a_limit_of_runs_is_positive(self, store: SessionStore) -> None:
        """Anything but an integer above 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.list_runs("ses", limit=bad), INVALID_LIMITS)

    def test_an_unknown_status_of_runs_is_refused(self, store: SessionStore) -> None:
        """``invalid_status``; a session's status is none of a run's."""
        unknown = ["active", "", "RUNNING", 1, ["running", "nope"]]
        all_refused("invalid_status", lambda bad: store.list_runs("ses", status=bad), unknown)

    def test_an_unknown_filter_of_runs_is_refused(self, store: Any) -> None:
        """``validation_error``, and so are a second positional argument and none at all."""
        with refused("validation_error"):
            store.list_runs("ses", offset=1)
        with refused("validation_error"):
            store.list_runs("ses", "running")
        with refused("validation_error"):
            store.list_runs()

    # -- get_active_run -----------------------------------------------------------------------------------------------

    def test_the_running_run_is_active(self, store: SessionStore) -> None:
        """And none is, while none is running."""
        assert store.get_active_run("ses") is None
        for status in RunStatus:
            if status is not RunStatus.RUNNING:
                store.save_run(run(status=status))
        store.save_run(run("ses_other", status="running"))
        assert store.get_active_run("ses") is None
        running = run(status="running")
        store.save_run(running)
        assert store.get_active_run("ses") == running
        store.save_run(running.set_output({}))
        assert store.get_active_run("ses") is None

    def test_of_several_the_latest_started_is_active(self, store: SessionStore) -> None:
        """Whatever order they were saved in; ids decide ties."""
        latest = run(status="running", started_at=at(2), id="b")
        for item in (run(status="running", started_at=at(1)), latest, run(status="running", started_at=at(2), id="a")):
            store.save_run(item)
        store.save_run(run(status="completed", started_at=at(9)))
        assert store.get_active_run("ses") == latest
