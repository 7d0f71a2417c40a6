import io
import mmap

import pytest

from asm.chunks import CHUNK, chunks
from asm.core.errors import Error


class Reads:
    """A file that answers each read with the next of its answers."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.sizes = []

    def read(self, size):
        self.sizes.append(size)
        return self.answers.pop(0)


def test_no_chunk_is_larger_than_the_limit():
    data = bytes(2 * CHUNK + 5)
    for source in (data, bytearray(data), io.BytesIO(data), [data], Reads(data, b"")):
        assert [len(chunk) for chunk in chunks(source)] == [CHUNK, CHUNK, 5]


def test_a_file_is_asked_for_a_chunk_at_a_time():
    file = Reads(b"a", b"b", b"")
    assert b"".join(chunks(file)) == b"ab"
    assert file.sizes == [CHUNK] * 3


def test_an_iterable_is_not_read_ahead():
    taken = []

    def source():
        for number in range(3):
            taken.append(number)
            yield bytes([number])

    running = chunks(source())
    assert taken == []
    next(running)
    assert taken == [0]


def test_memory_is_not_copied():
    data = bytearray(b"data")
    (chunk,) = chunks(data)
    assert chunk.obj is data


def test_a_mapped_file_is_read_from_where_it_stands(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"some data")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.seek(5)
        assert b"".join(map(bytes, chunks(mapped))) == b"data"


@pytest.mark.parametrize(
    ("source", "field", "text"),
    [
        (["a"], "data[0]", "not str"),
        ([b"a", b"b", 5], "data[2]", "not int"),
        (Reads("text"), "data.read()", "open the file in binary mode"),
        (Reads(b"a", None), "data.read()", "not None"),
    ],
    ids=["text", "a number", "a text file", "a file that does not block"],
)
def test_what_is_no_bytes_is_named(source, field, text):
    with pytest.raises(Error, match=text) as caught:
        list(chunks(source))
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == field
