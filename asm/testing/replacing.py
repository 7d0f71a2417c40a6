"""``save_session`` and ``save_run`` with ``replacing``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from asm.core.errors import Error
from asm.core.values import Run, Session
from asm.ports import SessionStore
from asm.testing.samples import JSON, MOMENTS, all_refused, at, at_once, refused, run, same, session

__all__ = ["Replacing"]


@dataclass(frozen=True)
class Kind:
    """What is done to a session in one way and to a run in another."""

    name: str
    make: Callable[..., Any]
    changes: dict[str, Any]
    """Another value for each of its fields but its id."""
    maps: tuple[str, ...]
    times: tuple[str, ...]

    def save(self, store: SessionStore, value: Any, **replacing: Any) -> None:
        """Save a value."""
        getattr(store, f"save_{self.name}")(value, **replacing)

    def get(self, store: SessionStore, value: Any) -> Any:
        """Return what is stored under the id of a value."""
        return getattr(store, f"get_{self.name}")(value.id)

    def refuses(self, store: SessionStore, value: Any, replacing: Any, current: Session | Run | None) -> None:
        """Expect a ``conflict`` that shows what is stored, and that it stays."""
        with pytest.raises(Error) as caught:
            self.save(store, value, replacing=replacing)
        error = caught.value
        assert (error.code, error.retryable) == ("conflict", False), error
        assert error.details == {f"{self.name}_id": value.id, "current": current and current.to_map()}
        if current is None:
            with refused(f"{self.name}_not_found"):
                self.get(store, value)
        else:
            assert same(self.get(store, value), current)


SESSION = Kind(
    "session",
    session,
    {
        "agent_id": "other",
        "status": "paused",
        "parent_session_id": "ses_parent",
        "metadata": {"a": 1},
        "context": {"a": None},
        "tags": ["a"],
        "created_at": at(1),
        "updated_at": at(2),
        "deleted_at": at(3),
    },
    ("metadata", "context"),
    ("created_at", "updated_at", "deleted_at"),
)

RUN = Kind(
    "run",
    run,
    {
        "status": "running",
        "input": {},
        "output": {},
        "error": {},
        "metadata": {"a": 1},
        "turn_count": 1,
        "token_usage": {"input_tokens": 1},
        "cost_usd": 0.0,
        "started_at": at(1),
        "ended_at": at(2),
        "provider": "openai",
        "provider_metadata": {"model": "m"},
    },
    ("input", "output", "error", "metadata", "token_usage", "provider_metadata"),
    ("started_at", "ended_at"),
)


class Replacing:
    """What is expected to be stored is replaced, and nothing else is."""

    @pytest.fixture(params=[SESSION, RUN], ids=["session", "run"])
    def kind(self, request: pytest.FixtureRequest) -> Kind:
        """Each test is about sessions, and about runs."""
        kind: Kind = request.param
        return kind

    def test_what_is_expected_is_replaced(self, store: SessionStore, kind: Kind) -> None:
        """Each time by the next, also when what is expected came from the store; and nothing comes back."""
        saved = kind.make()
        kind.save(store, saved)
        for name, value in kind.changes.items():
            changed = saved.changed(**{name: value})
            assert kind.save(store, changed, replacing=saved) is None  # type: ignore[func-returns-value]
            saved = kind.get(store, changed)
            assert same(saved, changed)
        kind.save(store, saved, replacing=saved)
        assert same(kind.get(store, saved), saved)

    def test_anything_that_is_read_can_be_replaced(self, store: SessionStore, kind: Kind) -> None:
        """Whatever its maps and times hold."""
        for name, value in JSON.items():
            kind.save(store, saved := kind.make(**dict.fromkeys(kind.maps, value)))
            kind.save(store, kind.make(id=saved.id), replacing=kind.get(store, saved))
            assert kind.get(store, saved).metadata == {}, name
        for moment in MOMENTS:
            kind.save(store, saved := kind.make(**dict.fromkeys(kind.times, moment)))
            kind.save(store, changed := saved.changed(metadata={"a": 1}), replacing=kind.get(store, saved))
            assert same(kind.get(store, saved), changed)

    def test_what_differs_in_any_field_is_not_replaced(self, store: SessionStore, kind: Kind) -> None:
        """``conflict`` with the map of what is there, for every field."""
        kind.save(store, saved := kind.make())
        for name, value in kind.changes.items():
            kind.refuses(store, kind.make(id=saved.id), saved.changed(**{name: value}), saved)

    def test_nothing_is_not_replaced(self, store: SessionStore, kind: Kind) -> None:
        """``conflict``, of which ``current`` is ``None``."""
        kind.save(store, kind.make())
        value = kind.make()
        kind.refuses(store, value, value, None)
        kind.save(store, value, replacing=None)
        assert same(kind.get(store, value), value)

    def test_a_repeat_undoes_nothing(self, store: SessionStore, kind: Kind) -> None:
        """What somebody else saved in between stays."""
        first = kind.make()
        second, third = first.changed(metadata={"a": 2}), first.changed(metadata={"a": 3})
        kind.save(store, first)
        kind.save(store, second, replacing=first)
        kind.refuses(store, second, first, second)
        kind.save(store, third, replacing=second)
        kind.refuses(store, second, first, third)

    def test_only_its_own_id_is_replaced(self, store: SessionStore, kind: Kind) -> None:
        """``validation_error`` for another, and for what is no such value."""
        kind.save(store, saved := kind.make())
        other = RUN.make() if kind is SESSION else SESSION.make()
        bad = [kind.make(), other, saved.id, saved.to_map(), 1, True]
        all_refused("validation_error", lambda it: kind.save(store, saved.changed(metadata={"a": 1}), replacing=it), bad)
        with refused("validation_error"):
            getattr(store, f"save_{kind.name}")(saved, saved)
        assert same(kind.get(store, saved), saved)

    def test_nothing_is_lost_between_threads(self, store: SessionStore, kind: Kind) -> None:
        """Eight of them count, and each number is counted once."""
        kind.save(store, counted := kind.make(metadata={"count": 0}))

        def count_once(thread: int) -> None:
            for _ in range(100):  # each time that somebody else came first, they counted
                current = kind.get(store, counted)
                changed = current.changed(metadata={"count": current.metadata["count"] + 1, "by": thread})
                try:
                    return kind.save(store, changed, replacing=current)
                except Error as error:
                    assert error.code == "conflict"  # noqa: PT017  # any other ends the test
            pytest.fail("in conflict with nobody")

        def count(thread: int) -> None:
            for _ in range(4):
                count_once(thread)

        at_once(8, count)
        assert kind.get(store, counted).metadata["count"] == 32

    def test_one_that_is_refused_takes_no_other_with_it(self, store: SessionStore, kind: Kind) -> None:
        """Of sixteen at once, every second one."""
        saved = [kind.make(id=f"id {number}") for number in range(16)]
        changed = [item.changed(metadata={"is": "new"}) for item in saved]
        for item in saved:
            kind.save(store, item)

        def save(number: int) -> str:
            try:
                kind.save(store, changed[number], replacing=(saved if number % 2 else changed)[number])
            except Error as error:
                return error.code
            return "saved"

        assert at_once(16, save) == ["conflict", "saved"] * 8
        assert [kind.get(store, item).metadata.get("is") for item in saved] == [None, "new"] * 8
