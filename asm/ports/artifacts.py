"""The artifact store: opaque bytes under a key."""

from __future__ import annotations

from typing import BinaryIO, Protocol, runtime_checkable

from asm.core.arguments import ArtifactInfos, Data, Key, OptionalLimit, OptionalText, Text
from asm.core.values import ArtifactInfo

__all__ = ["ArtifactStore"]


@runtime_checkable
class ArtifactStore(Protocol):
    """Artifacts: opaque bytes, of any size, under a key.

    A key is any non-empty text of at most 1,024 bytes of UTF-8 without NUL. ``../x``, ``a/b``, ``ключ`` and two keys
    that differ only in case are all different keys.
    """

    def put(self, key: Key, data: Data) -> None:
        """Store the bytes under the key, at once and whole, in place of what it held.

        A reader sees the old bytes or the new, never a part; a ``put`` that fails leaves the old.
        """

    def get(self, key: Key) -> bytes:
        """Return the bytes under the key.

        :raises Error: ``not_found``; ``storage_read_failed`` when they are not what was put.
        """
        ...

    def delete(self, key: Key) -> None:
        """Delete the key. An absent one is no error."""

    def open(self, key: Key) -> BinaryIO:
        """Return the bytes under the key as a readable, seekable binary file, which the caller closes.

        All that it gives is what was there when it was opened, although the key may be replaced or deleted since.

        :raises Error: ``not_found``, and while reading ``storage_read_failed`` when they are not what was put, as far as can be
            told from what was read; with the reason ``changed`` when they are not there any more.
        """
        ...

    def stat(self, key: Key) -> ArtifactInfo:
        """Return size, checksum and time of the key.

        :raises Error: ``not_found``.
        """
        ...

    def list(self, *, prefix: Text = "", after: OptionalText = None, limit: OptionalLimit = None) -> ArtifactInfos:
        """Return what is known of the artifacts, by key, ascending. It costs what it returns, and not what is stored.

        :param prefix: keys that begin so.
        :param after: keys greater than this one.
        :param limit: how many to return at the most.
        """
        ...

    def delete_prefix(self, prefix: Key) -> int:
        """Delete every key that begins so, and return how many."""
        ...
