"""One artifact in one object, so that replacing it is one request.

The object is the data and a trailer, numbers big-endian::

        size
           K  the key in UTF-8
           8  "ASMOBJ", zero, and the version of this format, one byte, 1
           8  size of the data in bytes
          32  SHA-256 of the data
           8  when it was put: microseconds since 1970, UTC, signed
           2  length of the key in bytes, K
           4  CRC-32 of the trailer so far

It stands at the end, because size and checksum of a stream are known only there, while the metadata of an object must be
given before its first byte. The alternatives have two places that must agree, and so moments in which they do not: a
second object with the checksum, or a copy of the object onto itself. Reading the trailer costs one request for the last
kilobyte, as much as one for the object's metadata would.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import struct
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn

from asm.adapters.reading import ArtifactReader
from asm.chunks import chunks
from asm.core.checks import MAX_KEY_BYTES
from asm.core.errors import Error
from asm.core.values import ArtifactInfo
from asm.ports import Data

__all__ = ["LONGEST", "ObjectReader", "ObjectSource", "pack_trailer", "trailer_size", "unpack_trailer"]

MAGIC: Final = b"ASMOBJ\x00\x01"
FIXED: Final = struct.Struct(">8sQ32sqH")
CHECK: Final = struct.Struct(">I")
LONGEST: Final = MAX_KEY_BYTES + FIXED.size + CHECK.size
"""The size of the longest trailer."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def trailer_size(key: str) -> int:
    """Return how many bytes the trailer of this key has."""
    return len(key.encode()) + FIXED.size + CHECK.size


def pack_trailer(info: ArtifactInfo) -> bytes:
    """Return the trailer for an artifact."""
    key = info.key.encode()
    moment = (info.updated_at - EPOCH) // MICROSECOND
    tail = key + FIXED.pack(MAGIC, info.byte_size, bytes.fromhex(info.checksum_sha256), moment, len(key))
    return tail + CHECK.pack(zlib.crc32(tail))


def unpack_trailer(end: bytes, total: int, name: str) -> ArtifactInfo:
    """Read the trailer of an object.

    :param end: the last bytes of the object, :data:`LONGEST` of them if it has as many.
    :param total: the size of the object.
    :param name: the object's, for messages.
    :raises Error: ``storage_read_failed`` when the object is no artifact's or is damaged.
    """
    start = len(end) - FIXED.size - CHECK.size
    if start < 0:
        raise damaged(name, "it does not end as an artifact's object does")
    magic, size, digest, moment, key_size = FIXED.unpack_from(end, start)
    if magic != MAGIC or key_size > start:
        raise damaged(name, "it does not end as an artifact's object does")
    tail = end[start - key_size : -CHECK.size]
    if end[-CHECK.size :] != CHECK.pack(zlib.crc32(tail)):
        raise damaged(name, "its trailer is not what was written")
    if total != size + len(tail) + CHECK.size:
        raise damaged(name, f"it has {total} bytes and should have {size + len(tail) + CHECK.size}")
    key = tail[:key_size].decode()
    return ArtifactInfo(key=key, byte_size=size, checksum_sha256=digest.hex(), updated_at=EPOCH + moment * MICROSECOND)


def damaged(name: str, problem: str) -> Error:
    """Return the error for an object that is not what was put."""
    details = {"reason": "damaged", "object": name}
    message = f"the object {name} is damaged: {problem}; restore it, or put or delete its key"
    return Error("storage_read_failed", message, details=details)


