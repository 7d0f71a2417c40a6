"""One call at work in a process that holds a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from asm.core.errors import Error
from asm.operations import Operation
from asm.wire.messages import MessageError
from asm.wire.streams import read_stream

__all__ = ["Call", "Done", "Stream"]

Done = Callable[[bytes, Error | None], None]
"""Told the result of a call, encoded, or its error."""


class Stream(Protocol):
    """The bytes that come or go while a call is in flight."""

    def take(self, method: bytes, carried: bytes | int) -> None:
        """Take what the other side sent with ``chunk`` or ``more``.

        :raises MessageError: when it may not send that.
        """


class Call:
    """One call.

    :param operation: what to do.
    :param arguments: with what, checked.
    :param done: told the outcome, once, in the event loop; not told if the call is cancelled first.
    :param expires: the ``time.monotonic()`` after which nobody waits for it to begin.
    :param numbers: whether the caller wants no event back that is stored as it was sent, but only its number.
    """

    __slots__ = ("arguments", "cancel_work", "done", "expires", "operation", "over", "sent", "stream")

    def __init__(
        self,
        operation: Operation,
        arguments: dict[str, Any],
        done: Done,
        expires: float | None = None,
        *,
        numbers: bool = False,
    ) -> None:
        self.operation = operation
        self.arguments = arguments
        self.done = done
        self.expires = expires
        self.sent = arguments if numbers else None
        """What need not be sent back."""
        self.over = False
        """Whether its outcome was told, or nobody wants to know any more."""
        self.stream: Stream | None = None
        self.cancel_work: Callable[[], object] | None = None
        """What stops the work, as far as that is possible."""

    def finish(self, result: bytes, error: Error | None = None) -> None:
        """Tell the outcome, if anybody still waits for it."""
        if not self.over:
            self.over = True
            self.done(result, error)

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Take the next message of the call's stream.

        :raises MessageError: when it has none, or may not take that.
        """
        if self.stream is None:
            raise MessageError("this call has no stream")
        self.stream.take(method, read_stream(body, rest_at))

    def fail(self, error: Error) -> None:
        """Tell that it failed."""
        self.finish(b"", error)

    def cancel(self) -> None:
        """Drop the call: nobody is told, and what has not begun will not."""
        self.over = True
        if self.cancel_work is not None:
            self.cancel_work()
