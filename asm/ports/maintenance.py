"""The maintenance of a session store."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from asm.core.arguments import Limit
from asm.core.policies import RetentionPolicy
from asm.core.values import Session

__all__ = ["Maintenance"]


@runtime_checkable
class Maintenance(Protocol):
    """How a session store is looked after, if it lets itself be."""

    def health_check(self) -> list[str]:
        """Return what is wrong with what is stored, a sentence each; nothing when it is whole.

        Looked for: gaps in the sequence of a session that no deletion explains, counters that lag behind, rows that hold
        no value.
        """
        ...

    def compact(self) -> int:
        """Give back room on the disk that nothing needs any more; return how many bytes."""
        ...

    def expired(self, policy: RetentionPolicy, *, limit: Limit) -> list[Session]:
        """Return sessions for which a policy has something due, oldest ``updated_at`` first, those of the same moment by id.

        That is what :meth:`RetentionPolicy.due` says of the session, or that it has more events than ``max_events_per_session``
        and is not exempt.

        :param limit: how many to return at the most.
        """
        ...
