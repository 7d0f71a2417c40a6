"""The session store in an SQL database: each operation of the contract as a query or a write."""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from asm.adapters.appends import Appends, flushed_run, numbered
from asm.adapters.base import Adapter
from asm.adapters.sql.engine import Database, parse_url
from asm.adapters.sql.tables import events, runs, sequences, sessions
from asm.core import checks
from asm.core.errors import Error
from asm.core.values import Event, EventType, Run, RunStatus, Session, SessionStatus, Value
from asm.operations import implements
from asm.ports import ExecutionResult, SessionStore

__all__ = ["SqlSessionStore"]

T = TypeVar("T")
V = TypeVar("V", bound=Value)

IDS: Final = 500
"""How many ids are looked up with one query. Databases limit the parameters of a statement."""


@implements(SessionStore)
class SqlSessionStore(Adapter):
    """A session store in SQLite. Any number of threads may use it, and any number of processes one file.

    What a call acknowledged survives a power loss. A ``get_events`` that waits is woken by what is appended through the
    same store; what another process appends to the file, it finds when its time is up.

    :param url: of the database, ``sqlite:///path/to/file.db``. The file, its directories and its tables are made if
        they are missing.
    :param busy_timeout: seconds to wait while another process holds the database's lock. Less than the 5 seconds
        that a call may take by default, so that its caller learns the reason.
    :raises Error: ``validation_error``, or a storage error that tells why the database cannot be used.
    """

    def __init__(self, *, url: str, busy_timeout: float = 4.0) -> None:
        SqlSessionStore.preflight(url=url, busy_timeout=busy_timeout)  # a subclass may take more
        self.appends = Appends()
        self._database = Database(parse_url(url), busy_timeout)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self._database.name!r})"

    def close(self) -> None:
        """Close the connections, and end the calls that wait."""
        if not self.closed:
            super().close()
            self.appends.announce(None)
            self._database.close()

    @classmethod
    def preflight(cls, **options: Any) -> None:
        """Check the URL, and that a SQLite file can be written to or could be made."""
        super().preflight(**options)
        parse_url(options["url"])
        if checks.amount(options.get("busy_timeout", 0.0), "busy_timeout") < 0:
            checks.refuse("busy_timeout", f"must be a number of seconds, 0 or greater, not {options['busy_timeout']}")

    # -- Sessions -------------------------------------------------------------------------------------------------

    def save_session(self, session: Session) -> None:
        self._write(lambda connection: _save(connection, sessions, session))

    def get_session(self, session_id: str) -> Session:
        found = self._select(Session, select(sessions).where(sessions.c.id == session_id))
        if not found:
            raise Error("session_not_found", f"there is no session {session_id!r}", details={"session_id": session_id})
        return found[0]

    def list_sessions(
        self,
        *,
        status: tuple[SessionStatus, ...] | None = None,
        agent_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Session]:
        query = select(sessions).order_by(sessions.c.created_at, sessions.c.id).limit(limit).offset(offset or None)
        if status is not None:
            query = query.where(_among(sessions.c.status, status))
        if agent_id is not None:
            query = query.where(sessions.c.agent_id == agent_id)
        return self._select(Session, query)

    def delete_session(self, session_id: str) -> None:
        def write(connection: Connection) -> None:
            for table in (events, runs, sequences):
                connection.execute(delete(table).where(table.c.session_id == session_id))
            connection.execute(delete(sessions).where(sessions.c.id == session_id))

        self._write(write)

    # -- Runs -----------------------------------------------------------------------------------------------------

    def save_run(self, run: Run) -> None:
        self._write(lambda connection: _save(connection, runs, run))

    def get_run(self, run_id: str) -> Run:
        found = self._select(Run, select(runs).where(runs.c.id == run_id))
        if not found:
            raise Error("run_not_found", f"there is no run {run_id!r}", details={"run_id": run_id})
        return found[0]

    def list_runs(self, session_id: str, *, status: tuple[RunStatus, ...] | None = None, limit: int | None = None) -> list[Run]:
        query = select(runs).where(runs.c.session_id == session_id).order_by(runs.c.started_at, runs.c.id).limit(limit)
        if status is not None:
            query = query.where(_among(runs.c.status, status))
        return self._select(Run, query)

    def get_active_run(self, session_id: str) -> Run | None:
        query = select(runs).where(runs.c.session_id == session_id, runs.c.status == RunStatus.RUNNING.value)
        found = self._select(Run, query.order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(1))
        return found[0] if found else None

    # -- Events ---------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        self.append_events([event])

    def append_event_with_sequence(self, event: Event) -> Event:
        return self.append_events([event])[0]

    def append_events(self, events: list[Event]) -> list[Event]:
        return self._write(lambda connection: _append(connection, events), appended=events)

    def flush(self, result: ExecutionResult) -> None:
        session, run, appended = result["session"], flushed_run(result), result["events"]

        def write(connection: Connection) -> None:
            _save(connection, sessions, session)
            _save(connection, runs, run)
            _append(connection, appended)

        self._write(write, appended=appended)

    def get_events(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: tuple[EventType, ...] | None = None,  # noqa: A002  # the field's own name
        since: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        wait_timeout_ms: int | None = None,
    ) -> list[Event]:
        query = select(events).where(events.c.session_id == session_id).order_by(events.c.sequence_number).limit(limit)
        if run_id is not None:
            query = query.where(events.c.run_id == run_id)
        if type is not None:
            query = query.where(_among(events.c.type, type))
        if since is not None:
            query = query.where(events.c.timestamp >= since)
        if after is not None:
            query = query.where(events.c.sequence_number > after)
        if before is not None:
            query = query.where(events.c.sequence_number < before)
        return self.appends.wait(session_id, lambda: self._select(Event, query), wait_timeout_ms)

    def get_latest_sequence(self, session_id: str) -> int:
        query = select(sequences.c.last_sequence).where(sequences.c.session_id == session_id)
        return self._read(lambda connection: connection.execute(query).scalar()) or 0

    # -- The two ways to the database -------------------------------------------------------------------------------

    def _write(self, function: Callable[[Connection], T], *, appended: Iterable[Event] = ()) -> T:
        """Call the function in a transaction; after the commit, tell of the events that it appended."""
        self.require_open()
        result = self._database.write(function)
        if appended:
            self.appends.announce(event.session_id for event in appended)
        return result

    def _read(self, function: Callable[[Connection], T]) -> T:
        """Call the function, which makes one query."""
        self.require_open()
        return self._database.read(function)

    def _select(self, kind: type[V], query: Select[Any]) -> list[V]:
        """Return the values that a query finds."""
        return self._read(lambda connection: _values(connection, kind, query))


