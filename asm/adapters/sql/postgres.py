"""What is particular to PostgreSQL: the settings of its connections, and its errors.

Transactions are ``READ COMMITTED``, and that is enough, because no write relies on what it read:

- Numbers come from an upsert of the session's counter, whose row stays locked until the commit. So those who append to
  one session commit one after the other, in the order of their numbers, and no reader sees a number before a lesser one.
- Which events are stored already is read before that lock is held. If somebody stores the same id in between, the
  primary key refuses the second, and the whole transaction is made again, which then finds it.
- A deletion takes the counter's lock first. To what it deletes after that, nobody adds until it commits.

Rows are locked table by table (counters, events, sessions, runs), and by id within a table. Two writers that keep to
one order do not wait for each other in a circle; where they do all the same, the server ends one, and that one tries again.

A connection that was dropped shows at its first statement. Whatever it was for is then made again on a fresh one, so
nothing needs to ask a connection how it is before each use, which would cost every call a round trip.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import URL, Engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from asm.adapters.sql.failures import OUTDATED, READ_FAILED, WRITE_FAILED, Failure, Trouble

__all__ = ["check_url", "failure", "options", "prepare", "trouble"]

CONNECTING: Final = {
    "connect_timeout": 3,
    "client_encoding": "utf8",
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
    "application_name": "asm",
}
"""What a connection is opened with, unless the URL says otherwise. A server that is away, or that vanishes in the middle of
a statement, is noticed within a call's 5 seconds or so; one that vanishes while nothing is asked of it, within a minute."""

LIFETIME: Final = 1800
"""Seconds until a connection is replaced, so that none outlives what stands between us and the server for long."""

IDLE: Final = 10_000
"""Milliseconds after which the server ends a transaction that asks nothing of it. A process that was frozen in the middle
of one, or that lost its network, would hold up whoever writes to the same sessions; when it wakes it tries again."""

LOST: Final = ("08", "57P01", "57P02", "57P03", "25P03")
"""Connection failures, the server's shutting down and starting up, and an end to a transaction that was idle."""

CONFLICT: Final = ("40001", "40P01", "23505")
"""Serialization failures, deadlocks, and an id that somebody else stored at the same time."""

FAILURES: Final = {
    "08": Failure("storage_connection_failed", "connection", "cannot be reached"),
    "57P": Failure("storage_connection_failed", "connection", "cannot be reached: the server stops or starts"),
    "25P03": Failure("storage_connection_failed", "connection", "ended a transaction that stood still"),
    "28": Failure("storage_connection_failed", "credentials", "refuses the user or the password"),
    "3D000": Failure("storage_connection_failed", "no_database", "does not exist"),
    "53300": Failure("storage_connection_failed", "too_many_connections", "has no connection free"),
    "53100": Failure("storage_write_failed", "disk_full", "has no space left to grow"),
    "25006": Failure("storage_write_failed", "read_only", "cannot be written to"),
    "55P03": Failure("storage_error", "database_locked", "is locked by somebody else"),
    "40": Failure("storage_error", "conflict", "is written to by too many at the same time"),
    "42P01": OUTDATED,
    "42703": OUTDATED,
    "3F000": Failure("storage_connection_failed", "no_schema", "has no schema of that name"),
    "42501": Failure("storage_error", "not_permitted", "does not permit that to this user"),
    "53": Failure("storage_error", "overloaded", "has too little of what it needs"),
    "XX001": Failure("storage_read_failed", "corrupt", "is damaged; restore it from a backup"),
    "XX002": Failure("storage_read_failed", "corrupt", "has a damaged index; rebuild it with REINDEX"),
}
"""What the codes of PostgreSQL mean, by how they begin; the first that fits counts.
See https://www.postgresql.org/docs/current/errcodes-appendix.html."""


def check_url(url: URL) -> URL:
    """Return the URL with its password where it is hidden, wherever it was given."""
    password = url.query.get("password")
    if isinstance(password, str):
        url = url.set(password=password).difference_update_query(["password"])
    return url


def options(url: URL, patience: float, *, writing: bool, readers: int) -> dict[str, Any]:
    """Return what an engine is made with."""
    given = {name: value for name, value in CONNECTING.items() if name not in url.query}
    return {
        "connect_args": given,
        "pool_size": 1 if writing else readers,
        "max_overflow": 0,
        "pool_timeout": patience,
        "pool_recycle": LIFETIME,
        "isolation_level": "READ COMMITTED" if writing else "AUTOCOMMIT",
    }


def prepare(engine: Engine, patience: float, *, writing: bool) -> None:
    """Have every connection of an engine set up.

    :param patience: seconds to wait for a lock of somebody else's.
    :param writing: whether the connections write.
    """
    lock_timeout = max(1, round(patience * 1000))  # 0 would be for ever

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        before, connection.autocommit = connection.autocommit, True
        connection.execute(f"SET lock_timeout = {lock_timeout}")
        if writing:
            connection.execute(f"SET idle_in_transaction_session_timeout = {IDLE}")
        connection.autocommit = before


def trouble(error: BaseException) -> Trouble:
    """Tell what may be done about an error of SQLAlchemy's."""
    code = _code(error)
    if (isinstance(error, DBAPIError) and error.connection_invalidated) or code.startswith(LOST):
        return Trouble.LOST
    if code.startswith("55P03"):
        return Trouble.BUSY
    return Trouble.CONFLICT if code in CONFLICT else Trouble.FINAL


def failure(error: BaseException, *, writing: bool) -> Failure | None:
    """Return what an error of SQLAlchemy's means; ``None`` for one that has no meaning of its own."""
    code = _code(error)
    if code == "58030":
        return WRITE_FAILED if writing else READ_FAILED
    found = next((meaning for start, meaning in FAILURES.items() if code.startswith(start)), None)
    # An error without a code comes from the driver: it could not connect, or was cut off.
    return FAILURES["08"] if found is None and not code and isinstance(error, OperationalError | InterfaceError) else found


def _code(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty where it has none."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
