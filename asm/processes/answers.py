"""Answers: what a store returned, on its way to becoming bytes.

    rows ──► encoded one after the other, as far as is needed ──┬──► all of them: one message
                                                                └──► more than that: pieces, each made when it may go

What is made of an answer at any time is bounded, however long it is: some may be encoded in the loop, and the rest in a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import chain

from asm.core.errors import Error
from asm.operations import Operation
from asm.processes.streams import cut
from asm.wire.calls import whole

__all__ = ["Answer"]


class Answer:
    """What a call is answered with.

    :param operation: what was done.
    :param parts: the encoded rows of what it returned, or all of it if it is not made of rows.
    :param error: why there is nothing.
    """

    def __init__(self, operation: Operation, parts: Iterator[bytes] | None = None, error: Error | None = None) -> None:
        self.error = error
        self.size = 0
        """How many bytes are encoded."""
        self.is_complete = parts is None
        """Whether that is all."""
        self._operation = operation
        self._parts = iter(()) if parts is None else parts
        self._encoded: list[bytes] = []

    @property
    def tells(self) -> bool:
        """Whether there is something that is worth telling: a row, or an error."""
        return bool(self._encoded) or self.error is not None

    def encode(self, most: int) -> None:
        """Encode on, until it is more than so many bytes. Raises what the store does."""
        for part in self._parts:
            self._encoded.append(part)
            self.size += len(part)
            if self.size > most:
                return
        self.is_complete = True

    def whole(self) -> bytes:
        """Return all of it in one."""
        return whole(self._operation, self._encoded) if self._operation.returns_rows else b"".join(self._encoded)

    def pieces(self) -> Generator[bytes, None, None]:
        """Yield all of it in pieces."""
        encoded, self._encoded = self._encoded, []
        return cut(chain(encoded, self._parts))
