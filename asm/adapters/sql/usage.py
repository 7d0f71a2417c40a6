"""What runs used, counted and summed by the database: in one statement, which finds how often and how much in one state.

``token_usage`` is a map of whatever a provider reports, numbers and maps of numbers. Its numbers are taken out of it with the
keys that lead to them, and summed by these. Integers stay integers, however large their sum is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Text, TextClause, bindparam, text

from asm.adapters.sql.tables import Time
from asm.adapters.totals import token_totals
from asm.core.results import Usage
from asm.core.values import Run

__all__ = ["Sum", "odd_runs", "results", "usage", "used"]

FILTERS: Final = {
    "session_id": "runs.session_id = :session_id",
    "agent_id": "sessions.agent_id = :agent_id",
    "provider": "runs.provider = :provider",
    "since": "runs.started_at >= :since",
    "until": "runs.started_at < :until",
}

_ODD: Final = " || ".join(
    f"coalesce(CAST(runs.{name} AS text), '')" for name in ("token_usage", "provider_metadata", "metadata")
)
ODD: Final = f"({_ODD}) ~* '\\\\u(0000|d[89a-f])'"
r"""Runs that hold ``\u0000`` or half a character, which PostgreSQL keeps as JSON, and refuses to look into. We do."""

MODEL: Final = {
    "sqlite": " ".join(
        f"WHEN json_type(CASE WHEN json_valid(runs.{name}) THEN runs.{name} END, '$.model') = 'text'"
        f" THEN json_extract(runs.{name}, '$.model')"
        for name in ("provider_metadata", "metadata")
    ),
    "postgresql": " ".join(
        f"WHEN json_typeof(runs.{name} -> 'model') = 'string' THEN runs.{name} ->> 'model'"
        for name in ("provider_metadata", "metadata")
    ),
}

GROUPS: Final[dict[str, dict[str, str]]] = {
    backend: {
        "provider": "runs.provider",
        "model": f"CASE {MODEL[backend]} END",
        "agent": "sessions.agent_id",
        "status": "runs.status",
        "day": {"sqlite": "substr(runs.started_at, 1, 10)", "postgresql": "to_char(runs.started_at, 'YYYY-MM-DD')"}[backend],
    }
    for backend in MODEL
}
"""What runs are grouped by."""

CHOSEN: Final = """
chosen AS (
    SELECT {groups}, runs.cost_usd, runs.token_usage
    FROM asm_runs AS runs LEFT JOIN asm_sessions AS sessions ON sessions.id = runs.session_id
    WHERE {where}
)"""

STATEMENTS: Final = {
    # A sum of integers may be larger than SQLite can sum, so the upper and the lower half of each are summed by themselves.
    "sqlite": f"""
WITH {CHOSEN}
SELECT {{names}}, NULL AS path, count(*), total(cost_usd), sum(cost_usd IS NULL), NULL, NULL, NULL
FROM chosen GROUP BY {{names}}
UNION ALL
SELECT {{names}}, item.fullkey, count(*), NULL, NULL, sum(item.atom >> 32) FILTER (WHERE item.type = 'integer'),
    sum(item.atom & 4294967295) FILTER (WHERE item.type = 'integer'), sum(item.atom) FILTER (WHERE item.type = 'real')
FROM chosen, json_tree(CASE WHEN json_valid(chosen.token_usage) THEN chosen.token_usage ELSE '{{{{}}}}' END) AS item
WHERE item.type IN ('integer', 'real') GROUP BY {{names}}, item.fullkey""",  # noqa: S608  # no values in it
    "postgresql": f"""
WITH RECURSIVE {CHOSEN}, tree AS (
    SELECT {{names}}, ARRAY[item.key] AS path, item.value
    FROM chosen, json_each(CASE json_typeof(token_usage) WHEN 'object' THEN token_usage ELSE '{{{{}}}}' END) AS item
    UNION ALL
    SELECT {{names}}, path || item.key, item.value
    FROM tree, json_each(CASE json_typeof(tree.value) WHEN 'object' THEN tree.value ELSE '{{{{}}}}' END) AS item
), numbers AS (
    SELECT {{names}}, path, CAST(value AS text) AS number, CAST(value AS text) ~ '^-?[0-9]+$' AS whole
    FROM tree WHERE json_typeof(value) = 'number'
)
SELECT {{names}}, CAST(NULL AS text[]) AS path, count(*), coalesce(sum(cost_usd), 0), count(*) - count(cost_usd),
    0, CAST(NULL AS numeric), CAST(NULL AS double precision)
FROM chosen GROUP BY {{names}}
UNION ALL
SELECT {{names}}, path, count(*), NULL, NULL, 0, sum(CASE WHEN whole THEN CAST(number AS numeric) END),
    sum(CASE WHEN NOT whole THEN CAST(number AS double precision) END)
