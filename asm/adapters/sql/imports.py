"""How an export is stored: all of it at once in the eyes of everybody, and its events in steps before that.

::

    begin   ──► the counter of the session, which has nothing, says that all of its events are deleted: so nobody sees them
    store   ──► some events, in a transaction of its own that holds nobody up for long; the counter says how far it is
    finish  ──► the session, its runs, and the counter as it was: in one transaction, and with it all of it can be seen

Between the steps whoever sends the export may take their time. A process that dies, or whose export turns out to be broken,
leaves deleted events, which are removed as all others are (:mod:`asm.adapters.sql.deletions`). Until a moment that the counter
tells, and that each step moves on, they are left alone.

Others may do what they like meanwhile: append to the session, save it, delete it, use an id. Each step looks whether all is as
it left it, and gives up where it is not.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from sqlalchemy import Connection, Row, and_, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from asm.adapters.exports import Export, broken
from asm.adapters.sql.deletions import remove_by_id, remove_some
from asm.adapters.sql.engine import Database
from asm.adapters.sql.groups import insert_events, notify, save
from asm.adapters.sql.tables import events, runs, sequences, sessions
from asm.core.errors import Error
from asm.core.values import Event, Run, Session

__all__ = ["Import"]

_log: Final = logging.getLogger(__name__)

BATCH: Final = 500
"""How many events are stored in one step, at the most."""

BYTES: Final = 1024 * 1024
"""How many bytes of lines, unless a single one has more."""

LEASE: Final = timedelta(minutes=2)
"""For how long after a step what it stored is left alone. Longer than a pause in an upload may last."""


class Import:
    """The import of one export.

    :param database: where to.
    :param export: what.
    """

    def __init__(self, database: Database, export: Export) -> None:
        self._database = database
        self._export = export
        self._id = export.session_id
        self._count = 0
        """How many events were stored."""
        self._lease = datetime.now(UTC) + LEASE
        """What the counter has for its time after each step. Nobody else has it."""

    def run(self) -> None:
        """Store the export.

        :raises Error: as ``import_session``; then nothing is stored.
        """
        while not self._database.write(self._begin):
            pass  # some of what was deleted under the id was removed
        session: Session | None = None
        saved: dict[str, Run] = {}
        pending: list[tuple[int, Event]] = []
        size = 0
        try:
            for value in self._export:
                line = self._export.line
                if isinstance(value, Session):
                    session = value
                elif isinstance(value, Run):
                    self._require_first(value.id in saved, line, value.id)
                    saved[value.id] = value
                else:
                    pending.append((line, value))
                    size += self._export.size
                    if len(pending) >= BATCH or size >= BYTES:
                        self._store(pending)
                        pending, size = [], 0
            self._store(pending)
            self._finish(session, saved)
        except BaseException:
            self._give_up()
            raise

    def _begin(self, connection: Connection) -> bool:
        """Claim the id; return false when something that was deleted under it had to be removed first."""
        now = datetime.now(UTC)
        claim = {"last_sequence": 0, "removed_through": 0, "deleted_through": 0, "updated_at": self._lease}
        made = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(sequences)
        connection.execute(made.values(session_id=self._id, **claim).on_conflict_do_nothing())
        counter = self._counter(connection)
        if counter is None or counter.last_sequence:
            self._refuse()
        if counter.updated_at != self._lease:
            if counter.deleted_through is not None:
                if counter.updated_at > now:
                    self._refuse("it is being imported by somebody else")
                remove_some(connection, [self._id])
                return False
            connection.execute(update(sequences).where(sequences.c.session_id == self._id).values(claim))
        self._require_nothing(connection)
        return True

    def _store(self, pending: list[tuple[int, Event]]) -> None:
        """Store some events, which nobody can see."""
        if not pending:
            return
        lines: dict[str, int] = {}
        for line, event in pending:
            self._require_first(event.id in lines, line, event.id)
            lines[event.id] = line
        stored = [event for _, event in pending]
        before, after = self._lease, datetime.now(UTC) + LEASE
        through = stored[-1].sequence_number

        def store(connection: Connection) -> None:
            if self._holds(connection, after):
                return  # the connection broke behind the commit
            self._require_hold(connection, before)
            theirs = events.c.id.in_(lines)
            remove_by_id(connection, and_(theirs, events.c.session_id != self._id))
            for event_id, owner in connection.execute(select(events.c.id, events.c.session_id).where(theirs)).all():
                self._require_first(owner == self._id, lines[event_id], event_id)
                _refuse_foreign("event", event_id, self._id)
            insert_events(connection, stored)
            counted = {"deleted_through": through, "updated_at": after}
            connection.execute(update(sequences).where(sequences.c.session_id == self._id).values(counted))

        self._database.write(store)
        self._lease = after
        self._count += len(stored)

    def _finish(self, session: Session | None, saved: dict[str, Run]) -> None:
        """Store the rest, and have all of it seen."""
        before, after = self._lease, datetime.now(UTC)
        last = self._export.last_sequence

        def finish(connection: Connection) -> None:
            if self._holds(connection, after):
                return
            self._require_hold(connection, before)
            self._require_nothing(connection)
            of_session = select(func.count()).select_from(events).where(events.c.session_id == self._id)
            if connection.execute(of_session).scalar() != self._count:
                self._refuse("others took the id of one of its events meanwhile")
            ids = list(saved)
            for start in range(0, len(ids), BATCH):
                taken = select(runs.c.id).where(runs.c.id.in_(ids[start : start + BATCH]))
                for run_id in connection.execute(taken).scalars():
                    _refuse_foreign("run", run_id, self._id)
            seen = {"last_sequence": last, "removed_through": None, "deleted_through": None, "updated_at": after}
            gaps = last - self._count or None
            counted = update(sequences).where(sequences.c.session_id == self._id).values(**seen, deleted_events=gaps)
            connection.execute(counted)
            save(connection, sessions, {} if session is None else {session.id: session})
            save(connection, runs, saved)
            notify(connection, [self._id])

        self._database.write(finish)

    def _give_up(self) -> None:
        """Remove what was stored."""

        def release(connection: Connection) -> bool:
            if not self._holds(connection, self._lease):
                return False
            self._lease = now = datetime.now(UTC)
            connection.execute(update(sequences).where(sequences.c.session_id == self._id).values(updated_at=now))
            remove_some(connection, [self._id])
            return True

        try:
            while self._database.write(release):
                pass
        except Error as error:
            _log.warning("what was stored of an import that failed is removed later: %s", error)

    # -- What may have happened meanwhile -----------------------------------------------------------------------------

    def _counter(self, connection: Connection) -> Row[Any] | None:
        """Return the counter, which nobody else changes until the commit."""
        return connection.execute(select(sequences).where(sequences.c.session_id == self._id).with_for_update()).first()

    def _holds(self, connection: Connection, lease: datetime) -> bool:
        """Tell whether the counter is as a step left it."""
        counter = self._counter(connection)
        return counter is not None and counter.updated_at == lease

    def _require_hold(self, connection: Connection, lease: datetime) -> None:
        if not self._holds(connection, lease):
            self._refuse("others stored or deleted something under it meanwhile")

    def _require_nothing(self, connection: Connection) -> None:
        """Refuse to import what is there already."""
        for key in (sessions.c.id, runs.c.session_id):
            if connection.execute(select(key).where(key == self._id).limit(1)).first() is not None:
                self._refuse()

    def _refuse(self, problem: str = "delete that session first") -> NoReturn:
        message = f"there is something under the id {self._id!r} already; {problem}"
        raise Error("already_exists", message, details={"session_id": self._id})

    def _require_first(self, again: bool, line: int, value_id: str) -> None:
        if again:
            broken(line, f"has the id {value_id!r} for the second time")


def _refuse_foreign(kind: str, value_id: str, session_id: str) -> NoReturn:
    raise Error(
        "session_mismatch",
        f"the {kind} {value_id!r} cannot be stored in session {session_id!r}: another session has the id already",
        details={f"{kind}_id": value_id, "session_id": session_id},
    )
