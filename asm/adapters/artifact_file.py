"""One artifact in one file, so that replacing it is one rename.

The file begins with a header, numbers big-endian, and the data follows to the end of the file::

    offset   size
         0      8  "ASMFILE" and the version of this format, one byte, 1
         8      8  size of the data in bytes
        16     32  SHA-256 of the data
        48      8  when it was put: microseconds since 1970, UTC, signed
        56      2  length of the key in bytes, K
        58      K  the key in UTF-8
      58+K      4  CRC-32 of all that comes before it
      62+K         the data

The header tells what is known of the artifact without reading the data. Its checksum tells a damaged header, the
size a data part that was cut short, and the SHA-256 any other change of the data: a reader raises then, and does not
return the last of what it read.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from asm.adapters.reading import ArtifactReader
from asm.core.checks import MAX_KEY_BYTES
from asm.core.errors import Error
from asm.core.values import ArtifactInfo

__all__ = ["FileReader", "failure", "header_size", "pack_header"]

MAGIC: Final = b"ASMFILE\x01"
FIXED: Final = struct.Struct(">8sQ32sqH")
CHECK: Final = struct.Struct(">I")
LONGEST: Final = FIXED.size + MAX_KEY_BYTES + CHECK.size
"""The size of the longest header."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def header_size(key: str) -> int:
    """Return how many bytes the header of this key has."""
    return FIXED.size + len(key.encode()) + CHECK.size


def pack_header(info: ArtifactInfo) -> bytes:
    """Return the header for an artifact."""
    key = info.key.encode()
    moment = (info.updated_at - EPOCH) // MICROSECOND
    head = FIXED.pack(MAGIC, info.byte_size, bytes.fromhex(info.checksum_sha256), moment, len(key)) + key
    return head + CHECK.pack(zlib.crc32(head))


def failure(code: str, doing: str, path: Path, error: OSError, **details: Any) -> Error:
    """Return the error that stands for a failed system call.

    :param code: ``storage_read_failed`` or ``storage_write_failed``.
    :param doing: what was being done, in words that fit behind "failed to".
    :param details: more facts for a program.
    """
    name = errno.errorcode.get(error.errno or 0, str(error.errno))
    details = {"errno": name, "path": str(path), "cause": str(error), **details}
    return Error(code, f"failed to {doing}: {error.strerror or error} ({name}) at {path}", details=details)


class FileReader(ArtifactReader):
    """The data of an artifact's file, checked as it is read.

    :param path: the file. A link is not followed, and what is no plain file is not waited for.
    :param key: the key that the file must be of; ``None`` takes any.
    :param below: the descriptor of a directory and the path of the file from there on, to open it by; the path is for
        messages then. The descriptor is not needed any more once the reader is made.
    :raises FileNotFoundError: when there is no such file.
    :raises Error: ``storage_read_failed`` for a file that cannot be read, and one that is no artifact's or is damaged.
    """

    info: ArtifactInfo
    """What the header tells."""
    _descriptor = -1
    """None, until the file is open: Python closes also what could not be made."""

    def __init__(self, path: Path, key: str | None = None, *, below: tuple[int, str] | None = None) -> None:
        self._path = path
        directory, name = below or (None, path)
        try:
            self._descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise failure("storage_read_failed", "open an artifact", path, error) from error
        try:
            self.info = self._read_header()
            if key is not None and self.info.key != key:
                self._fail(f"it is of the key {self.info.key!r}, not {key!r}")
        except BaseException:
            self.close()
            raise
        super().__init__(self.info.byte_size, self.info.checksum_sha256)
        self._start = header_size(self.info.key)

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            super().close()
            if self._descriptor >= 0:
                os.close(self._descriptor)

    def _fetch(self, size: int) -> bytes:
        with self._reading():
            return os.pread(self._descriptor, size, self._start + self._position)

    def _fill(self, view: memoryview) -> int:
        with self._reading():
            return os.preadv(self._descriptor, [view], self._start + self._position)

    def _checksum(self) -> str:
        return self.info.checksum_sha256

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failure("storage_read_failed", "read an artifact", self._path, error) from error

    def _read_header(self) -> ArtifactInfo:
        """Read and check the header, and the size of the file."""
        with self._reading():
            status = os.fstat(self._descriptor)
            head = os.pread(self._descriptor, LONGEST, 0) if stat.S_ISREG(status.st_mode) else b""
        if len(head) < FIXED.size or not head.startswith(MAGIC):
            self._fail("it does not begin as an artifact's file does")
        _, size, digest, moment, key_size = FIXED.unpack_from(head)
        end = FIXED.size + key_size
        if head[end : end + CHECK.size] != CHECK.pack(zlib.crc32(head[:end])):
            self._fail("its header is not what was written")
        if status.st_size != end + CHECK.size + size:
            self._fail(f"it has {status.st_size} bytes and should have {end + CHECK.size + size}")
        updated_at = EPOCH + moment * MICROSECOND
        return ArtifactInfo(
            key=head[FIXED.size : end].decode(), byte_size=size, checksum_sha256=digest.hex(), updated_at=updated_at
        )

    def _fail(self, problem: str) -> NoReturn:
        details = {"reason": "damaged", "path": str(self._path)}
        message = f"the artifact file {self._path} is damaged: {problem}; restore it, put or delete its key, or delete the file"
        raise Error("storage_read_failed", message, details=details)
