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

__all__ = ["Insertion", "insertion"]

COLUMNS: Final = tuple(column.name for column in events.columns)

_get: Final = operator.attrgetter(*COLUMNS)


class Insertion:
    """Stores events with one kind of database.

    :param dialect: which kind.
    """

    def __init__(self, dialect: Dialect) -> None:
        compiled = insert(events).compile(dialect=dialect)
        self._statement = str(compiled)
        self._by_name = not compiled.positional
        self._converters = [_converter(column.type, dialect) for column in events.columns]
        self._converters[COLUMNS.index("type")] = operator.attrgetter("value")

    def execute(self, connection: Connection, appended: Iterable[Event]) -> None:
        """Insert events that have their sequence numbers.

        :raises IntegrityError: when one is stored already.
        """
        rows: list[Any] = [self._row(event) for event in appended]
        if self._by_name:
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
        connection.exec_driver_sql(self._statement, rows)

    def _row(self, event: Event) -> tuple[Any, ...]:
        pairs = zip(self._converters, _get(event), strict=True)
        return tuple([value if convert is None else convert(value) for convert, value in pairs])


def _converter(type_: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """Return what turns a value into the driver's; ``None`` where that takes it as it is."""
    return type_.dialect_impl(dialect).bind_processor(dialect)


def insertion(dialect: Dialect) -> Insertion:
    """Return how events are inserted with this kind of database."""
    if dialect.name not in _insertions:
        _insertions[dialect.name] = Insertion(dialect)
    return _insertions[dialect.name]


_insertions: Final[dict[str, Insertion]] = {}
