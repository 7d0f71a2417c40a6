"""Made from asm.core.values by tests/tools/forms.py."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

from asm.core.kinds import AnyEventType, AnyRunStatus, AnySessionStatus, RunStatus, SessionStatus

class SessionForm:
    @classmethod
    def new(
        cls,
        *,
        agent_id: str,
        id: str | None = None,
        status: AnySessionStatus = SessionStatus.PENDING,
        parent_session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        tags: list[str] | None = None,
        created_at: datetime | None = None,
        updated_at: datetime | None = None,
        deleted_at: datetime | None = None,
    ) -> Self:
        """Make a session, with a fresh id and the present time where none is given.

        :param agent_id: which agent it belongs to; required and not empty.
        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """

    def changed(
        self,
        *,
        id: str = ...,
        agent_id: str = ...,
        status: AnySessionStatus = ...,
        parent_session_id: str | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        context: Mapping[str, Any] | None = ...,
        tags: list[str] | None = ...,
        created_at: datetime = ...,
        updated_at: datetime = ...,
        deleted_at: datetime | None = ...,
    ) -> Self:
        """Return the session with other fields, and the present time as ``updated_at`` unless that is one of them.

        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """

class RunForm:
    @classmethod
    def new(
        cls,
        *,
        session_id: str,
        id: str | None = None,
        status: AnyRunStatus = RunStatus.PENDING,
        input: Mapping[str, Any] | None = None,
        output: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        turn_count: int = 0,
        token_usage: Mapping[str, Any] | None = None,
        cost_usd: float | None = None,
        started_at: datetime | None = None,
        ended_at: datetime | None = None,
        provider: str | None = None,
        provider_metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make a run, with a fresh id and the present time where none is given.

        :param session_id: which session it belongs to; required and not empty.
        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """

    def changed(
        self,
        *,
        id: str = ...,
        session_id: str = ...,
        status: AnyRunStatus = ...,
        input: Mapping[str, Any] | None = ...,
        output: Mapping[str, Any] | None = ...,
        error: Mapping[str, Any] | None = ...,
        metadata: Mapping[str, Any] | None = ...,
        turn_count: int = ...,
        token_usage: Mapping[str, Any] | None = ...,
        cost_usd: float | None = ...,
        started_at: datetime = ...,
        ended_at: datetime | None = ...,
        provider: str | None = ...,
        provider_metadata: Mapping[str, Any] | None = ...,
    ) -> Self:
        """Return the run with other fields.

        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """

class EventForm:
    @classmethod
    def new(
        cls,
        *,
        type: AnyEventType,
        session_id: str,
        id: str | None = None,
        timestamp: datetime | None = None,
        run_id: str | None = None,
        data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        sequence_number: int | None = None,
        schema_version: int = 1,
        provider: str | None = None,
        correlation_id: str | None = None,
    ) -> Self:
        """Make an event, with a fresh id and the present time where none is given.

        :param type: what it says: an :class:`EventType`, or one of your own, which has a dot, such as ``myapp.thought``.
        :param session_id: which session it belongs to; required and not empty.
        :param sequence_number: given by the store when it appends the event; leave it out.
        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """
