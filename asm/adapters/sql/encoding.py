"""How values become what a database keeps: times, free-form maps as JSON text, and events as rows.

SQLAlchemy prepares a statement for each execution and converts each parameter of each row in several steps, which for a small
event takes longer than the database does. So events, of which there are many, are inserted by a statement that is made once.

The encoder of the standard library is one call, in which no other thread of the process gets on. With a million values, which
one message may hold, that is a fifth of a second, for the writer of a store and for everybody whom its worker serves. So JSON
is written in steps of which none takes long.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection

from asm.core.values import Event

__all__ = ["COLUMNS", "dumps", "insert_events", "moment"]

LARGE: Final = 20_000
"""How many values are encoded in one step."""

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

_get: Final = operator.attrgetter(*COLUMNS)


# -- Times ----------------------------------------------------------------------------------------------------------


def moment(value: datetime, dialect: str) -> Any:
    """Return an aware time as the driver of a kind of database takes it: in UTC, and as text for SQLite."""
    in_utc = value.astimezone(UTC).replace(tzinfo=None)
    return in_utc if dialect == "postgresql" else in_utc.isoformat(timespec="microseconds")


# -- Events ---------------------------------------------------------------------------------------------------------


def insert_events(connection: Connection, appended: Iterable[Event]) -> None:
    """Insert events that have their sequence numbers.

    PostgreSQL takes many as one array a column, and so has one statement to understand, and not as many as there are rows.

    :raises IntegrityError: when one is stored already.
    """
    dialect = connection.dialect.name
    converters = _converters(dialect)

    def row(event: Event) -> tuple[Any, ...]:
        return tuple([value if to is None else to(value) for to, value in zip(converters, _get(event), strict=True)])

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


# -- JSON -----------------------------------------------------------------------------------------------------------

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(value: Any) -> str:
    """Return JSON text, as short as it can be.

    :param value: of maps with string keys, lists, strings, numbers, booleans and ``None``.
    """
    return _encode(value) if _count(value) < LARGE else "".join(_pieces(value))


def _count(value: Any) -> int:
    """Count the values inside a value, up to :data:`LARGE` or a little more."""
    found, inside = 1, [value]
    while inside and found < LARGE:
        item = inside.pop()
        if isinstance(item, dict):
            found += len(item)
            inside += [child for child in item.values() if isinstance(child, dict | list)]
        elif isinstance(item, list):
            found += len(item)
            inside += [child for child in item if isinstance(child, dict | list)]
    return found


def _pieces(value: Any) -> Iterator[str]:
    """Yield the text of a large map or list: of many small items at once, and of a large item in pieces of its own."""
    is_map = isinstance(value, dict)
    group: list[Any] = []
    weight, separator = 0, ""
    yield "{" if is_map else "["
    for item in value.items() if is_map else value:
        child = item[1] if is_map else item
        count = _count(child)
        if group and weight + count >= LARGE:
            yield separator + _inside(group, is_map=is_map)
            group, weight, separator = [], 0, ","
        if count >= LARGE:
            yield f"{separator}{_encode(item[0])}:" if is_map else separator
            yield from _pieces(child)
            separator = ","
        else:
            group.append(item)
            weight += count
    if group:
        yield separator + _inside(group, is_map=is_map)
    yield "}" if is_map else "]"


def _inside(items: list[Any], *, is_map: bool) -> str:
    return _encode(dict(items) if is_map else items)[1:-1]
