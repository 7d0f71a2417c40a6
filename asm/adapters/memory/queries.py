"""The questions about many sessions at once."""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, BinaryIO, Final, TypeVar, cast

from asm.adapters.appends import Appends
from asm.adapters.base import Adapter
from asm.adapters.cursors import cursor_at, position_of
from asm.adapters.exports import Export, broken, export_lines, file_of
from asm.adapters.matching import has_items
from asm.adapters.memory.contents import Contents
from asm.adapters.memory.logs import Filter, Log, place
from asm.adapters.memory.tables import Few
from asm.adapters.totals import cost, token_totals, tokens
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
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import Event, Run, Session

__all__ = ["Queries"]

V = TypeVar("V", Session, Run, Event)


class Queries(Adapter):
    """A store in memory, and its queries."""

    def __init__(self) -> None:
        self.appends = Appends()
        self._lock = threading.Lock()
        self._contents = Contents()

    @contextmanager
    def _held(self) -> Iterator[Contents]:
        """Hold the lock of an open store."""
        with self._lock:
            self.require_open()
            yield self._contents

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
        arguments = _arguments(locals())
        behind = position_of("search_sessions", arguments, datetime, str)
        statuses, wanted_tags = _several(status), set(_several(tags) or ())
        times = {"created_at": (created_after, created_before), "updated_at": (updated_after, updated_before)}

        def passes(session: Session) -> bool:
            return (
                (include_deleted or session.deleted_at is None)
                and (agent_id is None or session.agent_id == agent_id)
                and (statuses is None or session.status in statuses)
                and (not wanted_tags or wanted_tags.issubset(session.tags))
                and (parent_session_id is None or session.parent_session_id == parent_session_id)
                and (id_prefix is None or session.id.startswith(id_prefix))
                and _within(session.created_at, times["created_at"])
                and _within(session.updated_at, times["updated_at"])
                and (provider is None or runs.count(("session of", session.id, provider)) > 0)
                and (metadata is None or has_items(session.metadata, metadata))
            )

        with self._held() as contents:
            sessions, runs = contents.sessions, contents.runs
            few = [sessions.few(("tag", tag)) for tag in wanted_tags]
            few += [sessions.between(name, *bounds) for name, bounds in times.items() if bounds != (None, None)]
            if parent_session_id is not None:
                few.append(sessions.few(("parent", parent_session_id)))
            if id_prefix is not None:
                few.append(sessions.beginning(id_prefix))
            if provider is not None:
                few.append(_sessions_of(runs.few(("provider", provider)), runs.get))
            above, below = times[order.removeprefix("-")]
            found = sessions.search(
                order,
                limit + 1,
                passes,
                ways=_ways(agent=None if agent_id is None else [agent_id], status=statuses),
                few=few,
                behind=cast("tuple[Any, str] | None", behind),
                above=above,
                below=below,
            )
            return _page("search_sessions", arguments, found, lambda last: sessions.position(order, last))

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
        arguments = _arguments(locals())
        kind = (int, float) if order.endswith("tokens") else datetime
        behind = position_of("search_runs", arguments, kind, str)
        statuses = _several(status)
        started = (started_after, started_before)

        with self._held() as contents:
            runs = contents.runs
            found = runs.search(
                order,
                limit + 1,
                lambda run: (
                    _of(contents, run, session_id, agent_id, provider)
                    and (statuses is None or run.status in statuses)
                    and _within(run.started_at, started)
                    and (min_tokens is None or tokens(run.token_usage) >= min_tokens)
                ),
                ways=_ways(session=_one(session_id), status=statuses, provider=_one(provider)),
                few=_few_of_agent(contents, agent_id),
                behind=cast("tuple[Any, str] | None", behind),
                above=started_after if kind is datetime else (None if min_tokens is None else min_tokens - 1),
                below=started_before if kind is datetime else None,
            )
            return _page("search_runs", arguments, found, lambda last: runs.position(order, last))

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
        arguments = _arguments(locals())
        behind = position_of("search_events", arguments, datetime, str, int)
        backwards = order.startswith("-")
        wanted = _filter(arguments)
        with self._held() as contents:
            few = _few_events(contents, wanted)
            candidates: Iterable[Event]
            if few is not None and sum(map(len, few)) ** 2 <= limit * len(contents.events):
                candidates = sorted((event for events in few for event in events), key=place, reverse=backwards)
                if behind is not None:
                    candidates = (
                        event for event in candidates if (place(event) < behind if backwards else place(event) > behind)
                    )
            else:
                candidates = contents.timeline.between(since, until, behind, backwards=backwards)
            return _page("search_events", arguments, islice(filter(wanted.passes, candidates), limit + 1), place)

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
        wanted = _filter(_arguments(locals()))
        with self._held() as contents:
            if wanted == Filter(session_ids=wanted.session_ids):
                return sum(len(log.events) for log in _logs(contents, wanted))
            lists = (events for log in _logs(contents, wanted) for events in log.narrowest(wanted))
            return sum(wanted.passes(event) for events in lists for event in events)

    def get_session_stats(self, session_id: str) -> SessionStats:
        with self._held() as contents:
            runs = list(contents.runs.select(("session", session_id)))
            log = contents.logs.get(session_id, Log())
            if not runs and not log.events:
                contents.session(session_id)
            sums = log.sums()
            statuses = sorted(str(run.status) for run in runs)
            return SessionStats(
                event_count=len(log.events),
                run_count=len(runs),
                token_totals=token_totals(run.token_usage for run in runs),
                cost_usd=cost(run.cost_usd for run in runs),
                providers_used=sorted(sums.providers | {run.provider for run in runs if run.provider is not None}),
                first_event_at=sums.first,
                last_event_at=sums.latest,
                status_counts={status: statuses.count(status) for status in statuses},
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
        names = _several(group_by) or ()
        groups: dict[tuple[str | None, ...], list[Run]] = {} if names else {(): []}
        with self._held() as contents:
            found = contents.runs.search(
                "started_at",
                None,
                lambda run: (
                    _of(contents, run, session_id, agent_id, provider)
                    and (since is None or run.started_at >= since)
                    and (until is None or run.started_at < until)
                ),
                ways=_ways(session=_one(session_id), provider=_one(provider)),
                few=_few_of_agent(contents, agent_id),
                below=until,
            )
            for run in found:
                group = tuple(_GROUPS[name](run, contents.sessions.get(run.session_id)) for name in names)
                groups.setdefault(group, []).append(run)
        return [
            Usage(
                group=dict(zip(names, group, strict=True)),
                run_count=len(groups[group]),
                token_totals=token_totals(run.token_usage for run in groups[group]),
                cost_usd=cost(run.cost_usd for run in groups[group]),
                runs_without_cost=sum(run.cost_usd is None for run in groups[group]),
            )
            for group in sorted(groups, key=lambda group: [(value is not None, value or "") for value in group])
        ]

    def export_session(self, session_id: str) -> BinaryIO:
        with self._held() as contents:
            session, log = contents.sessions.get(session_id), contents.logs.get(session_id, Log())
            runs, events = list(contents.runs.select(("session", session_id))), list(log.events)
            if not runs and not log.last:
                session = contents.session(session_id)
            return file_of(export_lines(session_id, log.last, session, runs, events))

    def import_session(self, data: Data) -> str:
        self.require_open()
        export = Export(data)
        values: dict[type, dict[str, Any]] = {Session: {}, Run: {}, Event: {}}
        for value in export:
            if value.id in values[type(value)]:
                broken(export.line, f"has the id {value.id!r} for the second time")
            values[type(value)][value.id] = value
        sessions, runs, events = (list(of_kind.values()) for of_kind in values.values())
        with self._held() as contents:
            contents.restore(export.session_id, export.last_sequence, next(iter(sessions), None), runs, events)
        self.appends.announce((export.session_id,))
        return export.session_id


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by name, of what is local in it when it begins."""
    return {name: value for name, value in given.items() if name != "self"}


def _several(value: Any) -> tuple[Any, ...] | None:
    """Return a filter of one or several values in the form that it has when it is checked."""
    return cast("tuple[Any, ...] | None", value)


def _one(value: str | None) -> list[str] | None:
    return None if value is None else [value]


def _ways(**wanted: Iterable[str] | None) -> list[list[Any]]:
    """Return the ways that a table may be searched along: all of it, and for each filter the groups of its values."""
    ways: list[list[Any]] = [[(name, value) for value in values] for name, values in wanted.items() if values is not None]
    return [["all"], *ways]


def _within(time: datetime, bounds: tuple[datetime | None, datetime | None]) -> bool:
    after, before = bounds
    return (after is None or time > after) and (before is None or time < before)


def _of(contents: Contents, run: Run, session_id: str | None, agent_id: str | None, provider: str | None) -> bool:
    """Tell whether a run is of a session, an agent and a provider."""
    session = None if agent_id is None else contents.sessions.get(run.session_id)
    return (
        (session_id is None or run.session_id == session_id)
        and (agent_id is None or (session is not None and session.agent_id == agent_id))
        and (provider is None or run.provider == provider)
    )


def _few_of_agent(contents: Contents, agent_id: str | None) -> list[Few]:
    """Return the runs of an agent's sessions, if that filters."""
    if agent_id is None:
        return []
    sessions = [session.id for session in contents.sessions.select(("agent", agent_id))]
    runs = [contents.runs.few(("session", session_id)) for session_id in sessions]
    return [Few(sum(part.size for part in runs), lambda: [run_id for part in runs for run_id in part.ids()])]


def _sessions_of(runs: Few, get: Any) -> Few:
    return Few(runs.size, lambda: {get(run_id).session_id for run_id in runs.ids()})


def _filter(arguments: Mapping[str, Any]) -> Filter:
    """Return the filter of a search of events."""
    text = arguments["text"]
    return Filter(
        session_ids=arguments["session_ids"],
        run_ids=arguments["run_ids"],
        types=arguments["type"],
        correlation_id=arguments["correlation_id"],
        provider=arguments["provider"],
        since=arguments["since"],
        until=arguments["until"],
        text=None if text is None else text.casefold(),
    )


def _logs(contents: Contents, wanted: Filter) -> Iterable[Log]:
    """Return the logs that have what passes a filter."""
    if wanted.session_ids is None:
        return contents.logs.values()
    return [contents.logs[session_id] for session_id in wanted.session_ids if session_id in contents.logs]


def _few_events(contents: Contents, wanted: Filter) -> list[list[Event]] | None:
    """Return lists that have all that passes a filter which few events may pass."""
    if wanted.session_ids is None and wanted.run_ids is None and wanted.correlation_id is None:
        return None
    return [events for log in _logs(contents, wanted) for events in log.narrowest(wanted)]


def _page(operation: str, arguments: Mapping[str, Any], found: Iterable[V], position: Any) -> Page[V]:
    """Return a page, of one item more than it may have."""
    items, limit = list(found), arguments["limit"]
    if len(items) <= limit:
        return Page(items)
    return Page(items[:limit], cursor_at(operation, arguments, position(items[limit - 1])))


def _model(run: Run) -> str | None:
    return next((name for of in (run.provider_metadata, run.metadata) if isinstance(name := of.get("model"), str)), None)


_GROUPS: Final[dict[str, Any]] = {
    "provider": lambda run, _session: run.provider,
    "model": lambda run, _session: _model(run),
    "agent": lambda _run, session: None if session is None else session.agent_id,
    "status": lambda run, _session: str(run.status),
    "day": lambda run, _session: run.started_at.date().isoformat(),
}
"""What a run has in common with the others of its group."""
