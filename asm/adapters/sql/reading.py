"""Reading: the values that a query finds, all at once or in batches.

A batch is one short query, of which no more is taken than a bounded number of bytes; behind its last row the next one goes on,
by the columns that the rows are ordered by. So whoever reads much holds little of it, and between two batches nothing at all:
no transaction, no connection, no lock. A row that is larger than a batch may be is a batch of its own.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import JSON, Column, ColumnElement, Connection, FromClause, Select, cast, func, literal, select, tuple_
from sqlalchemy import Text as PlainText

from asm.adapters.base import Adapter
from asm.adapters.sql.engine import Database
from asm.core.errors import Error
from asm.core.values import Value

__all__ = ["FIRST", "Listing", "Position", "Reading", "value"]

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V", bound=Value)

Position = tuple[Any, ...]
"""What a row has in the columns that a listing is ordered by."""

BYTES: Final = 1024 * 1024
"""How many bytes a batch has, more or less: as values, JSON takes several times as much."""

ROW: Final = 256
"""How many bytes are counted for a row beside its maps."""

FIRST, MOST = 200, 2000
"""How many rows a batch has: the first one, and one of small rows."""


@dataclass(frozen=True, slots=True)
class Listing(Generic[V]):
    """Values in an order."""

    kind: type[V]
    query: Select[Any]
    """Of all columns of a table, without an order."""
    order: tuple[Column[Any], ...]
    """The columns that order them. No two rows have the same in all of these."""
    backwards: bool = False
    passes: Callable[[V], bool] | None = None
    """Tells of what the query finds whether it is asked for, where no database can tell."""


class Reading(Adapter):
    """What reads from a database."""

    _database: Database

    def _read(self, function: Callable[[Connection], T]) -> T:
        """Call the function, which makes one query."""
        self.require_open()
        return self._database.read(function)

    def _listed(self, listing: Listing[V], behind: Position | None = None, first: int = FIRST) -> Iterator[tuple[Position, V]]:
        """Yield values in their order, each with its position.

        :param behind: the position behind which to begin.
        :param first: how many are asked for at first, at the most.
        """
        count = min(first, FIRST)
        while True:
            query = _batch(listing, behind, count, self._database.backend)
            rows, size = self._read(functools.partial(_take, query=query, order=listing.order))
            for position, fields in rows:
                behind = position
                found = value(listing.kind, fields)
                if found is not None and (listing.passes is None or listing.passes(found)):
                    yield position, found
            if size < BYTES and len(rows) < count:
                return
            count = min(4 * count, MOST) if size < BYTES else max(2 * len(rows), 2)


def value(kind: type[V], fields: Mapping[str, Any], *, strict: bool = False) -> V | None:
    """Return the value that a row holds.

    :param strict: whether a row that holds none is an error. Otherwise it is left out, and logged: it must not keep those
        beside it from being read.
    :raises Error: ``storage_read_failed``.
    """
    try:
        return kind.read(fields)
    except Error as error:
        message = f"what the database holds as {fields['id']!r} is no {kind.__name__}: {error.message}"
        if strict:
            details = {"reason": "malformed_row", "id": fields["id"], "cause": error.message}
            raise Error("storage_read_failed", message, details=details) from error
        _log.error("%s; it is passed over", message)  # the traceback says nothing more
        return None


def _batch(listing: Listing[Any], behind: Position | None, count: int, backend: str) -> Select[Any]:
    """Return the query of a batch: each row with its size."""
    query, order = listing.query, listing.order
    if behind is not None:
        place = tuple(literal(part, column.type if _fits(part) else None) for part, column in zip(behind, order, strict=True))
        one, other = (order[0], place[0]) if len(order) == 1 else (tuple_(*order), tuple_(*place))
        query = query.where(one < other if listing.backwards else one > other)
    ordered = [column.desc() if listing.backwards else column for column in order]
    size = _size(order[0].table, backend)
    if backend == "sqlite":  # gives one row after another, so who reads may stop
        return query.add_columns(size.label("bytes")).order_by(*ordered).limit(count)
    # The driver fetches all of a result, so the server has to cut it.
    before = func.sum(size).over(order_by=ordered, rows=(None, 0)) - size
    inner = query.add_columns(size.label("bytes"), before.label("before")).order_by(*ordered).limit(count).subquery()
    named = [inner.c[column.name] for column in order]
    return (
        select(*(column for column in inner.c if column.name != "before"))
        .where(inner.c.before < BYTES)
        .order_by(*(column.desc() if listing.backwards else column for column in named))
    )


def _fits(part: Any) -> bool:
    """Tell whether a part of a position can be what its column holds: what is no time is text."""
    return isinstance(part, datetime | int | float)


def _size(table: FromClause, backend: str) -> ColumnElement[int]:
    """Return how many bytes a row has, more or less."""
    count = func.length if backend == "sqlite" else func.octet_length
    maps = [func.coalesce(count(cast(column, PlainText)), 0) for column in table.columns if isinstance(column.type, JSON)]
    return sum(maps, literal(ROW))


def _take(
    connection: Connection, query: Select[Any], order: tuple[Column[Any], ...]
) -> tuple[list[tuple[Position, Mapping[str, Any]]], int]:
    """Return rows with their positions, and how many bytes they have together."""
    taken: list[tuple[Position, Mapping[str, Any]]] = []
    size = 0
    with connection.execute(query) as result:
        for row in result:
            fields: Any = row._mapping  # noqa: SLF001  # is public
            taken.append((tuple(fields[column.name] for column in order), fields))
            size += fields["bytes"]
            if size >= BYTES:
                break
    return taken, size
