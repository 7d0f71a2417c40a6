"""What is written, as data; and how rows become values again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from asm.adapters.appends import flushed_run
from asm.core.errors import Error
from asm.core.values import Event, Run, Session, Value

__all__ = ["WRITES", "Outcome", "Write"]

V = TypeVar("V", bound=Value)

# -- Writes ----------------------------------------------------------------------------------------------------------


def _nothing(_stored: list[Event]) -> None:
    return None


def _all(stored: list[Event]) -> list[Event]:
    return stored


@dataclass(frozen=True, slots=True)
class Write:
    """One write: what it stores, or the session that it deletes, or which events of one."""

    events: Sequence[Event] = ()
    session: Session | None = None
    run: Run | None = None
    replacing: Session | Run | None = None
    """What has to be stored in the place of its session or run."""
    expect: Mapping[str, int] | None = None
    """Where sessions have to stand."""
    deleted: str | None = None
    deleted_events: Mapping[str, Any] | None = None
    answer: Callable[[list[Event]], Any] = _nothing
    """Makes the result of the operation from the events as they are stored."""
    attempted: bool = False
    """Whether it was performed, and nobody knows whether that was committed. What is stored now tells."""

    @property
    def kind(self) -> str:
        """What it has in common with those that it may be performed with."""
        return "stores" if self.deleted is None is self.deleted_events else "deletes" if self.deleted else "deletes events"

    @property
    def shares(self) -> bool:
        """Whether it may be performed with others. Which events of a session match is counted, and that takes its time."""
        return self.deleted_events is None

    def repeatable(self, outcome: Outcome) -> bool:
        """Tell whether to perform it again, when that had this outcome and nobody knows whether it was committed.

        Events are known by their ids, and what was to be replaced by what is there now. Any other value that is saved twice
        may undo what somebody else saved in between; unless new events came with it, which tell that it was saved.
        """
        saves = self.session is not None or self.run is not None
        told = self.replacing is not None or bool(outcome.appended) or self.attempted
        return self.kind == "stores" and (outcome.error is not None or not saves or told)


class Outcome(NamedTuple):
    """What became of a write in a transaction that has not been committed yet."""

    result: Any = None
    error: Error | None = None
    """Why it was refused. It stored nothing then."""
    appended: Collection[str] = ()
    """The ids of the sessions that have new events by it."""


WRITES: Final[dict[str, Callable[..., Write]]] = {
    "save_session": lambda session, replacing=None: Write(session=session, replacing=replacing),
    "delete_session": lambda session_id: Write(deleted=session_id),
    "save_run": lambda run, replacing=None: Write(run=run, replacing=replacing),
    "append_event": lambda event: Write([event]),
    "append_event_with_sequence": lambda event: Write([event], answer=lambda stored: stored[0]),
    "append_events": lambda events, expect=None: Write(events, expect=expect, answer=_all),
    "flush": lambda result, expect=None: Write(
        result.get("events", ()), result.get("session"), flushed_run(result), expect=expect, answer=_all
    ),
    "delete_events": lambda session_id, **which: Write(deleted_events={"session_id": session_id} | which),
}
"""The operations that write, as what they write."""
