"""The fourth version: the indexes that the queries use, and no others, and how many tokens each run took."""

# ruff: noqa: D103  # what the functions do is Alembic's to say

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, text

from asm.adapters.sql.tables import Number

revision = "0004"
down_revision = "0003"

UNUSED = (
    "asm_sessions_by_deleted",
    "asm_runs_by_provider",
    "asm_runs_by_started",
    "asm_events_by_run",
    "asm_events_by_correlation",
    "asm_events_by_provider",
)
"""No query uses these as they are. Some come again, with other columns or of fewer rows."""

NUMBER = {
    "sqlite": """
        CASE WHEN json_type(token_usage, '$.{name}') IN ('integer', 'real') THEN json_extract(token_usage, '$.{name}') END""",
    "postgresql": """
        CASE json_typeof(token_usage -> '{name}') WHEN 'number' THEN CAST(token_usage ->> '{name}' AS numeric) END""",
}
"""A number of a token_usage, or null."""

COUNTED = {
    "sqlite": "json_valid(token_usage)",
    # What has these escapes, PostgreSQL keeps as JSON and cannot look into.
    "postgresql": r"json_typeof(token_usage) = 'object' AND CAST(token_usage AS text) !~* '\\u(0000|d[89a-f])'",
}

TIMES = (
    ("asm_sessions", "created_at"),
    ("asm_sessions", "updated_at"),
    ("asm_sessions", "deleted_at"),
    ("asm_runs", "started_at"),
    ("asm_runs", "ended_at"),
    ("asm_events", "timestamp"),
)

PLAIN = "replace(replace(rtrim({name}, 'Zz'), '+00:00', ''), ' ', 'T')"
SAME_FORM = f"""
    UPDATE {{table}} SET {{name}} = substr({PLAIN} || CASE instr({PLAIN}, '.') WHEN 0 THEN '.' ELSE '' END || '000000', 1, 26)
    WHERE (length({{name}}) <> 26 OR substr({{name}}, 11, 1) <> 'T') AND {PLAIN} GLOB '????-??-??T??:??:??*'
    AND {PLAIN} NOT GLOB '*T*[-+]*'"""  # noqa: S608  # no values in it
"""Gives times the form that ours have: in SQLite they are text, and only those of one form sort as the moments do."""


def upgrade() -> None:
    for name in UNUSED:
        op.drop_index(name, if_exists=True)
    if op.get_context().dialect.name == "sqlite":
        for table, name in TIMES:
            op.execute(SAME_FORM.format(table=table, name=name).replace(":", "\\:"))
    op.add_column("asm_runs", Column("tokens", Number, nullable=False, server_default="0"))
    dialect = op.get_context().dialect.name
    total, given, made = (NUMBER[dialect].format(name=f"{name}_tokens") for name in ("total", "input", "output"))
    tokens = f"coalesce({total}, coalesce({given}, 0) + coalesce({made}, 0))"
    op.execute(text(f"UPDATE asm_runs SET tokens = {tokens} WHERE {COUNTED[dialect]}"))  # noqa: S608  # no values in it
    _index("asm_sessions_by_updated", "asm_sessions", "updated_at", "id")
    _index("asm_sessions_by_status_updated", "asm_sessions", "status", "updated_at", "id")
    _index("asm_sessions_by_agent_updated", "asm_sessions", "agent_id", "updated_at", "id")
    _index("asm_runs_by_started", "asm_runs", "started_at", "id")
    _index("asm_runs_by_tokens", "asm_runs", "tokens", "id")
    _partial("asm_sessions_by_parent", "asm_sessions", "parent_session_id", "updated_at", "id")
    _partial("asm_sessions_by_deleted", "asm_sessions", "updated_at", "id", where="deleted_at")
    _partial("asm_runs_by_provider", "asm_runs", "provider", "started_at", "id")
    _partial("asm_events_by_run", "asm_events", "run_id", "session_id", "sequence_number")
    _partial("asm_events_by_correlation", "asm_events", "correlation_id", "session_id", "sequence_number")


def _index(name: str, table: str, *columns: str) -> None:
    op.create_index(name, table, columns, if_not_exists=True)


def _partial(name: str, table: str, *columns: str, where: str | None = None) -> None:
    condition = text(f"{where or columns[0]} IS NOT NULL")
    op.create_index(name, table, columns, if_not_exists=True, sqlite_where=condition, postgresql_where=condition)
