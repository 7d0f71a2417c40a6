"""``open``, and ``seek``."""

from __future__ import annotations

import io
import zipfile

import pytest

from asm.core.errors import Error
from asm.ports import ArtifactStore
from asm.testing.artifacts import MIB, content

__all__ = ["Seeking"]

SIZE = 2 * MIB + 5
"""More than any buffer on the way."""

PLACES = [0, 1, 4095, 65_536, MIB - 1, MIB, MIB + 1, 2 * MIB, SIZE - 1]


class Seeking:
    """What ``open`` returns is a file like any other: it can be read from any place."""

    def test_it_can_be_read_from_any_place(self, store: ArtifactStore) -> None:
        """Counted from the start, from the end, or from where it stands."""
        data = content(SIZE)
        store.put("key", data)
        with store.open("key") as file:
            assert file.seekable()
            assert file.tell() == 0
            for place in [*PLACES, *reversed(PLACES)]:
                assert file.seek(place) == place
                assert file.read(10) == data[place : place + 10]
                assert file.seek(place - SIZE, io.SEEK_END) == place
                assert file.read(10) == data[place : place + 10]
                after = file.tell()
                assert after == min(place + 10, SIZE)
                assert file.seek(place - after, io.SEEK_CUR) == place
                assert file.read(10) == data[place : place + 10]

    def test_what_follows_can_be_read_to_the_end(self, store: ArtifactStore) -> None:
        """After any ``seek``, at once or in pieces."""
        data = content(SIZE)
        store.put("key", data)
        with store.open("key") as file:
            for place in PLACES:
                file.seek(place)
                assert file.read() == data[place:]
                assert file.read(1) == b""
                file.seek(place)
                assert b"".join(iter(lambda: file.read(300_000), b"")) == data[place:]

    def test_the_end_tells_the_size(self, store: ArtifactStore) -> None:
        """Of what was opened, also of nothing; and it can be read from the start after that."""
        for size in (0, 1, SIZE):
            store.put("key", content(size))
            with store.open("key") as file:
                assert file.seek(0, io.SEEK_END) == size
                assert file.tell() == size
                assert file.read() == b""
                file.seek(0)
                assert file.read() == content(size)

    def test_behind_the_end_is_nothing(self, store: ArtifactStore) -> None:
        """To read there is no error, and to come back neither."""
        store.put("key", b"data")
        with store.open("key") as file:
            assert file.seek(1000) == 1000
            assert file.read() == file.read(5) == b""
            assert file.tell() == 1000
            assert file.seek(-998, io.SEEK_CUR) == 2
            assert file.read() == b"ta"

    def test_before_the_start_is_an_error(self, store: ArtifactStore) -> None:
        """``ValueError``, which moves nothing. To get there from the end or the middle may lead to the start, as in memory."""
        store.put("key", b"data")
        with store.open("key") as file:
            file.read(1)
            for place, whence in ((-1, io.SEEK_SET), (0, 5)):
                with pytest.raises(ValueError, match=r"\w"):
                    file.seek(place, whence)
            assert file.read() == b"ata"
            for place, whence in ((-5, io.SEEK_END), (-6, io.SEEK_CUR)):
                before = file.seek(0, io.SEEK_END)
                try:
                    assert file.seek(place, whence) == 0
                except ValueError:
                    assert file.tell() == before

    @pytest.mark.parametrize("size", [5, SIZE])
    def test_what_is_read_is_of_one_version(self, store: ArtifactStore, size: int) -> None:
        """What was replaced or deleted after it was opened is read as it was, or refused: never a mixture."""
        old, new = content(size), bytes(size + 1)

        def change() -> None:
            store.put("key", new)

        def delete() -> None:
            store.delete("key")

        for replace in (change, delete):
            for read in (0, 3):
                for place in (size - 2, 1, size, 0):
                    store.put("key", old)
                    with store.open("key") as file:
                        begin = file.read(read)
                        replace()
                        assert file.seek(0, io.SEEK_END) == size
                        file.seek(place)
                        try:
                            rest = file.read()
                        except Error as error:
                            assert (error.code, error.details.get("reason")) == ("storage_read_failed", "changed")  # noqa: PT017
                        else:
                            assert (begin, rest) == (old[:read], old[place:])

    def test_a_closed_file_does_not_seek(self, store: ArtifactStore) -> None:
        """As none does."""
        store.put("key", b"data")
        file = store.open("key")
        file.close()
        with pytest.raises(ValueError, match="closed"):
            file.seek(0)

    def test_an_archive_is_read_where_it_is(self, store: ArtifactStore) -> None:
        """The usual thing that seeks."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(20):
                archive.writestr(f"{number}.bin", content(100_000 + number))
        store.put("key", made.getvalue())
        with store.open("key") as file, zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None
            for number in (19, 3, 11):
                assert archive.read(f"{number}.bin") == content(100_000 + number)
