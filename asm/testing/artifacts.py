"""``put``, ``get``, ``stat``, ``delete``."""

from __future__ import annotations

import array
import hashlib
import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from asm.ports import ArtifactStore
from asm.testing.samples import at_once, refused

__all__ = ["Artifacts", "SourceError", "breaking"]

MIB = 1024 * 1024

SIZES = [0, 1, 4095, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB + MIB // 2]
"""Sizes around those of blocks and chunks."""


class SourceError(Exception):
    """What a source of data raises in the middle."""


def content(size: int) -> bytes:
    """Return bytes of which no part is like another."""
    return b"".join(hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(size // 32 + 1))[:size]


def breaking(*chunks: bytes) -> Iterator[bytes]:
    """Yield some chunks, then raise."""
    yield from chunks
    raise SourceError


class BreakingFile(io.RawIOBase):
    """A file that raises after its first chunk."""

    def __init__(self) -> None:
        super().__init__()
        self._first = True

    def readable(self) -> bool:
        """Return true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return something once."""
        if not self._first:
            raise SourceError
        self._first = False
        return b"part" * 10


def _seeked(data: bytes) -> BinaryIO:
    file = io.BytesIO(b"before" + data)
    file.seek(6)
    return file


SOURCES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "bytes": (lambda: b"data", b"data"),
    "bytearray": (lambda: bytearray(b"data"), b"data"),
    "memoryview": (lambda: memoryview(b"data"), b"data"),
    "a part of a memoryview": (lambda: memoryview(b"some data here")[5:9], b"data"),
    "every second byte of a memoryview": (lambda: memoryview(b"d-a-t-a-")[::2], b"data"),
    "a memoryview of numbers": (lambda: memoryview(array.array("H", [1, 2, 3])), array.array("H", [1, 2, 3]).tobytes()),
    "an empty memoryview": (lambda: memoryview(b""), b""),
    "an array": (lambda: array.array("d", [0.5, 1.5]), array.array("d", [0.5, 1.5]).tobytes()),
    "a file": (lambda: io.BytesIO(b"data"), b"data"),
    "a file that was read from": (lambda: _seeked(b"data"), b"data"),
    "an empty file": (lambda: io.BytesIO(b""), b""),
    "a large file": (lambda: io.BytesIO(content(2 * MIB + 1)), content(2 * MIB + 1)),
    "a list": (lambda: [b"da", bytearray(b"t"), memoryview(b"a")], b"data"),
    "an empty list": (list, b""),
    "empty chunks": (lambda: [b"", b"data", b"", b""], b"data"),
    "a generator": (lambda: (chunk for chunk in (b"da", b"ta")), b"data"),
    "single bytes": (lambda: (bytes([byte]) for byte in content(5000)), content(5000)),
    "large chunks": (lambda: iter([content(MIB + 7)] * 2), content(MIB + 7) * 2),
}
"""Everything that data can be given as, made anew for each test, and the bytes that it is."""


class Artifacts:
    """Bytes are kept under a key, exactly, and replaced whole."""

    @pytest.mark.parametrize("size", SIZES)
    def test_what_was_put_comes_back(self, store: ArtifactStore, size: int) -> None:
        """Every byte of it, and ``stat`` tells its size and its SHA-256."""
        data = content(size)
        assert store.put("key", data) is None  # type: ignore[func-returns-value]
        assert store.get("key") == data
        info = store.stat("key")
        assert (info.key, info.byte_size, info.checksum_sha256) == ("key", size, hashlib.sha256(data).hexdigest())
        assert info.updated_at.utcoffset() == timedelta(0)

    @pytest.mark.parametrize("name", SOURCES)
    def test_data_comes_in_many_ways(self, store: ArtifactStore, name: str) -> None:
        """Anything that is bytes, a readable binary file from where it stands, or an iterable of bytes."""
        make, expected = SOURCES[name]
        store.put("key", make())
        assert store.get("key") == expected
        assert store.stat("key").byte_size == len(expected)

    def test_data_comes_from_a_file_on_disk(self, store: ArtifactStore, tmp_path: Path) -> None:
        """Which stays open, at its end."""
        path = tmp_path / "source"
        path.write_bytes(content(MIB + 1))
        with path.open("rb") as file:
            store.put("key", file)
            assert file.tell() == MIB + 1
        assert store.get("key") == content(MIB + 1)

    def test_get_returns_bytes(self, store: ArtifactStore) -> None:
        """And no other kind of buffer."""
        store.put("key", bytearray(b"data"))
        assert type(store.get("key")) is bytes

    def test_a_changed_source_changes_nothing_that_was_put(self, store: ArtifactStore) -> None:
        """The store keeps bytes of its own."""
        data = bytearray(b"data")
        store.put("key", data)
        data[:] = b"DATA"
        assert store.get("key") == b"data"

    def test_putting_again_replaces(self, store: ArtifactStore) -> None:
        """Longer by shorter, shorter by longer, something by nothing."""
        for data in (content(5000), b"short", content(MIB + 1), b""):
            store.put("key", data)
            assert store.get("key") == data
            assert store.stat("key").byte_size == len(data)
        assert [info.key for info in store.list()] == ["key"]

    def test_an_absent_key_is_not_found(self, store: ArtifactStore) -> None:
        """``not_found`` from all that read, also when others are there."""
        store.put("other", b"data")
        with refused("not_found"):
            store.get("key")
        with refused("not_found"):
            store.stat("key")
        with refused("not_found"):
            store.open("key")

    def test_a_deleted_key_is_not_found(self, store: ArtifactStore) -> None:
        """And the others stay."""
        store.put("key", b"data")
        store.put("other", b"other")
        assert store.delete("key") is None  # type: ignore[func-returns-value]
        with refused("not_found"):
            store.get("key")
        assert [info.key for info in store.list()] == ["other"]
        assert store.get("other") == b"other"

    def test_deleting_what_is_not_there_is_no_error(self, store: ArtifactStore) -> None:
        """Twice is as good as once."""
        store.delete("key")
        store.put("key", b"data")
        store.delete("key")
        store.delete("key")
        assert store.list() == []

    def test_a_deleted_key_can_be_put_again(self, store: ArtifactStore) -> None:
        """As if it had never been."""
        store.put("key", b"old")
        store.delete("key")
        store.put("key", b"new")
        assert store.get("key") == b"new"

    # -- What is refused --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", [None, "text", 5, 1.5, {"a": b"b"}, object()], ids=lambda bad: type(bad).__name__)
    def test_what_is_no_data_is_refused(self, store: ArtifactStore, bad: Any) -> None:
        """``validation_error``; text has no bytes before somebody names its encoding."""
        store.put("key", b"old")
        with refused("validation_error"):
            store.put("key", bad)
        with refused("validation_error"):
            store.put("new", bad)
        assert store.get("key") == b"old"
        assert [info.key for info in store.list()] == ["key"]

    @pytest.mark.parametrize(
        "make",
        [
            lambda: ["text"],
            lambda: [b"bytes", "text"],
            lambda: [b"bytes", None],
            lambda: [1, 2, 3],
            lambda: (item for item in [b"bytes" * 300_000, 5]),
            lambda: io.StringIO("text"),
        ],
        ids=["text", "text behind bytes", "None", "numbers", "late in a generator", "a text file"],
    )
    def test_chunks_that_are_no_bytes_are_refused(self, store: ArtifactStore, make: Callable[[], Any]) -> None:
        """``validation_error``, and nothing of it is visible."""
        store.put("key", b"old")
        with refused("validation_error"):
            store.put("key", make())
        with refused("validation_error"):
            store.put("new", make())
        assert store.get("key") == b"old"
        assert [info.key for info in store.list()] == ["key"]

    @pytest.mark.parametrize(
        "make",
        [breaking, lambda: breaking(b"part"), lambda: breaking(content(MIB + 1), b"part"), BreakingFile],
        ids=["at once", "after a little", "after much", "a file"],
    )
    def test_a_source_that_raises_leaves_the_old(self, store: ArtifactStore, make: Callable[[], Any]) -> None:
        """Its own exception comes out, and nothing of what it gave is visible."""
        store.put("key", b"old")
        with pytest.raises(SourceError):
            store.put("key", make())
        with pytest.raises(SourceError):
            store.put("new", make())
        assert store.get("key") == b"old"
        assert [info.key for info in store.list()] == ["key"]
        store.put("key", b"new")
        assert store.get("key") == b"new"

    def test_calls_are_checked(self, store: Any) -> None:
        """A missing or an unknown argument is a ``validation_error``."""
        with refused("validation_error"):
            store.put("key")
        with refused("validation_error"):
            store.put("key", b"data", content_type="text/plain")
        with refused("validation_error"):
            store.get()
        assert store.list() == []

    # -- Many at once -------------------------------------------------------------------------------------------------

    def test_readers_see_one_whole_or_another(self, store: ArtifactStore) -> None:
        """Four threads put, four read: never a part, never a mixture."""
        wholes = {bytes([number]) * (100_000 + number) for number in range(4)}
        store.put("key", bytes([0]) * 100_000)

        def work(thread: int) -> None:
            for _ in range(10):
                if thread < 4:
                    store.put("key", bytes([thread]) * (100_000 + thread))
                else:
                    assert store.get("key") in wholes

        at_once(8, work)
        assert store.get("key") in wholes
        assert store.stat("key").checksum_sha256 == hashlib.sha256(store.get("key")).hexdigest()

    def test_threads_that_put_different_keys_do_not_meet(self, store: ArtifactStore) -> None:
        """All of it is there afterwards."""

        def work(thread: int) -> None:
            for number in range(5):
                store.put(f"{thread}/{number}", f"{thread}:{number}".encode())

        at_once(8, work)
        assert {info.key: store.get(info.key) for info in store.list()} == {
            f"{thread}/{number}": f"{thread}:{number}".encode() for thread in range(8) for number in range(5)
        }
