"""What an error of a driver means, and what may be done about it: the words that all databases share."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

__all__ = ["OUTDATED", "READ_FAILED", "WRITE_FAILED", "Failure", "Trouble"]


class Trouble(Enum):
    """Why an attempt at the database failed, as far as that decides what comes next."""

    BUSY = "somebody else holds a lock"
    CONFLICT = "somebody else wrote at the same time, and this transaction was given up"
    LOST = "the connection broke"
    AWAY = "no connection could be made"
    UNFIT = "the connection is of no use any more, and another may be: what was so when it was made is not so now"
    FULL = "there is no room, unless what is written twice is written to its place"
    REPLACED = "the database is not the one that was opened"
    FINAL = "another attempt would fail, too"


class Failure(NamedTuple):
    """What an error means to a caller."""

    code: str
    reason: str
    sentence: str
    """What happened, in words that fit behind the name of the database."""
    away: bool = False
    """Whether it passes when the database is back. Otherwise something is wrong that somebody has to mend."""


WRITE_FAILED: Final = Failure("storage_write_failed", "io_error", "cannot be written: the disk fails or is full")
READ_FAILED: Final = Failure("storage_read_failed", "io_error", "cannot be read: the disk fails")
OUTDATED: Final = Failure("migration_required", "schema", "lacks tables or columns of this version")
