"""Made from asm.ports by tests/tools/async_store.py."""

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
    async def save_session(self, session: Session, *, replacing: Session | None = None) -> None: ...
    async def get_session(self, session_id: Id) -> Session: ...
    async def list_sessions(
        self, *, status: SessionStatuses = None, agent_id: OptionalId = None, limit: OptionalLimit = None, offset: Count = 0
    ) -> list[Session]: ...
    async def delete_session(self, session_id: Id) -> None: ...
    async def save_run(self, run: Run, *, replacing: Run | None = None) -> None: ...
    async def get_run(self, run_id: Id) -> Run: ...
    async def list_runs(self, session_id: Id, *, status: RunStatuses = None, limit: OptionalLimit = None) -> list[Run]: ...
    async def get_active_run(self, session_id: Id) -> Run | None: ...
    async def append_event(self, event: Event) -> None: ...
    async def append_event_with_sequence(self, event: Event) -> Event: ...
    async def append_events(self, events: list[Event], *, expect: Expected = None) -> list[Event]: ...
    async def flush(self, result: ExecutionResult, *, expect: Expected = None) -> list[Event]: ...
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
    ) -> list[Event]: ...
    async def get_latest_sequence(self, session_id: Id) -> int: ...
    async def delete_events(
        self, session_id: Id, *, through: OptionalCount = None, run_id: OptionalId = None, type: EventTypes = None
    ) -> int: ...
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
    ) -> Page[Session]: ...
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
    ) -> Page[Run]: ...
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
    ) -> Page[Event]: ...
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
    ) -> int: ...
    async def get_session_stats(self, session_id: Id) -> SessionStats: ...
    async def get_usage(
        self,
        *,
        session_id: OptionalId = None,
        agent_id: OptionalId = None,
        provider: OptionalId = None,
        since: OptionalTime = None,
        until: OptionalTime = None,
        group_by: Groups = ("provider",),
    ) -> list[Usage]: ...
    async def export_session(self, session_id: Id) -> AsyncReader: ...
    async def import_session(self, data: Data) -> str: ...
    async def health_check(self) -> list[str]: ...
    async def compact(self) -> int: ...
    async def expired(self, policy: RetentionPolicy, *, limit: Limit) -> list[Session]: ...
    async def put(self, key: Key, data: Data) -> None: ...
    async def get(self, key: Key) -> bytes: ...
    async def delete(self, key: Key) -> None: ...
    async def open(self, key: Key) -> AsyncReader: ...
    async def stat(self, key: Key) -> ArtifactInfo: ...
    async def list(self, *, prefix: Text = "", after: OptionalText = None, limit: OptionalLimit = None) -> ArtifactInfos: ...
    async def delete_prefix(self, prefix: Key) -> int: ...
