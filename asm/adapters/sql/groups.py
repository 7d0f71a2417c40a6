"""How many writes become few statements.

Writes that are committed together are performed as one set. The outcome is that of performing them one after the other, in
their order::

    count      ──► the counters of all sessions move on with one statement, as far as may be needed; nobody else moves them now
    look       ──► what is stored, where a write depends on that: nothing is added to it, nor taken from it, until the commit
    decide     ──► write by write, in memory: what it stores, or why it is refused
    give back  ──► the numbers that were not needed after all
    store      ──► all new rows of a table with one statement

Hardly any event is stored already, and hardly any run in another session, so at first that is not looked up. If one is, the
database refuses it, and with it the whole transaction, which is then made again with a look at everything.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from asm.adapters.appends import numbered, require_same_session, require_unchanged
from asm.adapters.encoding import dumps
from asm.adapters.sql.deletions import Counter, delete_events, delete_sessions, make_way, remove_by_id
from asm.adapters.sql.filters import any_of
from asm.adapters.sql.reading import values
from asm.adapters.sql.tables import events, moment, runs, sequences, sessions
from asm.adapters.sql.writes import Outcome, Write
from asm.adapters.totals import tokens
from asm.core.errors import Error
from asm.core.values import Event, Run, Session

__all__ = ["CHANNEL", "COLUMNS", "insert_events", "notify", "perform", "save"]

IDS: Final = 500
"""How many ids are looked up, or sessions counted, with one statement. Databases limit its parameters."""

CHANNEL: Final = "asm_events"
"""Where PostgreSQL tells of appends. A notification has at most 8,000 bytes, and an id 1,024."""

COLUMNS: Final = {
    "id": "text",
    "type": "text",
    "timestamp": "timestamp",
    "session_id": "text",
    "run_id": "text",
    "data": "json",
    "metadata": "json",
    "sequence_number": "bigint",
    "schema_version": "bigint",
    "provider": "text",
    "correlation_id": "text",
}
"""The columns of an event, and what each is in PostgreSQL."""

_fields: Final = operator.attrgetter(*COLUMNS)


def perform(connection: Connection, writes: Sequence[Write], *, again: bool = False) -> list[Outcome]:
    """Perform writes of one kind; return what became of each.

    Rows are locked in the order that :mod:`asm.adapters.sql.postgres` explains.

    :param again: some of their events may be stored already, and some of their runs in another session.
    :raises IntegrityError: when such an event is there all the same.
    :raises Error: ``storage_error`` with the reason ``conflict`` when such a run is.
    """
    if writes[0].deleted is not None:
        # A counter is made where there is none, because its lock keeps others from appending in the middle.
        delete_sessions(connection, _count(connection, dict.fromkeys(sorted({str(write.deleted) for write in writes}), 0)))
        return [Outcome()] * len(writes)
    if writes[0].deleted_events is not None:
        return [Outcome(delete_events(connection, **writes[0].deleted_events))]
    needs: dict[str, int] = {}
    for write in writes:
        for event in write.events:
            needs[event.session_id] = needs.get(event.session_id, 0) + 1
        for session_id in write.expect or ():
            needs.setdefault(session_id, 0)
    counters = _count(connection, dict(sorted(needs.items()))) if needs else {}
    latest = {session_id: counter.last_sequence - needs[session_id] for session_id, counter in counters.items()}
    saved = _saved(connection, writes) if again or any(write.replacing is not None for write in writes) else {}
    decided = _Decided(writes, latest, saved, _stored(connection, writes) if again else {})
    if not again and decided.in_doubt:
        decided = _Decided(writes, latest, _saved(connection, writes), _stored(connection, writes))
    _settle(connection, counters, decided.latest)
    save(connection, sessions, decided.sessions)
    save(connection, runs, decided.runs)
    if decided.events:
        insert_events(connection, decided.events)
        notify(connection, {event.session_id for event in decided.events})
    return decided.outcomes


class _Decided:
    """What a set of writes does, decided in their order, from what is stored.

    :param latest: where the sessions stand that are appended to, or expected to stand somewhere.
    :param saved: those of the sessions and runs that are stored, by what they are and their id, as far as that was looked up.
    :param stored: those of the events that are, by id, as far as that was looked up.
    """

    def __init__(
        self,
        writes: Sequence[Write],
        latest: Mapping[str, int],
        saved: Mapping[tuple[type, str], Session | Run],
        stored: Mapping[str, Event],
    ) -> None:
        self.latest = dict(latest)
        """Where the sessions stand after it."""
        self.events: list[Event] = []
        """What is to be appended …"""
        self.sessions: dict[str, Session] = {}
        self.runs: dict[str, Run] = {}
        """… and saved, by id."""
        self.in_doubt = False
        """Whether one was refused because of where a session stands, and what was not looked up may say otherwise."""
        self._stored = dict(stored)
        self._saved = dict(saved)
        self.outcomes = [self._take(write) for write in writes]

    def _take(self, write: Write) -> Outcome:
        """Take in what a write does."""
        values = [value for value in (write.session, write.run) if value is not None]
        try:
            if write.attempted and self._took_place(write, values):
                return Outcome(write.answer([self._stored[event.id] for event in write.events]))
            if write.run is not None and isinstance(stored := self._saved.get((Run, write.run.id)), Run):
                require_same_session("run", write.run, stored)
            if write.replacing is not None:
                require_unchanged(write.replacing, self._saved.get((type(write.replacing), write.replacing.id)))
            new = numbered(write.events, self._stored, self.latest.__getitem__, write.expect)
        except Error as error:
            self.in_doubt |= bool(write.expect and (write.events or write.run))
            return Outcome(error=error)
        for event in new.values():
            self.latest[event.session_id] = event.sequence_number or 0
        self.events += new.values()
        self._stored |= new
        for value in values:
            self._saved[type(value), value.id] = value
        if write.session is not None:
            self.sessions[write.session.id] = write.session
        if write.run is not None:
            self.runs[write.run.id] = write.run
        appended = {event.session_id for event in new.values()}
        return Outcome(write.answer([self._stored[event.id] for event in write.events]), appended=appended)

    def _took_place(self, write: Write, values: list[Session | Run]) -> bool:
        """Tell whether a write that was attempted was committed.

        :raises Error: when it cannot be told any more.
        """
        if write.replacing is None:
            return bool(values) and all(event.id in self._stored for event in write.events)
        (value,) = values
        stored = self._saved.get((type(value), value.id))
        if stored in (value, write.replacing):
            return stored == value
        kind = type(value).__name__.lower()
        message = (
            f"the connection broke while the {kind} {value.id!r} was saved, and what is there now is neither that nor what was"
        )
        details = {"reason": "connection", "outcome": "unknown", f"{kind}_id": value.id}
        raise Error("storage_connection_failed", f"{message} to be replaced; read it before you save it again", details=details)


# -- Statements -----------------------------------------------------------------------------------------------------


def _count(connection: Connection, needs: Mapping[str, int]) -> dict[str, Counter]:
    """Move the counters of sessions on, and return where they stand then. Other writers wait for the commit."""
    dialect = connection.dialect.name
    now = moment(datetime.now(UTC), dialect)
    counters: dict[str, Counter] = {}
    wanted = list(needs.items())
    for start in range(0, len(wanted), IDS):
        part = wanted[start : start + IDS]
        parameters = tuple(itertools.chain.from_iterable((name, count, now) for name, count in part))
        counted = connection.exec_driver_sql(_counting(dialect, len(part)), parameters)
        counters |= {name: Counter(*counter) for name, *counter in counted}
    return counters


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


def _saved(connection: Connection, writes: Iterable[Write]) -> dict[tuple[type, str], Session | Run]:
    """Return those of the sessions and runs to be saved that are stored. Nobody else changes them until the commit."""
    found: dict[tuple[type, str], Session | Run] = {}
    kinds: tuple[tuple[type[Session | Run], Table], ...] = ((Session, sessions), (Run, runs))
    for kind, table in kinds:
        saved = (write.session if kind is Session else write.run for write in writes)
        wanted = sorted({value.id for value in saved if value is not None})
        for start in range(0, len(wanted), IDS):
            these = select(table).where(any_of(table.c.id, wanted[start : start + IDS])).order_by(table.c.id).with_for_update()
            found |= {(kind, value.id): value for value in values(connection, kind, these, all_or_none=True)}
    return found


def _stored(connection: Connection, writes: Iterable[Write]) -> dict[str, Event]:
    """Return those of the events to be appended that are stored, by id."""
    stored: dict[str, Event] = {}
    wanted = list(dict.fromkeys(event.id for write in writes for event in write.events))
    for start in range(0, len(wanted), IDS):
        these = events.c.id.in_(wanted[start : start + IDS])
        remove_by_id(connection, these)
        stored |= {event.id: event for event in values(connection, Event, select(events).where(these), all_or_none=True)}
    return stored


def _settle(connection: Connection, counters: dict[str, Counter], latest: Mapping[str, int]) -> None:
    """Have counters stand where the sessions do, and remove what has one of the numbers that were given."""
    spare = {name: last - counters[name].last_sequence for name, last in latest.items() if last != counters[name].last_sequence}
    if spare:
        counters |= _count(connection, spare)
    make_way(connection, counters)
    unused = [name for name, counter in counters.items() if counter == (0, None, None)]
    for start in range(0, len(unused), IDS):
        these = sequences.c.session_id.in_(unused[start : start + IDS])
        connection.execute(delete(sequences).where(these))


def insert_events(connection: Connection, appended: Iterable[Event]) -> None:
    """Insert events that have their sequence numbers.

    SQLAlchemy prepares a statement for each execution and converts each parameter of each row in several steps, which for a
    small event takes longer than the database does. So this one is made once. PostgreSQL takes many events as one array a
    column, and so has one statement to understand, and not as many as there are rows.

    :raises IntegrityError: when one is stored already.
    """
    dialect = connection.dialect.name
    converters = _converters(dialect)

    def row(event: Event) -> tuple[Any, ...]:
        return tuple([value if to is None else to(value) for to, value in zip(converters, _fields(event), strict=True)])

    rows = [row(event) for event in appended]
    parameters: Any = rows
    if dialect == "postgresql":
        held = rows[0] if len(rows) == 1 else map(list, zip(*rows, strict=True))
        parameters = dict(zip(COLUMNS, held, strict=True))
    connection.exec_driver_sql(_inserting(dialect, many=len(rows) > 1), parameters)


@functools.cache
def _converters(dialect: str) -> tuple[Callable[[Any], Any] | None, ...]:
    """Return what turns each field into the driver's; ``None`` where that takes it as it is."""
    known: dict[str, Callable[[Any], Any]] = {
        "type": str,
        "timestamp": functools.partial(moment, dialect=dialect),
        "data": dumps,
        "metadata": dumps,
    }
    return tuple(known.get(name) for name in COLUMNS)


