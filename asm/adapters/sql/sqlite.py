"""What is particular to SQLite: its files, the settings of its connections, and its errors.

A database is in WAL mode, so reads run beside the one writer, and ``synchronous=FULL``, so what was committed survives a
power loss. Transactions are begun by us, not by the driver: a write takes the lock at its beginning (``BEGIN
IMMEDIATE``), because a transaction that reads first and wants to write later can be refused, whatever its patience. A
read is one statement and needs no transaction.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import IntegrityError

from asm.adapters.directories import check_place
from asm.adapters.sql.failures import OUTDATED, READ_FAILED, WRITE_FAILED, Failure, Trouble
from asm.adapters.sql.inherited import forget, watch
from asm.core import checks
from asm.core.errors import Error

__all__ = [
    "check_url",
    "checkpoint",
    "failure",
    "give_back",
    "gives_back",
    "integrity",
    "is_small",
    "options",
    "prepare",
    "trouble",
    "vacuum",
]

BUSY_SLICE: Final = 0.1
"""Seconds that SQLite itself waits for a lock. How often that is repeated is up to the caller."""

WAL_BYTES: Final = 16 * 1024 * 1024
"""What the write-ahead log is cut to when it has grown beyond: while somebody reads for long it cannot begin anew, and grows.
When nobody does, it has a quarter of that."""

INCREMENTAL: Final = 2
"""How a file is called that gives back pages in steps …"""

PAGES: Final = 1000
"""… and how many in one."""

SMALL: Final = 256 * 1024 * 1024
"""How many bytes are written anew in a second or two."""

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


def check_url(url: URL, text: str, field: str) -> URL:
    """Check that the URL is of a file that can be written to, or could be made; return it with an absolute path.

    :param text: the URL as it was given: what it means in the eyes of others may be another file.

    :raises Error: ``validation_error``.
    """
    form = "sqlite:///relative/path.db or sqlite:////absolute/path.db"
    if url.host or url.username or url.port:
        checks.refuse(field, f"has no file: the path begins after the third slash, as in {form}")
    if not url.database or ":memory:" in url.database:
        checks.refuse(field, f'names no file; it must be {form}. To keep sessions in memory only, use the store "memory"')
    if url.database.startswith("file:") or "?" in text:
        checks.refuse(field, f'must be {form}, without parameters; a path with a "?" cannot be used, choose another')
    if found := re.search("%[0-9A-Fa-f]{2}", text):
        problem = f"has {found[0]!r}, which some take for one character and some for three"
        checks.refuse(field, f"{problem}: write the character itself, or choose another path")
    path = Path(url.database)
    check_place(path.parent, field)
    if path.exists() and not path.is_file():
        checks.refuse(field, f"names {path}, which is no file", path=str(path))
    return url.set(database=str(path.absolute()))


def options(_url: URL, _patience: float, *, writing: bool, readers: int, prepared: bool = False) -> dict[str, Any]:  # noqa: ARG001
    """Return what an engine is made with. Those who read are as many as there are: a file refuses none."""
    return {
        "connect_args": {"timeout": BUSY_SLICE, "check_same_thread": False},
        "pool_size": 1 if writing else readers,
        "max_overflow": 0 if writing else -1,
        **({} if writing else {"isolation_level": "AUTOCOMMIT"}),
    }


def prepare(engine: Engine, _patience: float, *, writing: bool, prepared: bool = False) -> None:  # noqa: ARG001
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
    if connection.execute("PRAGMA page_count").fetchone() == (0,):
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # which a file can only begin with
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        message = f"the database cannot be switched to WAL mode, it stays in {mode!r}; keep it on a local file system"
        raise Error("storage_error", message, details={"reason": "no_wal"})
    connection.execute("PRAGMA schema_version")  # reads, and so opens the files beside the database


def checkpoint(connection: sqlite3.Connection) -> None:
    """Write what is in the write-ahead log to the database, as far as nobody reads it, and empty the log if it is all of it."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(BUSY_SLICE * 1000)}")


def integrity(connection: Connection) -> list[str]:
    """Return what SQLite finds wrong with its file."""
    found = connection.exec_driver_sql("PRAGMA integrity_check(100)").scalars().all()
    return [] if found == ["ok"] else [f"SQLite: {problem}" for problem in found]


def gives_back(connection: Connection) -> bool:
    """Tell whether the file is of such a form that pages can be given back in steps."""
    return connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() == INCREMENTAL


def give_back(connection: Connection) -> bool:
    """Give back some of the pages that nothing uses; return whether there are more."""
    connection.connection.driver_connection.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()  # type: ignore[union-attr]
    return bool(connection.exec_driver_sql("PRAGMA freelist_count").scalar())


def is_small(connection: Connection) -> bool:
    """Tell whether the file can be written anew while others wait."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()) for name in names)
    return (pages - free) * size <= SMALL


def vacuum(connection: sqlite3.Connection) -> None:
    """Write the database anew without the pages that nothing uses, in such a form that they can be given back in steps."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("VACUUM")


def trouble(error: BaseException) -> Trouble:
    """Tell what may be done about an error of SQLAlchemy's."""
    code = _primary_code(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Trouble.BUSY
    if code == sqlite3.SQLITE_READONLY:  # what a connection learnt of its file when it was made, it never looks up again
        return Trouble.UNFIT
    if code == sqlite3.SQLITE_FULL:
        return Trouble.FULL
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
