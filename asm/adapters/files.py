"""Artifacts as files: a tree below one directory, named by the hash of the key.

::

    root/asm-store.json           tells that it is a store, and which one (:mod:`asm.adapters.roots`)
    root/tmp/…                    what is being put; a file that nobody has locked is the leftover of a dead process
    root/objects/ab/abcd…ef       one file an artifact (:mod:`asm.adapters.artifact_file`), SHA-256 of its key
    root/asm-index.sqlite         the keys in order, derived from the files (:mod:`asm.adapters.file_index`)

A ``put`` writes a temporary file, syncs it, renames it to its place and syncs the directory: so it lasts once it
returned, replaces as a whole, and leaves the old artifact when it fails. No key can reach a file outside the root, because no
part of a key is ever part of a path. Any number of threads and processes may use one root.

Every call works below a descriptor of the root, which is held for so long; see there why. Directories that are empty may be
removed by anybody at any moment, and are made again.
"""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import fcntl
import hashlib
import io
import itertools
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, cast

from asm.adapters.artifact_file import FileReader, failure, header_size, pack_header
from asm.adapters.base import Adapter
from asm.adapters.directories import check_path, sync_directory
from asm.adapters.file_index import KeyIndex, entries, file_name
from asm.adapters.roots import OBJECTS, TMP, Root, examine
from asm.chunks import CHUNK, chunks
from asm.core.arguments import ArtifactInfos, Flag
from asm.core.errors import Error
from asm.core.options import options, options_of
from asm.core.values import ArtifactInfo
from asm.operations import implements
from asm.ports import ArtifactStore, Data

__all__ = ["FileArtifactStore"]

TEMPORARY: Final = re.compile(r"[0-9a-f]{16}-[0-9]+")
"""The names of our files in ``tmp``. Others are somebody else's."""

ATTEMPTS: Final = 10
"""How often a directory is made again that somebody removes before there is anything in it."""

WRITE_BEHIND: Final = 8 * CHUNK
"""After how many bytes the disk begins with them. Left alone it would begin when all have come, and everybody would wait."""


