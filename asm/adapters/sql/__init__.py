"""Sessions, runs and events in an SQL database."""

from asm.adapters.sql.store import SqlSessionStore

__all__ = ["SqlSessionStore"]
