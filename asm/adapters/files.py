"""Artifacts as files: a tree below one directory, named by the hash of the key.

::

    root/tmp/…                    what is being put; a file that nobody has locked is the leftover of a dead process
    root/objects/ab/abcd…ef       one file an artifact (:mod:`asm.adapters.artifact_file`), SHA-256 of its key

A ``put`` writes a temporary file, syncs it, renames it to its place and syncs the directory: so it lasts once it
returned, replaces as a whole, and leaves the old artifact when it fails. No key can reach a file outside the root, because no
part of a key is ever part of a path. Any number of threads and processes may use one root.
"""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import fcntl
import hashlib
import heapq
import io
import itertools
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from asm.adapters.artifact_file import FileReader, failure, header_size, pack_header
from asm.adapters.base import Adapter
from asm.adapters.directories import check_place, check_text, make_directories, sync_directory
from asm.chunks import CHUNK, chunks
from asm.core.errors import Error
from asm.core.values import ArtifactInfo
from asm.operations import implements
from asm.ports import ArtifactInfos, ArtifactStore, Data

__all__ = ["FileArtifactStore"]

_log: Final = logging.getLogger(__name__)

NAME: Final = re.compile(r"[0-9a-f]{64}")
"""The names of our files in ``objects``."""


WRITE_BEHIND: Final = 8 * CHUNK
"""After how many bytes the disk begins with them. Left alone it would begin when all have come, and everybody would wait."""


@implements(ArtifactStore)
class FileArtifactStore(Adapter):
    """An artifact store in a directory. What a call acknowledged survives a power loss.

    :param root: the directory; made with the missing ones above it, readable by its owner only.
    :raises Error: ``validation_error``, or ``storage_write_failed`` when the directories cannot be made.
    """

    def __init__(self, *, root: str | os.PathLike[str]) -> None:
        FileArtifactStore.preflight(root=root)  # a subclass may take more
        self._root = Path(root).absolute()
        self._objects = self._root / "objects"
        self._tmp = self._root / "tmp"
        self._names = map(f"{secrets.token_hex(8)}-{{}}".format, itertools.count())
        self._made: set[Path] = set()
        try:
            for directory in (self._objects, self._tmp):
                make_directories(directory)
            self._remove_leftovers()
        except OSError as error:
            raise failure("storage_write_failed", "make the directories of the artifact store", self._root, error) from error

    @classmethod
    def preflight(cls, **options: Any) -> None:
        """Check that the root can be written to, or could be made."""
        super().preflight(**options)
        check_place(Path(check_text(options["root"], "root")), "root")

    def put(self, key: str, data: Data) -> None:
        self.require_open()
        path, doing = self._path(key), f"put {key!r}"
        with _writing(doing, path):
            temporary, descriptor = self._new_file()
        try:
            self._write(descriptor, key, data, path)
            with _writing(doing, path):
                os.fsync(descriptor)
                self._make_directory(path.parent)
                temporary.rename(path)
        except BaseException:
            with suppress(OSError):  # what cannot be removed now is removed at the next start
                temporary.unlink()
            raise
        finally:
            os.close(descriptor)
        with _writing(doing, path):
            sync_directory(path.parent)

    def get(self, key: str) -> bytes:
        with self._reader(key) as reader:
            return reader.readall()

    def delete(self, key: str) -> None:
        self.require_open()
        path = self._path(key)
        with _writing(f"delete {key!r}", path), suppress(FileNotFoundError):
            path.unlink()
            sync_directory(path.parent)

    def open(self, key: str) -> BinaryIO:
        reader = self._reader(key)
        return cast("BinaryIO", io.BufferedReader(reader, buffer_size=min(CHUNK, reader.info.byte_size + 1)))

    def stat(self, key: str) -> ArtifactInfo:
        with self._reader(key) as reader:
            return reader.info

    def list(self, *, prefix: str = "", after: str | None = None, limit: int | None = None) -> ArtifactInfos:
        self.require_open()
        found = (info for info in self._all() if info.key.startswith(prefix) and (after is None or info.key > after))
        return sorted(found, key=_key) if limit is None else heapq.nsmallest(limit, found, key=_key)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._objects / name[:2] / name

    def _reader(self, key: str) -> FileReader:
        self.require_open()
        try:
            return FileReader(self._path(key), key)
        except FileNotFoundError as error:
            raise Error("not_found", f"there is no artifact {key!r}", details={"key": key}) from error

    def _new_file(self) -> tuple[Path, int]:
        """Make a temporary file, and lock it to tell that its writer lives."""
        while True:
            path = self._tmp / next(self._names)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:  # a process forked from this one takes names from the same row
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

    def _make_directory(self, directory: Path) -> None:
        """Make one of the directories of ``objects``, and sync its entry once in the life of this store."""
        if directory not in self._made:
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._objects)
            self._made.add(directory)

    def _remove_leftovers(self) -> None:
        """Remove what dead processes were writing. A lock tells the living."""
        for path in self._tmp.iterdir():
            with suppress(OSError):  # another store was faster, its writer lives, or it is nothing of ours
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()  # no name is used twice, so if its writer renamed it before the lock, nothing is there
                finally:
                    os.close(descriptor)

    def _all(self) -> Iterator[ArtifactInfo]:
        """Yield what is known of each artifact. What is not ours is passed over, and what is damaged is logged, too."""
        try:
            directories = [Path(entry.path) for entry in os.scandir(self._objects) if entry.is_dir(follow_symlinks=False)]
            for directory in directories:
                for name in set(os.listdir(directory)):  # noqa: PTH208  # names are what is needed
                    if NAME.fullmatch(name) and (info := _info(directory / name)) and self._path(info.key).name == name:
                        yield info
        except OSError as error:
            raise failure("storage_read_failed", "list the artifacts", self._objects, error) from error


def _info(path: Path) -> ArtifactInfo | None:
    """Return what a file's header tells, if it is still there and tells it."""
    try:
        with FileReader(path) as reader:
            return reader.info
    except FileNotFoundError:
        return None
    except Error as error:
        _log.warning("not listed: %s", error.message)
        return None


def _begin_to_sync(descriptor: int, start: int, end: int) -> None:
    """Have the disk begin with a part of a file, and do not wait for it: what is not on the disk yet is not dropped."""
    with suppress(OSError):  # it is advice; what goes wrong with the disk is told by fsync
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _writing(doing: str, path: Path) -> Iterator[None]:
    """Turn a failed system call into a ``storage_write_failed``."""
    try:
        yield
    except OSError as error:
        raise failure("storage_write_failed", doing, path, error) from error


def _key(info: ArtifactInfo) -> str:
    return info.key
