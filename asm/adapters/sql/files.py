"""The files of a SQLite database: made, and watched for as long as it is open.

Whoever deletes or replaces a file that is open takes its name, and nothing else: writes to it succeed, are kept until the
last process lets go of it, and are gone then. So a store remembers which files it opened, and looks before and after each
commit, and before each read, whether they are still those. It notices

- that the database, its ``-wal`` or its ``-shm`` was deleted, or is another file now (``mv``, ``rsync``, a restore),
- that an older database was copied over this one (``cp``): its header counts changes, and never goes back.

It does not notice that the very same state was copied over it, nor what is written to a file past SQLite.
"""

# ruff: noqa: PTH110, PTH116, PTH208  # a look takes a few microseconds, and a Path would take as much again

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Final

from asm.adapters.directories import make_directories, sync_directory
from asm.core.errors import Error

__all__ = ["Files", "make_file"]

_log: Final = logging.getLogger(__name__)

COUNTER: Final = slice(24, 28)
"""Where the header of a database counts its changes. See https://sqlite.org/fileformat.html."""


def make_file(path: Path, *, create: bool) -> None:
    """Make an empty database file and the missing directories above it, readable by their owner only, if there is none.

    :param create: without, none is made, and that there is none is an error with ``away`` in its details.
    :raises Error: ``storage_connection_failed``; ``storage_error`` when the file is gone and its log is not.
    """
    left = path.with_name(f"{path.name}-wal")
    try:
        if path.exists():
            return
        if not create:
            message = f"the database file {path} is not there, and none is made in its place: mount or restore it"
            details = {"reason": "database_missing", "path": str(path), "away": True}
            raise Error("storage_connection_failed", message, details=details)
        make_directories(path.parent)
        if left.exists() and left.stat().st_size:
            message = f"the database file {path} is gone, and {left} is still there; restore it, or remove that to begin anew"
            raise Error("storage_error", message, details={"reason": "database_missing", "path": str(path)})
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_directory(path.parent)
        _log.info("the database file %s was not there; a new one was made", path)
    except OSError as error:
        details = {"reason": "cannot_open", "path": str(path), "cause": str(error)}
        raise Error(
            "storage_connection_failed", f"the database file {path} cannot be made: {error}", details=details
        ) from error


class Files:
    """The files of a database that is open. Safe to use from any thread.

    :param path: of the database.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._beside = (f"{path}-wal", f"{path}-shm")
        self._known: dict[str, tuple[int, int]] = {}
        """The device and inode of each."""
        self._seen: tuple[int, int] | None = None
        """When the database was last changed, and its size then."""
        self._changes = 0
        """The greatest number of changes that its header had."""
        self._lock = threading.Lock()

    def note(self) -> None:
        """Remember the files that a connection has just opened. The database is always the same one.

        :raises Error: when it is not.
        """
        if self._known:
            self._check_database(writing=True)
        self._known |= {path: _identity(os.stat(path)) for path in (self._path, *self._beside) if os.path.exists(path)}

    def check(self, *, writing: bool) -> None:
        """See whether the files are still those that were opened.

        :raises Error: ``storage_write_failed`` or ``storage_read_failed``, with the reason ``database_replaced``.
        """
        self._check_database(writing=writing)
        for path in self._beside:
            try:
                same = _identity(os.stat(path)) == self._known.get(path)
            except OSError:
                same = path not in self._known
            if not same:
                raise self._replaced(f"its {path[len(self._path) :]} was deleted or replaced", writing=writing)

    def wal_bytes(self) -> int:
        """Return how long the write-ahead log is; 0 when there is none."""
        try:
            return os.stat(self._beside[0]).st_size
        except OSError:
            return 0

    def file_bytes(self) -> int:
        """Return how long the database and its write-ahead log are together."""
        return os.stat(self._path).st_size + self.wal_bytes()

    def _check_database(self, *, writing: bool) -> None:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise self._replaced("its file is gone", writing=writing) from error
        if _identity(found) != self._known[self._path]:
            raise self._replaced("there is another file in its place", writing=writing)
        if (state := (found.st_mtime_ns, found.st_size)) != self._seen:
            with self._lock:
                changes = self._read_changes()
                if changes < self._changes:
                    raise self._replaced("an older one was copied over it", writing=writing)
                self._seen, self._changes = state, changes

    def _read_changes(self) -> int:
        """Return how many changes the header counts.

        It is read by SQLite's own descriptor: closing any other one of the same file would give back SQLite's locks.
        """
        for name in os.listdir("/proc/self/fd"):
            try:
                if _identity(os.fstat(int(name))) == self._known[self._path]:
                    return int.from_bytes(os.pread(int(name), 100, 0)[COUNTER])
            except OSError:  # closed meanwhile
                continue
        return self._changes

    def _replaced(self, what: str, *, writing: bool) -> Error:
        message = (
            f"the database {self._path} was replaced while it was open: {what}. Nothing is read or written any more: stop the"
            " tree, put the database in place that you want, remove the -wal and -shm beside it, and start again"
        )
        code = "storage_write_failed" if writing else "storage_read_failed"
        return Error(code, message, details={"reason": "database_replaced", "path": self._path, "found": what})


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
