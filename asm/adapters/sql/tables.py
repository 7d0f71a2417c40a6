r"""The tables, as the original has them, so that a database made by it can be read.

Columns bear the names of the fields. What differs between databases is in the types:

========  ===============================================  ======================================
type      SQLite                                           PostgreSQL
========  ===============================================  ======================================
Text      text, ordered by its UTF-8                       text with the collation ``C``, the same order
Number    integer or real                                  numeric
Json      JSON as text                                     json, not jsonb: that refuses ``\u0000`` and rewrites numbers
Tags      JSON as text                                     text[]
Time      text, ``2026-01-01T00:00:00.000000``, in UTC     timestamp without time zone, in UTC
========  ===============================================  ======================================

An index that serves a list goes on with the columns that the list is ordered by, so nothing is sorted. One on a column that is
mostly null covers only the rows where it is not. Events have few indexes: each is paid for by every append.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import JSON, NUMERIC, BigInteger, Column, Double, Index, MetaData, Table, TypeDecorator, UniqueConstraint
from sqlalchemy import Text as PlainText
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine, UserDefinedType

from asm.core.freezing import LEAST, MOST

__all__ = ["METADATA", "artifacts", "deletions", "events", "moment", "runs", "sequences", "sessions"]


def moment(value: datetime, dialect: str) -> Any:
    """Return an aware time as the driver of a kind of database takes it."""
    in_utc = value.astimezone(UTC).replace(tzinfo=None)
    return in_utc if dialect == "postgresql" else in_utc.isoformat(timespec="microseconds")


class Time(TypeDecorator[datetime]):
    """A moment in UTC with microseconds. On SQLite it is text that sorts as the moments do."""

    impl = PlainText
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type of the column."""
        return dialect.type_descriptor(postgresql.TIMESTAMP() if dialect.name == "postgresql" else PlainText())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Turn an aware time into what is stored."""
        return None if value is None else moment(value, dialect.name)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Turn what is stored into an aware time. Text may have a space for the T, and say that it is in UTC.

        What is no time stays as it is: only who reads the row can say which one it is in.
        """
        if value is None:
            return None
        try:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, TypeError, OverflowError):  # a file that is damaged may hold anything in any column
            return value  # type: ignore[no-any-return]


class Number(TypeDecorator[float]):
    """An integer or a float, each exactly."""

    impl = NUMERIC
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type of the column."""
        return dialect.type_descriptor(postgresql.NUMERIC() if dialect.name == "postgresql" else _Affine())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        """Turn a number into what is stored. None is infinite: a sum may be."""
        if value is None:
            return None
        value = max(-sys.float_info.max, min(sys.float_info.max, value))
        if dialect.name == "postgresql":
            return Decimal(int(value)) if value == int(value) else Decimal(repr(value))
        return value if isinstance(value, float) or LEAST <= value <= MOST else float(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        """Turn what is stored into a number."""
        if not isinstance(value, Decimal):
            return value  # type: ignore[no-any-return]
        return int(value) if value == value.to_integral_value() else float(value)


class _Affine(UserDefinedType[Any]):
    """The type of a column in which SQLite keeps integers and floats as they are."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        """Return the name of the type."""
        return "NUMERIC"


Text: Final = PlainText().with_variant(postgresql.TEXT(collation="C"), "postgresql")
Json: Final = JSON(none_as_null=True)
Tags: Final = JSON(none_as_null=True).with_variant(postgresql.ARRAY(PlainText()), "postgresql")

METADATA: Final = MetaData()


def _partial(name: str, table: Table, *columns: str, where: str | None = None) -> None:
    """Give a table an index of the rows in which a column is not null.

    :param where: which column; the first one of the index unless given.
    """
    condition = table.c[where or columns[0]].is_not(None)
    Index(name, *(table.c[column] for column in columns), sqlite_where=condition, postgresql_where=condition)


sessions: Final = Table(
    "asm_sessions",
    METADATA,
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
    Index("asm_sessions_by_status", "status", "created_at", "id"),
    Index("asm_sessions_by_agent", "agent_id", "created_at", "id"),
    Index("asm_sessions_by_created", "created_at", "id"),
    Index("asm_sessions_by_updated", "updated_at", "id"),
    Index("asm_sessions_by_status_updated", "status", "updated_at", "id"),
    Index("asm_sessions_by_agent_updated", "agent_id", "updated_at", "id"),
)
_partial("asm_sessions_by_parent", sessions, "parent_session_id", "updated_at", "id")
_partial("asm_sessions_by_deleted", sessions, "updated_at", "id", where="deleted_at")

runs: Final = Table(
    "asm_runs",
    METADATA,
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
    # What the token_usage comes to (asm.adapters.totals), because a list is ordered by it. No field of a run.
    Column("tokens", Number, nullable=False, server_default="0"),
    Index("asm_runs_by_status", "session_id", "status", "started_at", "id"),
    Index("asm_runs_by_session", "session_id", "started_at", "id"),
    Index("asm_runs_by_started", "started_at", "id"),
    Index("asm_runs_by_tokens", "tokens", "id"),
)
_partial("asm_runs_by_provider", runs, "provider", "started_at", "id")

events: Final = Table(
    "asm_events",
    METADATA,
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
    Index("asm_events_by_type", "session_id", "type", "sequence_number"),
    Index("asm_events_by_timestamp", "timestamp"),
)
# These begin with what may be asked for in all sessions at once.
_partial("asm_events_by_run", events, "run_id", "session_id", "sequence_number")
_partial("asm_events_by_correlation", events, "correlation_id", "session_id", "sequence_number")

sequences: Final = Table(
    "asm_session_sequences",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("last_sequence", BigInteger, nullable=False),
    Column("updated_at", Time, nullable=False),
    # What is left of a session that was deleted; see asm.adapters.sql.deletions.
    Column("removed_through", BigInteger),
    Column("deleted_through", BigInteger),
    # How many of its events were deleted one by one, and left a gap; nothing while none was.
    Column("deleted_events", BigInteger),
)
_partial("asm_session_sequences_by_deleted", sequences, "session_id", where="deleted_through")

deletions: Final = Table(
    # Which events of sessions are deleted and still there; see asm.adapters.sql.deletions.
    "asm_event_deletions",
    METADATA,
    Column("session_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("through", BigInteger, nullable=False),
    Column("run_id", Text),
    Column("type", Text),
)

artifacts: Final = Table(
    "asm_artifacts",
    METADATA,
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
)