FROM numbers GROUP BY {{names}}, path""",  # noqa: S608  # as above
}


@dataclass(slots=True)
class Sum:
    """What the runs of a group come to."""

    runs: int = 0
    cost: float = 0.0
    without_cost: int = 0
    usages: list[dict[str, Any]] = field(default_factory=list)
    """Maps of token usage that remain to be added up: mostly one for each number."""

    def add(self, other: Sum) -> None:
        """Add the runs of another group."""
        self.runs += other.runs
        self.cost += other.cost
        self.without_cost += other.without_cost
        self.usages += other.usages


Group = tuple[str | None, ...]


def usage(connection: Connection, group_by: Sequence[str], given: dict[str, Any]) -> dict[Group, Sum]:
    """Return what runs used, by group.

    :param given: the filters of ``get_usage`` that are given, by name.
    """
    backend = connection.dialect.name
    names = [f"group_{number}" for number in range(len(group_by) + 1)]
    columns = ["CAST('' AS text)", *(GROUPS[backend][name] for name in group_by)]  # so that there is always one to group by
    where = [FILTERS[name] for name in given] + ([f"NOT ({ODD})"] if backend == "postgresql" else [])
    statement = STATEMENTS[backend].format(
        groups=", ".join(f"{column} AS {name}" for column, name in zip(columns, names, strict=True)),
        names=", ".join(names),
        where=" AND ".join(where) or "1 = 1",
    )
    sums: dict[Group, Sum] = {}
    for _, *row in connection.execute(_bound(statement, given)):
        group, (path, count, cost, without_cost, *parts) = tuple(row[: len(group_by)]), row[len(group_by) :]
        found = sums.setdefault(group, Sum())
        if path is None:
            found.add(Sum(count, float(cost), without_cost))
        elif (keys := _keys(path)) is not None:
            found.usages += (_nested(keys, number) for number in _numbers(*parts))
    return sums


def odd_runs(given: dict[str, Any]) -> TextClause:
    """Return the condition on runs of PostgreSQL that :func:`usage` passed over."""
    own = [FILTERS[name] for name in given if name != "agent_id"]
    if "agent_id" in given:
        own.append("EXISTS (SELECT 1 FROM asm_sessions WHERE id = runs.session_id AND agent_id = :agent_id)")
    return _bound(" AND ".join([*own, ODD]).replace("runs.", "asm_runs."), given)


def used(run: Run, agent_id: str | None, group_by: Sequence[str]) -> tuple[Group, Sum]:
    """Return the group of a run, and what it comes to by itself.

    :param agent_id: of its session.
    """
    models = (of.get("model") for of in (run.provider_metadata, run.metadata))
    values = {
        "provider": run.provider,
        "model": next((model for model in models if isinstance(model, str)), None),
        "agent": agent_id,
        "status": str(run.status),
        "day": run.started_at.date().isoformat(),
    }
    alone = Sum(1, run.cost_usd or 0.0, int(run.cost_usd is None), [dict(run.token_usage)])
    return tuple(values[name] for name in group_by), alone


def results(sums: dict[Group, Sum], group_by: Sequence[str]) -> list[Usage]:
    """Return the sums in the order of their groups."""
    return [
        Usage(
            group=dict(zip(group_by, group, strict=True)),
            run_count=found.runs,
            token_totals=token_totals(found.usages),
            cost_usd=found.cost,
            runs_without_cost=found.without_cost,
        )
        for group, found in sorted(sums.items(), key=lambda item: [(name is not None, name or "") for name in item[0]])
    ]


def _bound(statement: str, given: dict[str, Any]) -> TextClause:
    types = {"since": Time(), "until": Time()}
    return text(statement).bindparams(*(bindparam(name, value, types.get(name, Text())) for name, value in given.items()))


_STEP: Final = re.compile(r'\.(?:"((?:[^"\\]|\\.)*)"|([A-Za-z0-9]+))')


def _keys(path: str | list[str]) -> list[str] | None:
    """Return the keys that lead to a number; ``None`` when a list is on the way. SQLite writes ``$.name."other name"[0]``."""
    if isinstance(path, list):
        return path
    keys, place = [], 1
    while place < len(path):
        if (step := _STEP.match(path, place)) is None:
            return None
        quoted, plain = step.groups()
        keys.append(plain if quoted is None else json.loads(f'"{quoted}"'))
        place = step.end()
    return keys


def _numbers(upper: int | None, lower: Any, part: float | None) -> Iterator[int | float]:
    """Yield a sum of integers and one of floats, where there are any."""
    if lower is not None:
        yield ((upper or 0) << 32) + int(lower)
    if part is not None:
        yield part


def _nested(keys: Sequence[str], number: float) -> dict[str, Any]:
    nested: Any = number
    for key in reversed(keys):
        nested = {key: nested}
    return nested  # type: ignore[no-any-return]
