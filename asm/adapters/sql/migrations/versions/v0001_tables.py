"""The first version: the tables of the original.

What is there already is left as it is, so that a database made by the original can be taken over.
"""

# ruff: noqa: D103  # what the functions do is Alembic's to say

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, UniqueConstraint

from asm.adapters.sql.tables import Json, Tags, Text, Time

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "asm_sessions",
        Column("id", Text, primary_key=True),
        Column("agent_id", Text, nullable=False),
        Column("status", Text, nullable=False),
        Column("parent_session_id", Text),
        Column("metadata", Json),
        Column("context", Json),
        Column("tags", Tags),
        Column("created_at", Time, nullable=False),
        Column("updated_at", Time, nullable=False),
        Column("deleted_at", Time),
        if_not_exists=True,
    )
    _index("asm_sessions_by_status", "asm_sessions", "status", "created_at", "id")
    _index("asm_sessions_by_agent", "asm_sessions", "agent_id", "created_at", "id")
    _index("asm_sessions_by_created", "asm_sessions", "created_at", "id")
    _index("asm_sessions_by_deleted", "asm_sessions", "deleted_at")
    op.create_table(
        "asm_runs",
        Column("id", Text, primary_key=True),
        Column("session_id", Text, nullable=False),
        Column("status", Text, nullable=False),
        Column("input", Json),
        Column("output", Json),
        Column("error", Json),
        Column("metadata", Json),
        Column("turn_count", BigInteger, nullable=False),
        Column("token_usage", Json),
        Column("cost_usd", Double),
        Column("started_at", Time, nullable=False),
        Column("ended_at", Time),
        Column("provider", Text),
        Column("provider_metadata", Json),
        if_not_exists=True,
    )
    _index("asm_runs_by_status", "asm_runs", "session_id", "status", "started_at", "id")
    _index("asm_runs_by_session", "asm_runs", "session_id", "started_at", "id")
    _index("asm_runs_by_provider", "asm_runs", "provider")
    _index("asm_runs_by_started", "asm_runs", "started_at")
    op.create_table(
        "asm_events",
        Column("id", Text, primary_key=True),
        Column("type", Text, nullable=False),
        Column("timestamp", Time, nullable=False),
        Column("session_id", Text, nullable=False),
        Column("run_id", Text),
        Column("data", Json),
        Column("metadata", Json),
        Column("sequence_number", BigInteger, nullable=False),
        Column("schema_version", BigInteger, nullable=False),
        Column("provider", Text),
        Column("correlation_id", Text),
        UniqueConstraint("session_id", "sequence_number", name="asm_events_by_sequence"),
        if_not_exists=True,
    )
    _index("asm_events_by_type", "asm_events", "session_id", "type", "sequence_number")
    _index("asm_events_by_run", "asm_events", "session_id", "run_id", "sequence_number")
    _index("asm_events_by_correlation", "asm_events", "correlation_id")
    _index("asm_events_by_provider", "asm_events", "provider")
    _index("asm_events_by_timestamp", "asm_events", "timestamp")
    op.create_table(
        "asm_session_sequences",
        Column("session_id", Text, primary_key=True),
        Column("last_sequence", BigInteger, nullable=False),
        Column("updated_at", Time, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "asm_artifacts",
        Column("id", Text, primary_key=True),
        Column("session_id", Text),
        Column("run_id", Text),
        Column("key", Text, nullable=False),
        Column("content_type", Text),
        Column("byte_size", BigInteger),
        Column("checksum_sha256", Text),
        Column("storage_backend", Text),
        Column("storage_ref", Text),
        Column("metadata", Json),
        Column("created_at", Time, nullable=False),
        Column("deleted_at", Time),
        UniqueConstraint("key", name="asm_artifacts_by_key"),
        if_not_exists=True,
    )


def _index(name: str, table: str, *columns: str) -> None:
    op.create_index(name, table, columns, if_not_exists=True)
