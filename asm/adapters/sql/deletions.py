"""How sessions and events are deleted: at once in the eyes of everybody, and the rows of the events in steps.

::

    delete_session ──► one transaction: session and runs go, and its counter says up to where its events are deleted
    delete_events  ──► one transaction: they are counted, and a row of asm_event_deletions says which ones they are
    who reads      ──► passes over those
    the writer     ──► removes some of them between two groups, and notes how far it is, until none is left
    an append      ──► after delete_session begins again at 1; where a deleted event still has the number, that is removed first

Removing an event takes as long as storing one, and nobody else can write to SQLite meanwhile. So that no one has to wait for
the removal of a hundred thousand, it is done like this; and whenever it breaks off, it goes on with the next start. Few are
removed at once, and nothing is noted.

``removed_through < sequence_number <= deleted_through`` holds for the events of a session that was deleted, as long as they are
still there. All others are below: whoever appends moves ``removed_through`` up to the number that it gives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Connection,
    TextClause,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from asm.adapters.sql.tables import deletions, events, runs, sequences, sessions

__all__ = [
    "STEP",
    "Counter",
    "delete_events",
    "delete_sessions",
    "is_left",
    "make_way",
    "not_deleted",
    "remove_by_id",
    "remove_some",
    "without_deleted",
]

STEP: Final = 200
"""How many events are removed at a time."""


class Counter(NamedTuple):
    """The counter of a session. The last two are ``None`` when nothing is left of one that was deleted."""

    last_sequence: int
    removed_through: int | None
    deleted_through: int | None


# -- What is deleted ------------------------------------------------------------------------------------------------

# As text, because SQLAlchemy takes as long to look at these few expressions as at all the rest of a query. Which events are
# deleted one by one is asked only where any are, which the first of two conditions tells for all rows at once.

_MATCHES: Final = (
    " WHERE session_id = {owner} AND through >= asm_events.sequence_number"
    " AND (run_id IS NULL OR run_id = asm_events.run_id) AND (type IS NULL OR type = asm_events.type)"
)

_OF_SESSION: Final = (
    "asm_events.sequence_number <= coalesce((SELECT removed_through FROM asm_session_sequences WHERE session_id = :owner),"  # noqa: S608  # no values in it
    " 9223372036854775807) AND (NOT EXISTS (SELECT 1 FROM asm_event_deletions WHERE session_id = :owner) OR"
    " NOT EXISTS (SELECT 1 FROM asm_event_deletions" + _MATCHES.format(owner=":owner") + "))"
)

_OF_ANY: Final = (
    "NOT EXISTS (SELECT 1 FROM asm_session_sequences WHERE session_id = asm_events.session_id"  # noqa: S608  # as above
    " AND removed_through < asm_events.sequence_number)"
    " AND (NOT EXISTS (SELECT 1 FROM asm_event_deletions) OR"
    " NOT EXISTS (SELECT 1 FROM asm_event_deletions" + _MATCHES.format(owner="asm_events.session_id") + "))"
)

_of_session, _of_any, _deleted = text(_OF_SESSION), text(_OF_ANY), text(f"NOT ({_OF_ANY})")


def without_deleted(session_id: str) -> TextClause:
    """Return the condition on events of a session that they are not deleted."""
    return _of_session.bindparams(owner=session_id)


def not_deleted() -> TextClause:
    """Return the condition on events of any sessions that they are not deleted."""
    return _of_any


# -- Deleting -------------------------------------------------------------------------------------------------------


def delete_sessions(connection: Connection, counters: Mapping[str, Counter]) -> None:
    """Delete sessions with all that belongs to them.

    :param counters: of each. Others are kept from appending by the locks of these rows.
    """
    owned = [
        {"owner": session_id, "through": max(counter.last_sequence, counter.deleted_through or 0)}
        for session_id, counter in counters.items()
    ]
    owner: BindParameter[str] = bindparam("owner")
    marked = {
        "last_sequence": 0,
        "removed_through": 0,
        "deleted_through": bindparam("through", type_=BigInteger),
        "deleted_events": None,
    }
    connection.execute(update(sequences).where(sequences.c.session_id == owner).values(marked), owned)
    for key in (sessions.c.id, runs.c.session_id, deletions.c.session_id):
        connection.execute(delete(key.table).where(key == owner), owned)
    remove_some(connection, list(counters))


def delete_events(
    connection: Connection,
    session_id: str,
    *,
    through: int | None = None,
    run_id: str | None = None,
    type: Sequence[str] | None = None,  # noqa: A002  # the field's own name
) -> int:
    """Delete the events of a session that match, and return how many.

    :param through: up to which number; up to the last one, unless it is given.
    :param type: of any of these types.
    """
    of_session = sequences.c.session_id == session_id
    # Whoever appends waits for the commit. One that was never appended to has no counter, and no events.
    last = connection.execute(select(sequences.c.last_sequence).where(of_session).with_for_update()).scalar()
    if not last:
        return 0
    through = last if through is None else min(through, last)
    wanted: list[Any] = [events.c.session_id == session_id, events.c.sequence_number <= through, without_deleted(session_id)]
    if run_id is not None:
        wanted.append(events.c.run_id == run_id)
    types = None if type is None else [str(item) for item in type]
    if types is not None:
        wanted.append(events.c.type.in_(types))
    few = connection.execute(select(events.c.sequence_number).where(*wanted).limit(STEP + 1)).scalars().all()
    if len(few) <= STEP:
        _remove(connection, session_id, few)
        count = len(few)
    else:
        count = connection.execute(select(func.count()).select_from(events).where(*wanted)).scalar_one()
        marks = [
            {"session_id": session_id, "id": os.urandom(16).hex(), "through": through, "run_id": run_id, "type": item}
            for item in ([None] if types is None else dict.fromkeys(types))
        ]
        connection.execute(insert(deletions), marks)
    if count:
        deleted = func.coalesce(sequences.c.deleted_events, 0) + count
        connection.execute(update(sequences).where(of_session).values(deleted_events=deleted))
    return count


# -- Removing what is deleted ---------------------------------------------------------------------------------------


def remove_some(connection: Connection, session_ids: Sequence[str] = (), *, most: int = STEP) -> bool:
    """Remove some of the events that are deleted; return whether there were any that are not to be left alone.

    :param session_ids: of these sessions, which were deleted; of any, unless some are named.
    :param most: how many at the most.
    """
    query = select(sequences.c.session_id, sequences.c.last_sequence, sequences.c.removed_through, sequences.c.deleted_through)
    query = query.where(sequences.c.deleted_through.is_not(None)).order_by(sequences.c.session_id).limit(most)
    query = query.where(sequences.c.session_id.in_(session_ids) if session_ids else _not_imported())
    found = connection.execute(query.with_for_update()).all()
    for session_id, last, removed, deleted in found:
        through = max(removed, min(deleted, removed + most))
        _remove_between(connection, session_id, removed, through)
        most -= through - removed
        of_session = sequences.c.session_id == session_id
        if through < deleted:
            connection.execute(update(sequences).where(of_session).values(removed_through=through))
        elif last:
            connection.execute(update(sequences).where(of_session).values(removed_through=None, deleted_through=None))
        else:
            connection.execute(delete(sequences).where(of_session))
        if most <= 0:
            return True
    return bool(found) if session_ids else _remove_marked(connection, most) or bool(found)


def _remove_marked(connection: Connection, most: int) -> bool:
    """Remove some of the events that were deleted one by one, of one session; return whether there were any."""
    session_id = connection.execute(select(deletions.c.session_id).limit(1)).scalar()
    if session_id is None:
        return False
    # Only behind this lock is it sure that the session was not deleted, and begun anew, in between.
    connection.execute(select(sequences.c.session_id).where(sequences.c.session_id == session_id).with_for_update())
    for mark in connection.execute(select(deletions).where(deletions.c.session_id == session_id)).all():
        wanted = [events.c.session_id == session_id, events.c.sequence_number <= mark.through]
        if mark.run_id is not None:
            wanted.append(events.c.run_id == mark.run_id)
        if mark.type is not None:
            wanted.append(events.c.type == mark.type)
        some = connection.execute(select(events.c.sequence_number).where(*wanted).limit(most)).scalars().all()
        _remove(connection, session_id, some)
        if len(some) == most:
            break
        most -= len(some)
        connection.execute(delete(deletions).where(deletions.c.session_id == session_id, deletions.c.id == mark.id))
    return True


def is_left(connection: Connection) -> bool:
    """Tell whether there are events to be removed, now or later."""
    for query in (
        select(sequences.c.session_id).where(sequences.c.deleted_through.is_not(None)),
        select(deletions.c.session_id),
    ):
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False


def _not_imported() -> ColumnElement[bool]:
    """Return the condition on counters that no import is at work: it says until when what it stores is to be left alone."""
    return sequences.c.updated_at <= datetime.now(UTC)


def make_way(connection: Connection, counters: Mapping[str, Counter]) -> None:
    """Remove the deleted events that have numbers which were just given to others."""
    for session_id, (last, removed, _) in counters.items():
        if removed is not None and removed < last:
            _remove_between(connection, session_id, removed, last)
            connection.execute(update(sequences).where(sequences.c.session_id == session_id).values(removed_through=last))


def remove_by_id(connection: Connection, wanted: ColumnElement[bool]) -> None:
    """Remove those of some events that are deleted, because their ids may be used again."""
    connection.execute(delete(events).where(wanted, _deleted))


def _remove(connection: Connection, session_id: str, numbers: Sequence[int]) -> None:
    if numbers:
        connection.execute(delete(events).where(events.c.session_id == session_id, events.c.sequence_number.in_(numbers)))


def _remove_between(connection: Connection, session_id: str, after: int, through: int) -> None:
    number = events.c.sequence_number
    connection.execute(delete(events).where(events.c.session_id == session_id, number > after, number <= through))
