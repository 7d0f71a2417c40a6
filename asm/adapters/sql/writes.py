"""What is written, as data, and how many writes become few statements.

Writes that are committed together are performed as one set: the counters of all their sessions move on with one statement, and
all new rows of a table go in with one. The outcome is that of performing them one after the other, in their order.

Hardly any event is stored already, so at first that is not looked up. If one is, its primary key refuses it, and with it the
whole transaction, which is then made again with a query for the ids of all its events.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from asm.adapters.appends import flushed_run, numbered, require_same_session
from asm.adapters.sql.deletions import Counter, delete_events, delete_sessions, make_way, remove_by_id
from asm.adapters.sql.insertion import insert_events
from asm.adapters.sql.tables import Time, events, runs, sessions
from asm.adapters.totals import tokens
from asm.core.errors import Error
from asm.core.values import Event, Run, Session, Value

__all__ = ["CHANNEL", "WRITES", "Write", "among", "perform", "values"]

V = TypeVar("V", bound=Value)

_log: Final = logging.getLogger(__name__)

IDS: Final = 500
"""How many ids are looked up, or sessions counted, with one statement. Databases limit its parameters."""

CHANNEL: Final = "asm_events"
"""Where PostgreSQL tells of appends. A notification has at most 8,000 bytes, and an id 1,024."""


def _nothing(_stored: list[Event]) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Write:
    """One write: what it stores, or the session that it deletes, or which events of one."""

    events: Sequence[Event] = ()
    session: Session | None = None
    run: Run | None = None
    deleted: str | None = None
    deleted_events: Mapping[str, Any] | None = None
    answer: Callable[[list[Event]], Any] = _nothing
    """Makes the result of the operation from the events as they are stored."""

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is the same as doing it once, whatever others did in between.

        Events are, by their ids. A value that is saved twice may undo what somebody else saved in between.
        """
        return self.session is None and self.run is None and self.kind == "stores"

    @property
    def kind(self) -> str:
        """What it has in common with those that it may be performed with."""
        return "stores" if self.deleted is None is self.deleted_events else "deletes" if self.deleted else "deletes events"

    @property
    def shares(self) -> bool:
        """Whether it may be performed with others. Which events of a session match is counted, and that takes its time."""
        return self.deleted_events is None


WRITES: Final[dict[str, Callable[..., Write]]] = {
    "save_session": lambda session: Write(session=session),
    "delete_session": lambda session_id: Write(deleted=session_id),
    "save_run": lambda run: Write(run=run),
    "delete_events": lambda session_id, **which: Write(deleted_events={"session_id": session_id} | which),
    "append_event": lambda event: Write([event]),
    "append_event_with_sequence": lambda event: Write([event], answer=lambda stored: stored[0]),
    "append_events": lambda events: Write(events, answer=lambda stored: stored),
    "flush": lambda result: Write(result["events"], result["session"], flushed_run(result), answer=lambda stored: stored),
}
"""The operations that write, as what they write."""


def perform(connection: Connection, writes: Sequence[Write], *, again: bool = False) -> list[Any]:
    """Perform writes of one kind; return the result of each.

    Rows are locked in the order that :mod:`asm.adapters.sql.postgres` explains.

    :param again: some of their events may be stored already.
    :raises IntegrityError: when one is all the same.
    """
    if writes[0].deleted is not None:
        # A counter is made where there is none, because its lock keeps others from appending in the middle.
        delete_sessions(connection, _count(connection, dict.fromkeys(sorted({str(write.deleted) for write in writes}), 0)))
        return [None] * len(writes)
    if writes[0].deleted_events is not None:
        return [delete_events(connection, **write.deleted_events) for write in writes if write.deleted_events is not None]
    stored = _append(connection, [event for write in writes for event in write.events], again=again)
    _save(connection, sessions, [write.session for write in writes if write.session is not None])
    _save(connection, runs, [write.run for write in writes if write.run is not None])
    return [write.answer([stored[event.id] for event in write.events]) for write in writes]


def _append(connection: Connection, appended: Sequence[Event], *, again: bool) -> dict[str, Event]:
    """Store the new ones of the events; return each event as it is stored, by id."""
    stored = _stored(connection, [event.id for event in appended]) if again else {}
    new = numbered(appended, stored, lambda needs: _reserve(connection, needs))
    if new:
        insert_events(connection, new.values())
        _notify(connection, {event.session_id for event in new.values()})
    return stored | new


def _stored(connection: Connection, ids: Iterable[str]) -> dict[str, Event]:
    """Return the events with these ids that are stored, by id."""
    stored: dict[str, Event] = {}
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), IDS):
        these = among(events.c.id, wanted[start : start + IDS])
        remove_by_id(connection, these)
        stored |= {event.id: event for event in values(connection, Event, select(events).where(these), all_or_none=True)}
    return stored


