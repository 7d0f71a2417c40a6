"""Which sessions are kept, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from asm.core import checks
from asm.core.fields import Value, fields_of, optional
from asm.core.frozen import FrozenList
from asm.core.kinds import AnySessionStatus, SessionStatus
from asm.core.values import Session

__all__ = ["ENDED", "RetentionPolicy", "days_before"]

ENDED: Final = (SessionStatus.COMPLETED, SessionStatus.FAILED, SessionStatus.CANCELLED)
"""The statuses of sessions that have ended."""

Days = Annotated[int, checks.count, checks.held_int]
OptionalDays = Annotated[int | None, *optional(checks.count, checks.held_int)]
OptionalNumber = Annotated[int | None, *optional(checks.limit, checks.held_int)]
Flag = Annotated[bool, checks.flag]
Tags = Annotated[Sequence[str], checks.tags, checks.held_tags]
Statuses = Annotated[
    Sequence[AnySessionStatus],
    checks.list_of(checks.member(SessionStatus, "invalid_status")),
    checks.list_of(checks.named(SessionStatus, "invalid_status")),
    checks.held_tags,
]


@fields_of
@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy(Value):
    """What is to be deleted, and when. Ages are whole days; that of a session counts from its ``updated_at``."""

    max_completed_age_days: OptionalDays = 90
    """A session that has ended (``completed``, ``failed``, ``cancelled``) and is older is soft-deleted. ``None``: never."""
    max_age_days: OptionalDays = None
    """So is one of any other status that is older than this, unless that is exempt."""
    hard_delete_after_days: OptionalDays = 30
    """This long after its ``deleted_at``, a session is deleted with all that belongs to it. ``None``: never."""
    max_events_per_session: OptionalNumber = None
    """Of a session that has more events, the oldest are deleted."""
    archive: Flag = False
    """Whether what is deleted is exported first, below ``archive/`` on the artifact side."""
    exempt_statuses: Statuses = field(default_factory=lambda: FrozenList([SessionStatus.ACTIVE, SessionStatus.PAUSED]))
    """Sessions with these are left alone."""
    exempt_tags: Tags = field(default_factory=lambda: FrozenList(["pinned"]))
    """So are those that bear any of these."""
    batch_size: Annotated[int, checks.limit, checks.held_int] = 100
    """How many sessions are looked for at a time."""

    def exempts(self, session: Session) -> bool:
        """Tell whether a session is left alone."""
        return session.status in self.exempt_statuses or any(tag in self.exempt_tags for tag in session.tags)

    def due(self, session: Session, now: datetime) -> Literal["soft_delete", "hard_delete"] | None:
        """Return what is to be done with a session because of its age."""
        if self.exempts(session):
            return None
        if session.deleted_at is not None:
            return "hard_delete" if is_past(session.deleted_at, self.hard_delete_after_days, now) else None
        days = self.max_completed_age_days if session.status in ENDED else self.max_age_days
        return "soft_delete" if is_past(session.updated_at, days, now) else None

    def __hash__(self) -> int:
        """Hash by the ages."""
        return hash((self.max_completed_age_days, self.max_age_days, self.hard_delete_after_days))


def is_past(time: datetime, days: int | None, now: datetime) -> bool:
    """Tell whether so many days have passed since a time; ``None`` never have."""
    start = None if days is None else days_before(now, days)
    return start is not None and time <= start


def days_before(now: datetime, days: int) -> datetime | None:
    """Return the moment so many days ago; ``None`` if it was before all that can be told."""
    try:
        return now - timedelta(days=days)
    except OverflowError:
        return None
