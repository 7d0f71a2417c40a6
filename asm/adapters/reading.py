"""A reader of an artifact's data, whatever holds it: it seeks, and checks what it reads."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ArtifactReader"]


class ArtifactReader(io.RawIOBase):
    """The data of an artifact as a raw file, which a store makes its own by :meth:`_fetch`.

    Whoever reads it in order from its start gets an error in place of the last bytes when it is not what was put. That may be
    done in any number of reads, and with reads of other parts in between. Of a part that is read by itself, the checksum says
    nothing: there, it is noticed when the data is shorter or longer than it was, or is another artifact's.

    :param byte_size: of the data.
    :param version: tells it from what the same key holds at other times.
    """

    def __init__(self, byte_size: int, version: str) -> None:
        super().__init__()
        self.byte_size = byte_size
        self.version = version
        self._position = 0
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._checked = False

    def _fetch(self, size: int) -> bytes:
        """Return some of the data from ``_position`` on, at most so many bytes of it; nothing only where there is nothing.

        :param size: more than 0, and no more than there should be.
        """
        raise NotImplementedError

    def _fill(self, view: memoryview) -> int:
        """Fetch as much as fits into a buffer, and return how much it was."""
        piece = self._fetch(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def _checksum(self) -> str:
        """Return the SHA-256 of what was put. Asked for when all data was read."""
        raise NotImplementedError

    def _fail(self, problem: str) -> NoReturn:
        """Raise the error for data that is not what was put."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, which may lie behind the end; nothing is read there.

        :raises ValueError: for a place before the start, and an unknown ``whence``.
        """
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.byte_size}
        if whence not in starts:
            problem = f"whence must be 0, 1 or 2, not {whence}"
            raise ValueError(problem)
        if (position := starts[whence] + offset) < 0:
            problem = f"there is nothing {-position} bytes before the start"
            raise ValueError(problem)
        self._position = position
        return position

    def tell(self) -> int:
        """Return the place at which the next read begins."""
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some of the data; 0 bytes at its end.

        :raises Error: ``storage_read_failed`` when it is not what was put, and for whatever keeps it from being read.
        """
        view = memoryview(buffer).cast("B")[: self._left]
        piece = view[: self._fill(view) if view else 0]
        self._take(piece, wanted=len(view))
        return len(piece)

    def readall(self) -> bytes:
        """Read the rest of the data.

        :raises Error: as :meth:`readinto`.
        """
        parts: list[bytes] = []
        while not parts or self._left:
            parts.append(self._fetch(self._left) if self._left else b"")
            self._take(parts[-1], wanted=self._left)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def _left(self) -> int:
        """How many bytes of the data there should be from the position on."""
        return max(self.byte_size - self._position, 0)

    def _take(self, piece: bytes | memoryview, *, wanted: int) -> None:
        """Take account of what was read at the position; go on behind it, unless all was read and it is wrong."""
        if wanted and not piece:
            self._fail(f"it ends {wanted} bytes too early")
        end = self._position + len(piece)
        if self._position <= self._hashed < end:
            self._hash.update(memoryview(piece)[self._hashed - self._position :])
            self._hashed = end
        if end == self._hashed == self.byte_size and not self._checked:
            if self._hash.hexdigest() != self._checksum():
                self._fail("its data is not what was put: the checksum differs")
            self._checked = True
        self._position = end
