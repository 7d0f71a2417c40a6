"""Made from asm.ports and asm.client.handles by tests/tools/async_store.py."""

from collections.abc import AsyncGenerator, Awaitable, Callable

from asm.client.aio import AsyncReader
from asm.core.arguments import (
    ArtifactInfos,
    Count,
    Data,
    EventOrder,
    EventTypes,
    Expected,
    Flag,
    Groups,
    Id,
    Ids,
    Key,
    Limit,
    OptionalCount,
    OptionalId,
    OptionalLimit,
    OptionalMap,
    OptionalNumber,
    OptionalText,
    OptionalTime,
    RunOrder,
    RunStatuses,
    SessionOrder,
    SessionStatuses,
    Tags,
    Text,
)
from asm.core.policies import RetentionPolicy
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import ArtifactInfo, Event, Run, Session
from asm.ports import ExecutionResult

class AsyncStore:
    async def save_session(self, session: Session, *, replacing: Session | None = None) -> None:
        """Insert the session, or replace the one with its id.

        :param replacing: what is expected to be stored under the id: only then it is replaced.
        :raises Error: ``conflict`` when something else is, or nothing; ``details["current"]`` is the map of what is.
        """

    async def get_session(self, session_id: Id) -> Session:
        """Return the session with this id.

        :raises Error: ``session_not_found``.
        """

    async def list_sessions(
        self, *, status: SessionStatuses = None, agent_id: OptionalId = None, limit: OptionalLimit = None, offset: Count = 0
    ) -> list[Session]:
        """Return sessions, oldest ``created_at`` first, those of the same moment by id.

        :param status: one status, or several of which any will do.
        :param limit: how many to return at the most.
        :param offset: how many to pass over first.
        """

    async def delete_session(self, session_id: Id) -> None:
        """Delete the session with its runs, events and sequence counter, all at once. An absent one is no error.

        Artifacts stay.
        """

    async def save_run(self, run: Run, *, replacing: Run | None = None) -> None:
        """Insert the run, or replace the one with its id.

        :param replacing: what is expected to be stored under the id: only then it is replaced.
        :raises Error: ``session_mismatch`` when what is stored belongs to another session; ``conflict`` as for a session.
        """

    async def get_run(self, run_id: Id) -> Run:
        """Return the run with this id.

        :raises Error: ``run_not_found``.
        """

    async def list_runs(self, session_id: Id, *, status: RunStatuses = None, limit: OptionalLimit = None) -> list[Run]:
        """Return the runs of a session, oldest ``started_at`` first, those of the same moment by id.

        :param status: one status, or several of which any will do.
        :param limit: how many to return at the most.
        """

    async def get_active_run(self, session_id: Id) -> Run | None:
        """Return the session's run whose status is ``running``: the latest started, if there are several."""

    async def append_event(self, event: Event) -> None:
        """Append as :meth:`append_event_with_sequence` does, without returning the event."""

    async def append_event_with_sequence(self, event: Event) -> Event:
        """Append the event and return it with its session's next ``sequence_number``: 1, 2, 3, … with no gap.

        An event whose id is already stored in its session is not stored again: the stored one is returned.

        :raises Error: ``session_mismatch`` when the id is stored in another session, of which nothing is told. Ids are yours to
            give, and unique in all sessions; those of :meth:`asm.Event.new` are.
        """

    async def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]:
        """Append all of the events or none, in this order, without a gap within a session.

        Events of several sessions may mix. An id that is already stored, or that came before in the list,
        gives back the stored event in its place.

        :param expect: by the id of a session, the ``sequence_number`` at which it is expected to stand; 0 if it has no events
            yet. Nothing is stored unless each does. When every event is stored already they come back whatever this says, so
            that a call can be repeated whose answer was lost.
        :raises Error: ``session_mismatch`` when an id is that of another session's event; ``conflict`` with ``session_id``,
            ``expected`` and ``actual`` in its details. Then none is stored.
        """

    async def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]:
        """Store what a run brought about, all of it or none of it: its session, the run itself, and its events.

        :param expect: as :meth:`append_events` has it.
        :return: the events as they are stored.
        :raises Error: as :meth:`save_run` and :meth:`append_events`.
        """

    async def get_events(
        self,
        session_id: Id,
        *,
        run_id: OptionalId = None,
        type: EventTypes = None,
        correlation_id: OptionalId = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
        after: OptionalCount = None,
        before: OptionalCount = None,
        limit: OptionalLimit = None,
        last: OptionalNumber = None,
        wait_timeout_ms: OptionalCount = None,
    ) -> list[Event]:
        """Return the events of a session by ``sequence_number``, ascending. An unknown session has none.

        :param type: one type, or several of which any will do; also types of one's own.
        :param since: events whose ``timestamp`` is this or later.
        :param until: events whose ``timestamp`` is earlier.
        :param after: events whose ``sequence_number`` is greater.
        :param before: events whose ``sequence_number`` is smaller.
        :param limit: how many to return at the most, from the beginning …
        :param last: … or from the end: as many of the newest that match, ascending. Neither with ``limit`` nor with
            ``wait_timeout_ms``.
        :param wait_timeout_ms: with nothing to return, how many milliseconds to wait for an event that matches.
        """

    async def get_latest_sequence(self, session_id: Id) -> int:
        """Return the greatest ``sequence_number`` that was given in the session; 0 if none was."""

    async def delete_events(
        self, session_id: Id, *, through: OptionalCount = None, run_id: OptionalId = None, type: EventTypes = None
    ) -> int:
        """Delete the events of a session that match, and return how many. At least one condition is needed.

        Their numbers are never given again, and :meth:`get_latest_sequence` stays.

        :param through: events whose ``sequence_number`` is this or smaller.
        :param type: one type, or several of which any will do.
        """

    async def search_sessions(
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

    async def search_runs(
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

    async def search_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,
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

    async def count_events(
        self,
        *,
        session_ids: Ids = None,
        run_ids: Ids = None,
        type: EventTypes = None,
        provider: OptionalId = None,
        correlation_id: OptionalId = None,
        text: OptionalText = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
    ) -> int:
        """Return how many events :meth:`search_events` would find."""

    async def get_session_stats(self, session_id: Id) -> SessionStats:
        """Return what a session amounts to, also one that is not saved or soft-deleted.

        :raises Error: ``session_not_found`` when there is nothing under the id: no session, no run and no event.
        """

    async def get_usage(
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

    async def export_session(self, session_id: Id) -> AsyncReader:
        """Return a session with its runs and events as JSON lines, which begin with the version of their format.

        :raises Error: ``session_not_found``.
        """

    async def import_session(self, data: Data) -> str:
        """Store what :meth:`export_session` returned, all of it or none of it; return the id of the session.

        Numbers and times stay what they were.

        :raises Error: ``already_exists`` when there is something under the id; ``invalid_format`` for what is no export, or one
            of a newer format, with the number of the ``line``.
        """

    async def health_check(self) -> list[str]:
        """Return what is wrong with what is stored, a sentence each; nothing when it is whole.

        Looked for: gaps in the sequence of a session that no deletion explains, counters that lag behind, rows that hold
        no value.
        """

    async def compact(self) -> int:
        """Give back room on the disk that nothing needs any more; return how many bytes."""

    async def expired(self, policy: RetentionPolicy, *, limit: Limit) -> list[Session]:
        """Return sessions for which a policy has something due, oldest ``updated_at`` first, those of the same moment by id.

        That is what :meth:`RetentionPolicy.due` says of the session, or that it has more events than ``max_events_per_session``
        and is not exempt.

        :param limit: how many to return at the most.
        """

    async def put(self, key: Key, data: Data) -> None:
        """Store the bytes under the key, at once and whole, in place of what it held.

        A reader sees the old bytes or the new, never a part; a ``put`` that fails leaves the old.
        """

    async def get(self, key: Key) -> bytes:
        """Return the bytes under the key.

        :raises Error: ``not_found``; ``storage_read_failed`` when they are not what was put.
        """

    async def delete(self, key: Key) -> None:
        """Delete the key. An absent one is no error."""

    async def open(self, key: Key) -> AsyncReader:
        """Return the bytes under the key as a readable, seekable binary file, which the caller closes.

        All that it gives is what was there when it was opened, although the key may be replaced or deleted since.

        :raises Error: ``not_found``, and while reading ``storage_read_failed`` when they are not what was put, as far as can be
            told from what was read; with the reason ``changed`` when they are not there any more.
        """

    async def stat(self, key: Key) -> ArtifactInfo:
        """Return size, checksum and time of the key.

        :raises Error: ``not_found``.
        """

    async def list(self, *, prefix: Text = "", after: OptionalText = None, limit: OptionalLimit = None) -> ArtifactInfos:
        """Return what is known of the artifacts, by key, ascending. It costs what it returns, and not what is stored.

        :param prefix: keys that begin so.
        :param after: keys greater than this one.
        :param limit: how many to return at the most.
        """

    async def delete_prefix(self, prefix: Key) -> int:
        """Delete every key that begins so, and return how many."""

    def follow(
        self, session_id: Id, *, after: Count = 0, type: EventTypes = None, run_id: OptionalId = None
    ) -> AsyncGenerator[Event]:
        """Yield the events of a session from there on: past ones first, then each as it is appended, until it is closed.

        It goes on by itself when a process behind the handle is restarted, or is away for any time.

        :param after: the sequence number behind which to begin.
        :param type: only events of this type, or of one of these.
        :param run_id: only events of this run.
        :raises Error: ``validation_error`` for what is no such thing; while it is read, whatever is not worth repeating.
        """

    async def update_session(self, session_id: Id, change: Callable[[Session], Session | Awaitable[Session]]) -> Session:
        """Read a session, change it and save it; again from the start, if somebody else saved it meanwhile.

        :param change: returns what is to be saved, from what is stored. It may be called several times.
        :return: what was saved.
        :raises Error: ``session_not_found``; ``conflict`` when somebody else was faster until the handle's timeout was up;
            what became of it is unknown after ``timeout`` and a lost connection only. What ``change`` raises comes through.
        """

    async def update_run(self, run_id: Id, change: Callable[[Run], Run | Awaitable[Run]]) -> Run:
        """Read a run, change it and save it; again from the start, if somebody else saved it meanwhile.

        :param change: returns what is to be saved, from what is stored. It may be called several times.
        :return: what was saved.
        :raises Error: ``run_not_found``; ``conflict`` when somebody else was faster until the handle's timeout was up; what
            became of it is unknown after ``timeout`` and a lost connection only. What ``change`` raises comes through.
        """
