"""The version of the tables: checked when a database is opened, raised by migrations.

The migrations are those of Alembic, in the folder beside this file. A database names its version in a table of ours, which
is read by hand: Alembic is loaded only where there is something to migrate.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, inspect, text

from asm.adapters.sql.engine import Database
from asm.adapters.sql.urls import parse_url
from asm.core.errors import Error

__all__ = ["MIGRATIONS", "VERSIONS", "VERSION_TABLE", "Migrate", "migrate", "require"]

Migrate = Literal["auto", "check"]
"""What to do with a PostgreSQL database whose tables are missing or old: migrate it, or refuse it."""

VERSIONS: Final = ("0001", "0002", "0003", "0004")
"""The versions of the tables, the oldest first. This program works with the last."""

VERSION_TABLE: Final = "asm_schema_version"
"""A name of our own: in ``alembic_version``, another program in the same database may keep its version."""

MIGRATIONS: Final = Path(__file__).with_name("migrations")

LOCK: Final = 0x61736D5F73716C
"""The number of the lock that a migration of PostgreSQL holds: ``asm_sql`` in ASCII."""

LOCK_TIMEOUT: Final = 60.0
"""Seconds that a migration waits for another one, and for whoever uses the tables …"""

LOCK_TIMEOUT_AT_START: Final = 10.0
"""… and when a store is about to start, which has 30 seconds for all of it."""

HOLDERS: Final = """
SELECT DISTINCT a.pid, a.usename, a.application_name, a.state, date_trunc('second', a.xact_start)
FROM pg_locks l JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_class c ON c.oid = l.relation
WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database() AND (
    starts_with(c.relname, 'asm_')
    OR l.locktype = 'advisory' AND l.classid::bigint << 32 | l.objid::bigint = :lock
)"""

_alembic_lock: Final = threading.Lock()
"""Alembic keeps what it works on in global variables."""


def migrate(url: str, *, sql: bool = False) -> str | None:
    """Make the tables of a database, or bring them to this program's version.

    All of it happens in one transaction: when it is killed half-way, nothing has changed. Two that run at once do it once.

    :param url: of the database.
    :param sql: change no table, and return the statements instead; empty when there is nothing to do.
    :raises Error: as :class:`~asm.adapters.sql.SqlSessionStore`; ``migration_required`` when the database is of a newer
        version than this program; ``dependency_not_available`` without Alembic.
    """
    database = Database(parse_url(url), 4.0)
    try:
        version = _checked(database)
        if sql:
            return database.read(lambda connection: _script(connection, version)) if version != VERSIONS[-1] else ""
        if version != VERSIONS[-1]:
            _upgrade(database, LOCK_TIMEOUT)
        return None
    finally:
        database.close()


def require(database: Database, how: Migrate) -> None:
    """See to it that a database has the tables of this version. A SQLite file, which has one owner, is migrated by itself.

    :param how: what to do with a PostgreSQL database that has not.
    :raises Error: ``migration_required``, and what a migration raises.
    """
    version = _checked(database)
    if version == VERSIONS[-1]:
        return
    if how == "auto" or database.backend == "sqlite":
        _upgrade(database, LOCK_TIMEOUT_AT_START)
        return
    state = "has none of the tables" if version is None else f"has the tables of version {version}"
    message = f"the database {database.name} {state}, and version {VERSIONS[-1]} is needed; run: asmctl migrate CONFIG"
    details = {"reason": "absent" if version is None else "behind", "found": version, "needed": VERSIONS[-1]}
    raise Error("migration_required", message, details=details | {"database": database.name})


def _checked(database: Database) -> str | None:
    """Return the version of a database's tables; ``None`` when it has none.

    :raises Error: ``migration_required`` when the version is none that this program knows.
    """
    version = database.read(_version)
    if version is None or version in VERSIONS:
        return version
    message = (
        f"the database {database.name} has the tables of version {version}, which is newer than this program's "
        f"({VERSIONS[-1]}); upgrade the program: pip install --upgrade asm-store"
    )
    details = {"reason": "newer", "found": version, "needed": VERSIONS[-1], "database": database.name}
    raise Error("migration_required", message, details=details)


def _version(connection: Connection) -> str | None:
    """Read the version."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  # our own name
    return None if found is None else str(found)


def _upgrade(database: Database, patience: float) -> None:
    """Migrate to the last version.

    :param patience: seconds to wait for a lock.
    :raises Error: ``storage_error`` that says who keeps it from that.
    """

    def upgrade(connection: Connection) -> None:
        if database.backend == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = '{patience}s'"))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        _alembic(connection, "head")

    try:
        database.write(upgrade)
    except Error as error:
        if error.details.get("reason") != "database_locked" or database.backend != "postgresql":
            raise
        holders = database.read(_holders)
        message = (
            f"the tables of the database {database.name} cannot be migrated, because they are locked by"
            f" {'; '.join(holders) or 'somebody'}. End that, or run: asmctl migrate CONFIG"
        )
        raise Error(error.code, message, details=error.details | {"holders": holders}) from error


def _holders(connection: Connection) -> list[str]:
    """Return who holds locks that a migration of PostgreSQL waits for."""
    rows = connection.execute(text(HOLDERS), {"lock": LOCK})
    return [
        f"process {pid} of {user} ({program or 'no name'}, {state}, since {since})" for pid, user, program, state, since in rows
    ]


def _script(connection: Connection, version: str | None) -> str:
    """Return the statements that migrate from one version to the last."""
    return _alembic(connection, f"{version or 'base'}:head", sql=True)


def _alembic(connection: Connection, revision: str, *, sql: bool = False) -> str:
    """Have Alembic migrate, or print; return what it printed.

    :raises Error: ``dependency_not_available``.
    """
    try:
        from alembic import command  # noqa: PLC0415  # most starts have nothing to migrate
        from alembic.config import Config  # noqa: PLC0415
    except ModuleNotFoundError as error:
        remedy = 'pip install "asm-store[sql]"'
        message = f"a migration needs the package 'alembic', which is not installed; to install: {remedy}"
        raise Error("dependency_not_available", message, details={"package": "alembic", "install": remedy}) from error
    printed = io.StringIO()
    config = Config(output_buffer=printed, attributes=_attributes(connection))
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with _alembic_lock:
        command.upgrade(config, revision, sql=sql)
    return printed.getvalue()


def _attributes(connection: Connection) -> dict[str, Any]:
    """Return what ``migrations/env.py`` is told."""
    return {"connection": connection, "version_table": VERSION_TABLE}
