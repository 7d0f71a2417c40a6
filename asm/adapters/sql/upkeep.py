"""What the thread that writes does beside writing: in steps that hold nobody up for long, between two groups.

It removes the events of sessions that were deleted (:mod:`asm.adapters.sql.deletions`), and keeps the write-ahead log of SQLite
short: while somebody reads for long, or nobody writes any more, it is not cut by itself.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from asm.adapters.sql.deletions import STEP, is_left, remove_some
from asm.adapters.sql.engine import Database
from asm.adapters.sql.sqlite import WAL_BYTES

__all__ = ["Upkeep"]

_log: Final = logging.getLogger(__name__)

IDLE: Final = 1.0
"""Seconds without a write after which the log is looked at."""

IMPORTING: Final = 30.0
"""Seconds until it is looked again whether an import has ended whose events are left alone, or whether its process has."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
"""Seconds until something is tried again that failed, or that somebody is in the way of: at first, and at the most."""


class Upkeep:
    """What is left to do for a database. Used by the thread that writes alone.

    :param database: whose.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._removing = True  # an earlier process may have left something
        self._most = STEP
        self._log_is_looked_at = False
        self._pause = 0.0
        self._not_before = 0.0

    def after_writes(self, *, deleted: bool) -> None:
        """Note that something was written."""
        self._removing |= deleted
        self._log_is_looked_at = self._database.backend != "sqlite"

    def due(self) -> float | None:
        """Return in how many seconds something is to be done, unless there is a write; ``None`` when nothing is."""
        if self._removing:
            return max(0.0, self._not_before - time.monotonic())
        return None if self._log_is_looked_at else max(IDLE, self._pause)

    def step(self, *, idle: bool) -> None:
        """Do some of it.

        :param idle: whether nobody wants to write.
        """
        if self._removing:
            if time.monotonic() >= self._not_before:
                self._remove()
        elif idle and not self._log_is_looked_at:
            self._cut_log()

    def _remove(self) -> None:
        try:
            self._removing = self._database.read(is_left)
            if self._removing:
                with self._database.transaction() as connection:
                    if not remove_some(connection, most=self._most):
                        self._not_before = time.monotonic() + IMPORTING
            self._pause, self._most = 0.0, STEP
        except Exception as error:  # noqa: BLE001  # whatever it is, the thread must go on writing
            log = _log.debug if self._pause else _log.warning  # once, as long as it does not go well in between
            log("deleted events are removed later: %s", self._database.error(error, writing=True))
            self._database.make_room()
            self._most = max(1, self._most // 4)  # fewer need less room
            self._wait_longer()

    def _cut_log(self) -> None:
        if self._database.wal_bytes() > WAL_BYTES:
            self._database.make_room()
        if self._database.wal_bytes() > WAL_BYTES:  # somebody still reads what it was written for
            self._wait_longer()
        else:
            self._pause, self._log_is_looked_at = 0.0, True

    def _wait_longer(self) -> None:
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._not_before = time.monotonic() + self._pause
