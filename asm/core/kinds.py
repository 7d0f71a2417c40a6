"""What sessions and runs are doing, and what events say: the words, and the types that let a checker know them."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NewType

__all__ = ["AnyEventType", "AnyRunStatus", "AnySessionStatus", "EventType", "LaterStatus", "RunStatus", "SessionStatus"]


class SessionStatus(StrEnum):
    """What a session is doing."""

    PENDING = "pending"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """What a run is doing."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"

    @property
    def terminal(self) -> bool:
        """Whether a run with this status has ended."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING)


class EventType(StrEnum):
    """What an event says. Types of one's own are strings with a dot in them."""

    SESSION_CREATED = "session_created"
    SESSION_STARTED = "session_started"
    SESSION_PAUSED = "session_paused"
    SESSION_RESUMED = "session_resumed"
    SESSION_COMPLETED = "session_completed"
    SESSION_FAILED = "session_failed"
    SESSION_CANCELLED = "session_cancelled"
    RUN_STARTED = "run_started"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    RUN_TIMEOUT = "run_timeout"
    MESSAGE_SENT = "message_sent"
    MESSAGE_RECEIVED = "message_received"
    MESSAGE_STREAMED = "message_streamed"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    TOOL_CALL_FAILED = "tool_call_failed"
    ERROR_OCCURRED = "error_occurred"
    ERROR_RECOVERED = "error_recovered"
    TOKEN_USAGE_UPDATED = "token_usage_updated"  # noqa: S105  # a type of event
    TURN_COMPLETED = "turn_completed"
    WORKSPACE_SNAPSHOT_TAKEN = "workspace_snapshot_taken"
    WORKSPACE_DIFF_COMPUTED = "workspace_diff_computed"
    POLICY_VIOLATION = "policy_violation"
    TOOL_APPROVAL_REQUESTED = "tool_approval_requested"
    TOOL_APPROVAL_GRANTED = "tool_approval_granted"
    TOOL_APPROVAL_DENIED = "tool_approval_denied"


LaterStatus = NewType("LaterStatus", str)
"""A status that only a later version of asm knows. It is read as a plain string, and is no argument that may be misspelt."""

AnySessionStatus = SessionStatus | Literal["pending", "active", "paused", "completed", "failed", "cancelled"] | LaterStatus
"""What a status may be given as: a member, its text, or what was read."""

AnyRunStatus = RunStatus | Literal["pending", "running", "completed", "failed", "cancelled", "timeout"] | LaterStatus
"""The same for a run."""

AnyEventType = (
    EventType
    | Literal[
        "session_created",
        "session_started",
        "session_paused",
        "session_resumed",
        "session_completed",
        "session_failed",
        "session_cancelled",
        "run_started",
        "run_completed",
        "run_failed",
        "run_cancelled",
        "run_timeout",
        "message_sent",
        "message_received",
        "message_streamed",
        "tool_call_started",
        "tool_call_completed",
        "tool_call_failed",
        "error_occurred",
        "error_recovered",
        "token_usage_updated",
        "turn_completed",
        "workspace_snapshot_taken",
        "workspace_diff_computed",
        "policy_violation",
        "tool_approval_requested",
        "tool_approval_granted",
        "tool_approval_denied",
    ]
    | str
)
"""What a type may be given as: a member, its text, which an editor knows, or one of your own."""
