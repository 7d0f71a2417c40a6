"""The session store in an SQL database: each operation of the contract as a query or a write."""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args

from sqlalchemy import URL, Select, select

from asm.adapters.appends import Appends
from asm.adapters.sql.engine import Database
from asm.adapters.sql.filters import any_of, history
from asm.adapters.sql.listener import Listener
from asm.adapters.sql.maintenance import Maintained
from asm.adapters.sql.reading import values
from asm.adapters.sql.schema import Migrate, require
from asm.adapters.sql.schema import migrate as bring_up_to_date
from asm.adapters.sql.tables import events, runs, sessions
from asm.adapters.sql.urls import OptionalUrl, Url, check_listening
from asm.adapters.sql.writer import Submit, Writer
from asm.adapters.sql.writes import WRITES
from asm.core import checks
from asm.core.arguments import EventTypes, Expected, Flag, RunStatuses, SessionStatuses
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.options import options, options_of
from asm.core.values import Event, Run, RunStatus, Session, Value
from asm.operations import implements
from asm.ports import ExecutionResult, Maintenance, SessionQueries, SessionStore

__all__ = ["SqlSessionStore"]

V = TypeVar("V", bound=Value)


@implements(SessionStore, SessionQueries, Maintenance)
class SqlSessionStore(Maintained):
    """A session store in SQLite or PostgreSQL. Any number of threads may use it, and any number of processes one database.

    What a call acknowledged survives a power loss with SQLite; with PostgreSQL, whatever its server is set up to survive.
    Writes that come at the same time share a commit. A ``get_events`` that waits is woken by what is appended through the
    same store and, with PostgreSQL, by what any other appends to the database, on whatever host; what another process
    appends to a SQLite file, it finds when its time is up.

    :param url: of the database. ``sqlite:///path/to/file.db``: the file, its directories and its tables are made if they
        are missing. ``postgresql://user:password@host:port/name``: parameters that follow a ``?`` are those of libpq.
    :param busy_timeout: seconds to wait while somebody else holds a lock. Less than the 5 seconds that a call may take by
        default, so that its caller learns the reason.
    :param migrate: whether a PostgreSQL database whose tables are missing or old is migrated (``"auto"``) or refused
        (``"check"``). A SQLite file always is.
    :param pool_size: how many connections to a PostgreSQL database those who read may use. One more writes, one listens.
    :param create: whether a SQLite file is made where there is none. Without, that is waited for.
    :param prepared_statements: whether a PostgreSQL server keeps statements prepared, which saves it some work. Not for a
        connection that leads through a pooler in transaction mode (PgBouncer, …), as any may: it would mix them up.
    :param listen_url: where to listen for the appends of others, when ``url`` leads through such a pooler: a URL that leads to
        the server itself. Without it, whoever waits there looks again every second.
    :raises Error: ``validation_error``; ``migration_required``, which names the command to run; or a storage error that
        tells why the database cannot be used.
    """

    queued: ClassVar[frozenset[str]] = frozenset(WRITES)
    """The operations that :meth:`submit` takes."""

    @options
    def __init__(
        self,
        *,
        url: Url,
        busy_timeout: Annotated[float, checks.seconds(0, 86400)] = 4.0,
        migrate: Annotated[Migrate, checks.one_of(*get_args(Migrate))] = "check",
        pool_size: Annotated[int, checks.whole(1, 1000)] = 8,
        create: Flag = True,
        prepared_statements: Flag = False,
        listen_url: OptionalUrl = None,
    ) -> None:
        database, listening = cast("URL", url), cast("URL | None", listen_url)
        check_listening(database, listening)
        self.appends = Appends()
        self._database = Database(
            database, busy_timeout, pool_size, create=create, prepared=prepared_statements, listen_url=listening
        )
        try:
            require(self._database, migrate)
        except BaseException:
            self._database.close()
            raise
        self._writer = Writer(self._database, self.appends, self.require_open)
        self._listener = Listener(self._database, self.appends) if self._database.backend == "postgresql" else None
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self._database.name!r})"

    def close(self) -> None:
        """Commit what is queued, close the connections, and end the calls that wait."""
        if not self.closed:
            super().close()
            self._writer.close()
            if self._listener is not None:
                self._listener.close()
            self.appends.announce(None)
            self._database.close()

    def ping(self) -> None:
        """Tell whether the store could serve now.

        :raises Error: why it could not; with ``away`` in its details where that passes by itself.
        """
        self.require_open()
        self._database.ping()

    @classmethod
    def preflight(cls, **options: Any) -> None:
        """Check the options, and that a SQLite file can be written to or could be made."""
        super().preflight(**options)
        given = options_of(SqlSessionStore).pick(options)
        if "url" in given:
            check_listening(given["url"], given["listen_url"])

    @classmethod
    def migrate_schema(cls, *, url: str, sql: bool = False, **_options: Any) -> str | None:
        """Bring a database to the schema of this version.

        :param url: of the database; the other options of a store make no difference.
        :param sql: whether to return the statements that would be run, and change nothing.
        :raises Error: why it cannot be.
        """
        return bring_up_to_date(url, sql=sql)

    @property
    def submit(self) -> Submit:
        """Queues a write without waiting for it: :meth:`asm.adapters.sql.writer.Writer.submit`."""
        return self._writer.submit

    # -- Sessions -------------------------------------------------------------------------------------------------

    def save_session(self, session: Session, *, replacing: Session | None = None) -> None:
        self._write("save_session", session=session, replacing=replacing)

    def get_session(self, session_id: str) -> Session:
        found = self._select(Session, select(sessions).where(sessions.c.id == session_id), all_or_none=True)
        if not found:
            raise Error("session_not_found", f"there is no session {session_id!r}", details={"session_id": session_id})
        return found[0]

    def list_sessions(
        self,
        *,
        status: SessionStatuses = None,
        agent_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Session]:
        query = select(sessions).order_by(sessions.c.created_at, sessions.c.id).limit(limit).offset(offset or None)
        if status is not None:
            query = query.where(any_of(sessions.c.status, cast("tuple[str, ...]", status)))
        if agent_id is not None:
            query = query.where(sessions.c.agent_id == agent_id)
        return self._select(Session, query)

    def delete_session(self, session_id: str) -> None:
        self._write("delete_session", session_id=session_id)

    # -- Runs -----------------------------------------------------------------------------------------------------

    def save_run(self, run: Run, *, replacing: Run | None = None) -> None:
        self._write("save_run", run=run, replacing=replacing)

    def get_run(self, run_id: str) -> Run:
        found = self._select(Run, select(runs).where(runs.c.id == run_id), all_or_none=True)
        if not found:
            raise Error("run_not_found", f"there is no run {run_id!r}", details={"run_id": run_id})
        return found[0]

    def list_runs(self, session_id: str, *, status: RunStatuses = None, limit: int | None = None) -> list[Run]:
        query = select(runs).where(runs.c.session_id == session_id).order_by(runs.c.started_at, runs.c.id).limit(limit)
        if status is not None:
            query = query.where(any_of(runs.c.status, cast("tuple[str, ...]", status)))
        return self._select(Run, query)

    def get_active_run(self, session_id: str) -> Run | None:
        query = select(runs).where(runs.c.session_id == session_id, runs.c.status == RunStatus.RUNNING.value)
        found = self._select(Run, query.order_by(runs.c.started_at.desc(), runs.c.id.desc()).limit(1))
        return found[0] if found else None

    # -- Events ---------------------------------------------------------------------------------------------------

    def append_event(self, event: Event) -> None:
        self._write("append_event", event=event)

    def append_event_with_sequence(self, event: Event) -> Event:
        stored: Event = self._write("append_event_with_sequence", event=event)
        return stored

    def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]:
        stored: list[Event] = self._write("append_events", events=events, expect=expect)
        return stored

    def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]:
        stored: list[Event] = self._write("flush", result=result, expect=expect)
        return stored

    def get_events(
        self,
        session_id: str,
        *,
        run_id: str | None = None,
        type: EventTypes = None,  # noqa: A002  # the field's own name
        correlation_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
        last: int | None = None,
        wait_timeout_ms: int | None = None,
    ) -> list[Event]:
        query = history(locals())
        number = events.c.sequence_number
        if last is not None:
            return self._select(Event, query.order_by(number.desc()).limit(last))[::-1]
        query = query.order_by(number).limit(limit)
        return self.appends.wait(session_id, lambda: self._select(Event, query), wait_timeout_ms)

    def delete_events(
        self,
        session_id: str,
        *,
        through: int | None = None,
        run_id: str | None = None,
        type: EventTypes = None,  # noqa: A002
    ) -> int:
        count: int = self._write("delete_events", session_id=session_id, through=through, run_id=run_id, type=type)
        return count

    def get_latest_sequence(self, session_id: str) -> int:
        return self._latest_sequence(session_id)

    # -- The two ways to the database -------------------------------------------------------------------------------

    def _write(self, operation: str, **arguments: Any) -> Any:
        """Queue a write, and wait for its commit."""
        return self._writer.write(operation, arguments)

    def _select(self, kind: type[V], query: Select[Any], *, all_or_none: bool = False) -> list[V]:
        """Return the values that a query finds."""
        return self._read(lambda connection: values(connection, kind, query, all_or_none=all_or_none))
