"""How events become rows: an ``INSERT`` that is compiled once, and what makes its parameters.

SQLAlchemy prepares a statement for each execution and converts each parameter of each row in several steps, which for a small
event takes longer than the database does. The statement and the conversions are SQLAlchemy's here, too, but chosen once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, Final

from sqlalchemy import Connection, insert
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from asm.adapters.sql.tables import events
from asm.core.values import Event

__all__ = ["insert_events"]

COLUMNS: Final = tuple(column.name for column in events.columns)

_get: Final = operator.attrgetter(*COLUMNS)


def insert_events(connection: Connection, appended: Iterable[Event]) -> None:
    """Insert events that have their sequence numbers.

    :raises IntegrityError: when one is stored already.
    """
    # One for each kind of database, and not for each engine: our engines of a kind convert alike.
    insertion = _insertions.get(connection.dialect.name)
    if insertion is None:
        insertion = _insertions[connection.dialect.name] = _Insertion(connection.dialect)
    connection.exec_driver_sql(insertion.statement, [insertion.row(event) for event in appended])


class _Insertion:
    """The statement of one kind of database, and how its parameters are made."""

    def __init__(self, dialect: Dialect) -> None:
        compiled = insert(events).compile(dialect=dialect)
        self.statement = str(compiled)
        self._by_name = not compiled.positional
        self._converters = [_converter(column.type, dialect) for column in events.columns]
        self._converters[COLUMNS.index("type")] = str  # a member of an Enum or a string

    def row(self, event: Event) -> Any:
        """Return the parameters for an event."""
        pairs = zip(self._converters, _get(event), strict=True)
        row = tuple([value if convert is None else convert(value) for convert, value in pairs])
        return dict(zip(COLUMNS, row, strict=True)) if self._by_name else row


def _converter(type_: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return what turns a value into the driver's; ``None`` where that takes it as it is."""
    return type_.dialect_impl(dialect).bind_processor(dialect)


_insertions: Final[dict[str, _Insertion]] = {}
