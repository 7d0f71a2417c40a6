"""The second version: where the deletion of a session with many events stands."""

# ruff: noqa: D103  # what the functions do is Alembic's to say

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, text

revision = "0002"
down_revision = "0001"

TABLE = "asm_session_sequences"
LEFT = text("deleted_through IS NOT NULL")


def upgrade() -> None:
    op.add_column(TABLE, Column("removed_through", BigInteger))
    op.add_column(TABLE, Column("deleted_through", BigInteger))
    op.create_index("asm_session_sequences_by_deleted", TABLE, ["session_id"], sqlite_where=LEFT, postgresql_where=LEFT)
