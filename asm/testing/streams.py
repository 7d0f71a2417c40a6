"""``open``."""

from __future__ import annotations

from pathlib import Path

import pytest

from asm.ports import ArtifactStore
from asm.testing.artifacts import MIB, SIZES, content
from asm.testing.samples import at_once, refused

__all__ = ["Streams"]


class Streams:
    """An artifact can be read in pieces, and stays what it was when it was opened."""

    @pytest.mark.parametrize("size", SIZES)
    def test_all_of_it_can_be_read(self, store: ArtifactStore, size: int) -> None:
        """At once; and after its end there is nothing."""
        store.put("key", content(size))
        with store.open("key") as file:
            assert file.readable()
            assert file.read() == content(size)
            assert file.read() == b""
            assert file.read(10) == b""

    @pytest.mark.parametrize("piece", [1, 1000, 65_536, MIB, 3 * MIB])
    def test_it_can_be_read_in_pieces(self, store: ArtifactStore, piece: int) -> None:
        """Of any size, each as large as was asked for until the last."""
        data = content(3000 if piece == 1 else 2 * MIB + 5)
        store.put("key", data)
        with store.open("key") as file:
            pieces = list(iter(lambda: file.read(piece), b""))
        assert b"".join(pieces) == data
        assert {len(item) for item in pieces[:-1]} <= {piece}

    def test_it_can_be_put_again_from_there(self, store: ArtifactStore) -> None:
        """What ``open`` returns is what ``put`` takes, also under the same key."""
        data = content(MIB + 1)
        store.put("key", data)
        with store.open("key") as file:
            store.put("copy", file)
        with store.open("key") as file:
            store.put("key", file)
        assert store.get("copy") == store.get("key") == data

    def test_reading_nothing_reads_nothing(self, store: ArtifactStore) -> None:
        """And loses nothing."""
        store.put("key", b"data")
        with store.open("key") as file:
            assert file.read(0) == b""
            assert file.read(2) == b"da"
            assert file.read(0) == b""
            assert file.read() == b"ta"

    def test_it_can_be_closed_at_any_time(self, store: ArtifactStore) -> None:
        """Twice, too; and then it is not read from."""
        store.put("key", content(2 * MIB))
        file = store.open("key")
        file.read(10)
        file.close()
        file.close()
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            file.read(1)

    def test_a_reader_sees_the_old_whole(self, store: ArtifactStore) -> None:
        """Although the key was replaced while it read."""
        old = content(2 * MIB + 1)
        store.put("key", old)
        with store.open("key") as file:
            begin = file.read(10)
            store.put("key", b"new")
            assert begin + file.read() == old
        with store.open("key") as file:
            assert file.read() == b"new"

    def test_many_can_read_at_once(self, store: ArtifactStore) -> None:
        """Each at its own place."""
        data = content(MIB + 1)
        store.put("key", data)

        def read(thread: int) -> bytes:
            with store.open("key") as file:
                return b"".join(iter(lambda: file.read(10_000 + thread), b""))

        assert at_once(8, read) == [data] * 8

    def test_it_can_be_saved_to_disk(self, store: ArtifactStore, tmp_path: Path) -> None:
        """By a loop over pieces of memory."""
        data = content(MIB + 1)
        store.put("key", data)
        path, piece = tmp_path / "copy", bytearray(50_000)
        with store.open("key") as file, path.open("wb") as copy:
            while count := file.readinto(piece):  # type: ignore[attr-defined]  # every binary file has it
                copy.write(memoryview(piece)[:count])
        assert path.read_bytes() == data

    def test_an_absent_key_is_not_found_when_it_is_opened(self, store: ArtifactStore) -> None:
        """And not only when it is read."""
        with refused("not_found"):
            store.open("key")
