"""The connections to a database, and the two ways in.

::

    transaction()   ──► one connection, one user at a time ──► begin ─► statements ─► commit
    read(function)  ──► a connection of its own            ──► function(connection), one statement

What the driver raises is turned into our errors here. What has failed for a reason that passes is tried again, so a
function may be called more than once, and must change nothing but the database.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool, QueuePool

from asm.adapters.encoding import dumps
from asm.adapters.sql import postgres, sqlite, urls
from asm.adapters.sql.failures import Failure, Trouble
from asm.adapters.sql.files import Files, make_file
from asm.core.errors import Error

__all__ = ["Database", "Patience"]

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")

PAUSE: Final = 0.01
"""Seconds between two attempts at a lock. Nobody tells when another process gives it back."""

ATTEMPTS: Final = 3
"""How many times something is repeated because the connection broke, or because somebody else wrote at the same time."""

CONNECTING: Final = 1.0
"""Seconds after which nobody tries to connect again. One attempt at a server that does not answer takes longer."""

TROUBLES: Final[dict[Any, Trouble]] = {"database_replaced": Trouble.REPLACED, "conflict": Trouble.CONFLICT}
"""What may be done about an error of our own, by the reason that it gives."""

HIDDEN: Final = "***"


class Patience:
    """Decides whether what failed is tried again.

    :param deadline: the ``time.monotonic()`` until which to wait for a lock of somebody else's.
    """

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._connecting = time.monotonic() + CONNECTING
        self._attempts = {Trouble.FINAL: 0, Trouble.REPLACED: 0, Trouble.UNFIT: 1, Trouble.FULL: 1}

    def allows(self, trouble: Trouble) -> bool:
        """Tell whether to try again, after a pause where one is needed."""
        if trouble is Trouble.BUSY:
            if time.monotonic() >= self._deadline:
                return False
            time.sleep(PAUSE)
            return True
        left = self._attempts.setdefault(trouble, ATTEMPTS)
        self._attempts[trouble] = left - 1
        return left > 0 and (trouble is not Trouble.AWAY or time.monotonic() < self._connecting)


class Database:
    """One database.

    :param url: from :func:`~asm.adapters.sql.urls.parse_url`.
    :param patience: seconds to wait for a lock that another process holds.
    :param readers: how many connections those who read keep; with PostgreSQL, the most that they use.
    :param create: whether a SQLite file and its directories are made if they are missing.
    :param prepared: whether statements are prepared under names on a PostgreSQL server.
    :param listen_url: where a PostgreSQL server is listened to, if that is another way than ``url``.
    :raises Error: ``storage_connection_failed``, or another storage error that tells why it cannot be used; with ``away`` in
        its details where it passes by itself.
    """

    def __init__(
        self,
        url: URL,
        patience: float,
        readers: int = 5,
        *,
        create: bool = True,
        prepared: bool = False,
        listen_url: URL | None = None,
    ) -> None:
        self.backend = url.get_backend_name()
        self.patience = patience
        self.name = urls.shown(url)
        self.sender = os.urandom(8).hex()
        """What this database calls itself in what it tells others of its appends."""
        self._listen_url = url if listen_url is None else listen_url
        self.listen_name = urls.shown(self._listen_url)
        self._secrets = [*urls.secrets(url), *urls.secrets(self._listen_url)]
        self._particulars = urls.PARTICULARS[self.backend]
        self._generation = 0
        """Counts how often connections turned out to be of no use, upon which none that is older is used again."""
        self._files: Files | None = None
        if self.backend == "sqlite":
            make_file(Path(str(url.database)), create=create)
            self._files = Files(str(url.database))
        self._writer = self._engine(url, writing=True, readers=readers, prepared=prepared)
        self._readers = self._engine(url, writing=False, readers=readers, prepared=prepared)
        try:
            self._patiently(lambda: self._writer.connect().close(), writing=True)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Begin a transaction on the connection that writes; leaving the block commits or rolls back.

        One at a time: a second one waits for the first to end. What the driver raises comes through as it is;
        see :meth:`trouble` and :meth:`error`.

        :raises Error: when the database is not the one that was opened; at the end that means that nothing was kept.
        """
        self._check_files(writing=True)
        with self._writer.begin() as connection:
            yield connection
        self._check_files(writing=True)

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
            self._check_files(writing=False)
            with self._readers.connect() as connection:
                return function(connection)

        return self._patiently(attempt, writing=False)

    def ping(self) -> None:
        """Ask the database for a sign of life.

        :raises Error: why it gives none.
        """
        pool = self._readers.pool
        if isinstance(pool, QueuePool) and pool.checkedout() >= pool.size() > 0 and self.backend == "postgresql":
            return  # all who may ask are asking already
        question = "PRAGMA schema_version" if self.backend == "sqlite" else "SELECT 1"
        self.read(lambda connection: connection.execute(text(question)).scalar())

    def wal_bytes(self) -> int:
        """Return how long the write-ahead log of a SQLite database is."""
        return 0 if self._files is None else self._files.wal_bytes()

    def make_room(self) -> None:
        """Have a SQLite database write what is in its write-ahead log to its place, which takes less of a full disk.

        By the thread that writes, between two transactions. What keeps it from that is no failure: it comes again.
        """
        if self._files is None:
            return
        try:
            self._check_files(writing=True)
            with self._writer.connect() as connection:
                sqlite.checkpoint(connection.connection.driver_connection)  # type: ignore[arg-type]
        except (Error, sqlite3.Error, SQLAlchemyError) as error:
            _log.debug("the write-ahead log could not be emptied: %s", error)

    def file_bytes(self) -> int:
        """Return how long the files of a SQLite database are."""
        return 0 if self._files is None else self._files.file_bytes()

    def compact(self) -> None:
        """Have a SQLite database give back what nothing uses, in steps that hold nobody up for long.

        A file that an earlier version made can do so only when it was written anew once. That is done if it is small.
        """
        if self.read(sqlite.gives_back):
            while self.write(sqlite.give_back):
                pass
        elif self.read(sqlite.is_small):
            self._patiently(self._vacuum, writing=True)
        else:
            how = f"sqlite3 {self._readers.url.database} 'PRAGMA auto_vacuum = INCREMENTAL; VACUUM'"
            _log.warning("%s is too large to be written anew while others wait; when it is not in use, run: %s", self.name, how)
        self.make_room()

    def _vacuum(self) -> None:
        self._check_files(writing=True)
        with self._writer.connect() as connection:
            try:
                sqlite.vacuum(connection.connection.driver_connection)  # type: ignore[arg-type]
            except sqlite3.Error as error:
                raise OperationalError("VACUUM", None, error) from error

    def listen(self) -> Connection:
        """Connect to a PostgreSQL server to listen to it. The connection belongs to the caller, who closes it.

        :raises SQLAlchemyError: when that failed.
        """
        engine = create_engine(self._listen_url, poolclass=NullPool, **postgres.listening(self._listen_url))
        return engine.connect()

    def close(self) -> None:
        """Close the connections, the writer's last: the last to leave a SQLite database tidies it up, and must be able to."""
        self._readers.dispose()
        self._writer.dispose()

    def trouble(self, error: BaseException) -> Trouble:
        """Tell what may be done about what an attempt raised."""
        if not isinstance(error, SQLAlchemyError):
            return TROUBLES.get(error.details.get("reason"), Trouble.FINAL) if isinstance(error, Error) else Trouble.FINAL
        found: Trouble = self._particulars.trouble(error)
        return found

    def error(self, error: BaseException, *, writing: bool, name: str | None = None) -> BaseException:
        """Return what to raise for what an attempt raised: an error of ours, with the cause chained.

        :param name: what to call the database.
        """
        name = self.name if name is None else name
        if not isinstance(error, SQLAlchemyError):
            return error
        cause = self._without_secrets(str(getattr(error, "orig", None) or error))
        meaning: Failure | None = self._particulars.failure(error, writing=writing)
        if meaning is None and isinstance(error, PoolTimeoutError):
            meaning = Failure("storage_error", "overloaded", "has no connection free")
        elif meaning is None:
            code = "storage_write_failed" if writing else "storage_read_failed"
            meaning = Failure(code, "refused", f"refused to {'write' if writing else 'read'}")
        details: dict[str, Any] = {"reason": meaning.reason, "database": name, "cause": cause}
        if meaning.away:
            details["away"] = True
        made = Error(meaning.code, f"the database {name} {meaning.sentence}: {cause}", details=details)
        made.__cause__ = error
        return made

    def _engine(self, url: URL, *, writing: bool, readers: int, prepared: bool) -> Engine:
        """Make one of the two engines."""
        engine = create_engine(
            url,
            poolclass=QueuePool,
            json_serializer=dumps,
            json_deserializer=_decoded,
            hide_parameters=True,  # what users store does not belong into tracebacks
            execution_options={"sender": self.sender},
            **self._particulars.options(url, self.patience, writing=writing, readers=readers, prepared=prepared),
        )
        self._particulars.prepare(engine, self.patience, writing=writing, prepared=prepared)

        @event.listens_for(engine, "connect")
        def connected(_connection: Any, record: Any) -> None:
            record.info["generation"] = self._generation
            if writing and self._files is not None:
                self._files.note()

        @event.listens_for(engine, "checkout")
        def checked_out(_connection: Any, record: Any, _proxy: Any) -> None:
            if record.info["generation"] != self._generation:
                raise DisconnectionError

        @event.listens_for(engine, "handle_error")
        def failed(context: ExceptionContext) -> None:
            if context.sqlalchemy_exception and self.trouble(context.sqlalchemy_exception) is Trouble.UNFIT:
                # Those who read may be connected to what is of no use, too, and would not notice.
                self._generation += 1
                context.is_disconnect = True

        return engine

    def _check_files(self, *, writing: bool) -> None:
        """See whether a SQLite database is the one that was opened."""
        if self._files is not None:
            self._files.check(writing=writing)

    def _patiently(self, attempt: Callable[[], T], *, writing: bool) -> T:
        """Make the attempt until it succeeds, or there is no use in another."""
        patience = Patience(time.monotonic() + self.patience)
        while True:
            try:
                return attempt()
            except SQLAlchemyError as error:
                if not patience.allows(trouble := self.trouble(error)):
                    raise self.error(error, writing=writing) from error
                if trouble is Trouble.FULL:
                    self.make_room()

    def _without_secrets(self, text: str) -> str:
        """Take passwords out of what a driver says. None is known to show one; it costs nothing to be sure."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _decoded(text: str) -> Any:
    """Decode JSON. What is none stays text: only who reads the row can say which one it is in."""
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return text