@implements(ArtifactStore)
class FileArtifactStore(Adapter):
    """An artifact store in a directory. What a call acknowledged survives a power loss.

    :param root: the directory, empty or a store's already; made with the missing ones above it, readable by its owner only.
    :param create: whether a store is made where there is none. Without, that is waited for.
    :raises Error: ``validation_error``, also for a directory that holds other things and is no store; ``storage_read_failed``
        with ``details["away"]`` when a store that was there is away; ``storage_write_failed`` when none can be made.
    """

    @options
    def __init__(self, *, root: Annotated[str | os.PathLike[str], check_path], create: Flag = True) -> None:
        self._root = Root(Path(root), create=create)
        self._names = map(f"{secrets.token_hex(8)}-{{}}".format, itertools.count())
        self._synced: set[str] = set()
        self._unsynced: set[str] = set()  # directories from which something was deleted that a power loss may bring back
        self._index = KeyIndex(self._root.path)
        with self._root.held("storage_read_failed", "open the artifact store") as opened:
            _remove_leftovers(opened)

    @classmethod
    def preflight(cls, **options: Any) -> None:
        """Check that the root is a store, or that one could be made there. One that is away is no mistake."""
        super().preflight(**options)
        given = options_of(FileArtifactStore).pick(options)
        try:
            if "root" in given:
                examine(given["root"], create=given["create"])
        except Error as error:
            if error.details.get("away") is not True:
                raise

    def ping(self) -> None:
        """See that the root is there.

        :raises Error: ``storage_read_failed``, with ``details["away"]`` when it is not.
        """
        self.require_open()
        with self._root.held("storage_read_failed", "look at the artifact store"):
            pass

    def put(self, key: str, data: Data) -> None:
        self.require_open()
        name, doing = file_name(key), f"put {key!r}"
        path = self._root.path / name
        with self._root.held("storage_write_failed", doing) as root:
            with _writing(doing, path):
                temporary, descriptor = self._new_file(root)
            try:
                self._write(descriptor, key, data, path)
                with _writing(doing, path):
                    os.fsync(descriptor)
                    self._move(root, temporary, name)
            except BaseException:
                with suppress(OSError):  # what cannot be removed now is removed at the next start
                    os.unlink(temporary, dir_fd=root)
                raise
            finally:
                with suppress(OSError):  # it is synced, or of no use
                    os.close(descriptor)
            with _writing(doing, path, outcome="unknown"):  # it is there, and may be gone after a power loss
                self._sync(root, _above(name))

    def get(self, key: str) -> bytes:
        with self._reader(key) as reader:
            return reader.readall()

    def delete(self, key: str) -> None:
        self.require_open()
        name, doing = file_name(key), f"delete {key!r}"
        path = self._root.path / name
        with self._root.held("storage_write_failed", doing) as root:
            with _writing(doing, path), suppress(FileNotFoundError):
                os.unlink(name, dir_fd=root)
            # Also when it was gone already: whoever deleted it may have failed just here.
            with _writing(doing, path, outcome="unknown"), suppress(FileNotFoundError):
                sync_directory(_above(name), dir_fd=root)

    def open(self, key: str) -> BinaryIO:
        reader = self._reader(key)
        return cast("BinaryIO", io.BufferedReader(reader, buffer_size=min(CHUNK, reader.info.byte_size + 1)))

    def stat(self, key: str) -> ArtifactInfo:
        with self._reader(key) as reader:
            return reader.info

    def delete_prefix(self, prefix: str) -> int:
        self.require_open()
        doing, deleted = f"delete what begins with {prefix!r}", 0
        touched = set(self._unsynced)
        with self._root.held("storage_write_failed", doing) as root:
            try:
                for key in self._index.keys(root, prefix=prefix, after=None, size=None):
                    name = file_name(key)
                    touched.add(_above(name))
                    with _writing(doing, self._root.path / name), suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=root)
                        deleted += 1
            finally:
                self._sync_deleted(root, doing, touched)
        return deleted

    def _sync_deleted(self, root: int, doing: str, directories: set[str]) -> None:
        """Sync directories from which something was deleted; if that fails, the next ``delete_prefix`` does it."""
        self._unsynced |= directories
        for directory in directories:
            self._unsynced.discard(directory)
            try:
                with _writing(doing, self._root.path / directory, outcome="unknown"), suppress(FileNotFoundError):
                    sync_directory(directory, dir_fd=root)
            except Error:
                self._unsynced.add(directory)
                raise

    def list(self, *, prefix: str = "", after: str | None = None, limit: int | None = None) -> ArtifactInfos:
        self.require_open()
        with (
            self._root.held("storage_read_failed", "list the artifacts") as root,
            closing(self._index.keys(root, prefix=prefix, after=after, size=limit)) as keys,
        ):
            infos = filter(None, (self._look(root, key) for key in keys))  # some may be gone by now
            return [*itertools.islice(infos, limit)]

    def _look(self, root: int, key: str) -> ArtifactInfo | None:
        """Return what the file of a key tells, if there is one."""
        try:
            with FileReader(self._root.path / file_name(key), key, below=(root, file_name(key))) as reader:
                return reader.info
        except FileNotFoundError:
            return None

    def _reader(self, key: str) -> FileReader:
        self.require_open()
        name = file_name(key)
        try:
            with self._root.held("storage_read_failed", f"get {key!r}") as root:
                return FileReader(self._root.path / name, key, below=(root, name))
        except FileNotFoundError as error:
            raise Error("not_found", f"there is no artifact {key!r}", details={"key": key}) from error

    def _new_file(self, root: int) -> tuple[str, int]:
        """Make a temporary file, and lock it to tell that its writer lives."""
        attempts = ATTEMPTS
        while True:
            path = f"{TMP}/{next(self._names)}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
            except FileExistsError:  # a process forked from this one takes names from the same row
                continue
            except FileNotFoundError:
                attempts -= 1
                if not attempts:
                    raise
                _make_directory(root, TMP)
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return path, descriptor
            except BlockingIOError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # a store that starts took it for a leftover, before it was locked

    def _write(self, descriptor: int, key: str, data: Data, path: Path) -> None:
        """Write header and data. A small artifact is written at once; in a larger one, the header is filled in at the end."""
        doing, room, size, digest = f"put {key!r}", header_size(key), 0, hashlib.sha256()
        buffer, written, begun = bytearray(room), 0, 0  # how many bytes are in the file, and with how many the disk has begun
        for chunk in chunks(data):
            start = len(buffer)
            buffer += chunk
            with memoryview(buffer) as view:  # what is written is what is hashed, even if the source changes meanwhile
                digest.update(view[start:])
            size += len(chunk)
            if len(buffer) >= CHUNK:
                with _writing(doing, path):
                    _write_all(descriptor, buffer)
                written = room + size
                buffer.clear()
                if written - begun >= WRITE_BEHIND:
                    _begin_to_sync(descriptor, begun, written)
                    begun = written
        info = ArtifactInfo(key=key, byte_size=size, checksum_sha256=digest.hexdigest(), updated_at=datetime.now(UTC))
        with _writing(doing, path):
            if written:
                _write_all(descriptor, buffer)
                os.pwrite(descriptor, pack_header(info), 0)
            else:
                buffer[:room] = pack_header(info)
                _write_all(descriptor, buffer)

    def _move(self, root: int, temporary: str, name: str) -> None:
        """Rename a file to its place."""
        for left in reversed(range(ATTEMPTS)):
            try:
                os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=root)
            except FileNotFoundError:
                if not left:
                    raise
                self._synced.discard(_above(name))
                _make_directory(root, _above(name))
            else:
                return

    def _sync(self, root: int, directory: str) -> None:
        """Sync a directory; and once in the life of this store, or of the directory, what leads to it."""
        sync_directory(directory, dir_fd=root)
        if directory not in self._synced:
            for above in (OBJECTS, "."):
                sync_directory(above, dir_fd=root)
            self._synced.add(directory)


