"""How a database is looked after: what is wrong with it, room that nothing needs, and what is due to go."""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import JSON, Column, ColumnElement, Connection, Table, case, cast, func, or_, select
from sqlalchemy import Text as PlainText
from sqlalchemy.exc import SQLAlchemyError

from asm.adapters.sql import sqlite
from asm.adapters.sql.deletions import not_deleted, remove_some
from asm.adapters.sql.filters import bears_none_of
from asm.adapters.sql.queries import Queries
from asm.adapters.sql.reading import Listing, Position
from asm.adapters.sql.tables import Tags, Time, events, runs, sequences, sessions
from asm.core.errors import Error
from asm.core.policies import ENDED, RetentionPolicy, days_before
from asm.core.values import Event, Run, Session, Value

__all__ = ["Maintained"]

V = TypeVar("V", bound=Value)

MOST: Final = 100
"""How many sentences of a kind there are at the most."""

TABLES: Final = ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences", "asm_event_deletions", "asm_artifacts")


class Maintained(Queries):
    """A store in a database, and its maintenance."""

    # -- Health -------------------------------------------------------------------------------------------------------

    def health_check(self) -> list[str]:
        found = self._read(sqlite.integrity) if self._database.backend == "sqlite" else []
        found += self._read(_numbers)
        tables: list[tuple[type[Value], Table]] = [(Session, sessions), (Run, runs), (Event, events)]
        for kind, table in tables:
            found += islice(self._malformed(kind, table), MOST)
        return found

    def _malformed(self, kind: type[V], table: Table) -> Iterator[str]:
        """Yield a sentence for each row that holds no value. Only those are read that look as if they held none."""
        odd = [test for column in table.columns if (test := _looks_odd(column, self._database.backend)) is not None]
        problems: list[Error] = []
        listing = Listing(kind, select(table).where(or_(*odd)), (table.c.id,), malformed=problems.append)
        for _ in self._listed(listing):
            if len(problems) >= MOST:
                break
        yield from (problem.message for problem in problems)

    # -- Room on the disk ---------------------------------------------------------------------------------------------

    def compact(self) -> int:
        self.require_open()
        while self._database.write(remove_some):
            pass
        before = self._size()
        if self._database.backend == "sqlite":
            self._database.compact()
        else:
            try:
                with self._database.listen() as connection:  # nobody who writes waits for this one
                    for table in TABLES:
                        connection.exec_driver_sql(f"VACUUM (SKIP_LOCKED) {table}")
            except SQLAlchemyError as error:
                raise self._database.error(error, writing=True) from error
        return max(0, before - self._size())

    def _size(self) -> int:
        """Return how many bytes the tables take."""
        if self._database.backend == "sqlite":
            return self._database.file_bytes()
        sizes = select(*(func.pg_total_relation_size(table) for table in TABLES))
        return sum(self._read(lambda connection: connection.execute(sizes).one()))

    # -- Retention ----------------------------------------------------------------------------------------------------

    def expired(self, policy: RetentionPolicy, *, limit: int) -> list[Session]:
        now = datetime.now(UTC)
        kept: list[Any] = [
            sessions.c.status.not_in([str(status) for status in policy.exempt_statuses]),
            bears_none_of(list(policy.exempt_tags), self._database.backend),
        ]
        conditions: list[list[ColumnElement[bool]]] = []
        ended = sessions.c.status.in_([str(status) for status in ENDED])
        for days, of_status in ((policy.max_completed_age_days, ended), (policy.max_age_days, ~ended)):
            if days is not None and (start := days_before(now, days)) is not None:
                conditions.append([sessions.c.deleted_at.is_(None), of_status, sessions.c.updated_at <= start])
        days = policy.hard_delete_after_days
        if days is not None and (start := days_before(now, days)) is not None:
            conditions.append([sessions.c.deleted_at <= start])
        if (most := policy.max_events_per_session) is not None:
            many = sequences.c.last_sequence - func.coalesce(sequences.c.deleted_events, 0) > most
            conditions.append([sessions.c.id.in_(select(sequences.c.session_id).where(many))])
        ways: list[Iterator[tuple[Position, Session]]] = [
            self._listed(
                Listing(Session, select(sessions).where(*condition, *kept), (sessions.c.updated_at, sessions.c.id)), first=limit
            )
            for condition in conditions
        ]
        due: dict[str, Session] = {}
        for _, session in heapq.merge(*ways, key=lambda item: item[0]):
            due[session.id] = session
            if len(due) == limit:
                break
        return list(due.values())


def _numbers(connection: Connection) -> list[str]:
    """Return what is wrong with the numbers of sessions, in one look at all of them."""
    number = events.c.sequence_number
    held = select(events.c.session_id, func.count().label("count"), func.max(number).label("last"))
    counted = held.where(not_deleted()).group_by(events.c.session_id).subquery()
    last, deleted = sequences.c.last_sequence, func.coalesce(sequences.c.deleted_events, 0)
    count = func.coalesce(counted.c.count, 0)
    joined = sequences.join(counted, counted.c.session_id == sequences.c.session_id, isouter=True)
    query = select(sequences.c.session_id, last, deleted, count, counted.c.last).select_from(joined)
    query = query.where(or_(last != count + deleted, counted.c.last > last)).order_by(sequences.c.session_id).limit(MOST)
    found = []
    for session_id, at, gone, there, top in connection.execute(query):
        if top is not None and top > at:
            found.append(f"the counter of session {session_id!r} stands at {at}, and it has an event with the number {top}")
        else:
            found.append(
                f"session {session_id!r} has {there} events and {gone} were deleted, which does not explain its {at} numbers"
            )
    joined = counted.join(sequences, counted.c.session_id == sequences.c.session_id, isouter=True)
    query = select(counted.c.session_id, counted.c.count).select_from(joined).where(sequences.c.session_id.is_(None))
    for session_id, there in connection.execute(query.order_by(counted.c.session_id).limit(MOST)):
        found.append(f"session {session_id!r} has {there} events and no counter")
    return found


def _looks_odd(column: Column[Any], backend: str) -> ColumnElement[bool] | None:
    """Return the condition that a column may hold what its field cannot. PostgreSQL checks most of it itself."""
    if isinstance(column.type, JSON):
        is_list = column.type is Tags
        if backend == "postgresql":
            return None if is_list else func.json_typeof(column).not_in(["object", "null"])
        text = cast(column, PlainText)
        wanted = ["array", "null"] if is_list else ["object", "null"]
        return or_(func.json_valid(text) == 0, func.json_type(case((func.json_valid(text) == 1, text))).not_in(wanted))
    if backend == "postgresql" or isinstance(column.type, PlainText):
        return None
    if isinstance(column.type, Time):
        return column.is_not(None) & func.julianday(cast(column, PlainText)).is_(None)
    return column.is_not(None) & func.typeof(column).not_in(["integer", "real"])
