"""What searches filter by, as conditions of a query.

Some of it no database can tell exactly: whether a text occurs in JSON whatever the case, which has escapes and other alphabets,
and whether two JSON values are equal. There a condition lets everything pass that may be wanted and little else, and
:mod:`asm.adapters.matching` looks at what did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    LargeBinary,
    Select,
    TextClause,
    cast,
    collate,
    exists,
    func,
    literal,
    or_,
    select,
    text,
)
from sqlalchemy import Text as PlainText

from asm.adapters.sql.deletions import not_deleted, without_deleted
from asm.adapters.sql.tables import events, runs, sessions

__all__ = ["any_of", "history", "matching_events", "matching_runs", "matching_sessions"]

FEW: Final = 500
"""How many values are given to a query one by one. Databases limit its parameters."""

TAGGED: Final = {
    "sqlite": text(
        "NOT EXISTS (SELECT 1 FROM json_each(:tags) AS wanted WHERE NOT EXISTS (SELECT 1 FROM json_each("
        "CASE WHEN json_valid(asm_sessions.tags) THEN asm_sessions.tags ELSE '[]' END) AS tag WHERE tag.value = wanted.value))"
    ),
    "postgresql": text("asm_sessions.tags @> ARRAY(SELECT json_array_elements_text(CAST(:tags AS json)))"),
}
"""That a session bears all of some tags, which are given as JSON."""


ELEMENTS: Final = {
    "sqlite": "SELECT value FROM json_each(:them)",
    "postgresql": "SELECT json_array_elements_text(CAST(:them AS json))",
}
"""Many values, which are given as JSON."""


def history(given: Mapping[str, Any]) -> Select[Any]:
    """Return the query of the events that ``get_events`` finds, without their order.

    :param given: its arguments by name.
    """
    session_id = given["session_id"]
    query = select(events).where(events.c.session_id == session_id, without_deleted(session_id))
    query = _since(_of_one(query, events, given, "run_id", "correlation_id"), given)
    if (types := given.get("type")) is not None:
        query = query.where(any_of(events.c.type, types))
    if (after := given.get("after")) is not None:
        query = query.where(events.c.sequence_number > after)
    if (before := given.get("before")) is not None:
        query = query.where(events.c.sequence_number < before)
    return query


def matching_sessions(backend: str, given: Mapping[str, Any]) -> Select[Any]:
    """Return the query of the sessions that ``search_sessions`` looks at.

    :param given: its arguments by name.
    """
    query = _of_one(select(sessions), sessions, given, "agent_id", "parent_session_id")
    if (statuses := given.get("status")) is not None:
        query = query.where(any_of(sessions.c.status, statuses, backend))
    if not given.get("include_deleted"):
        query = query.where(sessions.c.deleted_at.is_(None))
    for name in ("created", "updated"):
        query = _between(query, sessions.c[f"{name}_at"], given.get(f"{name}_after"), given.get(f"{name}_before"))
    if (prefix := given.get("id_prefix")) is not None:
        query = query.where(sessions.c.id >= prefix)
        if end := _following(prefix):
            query = query.where(sessions.c.id < end)
    if (provider := given.get("provider")) is not None:
        query = query.where(exists().where(runs.c.session_id == sessions.c.id, runs.c.provider == provider))
    if tags := given.get("tags"):
        query = query.where(TAGGED[backend].bindparams(tags=json.dumps(tags, ensure_ascii=False)))
    for key, value in (given.get("metadata") or {}).items():
        query = query.where(_may_have(sessions.c.metadata, key, backend))
        if isinstance(value, str):
            query = query.where(_may_have(sessions.c.metadata, value, backend))
    return query


def matching_runs(backend: str, given: Mapping[str, Any]) -> Select[Any]:
    """Return the query of the runs that ``search_runs`` finds.

    :param given: its arguments by name.
    """
    query = _of_one(select(runs), runs, given, "session_id", "provider")
    if (statuses := given.get("status")) is not None:
        query = query.where(any_of(runs.c.status, statuses, backend))
    if (agent_id := given.get("agent_id")) is not None:
        query = query.where(exists().where(sessions.c.id == runs.c.session_id, sessions.c.agent_id == agent_id))
    if (least := given.get("min_tokens")) is not None:
        query = query.where(runs.c.tokens >= least)
    return _between(query, runs.c.started_at, given.get("started_after"), given.get("started_before"))


def matching_events(backend: str, given: Mapping[str, Any]) -> Select[Any]:
    """Return the query of the events that ``search_events`` looks at.

    :param given: its arguments by name.
    """
    query = _of_one(select(events).where(not_deleted()), events, given, "provider", "correlation_id")
    for name, column in (("session_ids", events.c.session_id), ("run_ids", events.c.run_id), ("type", events.c.type)):
        if (wanted := given.get(name)) is not None:
            query = query.where(any_of(column, wanted, backend))
    query = _since(query, given)
    if wanted := given.get("text"):
        query = query.where(_may_have(events.c.data, wanted.casefold(), backend, any_case=True))
    return query


def any_of(column: Column[Any], wanted: Sequence[str], backend: str = "") -> ColumnElement[bool] | TextClause:
    """Return the condition that a column holds one of the values. A single one is compared, which keeps an index in order.

    :param backend: which database it is, where there may be many.
    """
    plain = [str(value) for value in wanted]
    if len(plain) <= FEW or not backend:
        return column == plain[0] if len(plain) == 1 else column.in_(plain)
    inside = text(f"{column} IN ({ELEMENTS[backend]})".replace(":them", f":{column.name}"))
    return inside.bindparams(**{column.name: json.dumps(plain, ensure_ascii=False)})


def _of_one(query: Select[Any], table: Any, given: Mapping[str, Any], *names: str) -> Select[Any]:
    for name in names:
        if given.get(name) is not None:
            query = query.where(table.c[name] == given[name])
    return query


def _between(query: Select[Any], column: Column[Any], after: datetime | None, before: datetime | None) -> Select[Any]:
    if after is not None:
        query = query.where(column > after)
    return query if before is None else query.where(column < before)


def _since(query: Select[Any], given: Mapping[str, Any]) -> Select[Any]:
    if (since := given.get("since")) is not None:
        query = query.where(events.c.timestamp >= since)
    if (until := given.get("until")) is not None:
        query = query.where(events.c.timestamp < until)
    return query


def _following(prefix: str) -> str | None:
    """Return the first text behind all that begin with a prefix, in the order of code points; ``None`` when there is none."""
    for length in range(len(prefix), 0, -1):
        code = ord(prefix[length - 1]) + 1
        if code <= 0x10FFFF:
            return prefix[: length - 1] + chr(0xE000 if code == 0xD800 else code)  # between these are the surrogates
    return None


def _may_have(column: Column[Any], wanted: str, backend: str, *, any_case: bool = False) -> ColumnElement[bool]:
    """Return a condition that every map passes in which a text occurs.

    It is looked for as JSON writes it. That is not the only way to write it, so whatever has characters by their numbers
    passes, too. In any case, so does whatever has other characters than those of ASCII: databases know no case of these.

    :param wanted: the text; after :meth:`str.casefold` when it may have any case.
    """
    written = json.dumps(wanted, ensure_ascii=False)[1:-1]
    held: Any = cast(column, PlainText)
    where = func.instr if backend == "sqlite" else func.strpos
    held = held if backend == "sqlite" else collate(held, "C")
    passes = [where(held, "\\u") > 0]
    if "/" in wanted:
        passes.append(where(held, "\\/") > 0)
    if any_case:
        count = func.length(cast(held, LargeBinary)) if backend == "sqlite" else func.octet_length(held)
        passes.append(count != func.length(held))
    if not any_case or written.isascii():
        passes.append(where(func.lower(held) if any_case else held, literal(written)) > 0)
    return or_(*passes)
