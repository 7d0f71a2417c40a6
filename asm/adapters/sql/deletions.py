"""How a session is deleted: at once in the eyes of everybody, and the rows of its events in steps.

::

    delete_session ──► one transaction: session and runs go, and its counter says up to where its events are deleted
    who reads      ──► passes over those
    the writer     ──► removes some of them between two groups, and notes how far it is, until none is left
    an append      ──► begins again at 1; where a deleted event still has the number, that is removed first

Removing an event takes as long as storing one, and nobody else can write to SQLite meanwhile. So that no one has to wait for
the removal of a hundred thousand, it is done like this; and whenever it breaks off, it goes on with the next start.

``removed_through < sequence_number <= deleted_through`` holds for the events of a session that are deleted and still there. All
others are below: whoever appends moves ``removed_through`` up to the number that it gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    TextClause,
    bindparam,
    delete,
    exists,
    select,
    text,
    update,
)

from asm.adapters.sql.tables import events, runs, sequences, sessions

__all__ = ["STEP", "Counter", "delete_sessions", "is_left", "make_way", "remove_by_id", "remove_some", "without_deleted"]

STEP: Final = 200
"""How many events are removed at a time."""


class Counter(NamedTuple):
    """The counter of a session. The last two are ``None`` when nothing is left of one that was deleted."""

    last_sequence: int
    removed_through: int | None
    deleted_through: int | None


_not_deleted: Final = text(
    "asm_events.sequence_number <= coalesce((SELECT removed_through FROM asm_session_sequences WHERE session_id = :owner),"
    " 9223372036854775807)"
)
"""As text, because SQLAlchemy takes as long to look at these few expressions as at all the rest of a query."""


def without_deleted(session_id: str) -> TextClause:
    """Return the condition on events of a session that they are not deleted."""
    return _not_deleted.bindparams(owner=session_id)


def delete_sessions(connection: Connection, counters: Mapping[str, Counter]) -> None:
    """Delete sessions with all that belongs to them.

    :param counters: of each. Others are kept from appending by the locks of these rows.
    """
    owned = [
        {"owner": session_id, "through": max(counter.last_sequence, counter.deleted_through or 0)}
        for session_id, counter in counters.items()
    ]
    owner: BindParameter[str] = bindparam("owner")
    through = bindparam("through", type_=BigInteger)
    marked = {"last_sequence": 0, "removed_through": 0, "deleted_through": through}
    connection.execute(update(sequences).where(sequences.c.session_id == owner).values(marked), owned)
    remove_some(connection, list(counters))
    for key in (sessions.c.id, runs.c.session_id):
        connection.execute(delete(key.table).where(key == owner), owned)


def remove_some(connection: Connection, session_ids: Sequence[str] = (), *, most: int = STEP) -> None:
    """Remove some of the events that are deleted.

    :param session_ids: of these sessions; of any, unless some are named.
    :param most: how many at the most.
    """
    query = select(sequences.c.session_id, sequences.c.last_sequence, sequences.c.removed_through, sequences.c.deleted_through)
    query = query.where(sequences.c.deleted_through.is_not(None)).order_by(sequences.c.session_id).limit(most)
    if session_ids:
        query = query.where(sequences.c.session_id.in_(session_ids))
    for session_id, last, removed, deleted in connection.execute(query.with_for_update()).all():
        through = max(removed, min(deleted, removed + most))
        _remove(connection, session_id, removed, through)
        most -= through - removed
        of_session = sequences.c.session_id == session_id
        if through < deleted:
            connection.execute(update(sequences).where(of_session).values(removed_through=through))
        elif last:
            connection.execute(update(sequences).where(of_session).values(removed_through=None, deleted_through=None))
        else:
            connection.execute(delete(sequences).where(of_session))
        if most <= 0:
            return


def is_left(connection: Connection) -> bool:
    """Tell whether there are events to be removed."""
    left = select(sequences.c.session_id).where(sequences.c.deleted_through.is_not(None)).limit(1)
    return connection.execute(left).first() is not None


def make_way(connection: Connection, counters: Mapping[str, Counter]) -> None:
    """Remove the deleted events that have numbers which were just given to others."""
    for session_id, (last, removed, _) in counters.items():
        if removed is not None and removed < last:
            _remove(connection, session_id, removed, last)
            connection.execute(update(sequences).where(sequences.c.session_id == session_id).values(removed_through=last))


def remove_by_id(connection: Connection, wanted: ColumnElement[bool]) -> None:
    """Remove those of some events that are deleted, because their ids may be used again."""
    mine = sequences.c.session_id == events.c.session_id
    deleted = exists().where(mine, events.c.sequence_number > sequences.c.removed_through)
    connection.execute(delete(events).where(wanted, deleted))


def _remove(connection: Connection, session_id: str, after: int, through: int) -> None:
    number = events.c.sequence_number
    connection.execute(delete(events).where(events.c.session_id == session_id, number > after, number <= through))
