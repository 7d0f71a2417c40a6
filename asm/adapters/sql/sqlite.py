"""What is particular to SQLite: its files, the settings of its connections, and its errors.

A database is in WAL mode, so reads run beside the one writer, and ``synchronous=FULL``, so what was committed survives a
power loss. Transactions are begun by us, not by the driver: a write takes the lock at its beginning (``BEGIN
IMMEDIATE``), because a transaction that reads first and wants to write later can be refused, whatever its patience. A
read is one statement and needs no transaction.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from asm.adapters.directories import check_place, make_directories, sync_directory
from asm.adapters.sql.failures import OUTDATED, READ_FAILED, WRITE_FAILED, Failure, Trouble
from asm.adapters.sql.inherited import forget, watch
from asm.core import checks
from asm.core.errors import Error

__all__ = ["check_url", "failure", "make_file", "options", "prepare", "trouble"]

BUSY_SLICE: Final = 0.1
"""Seconds that SQLite itself waits for a lock. How often that is repeated is up to the caller."""


FAILURES: Final = {
    sqlite3.SQLITE_BUSY: Failure("storage_error", "database_locked", "is locked by another process"),
    sqlite3.SQLITE_LOCKED: Failure("storage_error", "database_locked", "is locked by another connection"),
    sqlite3.SQLITE_FULL: Failure("storage_write_failed", "disk_full", "has no space left to grow"),
    sqlite3.SQLITE_READONLY: Failure("storage_write_failed", "read_only", "cannot be written to"),
    sqlite3.SQLITE_CORRUPT: Failure("storage_read_failed", "corrupt", "is damaged; restore it from a backup"),
    sqlite3.SQLITE_NOTADB: Failure("storage_read_failed", "not_a_database", "is no SQLite database; choose another file"),
    sqlite3.SQLITE_CANTOPEN: Failure("storage_connection_failed", "cannot_open", "cannot be opened"),
    sqlite3.SQLITE_PERM: Failure("storage_connection_failed", "cannot_open", "cannot be opened"),
}
"""What the primary result codes of SQLite mean. See https://sqlite.org/rescode.html."""


MISSING: Final = ("no such table", "no such column", "has no column")
"""How SQLite says that tables or columns are missing: the code is that of any error in SQL."""


def check_url(url: URL) -> URL:
    """Check that the URL is of a file that can be written to, or could be made; return it with an absolute path.

    :raises Error: ``validation_error``.
    """
    form = "sqlite:///relative/path.db or sqlite:////absolute/path.db"
    if url.host or url.username or url.port:
        checks.refuse("url", f"has no file: the path begins after the third slash, as in {form}")
    if not url.database or ":memory:" in url.database:
        checks.refuse("url", f'names no file; it must be {form}. To keep sessions in memory only, use the store "memory"')
    if url.database.startswith("file:") or url.query:
        checks.refuse("url", f"must be {form}, without parameters")
    path = Path(url.database)
    check_place(path.parent, "url")
    if path.exists() and not path.is_file():
        checks.refuse("url", f"names {path}, which is no file", path=str(path))
    return url.set(database=str(path.absolute()))


def make_file(path: Path) -> None:
    """Make an empty database file and the missing directories above it, readable by their owner only, if there is none.

    :raises Error: ``storage_connection_failed``.
    """
    try:
        make_directories(path.parent)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            sync_directory(path.parent)
    except OSError as error:
        details = {"reason": "cannot_open", "path": str(path), "cause": str(error)}
        raise Error(
            "storage_connection_failed", f"the database file {path} cannot be made: {error}", details=details
        ) from error


def options(_url: URL, _patience: float, *, writing: bool, readers: int) -> dict[str, Any]:
    """Return what an engine is made with. Those who read are as many as there are: a file refuses none."""
    return {
        "connect_args": {"timeout": BUSY_SLICE, "check_same_thread": False},
        "pool_size": 1 if writing else readers,
        "max_overflow": 0 if writing else -1,
        **({} if writing else {"isolation_level": "AUTOCOMMIT"}),
    }


def prepare(engine: Engine, _patience: float, *, writing: bool) -> None:
    """Have every connection of an engine set up. Whoever waits for a lock asks for it again and again.

    :param writing: whether the connections write, or are to refuse writing.
    """
    watch(engine)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        try:
            _set_up(connection, writing=writing)
        except BaseException:
            forget(connection)
            connection.close()  # the pool would leave it to the garbage collector
            raise

    if writing:

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up(connection: sqlite3.Connection, *, writing: bool) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    if not writing:
        connection.execute("PRAGMA query_only = ON")
        return
    connection.execute("PRAGMA synchronous = FULL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        message = f"the database cannot be switched to WAL mode, it stays in {mode!r}; keep it on a local file system"
        raise Error("storage_error", message, details={"reason": "no_wal"})


def trouble(error: BaseException) -> Trouble:
    """Tell what may be done about an error of SQLAlchemy's."""
    if _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Trouble.BUSY
    return Trouble.CONFLICT if isinstance(error, IntegrityError) else Trouble.FINAL


def failure(error: BaseException, *, writing: bool) -> Failure | None:
    """Return what an error of SQLAlchemy's means; ``None`` for one that has no meaning of its own."""
    code = _primary_code(error)
    if code == sqlite3.SQLITE_IOERR:
        return WRITE_FAILED if writing else READ_FAILED
    if code == sqlite3.SQLITE_ERROR and any(text in str(error) for text in MISSING):
        return OUTDATED
    return FAILURES.get(code)


def _primary_code(error: BaseException) -> int:
    """Return the result code of SQLite without what extends it; 0 where there is none."""
    return int(getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)) & 0xFF
