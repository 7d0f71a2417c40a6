"""The questions about many sessions at once: filtered, counted, summed and ordered by the database."""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, TypeVar, cast

from sqlalchemy import Row, Select, func, select

from asm.adapters.appends import Appends
from asm.adapters.cursors import cursor_at, position_of
from asm.adapters.exports import Export, export_lines, file_of
from asm.adapters.matching import has_items, has_text
from asm.adapters.sql.deletions import without_deleted
from asm.adapters.sql.filters import any_of, history, matching_events, matching_runs, matching_sessions
from asm.adapters.sql.imports import Import
from asm.adapters.sql.reading import FIRST, Listing, Position, Reading, refused
from asm.adapters.sql.tables import events, runs, sequences, sessions
from asm.adapters.sql.usage import Group, Sum, odd_runs, results, usage, used
from asm.adapters.totals import token_totals
from asm.core.arguments import (
    Data,
    EventOrder,
    EventTypes,
    Groups,
    Ids,
    RunOrder,
    RunStatuses,
    SessionOrder,
    SessionStatuses,
    Tags,
)
from asm.core.errors import Error
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import Event, Run, Session

__all__ = ["Queries"]

V = TypeVar("V", Session, Run, Event)


class Queries(Reading):
    """A store in a database, and its queries."""

    appends: Appends

    def search_sessions(
        self,
        *,
        agent_id: str | None = None,
        status: SessionStatuses = None,
        provider: str | None = None,
        tags: Tags = None,
        parent_session_id: str | None = None,
        id_prefix: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        include_deleted: bool = False,
        order: SessionOrder = "-updated_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Session]:
        return _page(self._sessions(_arguments(locals())))

    def search_runs(
        self,
        *,
        session_id: str | None = None,
        agent_id: str | None = None,
        status: RunStatuses = None,
        provider: str | None = None,
        started_after: datetime | None = None,
        started_before: datetime | None = None,
        min_tokens: int | None = None,
        order: RunOrder = "-started_at",
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Run]:
        return _page(self._runs(_arguments(locals())))

    def search_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,  # noqa: A002
        provider: str | None = None,
        correlation_id: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        order: EventOrder = "timestamp",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[Event]:
        return _page(self._events(_arguments(locals())))

    def count_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,  # noqa: A002
        provider: str | None = None,
        correlation_id: str | None = None,
        text: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        arguments = _arguments(locals())
        if text:
            return sum(1 for _ in self._listed(self._matching_events(arguments)))
        query = matching_events(self._database.backend, arguments).with_only_columns(func.count(), maintain_column_froms=True)
        return int(self._read(lambda connection: connection.execute(query).scalar_one()))

    def get_session_stats(self, session_id: str) -> SessionStats:
        of_session = (events.c.session_id == session_id, without_deleted(session_id))
        moments = (func.min(events.c.timestamp), func.max(events.c.timestamp))
        query = select(events.c.provider, func.count(), *moments).where(*of_session).group_by(events.c.provider)
        found: list[Any] = self._read(lambda connection: list(connection.execute(query).all()))
        sums = self._usage(("provider", "status"), {"session_id": session_id})
        if not found and not sums:
            self._require_session(session_id)
        for odd in (time for *_, first, last in found for time in (first, last) if not isinstance(time, datetime)):
            message = f"what the database holds as the time of an event of {session_id!r} is none: {odd!r}"
            raise Error("storage_read_failed", message, details={"reason": "malformed_row", "session_id": session_id})
        counts: dict[str, int] = {}
        for group, of_group in sums.items():
            status = str(group[1])
            counts[status] = counts.get(status, 0) + of_group.runs
        names = {name for name, *_ in found} | {group[0] for group in sums}
        return SessionStats(
            event_count=sum(count for _, count, *_ in found),
            run_count=sum(counts.values()),
            token_totals=token_totals(one for of_group in sums.values() for one in of_group.usages),
            cost_usd=float(sum(of_group.cost for of_group in sums.values())),
            providers_used=sorted(name for name in names if name is not None),
            first_event_at=min((first for *_, first, _ in found), default=None),
            last_event_at=max((last for *_, last in found), default=None),
            status_counts=dict(sorted(counts.items())),
        )

    def get_usage(
        self,
        *,
        session_id: str | None = None,
        agent_id: str | None = None,
        provider: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        group_by: Groups = ("provider",),
    ) -> list[Usage]:
        given = {name: value for name, value in _arguments(locals()).items() if name != "group_by" and value is not None}
        names = cast("tuple[str, ...]", group_by)
        return results(self._usage(names, given), names)

    def export_session(self, session_id: str) -> BinaryIO:
        query = select(sessions).where(sessions.c.id == session_id)
        saved = [session for _, session in self._listed(Listing(Session, query, (sessions.c.id,), malformed=refused))]
        last = self._latest_sequence(session_id)
        if not saved and not last and next(self._listed_runs({"session_id": session_id}), None) is None:
            self._require_session(session_id)
        return file_of(export_lines(session_id, last, saved[0] if saved else None, *self._exported(session_id, last)))

    def import_session(self, data: Data) -> str:
        self.require_open()
        export = Export(data)
        Import(self._database, export).run()
        self.appends.announce((export.session_id,))
        return export.session_id

    def rows(self, operation: str, arguments: Mapping[str, Any]) -> Iterator[Any] | None:
        """Yield what an operation returns, one value after another, without more than a bounded part of it in memory.

        :param operation: its name.
        :param arguments: its arguments by name, checked.
        :returns: an iterator, which ends a search with a :class:`Page` that has its cursor and no items; ``None`` when the
            operation is to be called.
        :raises Error: as the operation; later also while iterating.
        """
        self.require_open()
        ways: dict[str, Callable[[Mapping[str, Any]], Iterator[Any] | None]] = {
            "search_sessions": self._sessions,
            "search_runs": self._runs,
            "search_events": self._events,
            "list_sessions": self._listed_sessions,
            "list_runs": self._listed_runs,
            "get_events": self._history,
        }
        return ways[operation](arguments) if operation in ways else None

    # -- Searches -----------------------------------------------------------------------------------------------------

    def _sessions(self, given: Mapping[str, Any]) -> Iterator[Session | Page[Session]]:
        metadata = given.get("metadata")
        order = given.get("order", "-updated_at")
        listing = Listing(
            Session,
            matching_sessions(self._database.backend, given),
            (sessions.c[order.removeprefix("-")], sessions.c.id),
            order.startswith("-"),
            None if not metadata else lambda session: has_items(session.metadata, metadata),
        )
        return self._found("search_sessions", given, listing, datetime, str)

    def _runs(self, given: Mapping[str, Any]) -> Iterator[Run | Page[Run]]:
        order = given.get("order", "-started_at")
        column = runs.c[order.removeprefix("-")]
        listing = Listing(Run, matching_runs(self._database.backend, given), (column, runs.c.id), order.startswith("-"))
        return self._found("search_runs", given, listing, (int, float) if column is runs.c.tokens else datetime, str)

    def _events(self, given: Mapping[str, Any]) -> Iterator[Event | Page[Event]]:
        return self._found("search_events", given, self._matching_events(given), datetime, str, int)

    def _matching_events(self, given: Mapping[str, Any]) -> Listing[Event]:
        folded = (given.get("text") or "").casefold()
        return Listing(
            Event,
            matching_events(self._database.backend, given),
            (events.c.timestamp, events.c.session_id, events.c.sequence_number),
            given.get("order", "timestamp").startswith("-"),
            (lambda event: has_text(event.data, folded)) if folded else None,
        )

    def _found(self, operation: str, given: Mapping[str, Any], listing: Listing[V], *kinds: Any) -> Iterator[V | Page[V]]:
        """Return an iterator over the items of a page, and then one without items that has its cursor."""
        behind = position_of(operation, given, *kinds)
        limit = given.get("limit", {"search_events": 100}.get(operation, 50))

        def found() -> Iterator[V | Page[V]]:
            last: Position = ()
            for number, (position, value) in enumerate(self._listed(listing, behind, limit + 1)):
                if number == limit:
                    yield Page([], cursor_at(operation, given, last))
                    return
                last = position
                yield value
            yield Page([])

        return found()

    def _exported(self, session_id: str, last: int) -> tuple[Iterator[Run], Iterator[Event]]:
        """Return the runs and events of an export, which are read as it is."""
        of_session = select(runs).where(runs.c.session_id == session_id)
        exported_runs = self._listed(Listing(Run, of_session, (runs.c.started_at, runs.c.id), malformed=refused))
        past = history({"session_id": session_id}).where(events.c.sequence_number <= last)

        def exported_events() -> Iterator[Event]:
            for _, event in self._listed(Listing(Event, past, (events.c.sequence_number,), malformed=refused)):
                yield event
            if self._latest_sequence(session_id) < last:
                message = f"the session {session_id!r} was deleted while it was exported"
                raise Error("storage_read_failed", message, details={"reason": "changed", "session_id": session_id})

        return (run for _, run in exported_runs), exported_events()

    # -- What the session store lists ---------------------------------------------------------------------------------

    def _listed_sessions(self, given: Mapping[str, Any]) -> Iterator[Session]:
        query = select(sessions)
        if given.get("agent_id") is not None:
            query = query.where(sessions.c.agent_id == given["agent_id"])
        return self._limited(Session, query, (sessions.c.created_at, sessions.c.id), given, sessions.c.status)

    def _listed_runs(self, given: Mapping[str, Any]) -> Iterator[Run]:
        query = select(runs).where(runs.c.session_id == given["session_id"])
        return self._limited(Run, query, (runs.c.started_at, runs.c.id), given, runs.c.status)

    def _limited(
        self, kind: type[V], query: Select[Any], order: tuple[Any, ...], given: Mapping[str, Any], status: Any
    ) -> Iterator[V]:
        """Yield the values of a listing, from its offset on and up to its limit."""
        if (statuses := given.get("status")) is not None:
            query = query.where(any_of(status, statuses, self._database.backend))
        limit, behind = given.get("limit"), None
        if offset := given.get("offset"):
            place = query.with_only_columns(*order).order_by(*order).limit(1).offset(offset - 1)
            before: Row[Any] | None = self._read(lambda connection: connection.execute(place).first())
            if before is None:
                return
            behind = tuple(before)
        listing = Listing(kind, query, order)
        for _, value in islice(self._listed(listing, behind, limit or FIRST), limit):
            yield value

    def _history(self, given: Mapping[str, Any]) -> Iterator[Event] | None:
        return None if given.get("wait_timeout_ms") else self._past(given)

    def _past(self, given: Mapping[str, Any]) -> Iterator[Event]:
        """Yield events of a session, up to the one that is the last at the beginning."""
        number = events.c.sequence_number
        query = history(given).where(number <= self._latest_sequence(given["session_id"]))
        limit, behind = given.get("limit"), None
        if (last := given.get("last")) is not None:
            newest = query.with_only_columns(number).order_by(number.desc()).limit(last).subquery()
            first = self._read(lambda connection: connection.execute(select(func.min(newest.c[0]))).scalar())
            if first is None:
                return
            behind = (first - 1,)
        for _, event in islice(self._listed(Listing(Event, query, (number,)), behind, limit or FIRST), limit):
            yield event

    # -- What else they need ------------------------------------------------------------------------------------------

    def _usage(self, group_by: tuple[str, ...], given: dict[str, Any]) -> dict[Group, Sum]:
        """Return what runs used, by group."""
        sums: dict[Group, Sum] = self._read(lambda connection: usage(connection, group_by, given))
        if (odd := odd_runs(self._database.backend, group_by, given)) is not None:
            for _, run in self._listed(Listing(Run, select(runs).where(odd), (runs.c.id,))):
                group, alone = used(run, self._agent_of(run.session_id), group_by)
                sums.setdefault(group, Sum()).add(alone)
        return sums if sums or group_by else {(): Sum()}

    def _agent_of(self, session_id: str) -> str | None:
        query = select(sessions.c.agent_id).where(sessions.c.id == session_id)
        agent_id: str | None = self._read(lambda connection: connection.execute(query).scalar())
        return agent_id

    def _require_session(self, session_id: str) -> None:
        query = select(sessions.c.id).where(sessions.c.id == session_id)
        if self._read(lambda connection: connection.execute(query).first()) is None:
            raise Error("session_not_found", f"there is no session {session_id!r}", details={"session_id": session_id})

    def _latest_sequence(self, session_id: str) -> int:
        query = select(sequences.c.last_sequence).where(sequences.c.session_id == session_id)
        return self._read(lambda connection: connection.execute(query).scalar()) or 0


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by name, of what is local in it when it begins."""
    return {name: value for name, value in given.items() if name != "self"}


def _page(found: Iterator[V | Page[V]]) -> Page[V]:
    *items, end = found
    return Page(cast("list[V]", items), cast("Page[V]", end).cursor)
