"""The connections to a database, and the two ways in.

::

    transaction()   ──► one connection, one user at a time ──► begin ─► statements ─► commit
    read(function)  ──► a connection of its own            ──► function(connection), one statement

What the driver raises is turned into our errors here. What has failed for a reason that passes is tried again, so a
function may be called more than once, and must change nothing but the database.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool

from asm.adapters.sql import postgres, sqlite
from asm.adapters.sql.failures import Failure, Trouble
from asm.core import checks
from asm.core.errors import Error

__all__ = ["Database", "Patience", "parse_url"]

T = TypeVar("T")

DRIVERS: Final = {"sqlite": "pysqlite", "postgresql": "psycopg"}
"""The databases that can be used, and the driver of each."""

PARTICULARS: Final[dict[str, ModuleType]] = {"sqlite": sqlite, "postgresql": postgres}
"""Where the particulars of each are. All of the modules have the same functions."""

PAUSE: Final = 0.01
"""Seconds between two attempts at a lock. Nobody tells when another process gives it back."""

ATTEMPTS: Final = 3
"""How many times something is repeated because the connection broke, or because somebody else wrote at the same time."""

ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))

HIDDEN: Final = "***"


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
        checks.refuse(
            "url", "is no URL of a database; one looks like sqlite:///path/to/file.db or postgresql://user:password@host/name"
        )
    backend, _, driver = parsed.drivername.partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    if driver not in ("", DRIVERS.get(backend)) or backend not in DRIVERS:
        known = ", ".join(f"{name}:// ({driver})" for name, driver in DRIVERS.items())
        checks.refuse("url", f"begins with {parsed.drivername!r}, which is not supported; use one of: {known}")
    particulars = PARTICULARS[backend]
    if backend == "postgresql" and importlib.util.find_spec(DRIVERS[backend]) is None:
        package, remedy = DRIVERS[backend], 'pip install "asm-store[postgres]"'
        message = f"{backend} needs the package {package!r}, which is not installed; to install: {remedy}"
        raise Error("dependency_not_available", message, details={"package": package, "install": remedy})
    checked: URL = particulars.check_url(parsed)
    return checked.set(drivername=f"{backend}+{DRIVERS[backend]}")


class Patience:
    """Decides whether what failed is tried again.

    :param deadline: the ``time.monotonic()`` until which to wait for a lock of somebody else's.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._attempts = 0

    def allows(self, trouble: Trouble) -> bool:
        """Tell whether to try again, after a pause where one is needed."""
        if trouble is Trouble.BUSY:
            if time.monotonic() >= self._deadline:
                return False
            time.sleep(PAUSE)
            return True
        self._attempts += 1
        return trouble is not Trouble.FINAL and self._attempts <= ATTEMPTS


class Database:
    """One database.

    :param url: from :func:`parse_url`. A SQLite file and its directories are made if they are missing.
    :param patience: seconds to wait for a lock that another process holds.
    :param readers: how many connections those who read keep; with PostgreSQL, the most that they use.
    :raises Error: ``storage_connection_failed``, or another storage error that tells why it cannot be used.
    """

    def __init__(self, url: URL, patience: float, readers: int = 5) -> None:
        self.backend = url.get_backend_name()
        self.patience = patience
        self.name = url.difference_update_query([name for name in url.query if "password" in name]).render_as_string()
        self._secrets = [str(url.password)] if url.password else []
        self._particulars = PARTICULARS[self.backend]
        if self.backend == "sqlite":
            sqlite.make_file(Path(str(url.database)))
        self._writer = self._engine(url, writing=True, readers=readers)
        self._readers = self._engine(url, writing=False, readers=readers)
        self.writer_pid: int | None = None
        """The process of a PostgreSQL server that serves the connection that writes."""
        if self.backend == "postgresql":
            event.listen(self._writer, "connect", self._note_pid)
        try:
            self._patiently(lambda: self._writer.connect().close(), writing=True)
        except BaseException:
            self.close()
            raise

    def transaction(self) -> AbstractContextManager[Connection]:
        """Begin a transaction on the connection that writes; leaving the block commits or rolls back.

        One at a time: a second one waits for the first to end. What the driver raises comes through as it is;
        see :meth:`trouble` and :meth:`error`.
        """
        return self._writer.begin()

    def write(self, function: Callable[[Connection], T]) -> T:
        """Call the function in a transaction, and return its result after the commit.

        :raises Error: what the function raised, or what became of an error of the driver. Nothing was changed then,
            unless the connection broke during the commit.
        """

        def attempt() -> T:
            with self.transaction() as connection:
                return function(connection)

        return self._patiently(attempt, writing=True)

    def read(self, function: Callable[[Connection], T]) -> T:
        """Call the function, which makes queries, and return its result.

        :raises Error: as :meth:`write`.
        """

        def attempt() -> T:
            with self._readers.connect() as connection:
                return function(connection)

        return self._patiently(attempt, writing=False)

    def connect(self) -> Connection:
        """Return a connection that commits every statement by itself and belongs to the caller alone, who closes it.

        :raises Error: as :meth:`write`.
        """

        def attempt() -> Connection:
            connection = self._readers.connect()
            connection.detach()
            return connection

        return self._patiently(attempt, writing=False)

    def close(self) -> None:
        """Close the connections, the writer's last: the last to leave a SQLite database tidies it up, and must be able to."""
        self._readers.dispose()
        self._writer.dispose()

    def trouble(self, error: BaseException) -> Trouble:
        """Tell what may be done about what an attempt raised."""
        if not isinstance(error, SQLAlchemyError):
            return Trouble.FINAL
        found: Trouble = self._particulars.trouble(error)
        return found

    def error(self, error: BaseException, *, writing: bool) -> BaseException:
        """Return what to raise for what an attempt raised: an error of ours, with the cause chained."""
        if not isinstance(error, SQLAlchemyError):
            return error
        cause = self._without_secrets(str(getattr(error, "orig", None) or error))
        meaning: Failure | None = self._particulars.failure(error, writing=writing)
        if meaning is None and isinstance(error, PoolTimeoutError):
            meaning = Failure("storage_error", "overloaded", "has no connection free")
        elif meaning is None:
            code = "storage_write_failed" if writing else "storage_read_failed"
            meaning = Failure(code, "refused", f"refused to {'write' if writing else 'read'}")
        details = {"reason": meaning.reason, "database": self.name, "cause": cause}
        made = Error(meaning.code, f"the database {self.name} {meaning.sentence}: {cause}", details=details)
        made.__cause__ = error
        return made

    def _engine(self, url: URL, *, writing: bool, readers: int) -> Engine:
        """Make one of the two engines."""
        engine = create_engine(
            url,
            poolclass=QueuePool,
            json_serializer=ENCODER.encode,
            hide_parameters=True,  # what users store does not belong into tracebacks
            **self._particulars.options(url, self.patience, writing=writing, readers=readers),
        )
        self._particulars.prepare(engine, self.patience, writing=writing)
        return engine

    def _note_pid(self, connection: Any, _record: Any) -> None:
        self.writer_pid = connection.info.backend_pid

    def _patiently(self, attempt: Callable[[], T], *, writing: bool) -> T:
        """Make the attempt until it succeeds, or there is no use in another."""
        patience = Patience(time.monotonic() + self.patience)
        while True:
            try:
                return attempt()
            except SQLAlchemyError as error:
                if not patience.allows(self.trouble(error)):
                    raise self.error(error, writing=writing) from error

    def _without_secrets(self, text: str) -> str:
        """Take passwords out of what a driver says. None is known to show one; it costs nothing to be sure."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text
