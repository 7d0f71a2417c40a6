"""The one error type of asm, its categories and its codes.

Every failure that a caller can see is an :class:`Error`. It is data first: a code from the table
below, a message for a person, and ``details`` for a program. It crosses processes as a map and is
rebuilt on the other side with the same class, code, message and details.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Self

__all__ = [
    "CODES",
    "ConcurrencyError",
    "Error",
    "ExecutionError",
    "ProviderError",
    "ResourceError",
    "StateError",
    "StorageError",
    "ToolError",
    "ValidationError",
]

RETRYABLE_CODES: Final = frozenset(
    {"provider_timeout", "provider_rate_limited", "provider_unavailable", "storage_connection_failed", "timeout"}
)
"""Codes that are worth repeating whatever their details say."""

RETRYABLE_REASONS: Final = frozenset({"backend_exited", "backend_restarting", "backend_waiting", "overloaded", "shutting_down"})
"""Values of ``details["reason"]`` with which a ``storage_error`` is worth repeating: a backend went away or is overloaded."""


class Error(Exception):
    """What went wrong, as data.

    ``Error("not_found", "…")`` makes an instance of the subclass that stands for the code's category, so
    both ``except asm.ResourceError`` and ``if error.code == "not_found"`` work.

    :param code: one of :data:`CODES`.
    :param message: one sentence for a person: what was wrong, where, and what to do.
    :param details: facts for a program, JSON values with string keys.
    :param provider_error: what a provider or a storage service said, unchanged.
    :param context: where it happened (an operation, a session), JSON values with string keys.
    :param timestamp: when it happened; now, unless given.
    :raises ValueError: for a code that is not in :data:`CODES`, or not of this class's category.
    """

    category: ClassVar[str] = ""
    """One of ``validation``, ``state``, ``resource``, ``provider``, ``storage``, ``runtime``, ``concurrency``, ``tool``."""

    codes: ClassVar[tuple[str, ...]] = ()
    """The codes of this category."""

    def __new__(cls, code: str, *_args: Any, **_kwargs: Any) -> Self:
        """Choose the subclass of the code's category."""
        kind = CODES.get(code)
        if kind is None or not issubclass(kind, cls):
            known = ", ".join(sorted(known for known, kind in CODES.items() if issubclass(kind, cls)))
            message = f"{code!r} is no error code of {cls.__name__}; use one of: {known}"
            raise ValueError(message)
        return super().__new__(kind)

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        details: dict[str, Any] | None = None,
        provider_error: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = str(code)
        self.message = message or code.replace("_", " ")
        self.details = dict(details or {})
        self.provider_error = provider_error
        self.context = dict(context or {})
        self.timestamp = timestamp or datetime.now(UTC)

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later.

        Appends, puts and deletes are idempotent: repeating them is safe. Repeating a ``save_*`` may undo what somebody else
        saved in between; with ``replacing`` it does not.
        """
        if self.code == "storage_error":
            return self.details.get("reason") in RETRYABLE_REASONS
        return self.code in RETRYABLE_CODES

    def to_map(self) -> dict[str, Any]:
        """Return the error as a map of JSON values."""
        return {
            "code": self.code,
            "message": self.message,
            "details": self.details,
            "provider_error": self.provider_error,
            "context": self.context,
            "timestamp": self.timestamp.isoformat(timespec="microseconds"),
        }

    @staticmethod
    def from_map(data: dict[str, Any]) -> Error:
        """Rebuild an error from :meth:`to_map`.

        A code that this version does not know (a newer peer's) becomes ``unknown_error`` with the code in ``details``.

        :raises ValidationError: when ``data`` is no map of an error.
        """
        try:
            code, message = data["code"], data["message"]
            details, timestamp = dict(data.get("details") or {}), data.get("timestamp")
            when = datetime.fromisoformat(timestamp) if isinstance(timestamp, str) else timestamp
            when = None if when is None else when.astimezone(UTC)
            context, provider_error = dict(data.get("context") or {}), data.get("provider_error")
            known = isinstance(code, str) and code in CODES
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise ValidationError("validation_error", f"this is no map of an error: {cause!r}") from cause
        if not known:
            details, code = details | {"code": str(code)}, "unknown_error"
        return Error(code, str(message), details=details, provider_error=provider_error, context=context, timestamp=when)

    def __str__(self) -> str:
        """Return ``[code] message``."""
        return f"[{self.code}] {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as data, so that errors cross the process pools of our users, too."""
        return Error.from_map, (self.to_map(),)


class ValidationError(Error):
    """The caller gave something that can never be accepted."""

    category = "validation"
    codes = ("validation_error", "invalid_input", "missing_required_field", "invalid_format")


class StateError(Error):
    """A status, type or position that does not exist or does not fit, or what belongs to another session."""

    category = "state"
    codes = (
        "invalid_status",
        "invalid_transition",
        "invalid_event_type",
        "invalid_capability_type",
        "missing_required_capability",
        "stream_closed",
        "context_mismatch",
        "invalid_cursor",
        "session_mismatch",
        "run_mismatch",
    )


class ResourceError(Error):
    """What was asked for is not there, or is there already."""

    category = "resource"
    codes = (
        "not_found",
        "session_not_found",
        "run_not_found",
        "capability_not_found",
        "already_exists",
        "duplicate_capability",
    )


class ProviderError(Error):
    """A provider of models failed."""

    category = "provider"
    codes = (
        "provider_error",
        "provider_unavailable",
        "provider_rate_limited",
        "provider_timeout",
        "provider_authentication_failed",
        "provider_quota_exceeded",
    )


class StorageError(Error):
    """A store failed, went away, or could not be reached."""

    category = "storage"
    codes = (
        "storage_error",
        "storage_connection_failed",
        "dependency_not_available",
        "migration_required",
        "storage_write_failed",
        "storage_read_failed",
    )


class ExecutionError(Error):
    """A call did not run to its end: time, cancellation, policy, or a defect (the category ``runtime``)."""

    category = "runtime"
    codes = ("timeout", "cancelled", "policy_violation", "internal_error", "unknown_error")


class ConcurrencyError(Error):
    """Somebody else was faster, a limit was reached, or the operation does not exist here."""

    category = "concurrency"
    codes = ("max_sessions_exceeded", "max_runs_exceeded", "capability_not_supported", "invalid_operation", "conflict")


class ToolError(Error):
    """A tool that an agent called failed."""

    category = "tool"
    codes = ("tool_error", "tool_not_found", "tool_execution_failed", "tool_permission_denied")


CODES: Final[dict[str, type[Error]]] = {code: kind for kind in Error.__subclasses__() for code in kind.codes}
"""Every error code, and the class that stands for its category."""
