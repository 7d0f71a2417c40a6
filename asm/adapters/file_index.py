"""The keys of a file store in their order: what the files say, kept so that a list need not open all of them.

::

    root/asm-index.sqlite         the keys that there are, and of each directory in ``objects`` how it looked when that was so

The names of the files tell nothing of the order of their keys. So the keys are kept beside them, and the files stay the truth:
nobody who puts or deletes touches the index. Whoever lists looks first which of the 256 directories have changed, by what the
file system tells of each (inode, times), reads the names in those, and opens what is new there. So it makes no difference who
changed a directory, and whether that process was killed in the middle of it, or was of a version that knows no index.

What the index says is checked by who uses it: a file that is listed is opened. What it does not say is the danger, and so

* a directory that has changed so lately that a further change might bear the same time is looked at again the next time;
* the index is not synced. After a start of the machine, and where it is a copy, it is checked from end to end, and all
  names are compared with it;
* one that is damaged or deleted is made anew, in steps that are kept; where it cannot be used, because somebody holds it
  or the volume is read-only, the files are read one by one.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from asm.adapters.artifact_file import FileReader, failure
from asm.adapters.roots import DIRECTORY, INDEX, MARKER, NAME, OBJECTS
from asm.core.errors import Error

__all__ = ["KeyIndex", "entries", "file_name"]

_log: Final = logging.getLogger(__name__)

VERSION: Final = 1
"""Of the tables. An index with others is made anew."""

TABLES: Final = (
    "CREATE TABLE artifact (name BLOB PRIMARY KEY, key BLOB NOT NULL UNIQUE) WITHOUT ROWID",
    "CREATE TABLE directory (name TEXT PRIMARY KEY, looks TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE checked (identity TEXT NOT NULL)",
    f"PRAGMA user_version = {VERSION}",
)

PATIENCE: Final = 2.0
"""For how many seconds the index is waited for, while another process writes to it."""

QUEUE: Final = 10.0
"""For how many seconds one thread waits for another of this process. It is a courtesy: the index itself is held while it is
written to, and the other thread may have been left in the process that this one was forked from."""

STEP: Final = 0.05
"""After how many seconds of work others may have the index."""

PAGE: Final = 1000
"""How many keys are taken from it at a time."""

COARSE_CLOCK: Final = 5
"""``CLOCK_REALTIME_COARSE`` of Linux, by which file systems tell the time: no later change gets an earlier one."""

SETTLED: Final = 100_000_000
"""How many nanoseconds a change must lie back, so that a further one does not bear the same time: more than the ticks of a
clock, and than that of another machine on which the files are may differ."""

SETTLED_COARSELY: Final = 2_500_000_000
"""The same where a file system tells no fractions of a second."""

DAMAGED: Final = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_SCHEMA,
}
"""What SQLite says of an index that is not as we made it."""


def file_name(key: str) -> str:
    """Return the path of an artifact's file from the root on."""
    name = hashlib.sha256(key.encode()).hexdigest()
    return f"{OBJECTS}/{name[:2]}/{name}"