class ObjectSource:
    """The bytes of an object that is put, as a file that is read once: the data and, behind its end, the trailer.

    :param key: the artifact's.
    :param data: as :meth:`asm.ports.ArtifactStore.put` takes it.
    """

    failure: BaseException | None = None
    """What the data raised while it was read."""

    given_up: bool = False
    """Set when the upload failed and it is no use to read on."""

    def __init__(self, key: str, data: Data) -> None:
        self._key = key
        self._chunks = chunks(data)
        self._left = memoryview(b"")
        self._ended = False
        self._size = 0
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return exactly so many bytes, fewer only at the end; all that is left with -1."""
        block = io.BytesIO()
        while (size < 0 or block.tell() < size) and (self._left or self._advance()):
            start = block.tell()
            count = block.write(self._left if size < 0 else self._left[: size - start])
            self._left = self._left[count:]
            if not self._ended:  # what is sent is what is hashed, even if the source changes meanwhile
                self._size += count
                with block.getbuffer() as view:
                    self._hash.update(view[start:])
        return block.getvalue()

    def _advance(self) -> bool:
        """Take the next chunk, or the trailer behind the last; return false behind that."""
        if self._ended:
            return False
        if self.given_up:
            raise Error("cancelled", f"the upload of {self._key!r} has failed")
        try:
            self._left = next(self._chunks, memoryview(b""))
        except BaseException as error:
            self.failure = error
            raise
        if not self._left:
            self._ended = True
            checksum = self._hash.hexdigest()
            info = ArtifactInfo(key=self._key, byte_size=self._size, checksum_sha256=checksum, updated_at=datetime.now(UTC))
            self._left = memoryview(pack_trailer(info))
        return True


class ObjectReader(ArtifactReader):
    """The data of an artifact's object, checked as it comes.

    What is read in a row is streamed from one answer. After a ``seek``, the next read asks for the object from there on. A
    service does not wait for ever for a reader that takes its time: when it stops sending, the rest is asked for anew, as long
    as something comes.

    :param body: what the service sends, with ``read`` and ``close``.
    :param total: the size of the object in bytes.
    :param tag: the service's, of the object as it is; ``None`` when it gives none.
    :param key: the key that it must be of.
    :param name: the object's, for messages.
    :param reading: turns what ``read`` raises into an :class:`Error`.
    :param resume: asks for the same object from this byte on, and returns nothing if it is there no more.
    :raises Error: ``storage_read_failed`` for an object that is too short.
    """

    def __init__(
        self,
        body: Any,
        total: int,
        tag: str | None,
        *,
        key: str,
        name: str,
        reading: Callable[[], AbstractContextManager[None]],
        resume: Callable[[int], Any],
    ) -> None:
        self._body, self._total, self._key, self._name = body, total, key, name
        self._reading, self._resume = reading, resume
        self._sent = self._resumed_at = 0  # up to which byte the body was read, and where it was taken up again
        super().__init__(total - trailer_size(key), tag or secrets.token_hex())  # what has no name is never the same again
        if self.byte_size < 0:
            self.close()
            raise damaged(name, "it does not end as an artifact's object does")

    def close(self) -> None:
        """Close the connection, or give it back if all was read."""
        if not self.closed:
            super().close()
            self._body.close()

    def _fetch(self, size: int) -> bytes:
        return self._receive(self._position, size)

    def _receive(self, position: int, size: int) -> bytes:
        """Read from the service; nothing only if it has no more."""
        if position != self._sent:
            self._take_up(position)
        try:
            with self._reading():
                piece: bytes = self._body.read(size)
        except Error as error:
            if error.code != "storage_connection_failed" or position == self._resumed_at:
                raise
            rest = self._resume(position)
            if rest is None:
                raise
            self._go_on(rest, position)
            return self._receive(position, size)
        self._sent += len(piece)
        return piece

    def _take_up(self, position: int) -> None:
        """Ask for the object from another byte on."""
        rest = self._resume(position)
        if rest is None:
            problem = (
                f"the artifact {self._key!r} is not there any more as it was opened, or the service gives no part of "
                "an object; open it again"
            )
            raise Error("storage_read_failed", problem, details={"reason": "changed", "key": self._key, "object": self._name})
        self._go_on(rest, position)

    def _go_on(self, body: Any, position: int) -> None:
        self._body.close()
        self._body, self._sent, self._resumed_at = body, position, position

    def _checksum(self) -> str:
        """Read the trailer, which stands behind the data."""
        end = b""
        while missing := trailer_size(self._key) - len(end):
            if not (piece := self._receive(self.byte_size + len(end), missing)):
                self._fail(f"it ends {missing} bytes too early")
            end += piece
        info = unpack_trailer(end, self._total, self._name)
        if info.key != self._key:
            self._fail(f"it is of the key {info.key!r}, not {self._key!r}")
        with self._reading():
            self._body.read(1)  # sees the end, so that the connection can be used again
        return info.checksum_sha256

    def _fail(self, problem: str) -> NoReturn:
        raise damaged(self._name, problem)
