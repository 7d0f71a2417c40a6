"""How events become rows: an ``INSERT`` that is compiled once, and what makes its parameters.

SQLAlchemy prepares a statement for each execution and converts each parameter of each row in several steps, which for a small
event takes longer than the database does. The statement and the conversions are SQLAlchemy's here, too, but chosen once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Connection, insert
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from asm.adapters.sql.tables import Time, events
from asm.core.values import Event

__all__ = ["insert_events"]

COLUMNS: Final = tuple(column.name for column in events.columns)

_ARRAYS: Final = {JSON: "json[]", Time: "timestamp[]", BigInteger: "bigint[]"}
"""What an array of a column is in PostgreSQL, where it is not one of text."""

_get: Final = operator.attrgetter(*COLUMNS)


def insert_events(connection: Connection, appended: Iterable[Event]) -> None:
    """Insert events that have their sequence numbers.

    :raises IntegrityError: when one is stored already.
    """
    # One for each kind of database, and not for each engine: our engines of a kind convert alike.
    insertion = _insertions.get(connection.dialect.name)
    if insertion is None:
        insertion = _insertions[connection.dialect.name] = _Insertion(connection.dialect)
    connection.exec_driver_sql(*insertion.of([insertion.row(event) for event in appended]))


class _Insertion:
    """The statement of one kind of database, and how its parameters are made."""

    def __init__(self, dialect: Dialect) -> None:
        compiled = insert(events).compile(dialect=dialect)
        self.statement = str(compiled)
        self._by_name = not compiled.positional
        arrays = ", ".join(f"%({column.name})s::{_ARRAYS.get(type(column.type), 'text[]')}" for column in events.columns)
        self._of_arrays = f"INSERT INTO {events.name} ({', '.join(COLUMNS)}) SELECT * FROM unnest({arrays})"  # noqa: S608  # no values in it
        self._converters = [_converter(column.type, dialect) for column in events.columns]
        self._converters[COLUMNS.index("type")] = str  # a member of an Enum or a string

    def row(self, event: Event) -> tuple[Any, ...]:
        """Return the columns of an event."""
        pairs = zip(self._converters, _get(event), strict=True)
        return tuple([value if convert is None else convert(value) for convert, value in pairs])

    def of(self, rows: list[tuple[Any, ...]]) -> tuple[str, Any]:
        """Return the statement that inserts rows, and its parameters.

        PostgreSQL takes many as one array a column, and so has one statement to understand, and not as many as there are rows.
        """
        if not self._by_name:
            return self.statement, rows
        if len(rows) == 1:
            return self.statement, dict(zip(COLUMNS, rows[0], strict=True))
        return self._of_arrays, {name: list(values) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)}


def _converter(type_: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return what turns a value into the driver's; ``None`` where that takes it as it is."""
    return type_.dialect_impl(dialect).bind_processor(dialect)


_insertions: Final[dict[str, _Insertion]] = {}