def entries(root: int, directory: str) -> list[str]:
    """Return the names in a directory; none if there is no such directory."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return os.listdir(descriptor)  # noqa: PTH208  # a path would not be below the root that is held
    finally:
        os.close(descriptor)


class KeyIndex:
    """The keys of a file store. Safe to use from any thread and process.

    :param path: the root, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = ""
        self._queue = threading.Lock()

    def keys(self, root: int, *, prefix: str, after: str | None, size: int | None) -> Generator[str, None, None]:
        """Yield the keys that there are, in order. What is put or deleted meanwhile may be among them.

        :param root: a descriptor of the root.
        :param prefix: keys that begin so.
        :param after: keys greater than this one.
        :param size: how many are wanted.
        :raises Error: ``storage_read_failed`` when a file cannot be read whose key is not known.
        """
        start = max(prefix.encode(), b"" if after is None else after.encode() + b"\0")
        for again in (True, False):
            try:
                with self._opened(root) as index:
                    self._refresh(index, root)
                    while page := _page(index, start, prefix.encode(), min(size or PAGE, PAGE)):
                        for key in page:
                            start = key + b"\0"
                            yield key.decode()
                    return
            except (sqlite3.Error, OSError) as error:
                damaged = isinstance(error, sqlite3.Error) and _code(error) in DAMAGED
                self._tell(f"{error}; {'it is made anew' if damaged and again else 'the files are read one by one instead'}")
                if not damaged:
                    break
                with suppress(OSError):
                    os.unlink(INDEX, dir_fd=root)
        yield from sorted(key for key in self._all(root) if key.startswith(prefix) and key.encode() >= start)

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            _log.warning("the index of the artifact store %s cannot be used: %s", self._path, problem)

    # -- The index ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self, root: int) -> Iterator[sqlite3.Connection]:
        """Open the index; make or check it where that has not been done on this machine since it was started."""
        with suppress(OSError):  # there is one, or none can be made, which SQLite says as well
            os.close(os.open(INDEX, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root))
        identity = _identity(root)
        place = f"file:/proc/self/fd/{root}/{INDEX}?mode=rw"
        with closing(
            sqlite3.connect(place, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        ) as index:
            index.execute("PRAGMA synchronous = OFF")
            index.execute("PRAGMA journal_mode = TRUNCATE")  # no file comes and goes under those who copy the root
            if not _is_checked(index, identity):
                with _transaction(index):
                    _make_or_check(index, identity)
            yield index

    def _refresh(self, index: sqlite3.Connection, root: int) -> None:
        """Have the index say all that is there now."""
        queued = self._queue.acquire(timeout=QUEUE)  # those who come second find it done
        try:
            known = dict(index.execute("SELECT name, looks FROM directory"))
            found = {name: self._looks(root, name) for name in self._directories(root)}
            changed = [name for name in known | found if known.get(name) != found.get(name)]
            while changed:
                with _transaction(index):
                    until = time.monotonic() + STEP
                    while changed and self._update(index, root, changed[-1], until):
                        changed.pop()
        finally:
            if queued:
                self._queue.release()

    def _update(self, index: sqlite3.Connection, root: int, directory: str, until: float) -> bool:
        """Have the index say what is in a directory; return whether that could be done in time.

        It is looked at while the index is held, so that nobody who looked earlier writes later.
        """
        now = time.clock_gettime_ns(COARSE_CLOCK)
        looks = self._looks(root, directory, settled_by=now)
        names = set(self._names(root, directory))
        known = _known(index, directory)
        index.executemany("DELETE FROM artifact WHERE name = ?", [(bytes.fromhex(name),) for name in known - names])
        index.execute("DELETE FROM directory WHERE name = ?", (directory,))
        failed: Error | None = None
        for name in names - known:
            try:
                key = self._key(root, f"{OBJECTS}/{directory}/{name}")
            except Error as error:  # what can be read is kept all the same
                failed = error
                continue
            if key is not None:
                index.execute("INSERT INTO artifact (name, key) VALUES (?, ?)", (bytes.fromhex(name), key.encode()))
            if time.monotonic() > until:
                return False
        if failed is not None:
            index.execute("COMMIT")
            raise failed
        if looks is not None:
            index.execute("INSERT INTO directory (name, looks) VALUES (?, ?)", (directory, looks))
        return True

    # -- The files ------------------------------------------------------------------------------------------------------

    def _all(self, root: int) -> Iterator[str]:
        """Yield the key of every artifact."""
        for directory in self._directories(root):
            for name in self._names(root, directory):
                if (key := self._key(root, f"{OBJECTS}/{directory}/{name}")) is not None:
                    yield key

    def _directories(self, root: int) -> Iterator[str]:
        with self._reading(OBJECTS):
            return filter(DIRECTORY.fullmatch, entries(root, OBJECTS))

    def _names(self, root: int, directory: str) -> Iterator[str]:
        """Return the names of the files in a directory that are ours: whatever has another is passed over."""
        with self._reading(f"{OBJECTS}/{directory}"):
            return (name for name in entries(root, f"{OBJECTS}/{directory}") if NAME.fullmatch(name) and name[:2] == directory)

    def _looks(self, root: int, directory: str, *, settled_by: int | None = None) -> str | None:
        """Tell how a directory looks, if it is there.

        :param settled_by: nothing is told of one that is not settled at this time, in nanoseconds: it may look the same again.
        """
        with self._reading(f"{OBJECTS}/{directory}"):
            try:
                status = os.stat(f"{OBJECTS}/{directory}", dir_fd=root)
            except FileNotFoundError:
                return None
        if not stat.S_ISDIR(status.st_mode):
            return None
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        if settled_by is not None and changed + (SETTLED if changed % 1_000_000 else SETTLED_COARSELY) >= settled_by:
            return None
        return f"{status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"

    def _key(self, root: int, name: str) -> str | None:
        """Return the key of a file, if it is still there."""
        path = self._path / name
        try:
            with FileReader(path, below=(root, name)) as reader:
                key = reader.info.key
        except FileNotFoundError:
            return None
        if file_name(key) != name:
            problem = f"the artifact file {path} is of the key {key!r}, which has another name; put it back, or delete it"
            raise Error("storage_read_failed", problem, details={"reason": "damaged", "path": str(path), "key": key})
        return key

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failure("storage_read_failed", "list the artifacts", self._path / name, error) from error


# -- What is asked of the index ---------------------------------------------------------------------------------------------


@contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if index.in_transaction:
            index.execute("ROLLBACK")
        raise
    index.execute("COMMIT")


def _identity(root: int) -> str:
    """Return what is the same for as long as the machine runs and the root is not a copy.

    :raises OSError: when there is no file for the index.
    """
    marker = os.stat(MARKER, dir_fd=root, follow_symlinks=False)  # is not written to, so it tells when it was copied
    index = os.stat(INDEX, dir_fd=root, follow_symlinks=False)
    if not stat.S_ISREG(index.st_mode):
        raise FileNotFoundError(errno.ENOENT, "there is something else in its place, which should go", INDEX)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {marker.st_ino} {marker.st_ctime_ns} {index.st_ino}"


def _is_checked(index: sqlite3.Connection, identity: str) -> bool:
    return _version(index) == VERSION and index.execute("SELECT identity FROM checked").fetchall() == [(identity,)]


def _version(index: sqlite3.Connection) -> int:
    version: int = index.execute("PRAGMA user_version").fetchone()[0]
    return version


def _make_or_check(index: sqlite3.Connection, identity: str) -> None:
    """Make the tables, or check what is in them.

    :raises sqlite3.DatabaseError: when they are not as we made them.
    """
    if _is_checked(index, identity):  # by somebody who was faster
        return
    version = _version(index)
    if version == 0:
        for table in TABLES:
            index.execute(table)
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"its version is {version}, not {VERSION}")
    else:
        (verdict,) = index.execute("PRAGMA integrity_check(1)").fetchone()
        rows = index.execute("SELECT name, key FROM artifact")
        if verdict != "ok" or any(hashlib.sha256(key).digest() != name for name, key in rows):
            raise sqlite3.DatabaseError(f"it is damaged ({verdict})")
        index.execute("DELETE FROM directory")  # so all names are compared
    index.execute("DELETE FROM checked")
    index.execute("INSERT INTO checked (identity) VALUES (?)", (identity,))


def _known(index: sqlite3.Connection, directory: str) -> set[str]:
    """Return the names of a directory that the index knows."""
    first = bytes.fromhex(directory)
    rows = index.execute("SELECT name FROM artifact WHERE name BETWEEN ? AND ?", (first, first + b"\xff" * 32))
    return {name.hex() for (name,) in rows}


def _page(index: sqlite3.Connection, start: bytes, prefix: bytes, size: int) -> list[bytes]:
    """Return the next keys in order."""
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\xff"  # no byte of UTF-8 is 255
    rows = index.execute("SELECT key FROM artifact WHERE key >= ? AND key < ? ORDER BY key LIMIT ?", (start, end, size))
    return [key for (key,) in rows]


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's own code of an error, without the details of it."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
