"""The one that writes: a thread that commits whatever waits, together.

::

    callers ──► queue ──► group ──► begin ─► perform the set ─► commit ──► announce the appends ──► answer each
                            ▲            │
                            │            ├─► the connection broke, or others were in the way: the same group again
                            │            └─► the database refused it: each half by itself, until who is at fault stands alone
                            └── all that waits at that moment, of one kind; nobody waits for more to come

While one group is being committed the next one gathers, so a commit, which costs the same for one write as for many, is
shared by as many as there are. Whoever is refused takes nobody along. What the contract refuses is decided before anything is
stored (:mod:`asm.adapters.sql.groups`). What only the database does fails the whole transaction, which has changed nothing
then, and its halves are made again, each in a transaction of its own. Savepoints would be one for every write, whether any
fails or not, and SQLite gives up the whole transaction for some errors, savepoints or none.

A connection may break during the commit, and then nobody knows whether it took place. Where what is stored now tells, as an
event does by its id, the write is performed again, or taken for done. Who else saved or deleted something is told that the
outcome is unknown, because doing it again could undo what somebody else did in between.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final

from asm.adapters.appends import Appends
from asm.adapters.sql.engine import Database, Patience
from asm.adapters.sql.failures import Trouble
from asm.adapters.sql.groups import perform
from asm.adapters.sql.upkeep import Upkeep
from asm.adapters.sql.writes import WRITES, Outcome, Write
from asm.core.errors import Error

__all__ = ["MOST_EVENTS", "MOST_WRITES", "Cancel", "Done", "Submit", "Writer"]

_log: Final = logging.getLogger(__name__)

MOST_WRITES: Final = 256
"""How many writes go into one transaction."""

MOST_EVENTS: Final = 4096
"""How many events go into one transaction, if there is more than one write."""

HOPELESS: Final = (Trouble.LOST, Trouble.AWAY, Trouble.UNFIT, Trouble.REPLACED)
"""Troubles in which parts of a group would fare no better than the whole."""

Done = Callable[[Any, BaseException | None], object]
"""Told the result of a write after its commit, or why it failed; in the thread of the writer, which it must not hold up."""

Cancel = Callable[[], bool]
"""Drops a write, unless it has begun: it is not performed then, nobody is told, and nothing of it is held any more."""

Submit = Callable[[str, dict[str, Any], Done], bool | Cancel]
"""Queues a write: :meth:`Writer.submit`."""


@dataclass(slots=True)
class _Pending:
    """A write that waits for its commit."""

    write: Write
    done: Done
    since: float = field(default_factory=time.monotonic)


class Writer:
    """Writes to a database. Safe to use from any thread.

    :param database: where to.
    :param appends: told of the events that were committed.
    :param require_open: raises why its store takes nothing any more.
    """

    def __init__(self, database: Database, appends: Appends, require_open: Callable[[], None]) -> None:
        self._database = database
        self._appends = appends
        self._require_open = require_open
        self._upkeep = Upkeep(database)
        self._queue: OrderedDict[int, _Pending] = OrderedDict()
        self._tickets = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="asm-sql-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: str, arguments: dict[str, Any], done: Done) -> bool | Cancel:
        """Queue a write without waiting for it.

        :param operation: the name of an operation.
        :param arguments: its arguments by name, checked as :meth:`asm.operations.Operation.bind` does.
        :param done: called once, in the thread of the writer and after the commit, with the result and ``None``, or with
            ``None`` and the error; it must not block. In the caller's thread when the store is closed.
        :returns: false for an operation that reads; nothing was done then, and it is to be called as a method. Otherwise what
            drops the write, unless it has begun, and tells whether it did: it does not take place then, ``done`` is not
            called, and nothing of it is held any more. True when it is over already.
        """
        if operation not in WRITES:
            return False
        try:
            return self._put(operation, arguments, done)
        except Error as error:
            done(None, error)
        return True

    def write(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Queue a write, wait for its commit, and return its result.

        :raises Error: ``storage_error`` when the store is closed, and why it failed.
        """
        answered: Future[Any] = Future()

        def done(result: Any, error: BaseException | None) -> None:
            if error is None:
                answered.set_result(result)
            else:
                answered.set_exception(error)

        self._put(operation, arguments, done)
        return answered.result()

    def close(self) -> None:
        """Commit what is queued, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _put(self, operation: str, arguments: dict[str, Any], done: Done) -> Cancel:
        """Queue a write; return what takes it out of the queue, and tells whether it was still there."""
        self._require_open()
        write = WRITES[operation](**arguments)
        with self._changed:
            if self._closed:
                raise Error("storage_error", "the store was closed", details={"reason": "closed"})
            ticket = next(self._tickets)
            self._queue[ticket] = _Pending(write, done)
            self._changed.notify()
        return functools.partial(self._drop, ticket)

    def _drop(self, ticket: int) -> bool:
        with self._changed:
            return self._queue.pop(ticket, None) is not None

    # -- The thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (group := self._next()) is not None:
            if group:
                self._commit(group)
                self._upkeep.after_writes(deleted=group[0].write.kind != "stores")
            self._upkeep.step(idle=not group)

    def _next(self) -> list[_Pending] | None:
        """Wait for a write; return it with all that wait behind it and fit.

        :returns: an empty list when there is something else to do; ``None`` when there will be no more.
        """
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                if not self._changed.wait(self._upkeep.due()):
                    return []
            group: list[_Pending] = []
            weight = 0
            while self._queue and len(group) < MOST_WRITES:
                following = next(iter(self._queue.values())).write
                weight += len(following.events)
                if group and (weight > MOST_EVENTS or following.kind != group[0].write.kind or not following.shares):
                    break
                group.append(self._queue.popitem(last=False)[1])
            return group

    def _commit(self, group: Sequence[_Pending]) -> None:
        """Commit a group, in parts if it must be, and answer every write of it."""
        patience = Patience(min(item.since for item in group) + self._database.patience)
        again = False
        while True:
            committing = False
            try:
                with self._database.transaction() as connection:
                    outcomes = perform(connection, [item.write for item in group], again=again)
                    committing = True
            except Exception as error:  # noqa: BLE001  # whoever waits is told of anything, and the thread lives on
                again = True
                trouble = self._database.trouble(error)
                if committing and trouble is Trouble.LOST:
                    group = self._settle(group, outcomes, error)
                if group and patience.allows(trouble):
                    if trouble is Trouble.FULL:
                        self._database.make_room()
                    continue
                if trouble is Trouble.BUSY:
                    self._expire(group, error)
                elif committing or len(group) == 1 or trouble in HOPELESS:
                    self._refuse(group, error)
                else:
                    self._commit(group[: len(group) // 2])
                    self._commit(group[len(group) // 2 :])
                return
            self._answer(group, outcomes)
            return

    def _settle(self, group: Sequence[_Pending], outcomes: Sequence[Outcome], error: Exception) -> list[_Pending]:
        """Return what is to be performed again of a group whose commit may or may not have taken place; refuse the rest."""
        again = []
        for item, outcome in zip(group, outcomes, strict=True):
            repeatable = item.write.repeatable(outcome)
            if outcome.error is None:
                item.write = replace(item.write, attempted=True)
            if repeatable:
                again.append(item)
            else:
                self._refuse([item], error)
        return again

    def _expire(self, group: Sequence[_Pending], error: Exception) -> None:
        """Refuse those who have waited for a lock for long enough, and try again for the others."""
        oldest = time.monotonic() - self._database.patience
        self._refuse([item for item in group if item.since <= oldest], error)
        if others := [item for item in group if item.since > oldest]:
            self._commit(others)

    def _refuse(self, group: Sequence[_Pending], error: Exception) -> None:
        for item in group:
            made = self._database.error(error, writing=True)  # each its own: every raise adds to an exception's traceback
            if isinstance(made, Error) and item.write.attempted:
                made.details["outcome"] = "unknown"
            _tell(item, None, made)

    def _answer(self, group: Sequence[_Pending], outcomes: Sequence[Outcome]) -> None:
        if told := [session_id for outcome in outcomes for session_id in outcome.appended]:
            self._appends.announce(told)
        for item, outcome in zip(group, outcomes, strict=True):
            _tell(item, outcome.result, outcome.error)


def _tell(item: _Pending, result: Any, error: BaseException | None) -> None:
    try:
        item.done(result, error)
    except Exception:  # noqa: BLE001  # one that cannot be told must not keep the others waiting
        _log.exception("whoever asked for a write could not be told of its outcome")