@functools.cache
def _inserting(dialect: str, *, many: bool) -> str:
    """Return the statement that inserts events."""
    if dialect == "sqlite":
        values = f"VALUES ({', '.join('?' * len(COLUMNS))})"
    elif many:
        values = f"SELECT * FROM unnest({', '.join(f'%({name})s::{kind}[]' for name, kind in COLUMNS.items())})"  # noqa: S608  # no values in it
    else:
        values = f"VALUES ({', '.join(f'%({name})s::{kind}' for name, kind in COLUMNS.items())})"
    return f"INSERT INTO asm_events ({', '.join(COLUMNS)}) {values}"


def notify(connection: Connection, session_ids: Iterable[str]) -> None:
    """Have PostgreSQL tell every listener of the appends when they are committed: who made them, and to which session."""
    if connection.dialect.name != "postgresql":
        return
    sender = connection.get_execution_options()["sender"]
    told = [f"{sender} {session_id}" for session_id in sorted(set(session_ids))]
    payloads = bindparam("payloads", told, type_=postgresql.ARRAY(postgresql.TEXT()))
    connection.execute(select(func.pg_notify(CHANNEL, func.unnest(payloads))))


def save(connection: Connection, table: Table, saved: Mapping[str, Session | Run]) -> None:
    """Insert values, or replace those with their ids.

    :raises Error: ``storage_error`` with the reason ``conflict`` when a run turns out to be stored under another session.
    """
    if not saved:
        return
    rows = [_row(saved[name]) for name in sorted(saved)]
    replaced = connection.execute(_saving(connection.dialect.name, table), rows, execution_options={"preserve_rowcount": True})
    if replaced.rowcount < len(rows):
        message = "one of the runs belongs to another session by now, and others save it at the same time"
        raise Error("storage_error", message, details={"reason": "conflict"})


@functools.cache
def _saving(dialect: str, table: Table) -> Any:
    """Return the statement that inserts a row, or replaces the one with its id, if that belongs to the same session."""
    statement = _insert(dialect, table)
    replaced = {item.name: statement.excluded[item.name] for item in table.columns if item.name != "id"}
    same = table.c.session_id == statement.excluded.session_id if table is runs else None
    return statement.on_conflict_do_update(index_elements=[table.c.id], set_=replaced, where=same)


def _insert(dialect: str, table: Table) -> Any:
    """Return an ``INSERT`` that can be continued with ``ON CONFLICT``, which each database has of its own."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def _row(value: Session | Run) -> dict[str, Any]:
    """Return the columns of a session or run."""
    row = value.to_fields() | {"status": str(value.status)}
    return row | {"tokens": tokens(value.token_usage)} if isinstance(value, Run) else row