def _reserve(connection: Connection, needs: Mapping[str, int]) -> dict[str, int]:
    """Take the next sequence numbers of sessions; return the first of each. Other writers wait for the commit."""
    counters = _count(connection, needs)
    make_way(connection, counters)
    return {session_id: counter.last_sequence - needs[session_id] + 1 for session_id, counter in counters.items()}


def _count(connection: Connection, needs: Mapping[str, int]) -> dict[str, Counter]:
    """Move the counters of sessions on, and return where they stand then. Other writers wait for the commit."""
    now = Time().process_bind_param(datetime.now(UTC), connection.dialect)
    counters: dict[str, Counter] = {}
    wanted = list(needs.items())
    for start in range(0, len(wanted), IDS):
        part = wanted[start : start + IDS]
        parameters = tuple(itertools.chain.from_iterable((name, count, now) for name, count in part))
        counted = connection.exec_driver_sql(_counting(connection.dialect.name, len(part)), parameters)
        counters |= {name: Counter(*counter) for name, *counter in counted}
    return counters


def _notify(connection: Connection, session_ids: Iterable[str]) -> None:
    """Have PostgreSQL tell every listener of the appends when they are committed: who made them, and to which session."""
    if connection.dialect.name != "postgresql":
        return
    sender = connection.get_execution_options()["sender"]
    told = [f"{sender} {session_id}" for session_id in sorted(set(session_ids))]
    payloads = bindparam("payloads", told, type_=postgresql.ARRAY(postgresql.TEXT()))
    connection.execute(select(func.pg_notify(CHANNEL, func.unnest(payloads))))


def _save(connection: Connection, table: Table, saved: Sequence[Session | Run]) -> None:
    """Insert values, or replace those with their ids. Of several with one id the last counts.

    :raises Error: ``session_mismatch`` when a run is stored under another session than one of these.
    """
    if not saved:
        return
    last: dict[str, Session | Run] = {}
    for value in saved:
        if isinstance(value, Run) and isinstance(before := last.get(value.id, value), Run):
            require_same_session("run", value, before)
        last[value.id] = value
    rows = [_row(last[name]) for name in sorted(last)]
    replaced = connection.execute(_saving(connection.dialect.name, table), rows, execution_options={"preserve_rowcount": True})
    if replaced.rowcount < len(rows):
        for value in last.values():
            for stored in values(connection, Run, select(runs).where(runs.c.id == value.id), all_or_none=True):
                require_same_session("run", cast("Run", value), stored)


@functools.cache
def _saving(dialect: str, table: Table) -> Any:
    """Return the statement that inserts a row, or replaces the one with its id, if that belongs to the same session."""
    statement = _insert(dialect, table)
    replaced = {item.name: statement.excluded[item.name] for item in table.columns if item.name != "id"}
    same = table.c.session_id == statement.excluded.session_id if table is runs else None
    return statement.on_conflict_do_update(index_elements=[table.c.id], set_=replaced, where=same)


@functools.cache
def _counting(dialect: str, count: int) -> str:
    """Return the statement that moves so many counters on, and tells where they stand then."""
    row = {"postgresql": "(%s, %s, %s)", "sqlite": "(?, ?, ?)"}[dialect]
    rows = ", ".join([row] * count)
    return (
        f"INSERT INTO asm_session_sequences AS counter (session_id, last_sequence, updated_at) VALUES {rows} "  # noqa: S608  # no values in it
        "ON CONFLICT (session_id) DO UPDATE SET last_sequence = counter.last_sequence + excluded.last_sequence, "
        "updated_at = excluded.updated_at RETURNING session_id, last_sequence, removed_through, deleted_through"
    )


def _insert(dialect: str, table: Table) -> Any:
    """Return an ``INSERT`` that can be continued with ``ON CONFLICT``, which each database has of its own."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def _row(value: Session | Run) -> dict[str, Any]:
    """Return the columns of a session or run."""
    row = value.to_fields() | {"status": str(value.status)}
    return row | {"tokens": tokens(value.token_usage)} if isinstance(value, Run) else row


def values(connection: Connection, kind: type[V], query: Select[Any], *, all_or_none: bool = False) -> list[V]:
    """Return the values that a query finds.

    :param all_or_none: whether a row that holds no value is an error. Otherwise it is left out, and logged: it must not keep
        those beside it from being read.
    :raises Error: ``storage_read_failed``.
    """
    result = connection.execute(query)
    names = tuple(result.keys())
    found = []
    for row in result:
        try:
            found.append(kind.read(dict(zip(names, row, strict=True))))
        except Error as error:
            message = f"what the database holds as {row[0]!r} is no {kind.__name__}: {error.message}"
            if all_or_none:
                details = {"reason": "malformed_row", "id": row[0], "cause": error.message}
                raise Error("storage_read_failed", message, details=details) from error
            _log.error("%s; it is passed over", message)  # the traceback says nothing more
    return found


def among(item: ColumnElement[Any], wanted: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a column holds one of the values. A single one is compared, which keeps an index in order."""
    plain = [str(value) for value in wanted]
    return item == plain[0] if len(plain) == 1 else item.in_(plain)