def _above(name: str) -> str:
    """Return the directory of a file, or of a directory; nothing for one that is right below the root."""
    return name.rpartition("/")[0]


def _make_directory(root: int, directory: str) -> None:
    """Make a directory, or the one above it if that is missing, unless somebody else is faster."""
    with suppress(FileExistsError):
        try:
            os.mkdir(directory, 0o700, dir_fd=root)
        except FileNotFoundError:
            if above := _above(directory):
                _make_directory(root, above)


def _remove_leftovers(root: int) -> None:
    """Remove what dead processes were writing. A lock tells the living."""
    with suppress(OSError):
        for name in filter(TEMPORARY.fullmatch, entries(root, TMP)):
            with suppress(OSError):  # another store was faster, its writer lives, or it is nothing of ours
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(f"{TMP}/{name}", flags, dir_fd=root)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # No name is used twice, so if its writer renamed it before the lock, nothing is there.
                    os.unlink(f"{TMP}/{name}", dir_fd=root)
                finally:
                    os.close(descriptor)


def _begin_to_sync(descriptor: int, start: int, end: int) -> None:
    """Have the disk begin with a part of a file, and do not wait for it: what is not on the disk yet is not dropped."""
    with suppress(OSError):  # it is advice; what goes wrong with the disk is told by fsync
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _writing(doing: str, path: Path, **details: str) -> Iterator[None]:
    """Turn a failed system call into a ``storage_write_failed`` with these details."""
    try:
        yield
    except OSError as error:
        raise failure("storage_write_failed", doing, path, error, **details) from error
