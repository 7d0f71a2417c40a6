"""The connections to a database, and the two ways in.

::

    write(function) ──► one connection, one at a time ──► begin ─► function(connection) ─► commit
    read(function)  ──► a connection of its own       ──► function(connection), one statement

What the driver raises is turned into our errors here. A lock that another process holds is waited for until the
caller's patience ends. A function may therefore be called more than once, and must change nothing but the database.
"""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, inspect, make_url
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from asm.adapters.sql import sqlite
from asm.adapters.sql.tables import METADATA
from asm.core import checks
from asm.core.errors import Error

__all__ = ["Database", "parse_url"]

T = TypeVar("T")

DRIVERS: Final = {"sqlite": "pysqlite", "postgresql": "psycopg"}
"""The databases that can be used, and the driver of each."""

PAUSE: Final = 0.01
"""Seconds between two attempts at a lock. Nobody tells when another process gives it back."""

CONFLICTS: Final = 3
"""How many times a write is repeated because another process stored the same id at the same time."""


def parse_url(url: Any) -> URL:
    """Check the URL of a database, and name its driver.

    :raises Error: ``validation_error``, which never shows the URL itself because that may hold a password;
        ``dependency_not_available`` when its driver is not installed.
    """
    text = checks.identifier(url, "url")
    try:
        parsed = make_url(text)
    except (SQLAlchemyError, ValueError):
        parsed = None
    if parsed is None:
        checks.refuse("url", "is no URL of a database; one looks like sqlite:///path/to/file.db")
    backend, _, driver = parsed.drivername.partition("+")
    if driver not in ("", DRIVERS.get(backend)) or backend not in DRIVERS:
        known = ", ".join(f"{name}:// ({driver})" for name, driver in DRIVERS.items())
        checks.refuse("url", f"begins with {parsed.drivername!r}, which is not supported; use one of: {known}")
    if backend == "sqlite":
        sqlite.check_url(parsed)
        return parsed.set(drivername="sqlite+pysqlite", database=str(Path(str(parsed.database)).absolute()))
    if importlib.util.find_spec(DRIVERS[backend]) is None:
        package, remedy = DRIVERS[backend], f'pip install "{DRIVERS[backend]}[binary]"'
        message = f"{backend} needs the package {package!r}, which is not installed; to install: {remedy}"
        raise Error("dependency_not_available", message, details={"package": package, "install": remedy})
    return parsed.set(drivername=f"{backend}+{DRIVERS[backend]}")


class Database:
    """One database, with the tables of this package.

    :param url: from :func:`parse_url`. A SQLite file, its directories and the tables are made if they are missing.
    :param patience: seconds to wait for a lock that another process holds.
    :raises Error: ``storage_connection_failed``, ``storage_read_failed``, ``storage_write_failed`` or ``storage_error``.
    """

    def __init__(self, url: URL, patience: float) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._patience = patience
        self._lock = threading.Lock()
        self._is_sqlite = url.get_backend_name() == "sqlite"
        if self._is_sqlite:
            sqlite.make_file(Path(str(url.database)))
        self._writer = self._engine(url, writing=True)
        self._readers = self._engine(url, writing=False)
        try:
            self._make_tables()
        except BaseException:
            self.close()
            raise

    def write(self, function: Callable[[Connection], T]) -> T:
        """Call the function in a transaction, and return its result after the commit.

        :raises Error: what the function raised, or what became of an error of the driver. Nothing was changed then.
        """

        def attempt() -> T:
            with self._writer.begin() as connection:
                return function(connection)

        deadline = time.monotonic() + self._patience
        with self._lock:
            return self._patiently(attempt, deadline, writing=True)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Call the function, which makes one query, and return its result.

        :raises Error: as :meth:`write`.
        """

        def attempt() -> T:
            with self._readers.connect() as connection:
                return function(connection)

        return self._patiently(attempt, time.monotonic() + self._patience, writing=False)

    def close(self) -> None:
        """Close the connections, the writer's last: the last to leave a SQLite database tidies it up, and must be able to."""
        with self._lock:
            self._readers.dispose()
            self._writer.dispose()

    def _engine(self, url: URL, *, writing: bool) -> Engine:
        """Make one of the two engines."""
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=1 if writing else 5,
            max_overflow=0 if writing else -1,
            connect_args={"timeout": sqlite.BUSY_SLICE, "check_same_thread": False} if self._is_sqlite else {},
            json_serializer=_to_json,
            hide_parameters=True,  # what users store does not belong into tracebacks
            **({} if writing else {"isolation_level": "AUTOCOMMIT"}),
        )
        if self._is_sqlite:
            sqlite.prepare(engine, writing=writing)
        return engine

    def _make_tables(self) -> None:
        """Make the tables that are missing. Where none is, the lock for writing is not asked for."""
        self._patiently(lambda: self._writer.connect().close(), time.monotonic() + self._patience, writing=True)
        present = self.read(lambda connection: set(inspect(connection).get_table_names()))
        if not present.issuperset(METADATA.tables):
            self.write(METADATA.create_all)

    def _patiently(self, attempt: Callable[[], T], deadline: float, *, writing: bool) -> T:
        """Make the attempt until it is not refused for a lock, or the time is up."""
        conflicts = 0
        while True:
            try:
                return attempt()
            except IntegrityError as error:
                conflicts += 1
                if conflicts > CONFLICTS:
                    raise self._failure(error, writing=writing) from error
            except SQLAlchemyError as error:
                if not sqlite.is_busy(getattr(error, "orig", None)) or time.monotonic() >= deadline:
                    raise self._failure(error, writing=writing) from error
                time.sleep(PAUSE)

    def _failure(self, error: SQLAlchemyError, *, writing: bool) -> Error:
        """Return the error of ours that stands for one of SQLAlchemy or of the driver."""
        cause = getattr(error, "orig", None) or error
        meaning = sqlite.failure(cause, writing=writing) if self._is_sqlite else None
        if meaning is None and isinstance(error, PoolTimeoutError):
            meaning = sqlite.Failure("storage_error", "overloaded", "has no connection free")
        elif meaning is None and not self._is_sqlite and isinstance(error, OperationalError | InterfaceError):
            meaning = sqlite.Failure("storage_connection_failed", "connection", "cannot be reached")
        elif meaning is None:
            code = "storage_write_failed" if writing else "storage_read_failed"
            meaning = sqlite.Failure(code, "refused", f"refused to {'write' if writing else 'read'}")
        details = {"reason": meaning.reason, "database": self.name, "cause": str(cause)}
        return Error(meaning.code, f"the database {self.name} {meaning.sentence}: {cause}", details=details)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
