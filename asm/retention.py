"""Retention: what is old and done goes, in small steps, through any handle of a composite.

::

    report = asm.retention.apply(store, RetentionPolicy(max_completed_age_days=30, archive=True))

    a session that has ended, or was left, long ago ──► is soft-deleted
    one that was soft-deleted long ago              ──► is archived; its artifacts go, then itself with its runs and events
    one that has too many events                    ──► is archived; its oldest events go
    artifacts of a session that is gone             ──► go

It can be killed at any moment and is simply run again; it ends as one that was not killed. That is in the order of the steps:
a session stays due until all that belongs to it is gone, what is deleted is archived first, and no archive is replaced by one
that has less.

What is not touched: sessions that the policy exempts, or that somebody changes meanwhile; artifacts that belong to no session;
and whatever is below ``archive/``.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from asm.core import checks
from asm.core.errors import Error
from asm.core.policies import RetentionPolicy
from asm.core.values import Session
from asm.ports import ArtifactStore, Maintenance, SessionQueries, SessionStore

__all__ = ["RetentionPolicy", "RetentionReport", "apply"]

ARCHIVE: Final = "archive/"
"""Where archives are, among the artifacts."""

OURS: Final = re.compile(r"(ses_[0-9a-f]{32})/")
"""What the key of an artifact begins with whose session may be gone: an id that we made. Others may be anybody's directory."""

GRACE: Final = timedelta(days=1)
"""How old all artifacts of a session are that is taken for gone. One may be put before the session is saved."""

STEP: Final = 500
"""How many events or artifacts are read or deleted with one call."""


