"""What is particular to PostgreSQL: the settings of its connections, and its errors.

Transactions are ``READ COMMITTED``, and that is enough, because a write relies on what it read only where it holds the lock:

- Numbers come from an upsert of the session's counter, whose row stays locked until the commit. So those who append to
  one session commit one after the other, in the order of their numbers, and no reader sees a number before a lesser one.
- Where a session has to stand at some number, that upsert tells, also for one in which nothing is to be stored.
- Which events are stored already is read behind that lock. If somebody stores the same id in another session, the
  primary key refuses the second, and the whole transaction is made again, which then finds it.
- What has to be stored in the place of a session or run is read ``FOR UPDATE``. What is not there cannot be locked; but where
  nothing is, nothing is replaced either.
- A deletion takes the counter's lock first. To what it deletes after that, nobody adds until it commits.

Rows are locked table by table (counters, sessions, runs, events), and by id within a table. Two writers that keep to
one order do not wait for each other in a circle; where they do all the same, the server ends one, and that one tries again.

A connection may lead through a pooler that gives every transaction another connection to the server, and this one to
somebody else afterwards. So nothing here rests on what a session keeps: no statement is prepared under a name, a transaction
says its settings in the message that begins it, and a read in the one that it is sent in. What PostgreSQL itself would keep
for a session is only ever asked for by :mod:`asm.adapters.sql.listener`, which finds out whether it gets it.

A connection that was dropped shows at its first statement. Whatever it was for is then made again on a fresh one, so
nothing needs to ask a connection how it is before each use, which would cost every call a round trip.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from asm.adapters.sql.failures import OUTDATED, READ_FAILED, WRITE_FAILED, Failure, Trouble
from asm.core import checks
from asm.core.errors import Error

__all__ = ["SECRETS", "check_url", "failure", "listening", "options", "prepare", "trouble"]

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

USES: Final = 5
"""After how many uses a statement is prepared, where that is asked for."""

SECRETS: Final = frozenset({"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"})
"""The parameters of libpq that are not to be shown."""

CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
}
"""The parameters of libpq that are one of a few words."""

NUMBERS: Final = (
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
)
"""The parameters of libpq that are whole numbers."""

LOST: Final = ("08", "57P", "25P03", "25P04")
"""Connection failures, the server's shutting down and starting up, and ends to a session or a transaction that took long."""

UNFIT: Final = ("0A000", "25006", "25P02", "26000", "42P05")
"""What another connection may not meet: the plan of a prepared statement that does not fit its table any more, a server that
was made a standby, a transaction that somebody else left failed, and prepared statements that a pooler mixed up."""

CONFLICT: Final = ("40001", "40P01", "23505")
"""Serialization failures, deadlocks, and an id that somebody else stored at the same time."""

