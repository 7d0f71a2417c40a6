"""The third version: which events of a session are deleted, and how many were."""

# ruff: noqa: D103  # what the functions do is Alembic's to say

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column

from asm.adapters.sql.tables import Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "asm_event_deletions",
        Column("session_id", Text, primary_key=True),
        Column("id", Text, primary_key=True),
        Column("through", BigInteger, nullable=False),
        Column("run_id", Text),
        Column("type", Text),
    )
    op.add_column("asm_session_sequences", Column("deleted_events", BigInteger))