def _append(connection: Connection, appended: Sequence[Event]) -> list[Event]:
    """Store the new ones of the events; return each event as it is stored."""
    stored: dict[str, Event] = {}
    ids = [event.id for event in appended]
    for start in range(0, len(ids), IDS):
        query = select(events).where(_among(events.c.id, ids[start : start + IDS]))
        stored |= {event.id: event for event in _values(connection, Event, query)}
    new = numbered(appended, stored, lambda session_id, count: _reserve(connection, session_id, count))
    if new:
        connection.execute(insert(events), [_row(event) for event in new.values()])
    stored |= new
    return [stored[event.id] for event in appended]


def _reserve(connection: Connection, session_id: str, count: int) -> int:
    """Take the next sequence numbers of a session; return the first of them. Other writers wait for the commit."""
    now = datetime.now(UTC)
    statement = _upsert(connection, sequences).values(session_id=session_id, last_sequence=count, updated_at=now)
    reserved = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[sequences.c.session_id],
            set_={"last_sequence": sequences.c.last_sequence + count, "updated_at": now},
        ).returning(sequences.c.last_sequence)
    )
    return int(reserved.scalar_one()) - count + 1


def _save(connection: Connection, table: Table, value: Session | Run) -> None:
    """Insert a value, or replace the one with its id."""
    row = _row(value)
    statement = _upsert(connection, table).values(row)
    replaced = {name: statement.excluded[name] for name in row if name != "id"}
    connection.execute(statement.on_conflict_do_update(index_elements=[table.c.id], set_=replaced))


def _upsert(connection: Connection, table: Table) -> Any:
    """Return an ``INSERT … ON CONFLICT``, which each database has of its own."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def _row(value: Session | Run | Event) -> dict[str, Any]:
    """Return the columns of a value."""
    row = value.to_fields()
    for name in ("status", "type"):
        if name in row:
            row[name] = row[name].value
    return row


def _values(connection: Connection, kind: type[V], query: Select[Any]) -> list[V]:
    """Return the values that a query finds.

    :raises Error: ``storage_read_failed`` when a row does not hold one.
    """
    result = connection.execute(query)
    try:
        names = tuple(result.keys())
        return [kind.from_fields(dict(zip(names, row, strict=True))) for row in result]
    except (Error, ValueError, TypeError) as error:
        message = f"what the database holds is no {kind.__name__}: {error}"
        raise Error("storage_read_failed", message, details={"reason": "malformed_row", "cause": str(error)}) from error


def _among(column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition that a column holds one of the values. A single one is compared, which keeps an index in order."""
    plain = [str(value) for value in values]
    return column == plain[0] if len(plain) == 1 else column.in_(plain)