FAILURES: Final = {
    "08": Failure("storage_connection_failed", "connection", "cannot be reached", away=True),
    "57P": Failure("storage_connection_failed", "connection", "cannot be reached: the server stops or starts", away=True),
    "25P03": Failure("storage_connection_failed", "connection", "ended a transaction that stood still", away=True),
    "25P04": Failure("storage_error", "statement_timeout", "ended a transaction that took longer than its transaction_timeout"),
    "28": Failure("storage_connection_failed", "credentials", "refuses the user or the password"),
    "TLS": Failure("storage_connection_failed", "tls", "cannot be used with these settings of TLS"),  # a code of ours
    "3D000": Failure("storage_connection_failed", "no_database", "does not exist"),
    "53300": Failure("storage_connection_failed", "too_many_connections", "has no connection free", away=True),
    "53100": Failure("storage_write_failed", "disk_full", "has no space left to grow"),
    "25006": Failure("storage_write_failed", "read_only", "cannot be written to"),
    "55P03": Failure("storage_error", "database_locked", "is locked by somebody else"),
    "57014": Failure(
        "storage_error",
        "statement_timeout",
        "ended a statement: it took longer than the statement_timeout that the server, the role or the URL sets (ALTER ROLE …"
        " SET statement_timeout = 0 lifts it), or an administrator cancelled it",
    ),
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

REFUSALS: Final = (
    (re.compile(r"authentication failed|pg_hba\.conf|not permitted to log in|role .* does not exist|no such user"), "28"),
    (re.compile(r"no password supplied"), "28"),
    (re.compile(r"does not support SSL|SSL (is )?required|certificate"), "TLS"),
    (re.compile(r"database .* does not exist|no such database"), "3D000"),
    (re.compile(r"too many (clients|connections)|connection slots|no more connections"), "53300"),
    (re.compile(r"permission denied"), "42501"),
)
"""Why a server, or a pooler, let nobody in: libpq tells the text of that, and keeps the code to itself. Any other text, in
whatever language, is taken for a server that is away."""

STARTUP: Final = re.compile(r"unsupported startup parameter(?: in options)?: (\w+)")
"""How PgBouncer refuses a parameter of a connection."""


def check_url(url: URL, _text: str, field: str) -> URL:
    """Return the URL with its password where it is hidden, wherever it was given.

    :raises Error: ``validation_error`` for parameters that libpq does not take.
    """
    from psycopg import pq  # noqa: PLC0415  # it is known by now that it is installed

    known = {item.keyword.decode() for item in pq.Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in known:
            hidden = bool(SECRETS & url.query.keys())  # what follows an & in a password looks like a parameter
            what = "a parameter" if hidden else f"the parameter {name!r}"
            checks.refuse(field, f"has {what}, which libpq does not know", **({} if hidden else {"parameter": name}))
        if not isinstance(value, str) and name != "host":
            checks.refuse(field, f"has the parameter {name!r} more than once", parameter=name)
        if name in CHOICES and value not in CHOICES[name]:
            choices = ", ".join(CHOICES[name])
            checks.refuse(field, f"has {name}={value}; {name} must be one of: {choices}", parameter=name)
        if name in NUMBERS and not re.fullmatch(r"-?\d{1,9}", str(value)):
            checks.refuse(field, f"has {name}={value}; {name} must be a whole number", parameter=name)
    ports = [str(url.port)] if url.port is not None else [part for part in str(url.query.get("port", "")).split(",") if part]
    for port in ports:
        if not port.isdecimal() or not 1 <= int(port) <= 65535:
            checks.refuse(field, "has a port that is not between 1 and 65535", parameter="port")
    password = url.query.get("password")
    if isinstance(password, str):
        url = url.set(password=password).difference_update_query(["password"])
    return url


def options(url: URL, patience: float, *, writing: bool, readers: int, prepared: bool = False) -> dict[str, Any]:
    """Return what an engine is made with."""
    given = _connecting(url)
    given["prepare_threshold"] = USES if prepared else None
    if not writing and not prepared:
        given["cursor_factory"] = _reading(patience)
    return {
        "connect_args": given,
        "pool_size": 1 if writing else readers,
        "max_overflow": 0,
        "pool_timeout": patience,
        "pool_recycle": LIFETIME,
        "isolation_level": "AUTOCOMMIT",  # as far as the driver knows: transactions are begun by us, in one message
    }


def listening(url: URL) -> dict[str, Any]:
    """Return what the engine of a connection is made with that listens."""
    return {"connect_args": _connecting(url) | {"prepare_threshold": None}, "isolation_level": "AUTOCOMMIT"}


def _connecting(url: URL) -> dict[str, Any]:
    return {name: value for name, value in CONNECTING.items() if name not in url.query}


def prepare(engine: Engine, patience: float, *, writing: bool, prepared: bool = False) -> None:
    """Have every connection of an engine checked, and every transaction begun with its settings.

    :param patience: seconds to wait for a lock of somebody else's.
    :param writing: whether the connections write.
    :param prepared: whether statements are prepared, and so no pooler is there that a session is shared through.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            connection.close()
            message = (
                f"the database {engine.url.database!r} has the encoding {encoding}, which cannot hold every text;"
                " make one with: createdb --encoding=UTF8 --template=template0"
            )
            raise Error("storage_error", message, details={"reason": "encoding", "encoding": encoding})
        if prepared and not writing:
            connection.autocommit = True
            connection.execute(f"SET lock_timeout = {_milliseconds(patience)}")

    if writing:
        begin = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {_milliseconds(patience)};"
            f" SET LOCAL idle_in_transaction_session_timeout = {IDLE}"
        )

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            connection.exec_driver_sql(begin)


def _reading(patience: float) -> Any:
    """Return a cursor whose every statement says how long to wait for a lock: in its message, and for its transaction.

    The driver puts in the values then, not the server. A pipeline would leave that to the server; but psycopg ends one with a
    ``Flush``, for which PgBouncer keeps a connection to the server until something else is asked.
    """
    from psycopg import ClientCursor  # noqa: PLC0415

    setting = f"SET LOCAL lock_timeout = {_milliseconds(patience)}; "

    class Reading(ClientCursor[Any]):
        def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Reading:
            if not isinstance(query, str):  # what the driver itself wants to know
                return super().execute(query, params, **kwargs)
            super().execute(setting + query, params, **kwargs)
            self.nextset()
            return self

    return Reading


def _milliseconds(patience: float) -> int:
    return max(1, round(patience * 1000))  # 0 would be for ever


def trouble(error: BaseException) -> Trouble:
    """Tell what may be done about an error of SQLAlchemy's."""
    code = _code(error)
    if code.startswith(UNFIT):
        return Trouble.UNFIT
    if (isinstance(error, DBAPIError) and error.connection_invalidated) or code.startswith(LOST):
        return Trouble.LOST
    if code.startswith("55P03"):
        return Trouble.BUSY
    if not code and isinstance(error, OperationalError):
        return Trouble.AWAY
    return Trouble.CONFLICT if code in CONFLICT else Trouble.FINAL


def failure(error: BaseException, *, writing: bool) -> Failure | None:
    """Return what an error of SQLAlchemy's means; ``None`` for one that has no meaning of its own."""
    code = _code(error)
    if code == "58030":
        return WRITE_FAILED if writing else READ_FAILED
    # An error without a code comes from the driver: it could not connect, or was cut off.
    if not code and isinstance(error, OperationalError | InterfaceError):
        return _refusal(str(error.orig))
    return next((meaning for start, meaning in FAILURES.items() if code.startswith(start)), None)


def _refusal(text: str) -> Failure:
    """Return what it means that no connection was made, or that one was cut off."""
    if found := STARTUP.search(text):
        sentence = f"cannot be used with {found[1]!r} in the URL, which the pooler before it refuses; leave it out"
        return Failure("storage_connection_failed", "startup_parameter", sentence)
    return FAILURES[next((code for pattern, code in REFUSALS if pattern.search(text)), "08")]


def _code(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty where it has none."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")
