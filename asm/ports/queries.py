"""The queries: what a session store may answer beside its own contract."""

from __future__ import annotations

from typing import BinaryIO, Protocol, runtime_checkable

from asm.core.arguments import (
    Data,
    EventOrder,
    EventTypes,
    Flag,
    Groups,
    Id,
    Ids,
    Limit,
    OptionalCount,
    OptionalId,
    OptionalMap,
    OptionalText,
    OptionalTime,
    RunOrder,
    RunStatuses,
    SessionOrder,
    SessionStatuses,
    Tags,
)
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import Event, Run, Session

__all__ = ["SessionQueries"]


@runtime_checkable
class SessionQueries(Protocol):
    """Questions about many sessions at once, which a session store may answer, too. None changes anything.

    Filters combine with *and*; one that is ``None`` does not filter. A search returns a page; its ``cursor``, given to the same
    search, goes on behind it: it stays valid over restarts, and neither repeats nor passes over what was there all the time.
    """

    def search_sessions(
        self,
        *,
        agent_id: OptionalId = None,
        status: SessionStatuses = None,
        provider: OptionalId = None,
        tags: Tags = None,
        parent_session_id: OptionalId = None,
        id_prefix: OptionalId = None,
        metadata: OptionalMap = None,
        created_after: OptionalTime = None,
        created_before: OptionalTime = None,
        updated_after: OptionalTime = None,
        updated_before: OptionalTime = None,
        include_deleted: Flag = False,
        order: SessionOrder = "-updated_at",
        limit: Limit = 50,
        cursor: OptionalText = None,
    ) -> Page[Session]:
        """Return a page of the sessions that match.

        :param status: one status, or several of which any will do.
        :param provider: sessions that have a run of this provider.
        :param tags: sessions that bear all of these.
        :param metadata: sessions whose ``metadata`` has these values under these keys. 1 is 1.0, and neither is ``True``.
        :param created_after: sessions that were created later than this; the other times likewise, ``…_before`` earlier.
        :param include_deleted: whether sessions with a ``deleted_at`` are found, too.
        :param order: by which time, those of the same moment by id; with ``-`` all of it the other way round, the latest first.
        :param limit: how many to return at the most.
        :param cursor: that of the page before.
        :raises Error: ``invalid_cursor`` for a cursor of another search.
        """
        ...

    def search_runs(
        self,
        *,
        session_id: OptionalId = None,
        agent_id: OptionalId = None,
        status: RunStatuses = None,
        provider: OptionalId = None,
        started_after: OptionalTime = None,
        started_before: OptionalTime = None,
        min_tokens: OptionalCount = None,
        order: RunOrder = "-started_at",
        limit: Limit = 50,
        cursor: OptionalText = None,
    ) -> Page[Run]:
        """Return a page of the runs of all sessions that match.

        The tokens of a run are the ``total_tokens`` of its ``token_usage``; without these, its ``input_tokens`` and
        ``output_tokens`` together.

        :param agent_id: runs of the sessions of this agent.
        :param min_tokens: runs with so many tokens or more.
        :param order: by what, those that are equal by id; with ``-`` all of it the other way round, the most first.
        :raises Error: ``invalid_cursor``.
        """
        ...

    def search_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,  # noqa: A002
        provider: OptionalId = None,
        correlation_id: OptionalId = None,
        text: OptionalText = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
        order: EventOrder = "timestamp",
        limit: Limit = 100,
        cursor: OptionalText = None,
    ) -> Page[Event]:
        """Return a page of the events of all sessions that match.

        :param session_ids: events of any of these sessions.
        :param run_ids: events of any of these runs.
        :param text: events in whose ``data`` this occurs, within a key or a value that is a string, however deep, whatever the
            case: as if both went through :meth:`str.casefold`. An empty one occurs in every event.
        :param order: by ``timestamp``, those of the same moment by session and number; with ``-`` the other way round.
        :raises Error: ``invalid_cursor``.
        """
        ...

    def count_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,  # noqa: A002
        provider: OptionalId = None,
        correlation_id: OptionalId = None,
        text: OptionalText = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
    ) -> int:
        """Return how many events :meth:`search_events` would find."""
        ...

    def get_session_stats(self, session_id: Id) -> SessionStats:
        """Return what a session amounts to, also one that is not saved or soft-deleted.

        :raises Error: ``session_not_found`` when there is nothing under the id: no session, no run and no event.
        """
        ...

    def get_usage(
        self,
        *,
        session_id: OptionalId = None,
        agent_id: OptionalId = None,
        provider: OptionalId = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
        group_by: Groups = ("provider",),
    ) -> list[Usage]:
        """Return what runs used, by group, in the order of the groups; ``None`` comes before all.

        :param since: runs that started then or later.
        :param until: runs that started earlier.
        :param group_by: any of ``provider``, ``model`` (``provider_metadata["model"]``, else ``metadata["model"]``, where
            that is a string), ``agent`` (of the session), ``status``, ``day`` (of the start, in UTC, such as ``2026-01-31``);
            with none there is one group, also of no runs.
        """
        ...

    def export_session(self, session_id: Id) -> BinaryIO:
        """Return a session with its runs and events as JSON lines, which begin with the version of their format.

        :raises Error: ``session_not_found``.
        """
        ...

    def import_session(self, data: Data) -> str:
        """Store what :meth:`export_session` returned, all of it or none of it; return the id of the session.

        Numbers and times stay what they were.

        :raises Error: ``already_exists`` when there is something under the id; ``invalid_format`` for what is no export, or one
            of a newer format, with the number of the ``line``.
        """
        ...