class Store(SessionStore, ArtifactStore, SessionQueries, Maintenance, Protocol):
    """What is needed: all contracts, as a handle of a composite has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionReport:
    """What was done, or in a dry run would be."""

    sessions_soft_deleted: int = 0
    sessions_deleted: int = 0
    sessions_archived: int = 0
    """How many archives were written."""
    events_deleted: int = 0
    artifacts_deleted: int = 0
    duration_ms: int = 0
    errors: tuple[Error, ...] = ()
    """What went wrong, with the ``session_id`` in the ``context`` of each. Whatever it is, running it again tries again."""


Progress = Callable[[RetentionReport], object]


def apply(store: Store, policy: RetentionPolicy, *, dry_run: bool = False, progress: Progress | None = None) -> RetentionReport:
    """Do what a policy has due.

    A session that fails does not keep the others from their turn. What fails as a whole, because the tree is away, is raised.

    :param store: a blocking handle of a composite, or anything else that has all contracts.
    :param dry_run: whether to report only what would be done, and to change nothing.
    :param progress: called with the report so far after each step.
    :raises Error: ``validation_error`` for what is no such store or no policy; and whatever keeps it from looking.
    """
    lacks = [
        name
        for contract in (SessionStore, ArtifactStore, SessionQueries, Maintenance)
        for name, function in vars(contract).items()
        if inspect.isfunction(function) and not name.startswith("_") and not callable(getattr(store, name, None))
    ]
    if lacks:
        checks.refuse("store", f"lacks {', '.join(lacks)}; give a handle of a composite, which has sessions and artifacts")
    if inspect.iscoroutinefunction(store.expired):
        checks.refuse(
            "store", "is asynchronous; give a blocking handle, such as asm.connect(…) returns, and call this in a thread"
        )
    if not isinstance(policy, RetentionPolicy):
        checks.refuse("policy", f"must be a RetentionPolicy, not {checks.kind(policy)}")
    retention = _Retention(store, policy, progress, dry_run=dry_run)
    retention.sessions()
    retention.orphans()
    return retention.report


class _Retention:
    """One run of it."""

    def __init__(self, store: Store, policy: RetentionPolicy, progress: Progress | None, *, dry_run: bool) -> None:
        self.store = store
        self.policy = policy
        self.progress = progress
        self.dry_run = dry_run
        self.report = RetentionReport()
        self.begun = time.monotonic()

    def sessions(self) -> None:
        """Do what is due with each session."""
        passed: set[str] = set()  # what is still due of these is left to another run
        limit = self.policy.batch_size
        while True:
            due = self.store.expired(self.policy, limit=limit)
            fresh = [session for session in due if session.id not in passed]
            for session in fresh:
                passed.add(session.id)
                try:
                    self._do(session)
                except Error as error:
                    if error.code not in ("conflict", "session_not_found"):  # somebody else was at it in between
                        self._failed(error, session.id)
                self._count()
            if not fresh and len(due) < limit:
                return
            limit = self.policy.batch_size + 2 * (len(due) - len(fresh))  # to see beyond those that come again

    def _do(self, session: Session) -> None:
        """Do what is due with a session."""
        now = datetime.now(UTC)
        if self.policy.due(session, now) == "soft_delete":
            before, session = session, session.changed(deleted_at=now)
            if not self.dry_run:
                self.store.save_session(session, replacing=before)
            self._count(sessions_soft_deleted=1)
        elif not self.dry_run and self.store.get_session(session.id) != session:
            return
        if self.policy.due(session, datetime.now(UTC)) == "hard_delete":
            self._delete(session)
        else:
            self._trim(session)

    def _delete(self, session: Session) -> None:
        """Delete a session and all that belongs to it. Itself comes last: until then it is due."""
        if self.policy.archive:
            self._archive(session, _archive_key(session))
        self._delete_artifacts(session)
        events = self.store.count_events(session_ids=session.id)
        if not self.dry_run:
            self.store.delete_session(session.id)
        self._count(sessions_deleted=1, events_deleted=events)

    def _trim(self, session: Session) -> None:
        """Delete the oldest events of a session that has too many."""
        most = self.policy.max_events_per_session
        excess = 0 if most is None else self.store.count_events(session_ids=session.id) - most
        if excess <= 0:
            return
        if self.dry_run:
            self._count(events_deleted=excess, sessions_archived=int(self.policy.archive))
            return
        ends = list(self._ends(session.id, excess))
        # One that was killed in between has archived all that is left to delete, under the key that it would have again.
        if self.policy.archive and not self._exists(key := _archive_key(session, ends[-1])):
            self._archive(session, key)
        for end in ends:
            self._count(events_deleted=self.store.delete_events(session.id, through=end))

    def _ends(self, session_id: str, count: int) -> Iterator[int]:
        """Yield the numbers through which to delete, one after the other, to delete so many events."""
        end = 0
        while count > 0 and (events := self.store.get_events(session_id, after=end, limit=min(count, STEP))):
            end = events[-1].sequence_number or 0
            count -= len(events)
            yield end

    def _exists(self, key: str) -> bool:
        try:
            self.store.stat(key)
        except Error as error:
            if error.code == "not_found":
                return False
            raise
        return True

    def _archive(self, session: Session, key: str) -> None:
        if not self.dry_run:
            with self.store.export_session(session.id) as data:
                self.store.put(key, data)
        self._count(sessions_archived=1)

    # -- Artifacts ------------------------------------------------------------------------------------------------------

    def _delete_artifacts(self, session: Session) -> None:
        """Delete the artifacts of a session, but none of another, whose id may begin with this one and a slash."""
        prefix = f"{session.id}/"
        if prefix.startswith(ARCHIVE) or len(prefix.encode()) > checks.MAX_KEY_BYTES:  # such a key cannot be
            return
        others = tuple(f"{other}/" for other in self._sessions_below(prefix))
        for infos in self._pages(prefix):
            self._delete_keys([info.key for info in infos if not info.key.startswith(others)])

    def _sessions_below(self, prefix: str) -> Iterator[str]:
        cursor = None
        while True:
            page = self.store.search_sessions(id_prefix=prefix, include_deleted=True, order="created_at", cursor=cursor)
            yield from (session.id for session in page)
            if (cursor := page.cursor) is None:
                return

    def orphans(self) -> None:
        """Delete the artifacts of sessions that are gone."""
        after: str | None = None
        while infos := self.store.list(prefix="ses_", after=after, limit=STEP):
            after = infos[-1].key
            for session_id in dict.fromkeys(found[1] for info in infos if (found := OURS.match(info.key))):
                try:
                    self._delete_orphans(session_id)
                except Error as error:
                    self._failed(error, session_id)
                after = max(after, f"{session_id}0")  # what follows all keys that begin with the id and a slash
                self._count()

    def _delete_orphans(self, session_id: str) -> None:
        if self._is_there(session_id):
            return
        pages = list(self._pages(f"{session_id}/"))
        if all(info.updated_at <= datetime.now(UTC) - GRACE for infos in pages for info in infos):
            for infos in pages:
                self._delete_keys([info.key for info in infos])

    def _is_there(self, session_id: str) -> bool:
        """Tell whether there is anything of a session: it need not be saved to have runs and events."""
        try:
            self.store.get_session_stats(session_id)
        except Error as error:
            if error.code == "session_not_found":
                return False
            raise
        return True

    def _pages(self, prefix: str) -> Iterator[list[Any]]:
        """Yield what is known of the artifacts whose keys begin so, some at a time."""
        after = None
        while infos := self.store.list(prefix=prefix, after=after, limit=STEP):
            yield infos
            after = infos[-1].key

    def _delete_keys(self, keys: list[str]) -> None:
        for key in keys:
            if not self.dry_run:
                self.store.delete(key)
        self._count(artifacts_deleted=len(keys))

    # -- The report -----------------------------------------------------------------------------------------------------

    def _failed(self, error: Error, session_id: str) -> None:
        error.context["session_id"] = session_id
        self.report = replace(self.report, errors=(*self.report.errors, error))

    def _count(self, **more: int) -> None:
        """Add to what the report counts, and tell of it."""
        counts = {name: getattr(self.report, name) + count for name, count in more.items()}
        self.report = replace(self.report, **counts, duration_ms=int(1000 * (time.monotonic() - self.begun)))
        if self.progress is not None:
            self.progress(self.report)


def _archive_key(session: Session, through: int | None = None) -> str:
    """Return where a session is archived: in a place of its own for each that bore the id, and each time that events went."""
    name = session.created_at.isoformat(timespec="microseconds") + ("" if through is None else f"-through-{through}")
    key = f"{ARCHIVE}{session.id}/{name}.jsonl"
    if len(key.encode()) <= checks.MAX_KEY_BYTES:
        return key
    return f"{ARCHIVE}{hashlib.sha256(session.id.encode()).hexdigest()}/{name}.jsonl"
