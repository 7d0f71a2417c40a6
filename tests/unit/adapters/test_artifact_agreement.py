"""Every artifact store, told anything at all, answers as the contract says: as a map of bytes does.

The same calls in every run. With ``--campaign`` others and more of them; ``--seed`` repeats a run.
"""

import functools
import hashlib
import io
import itertools
import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asm.adapters import FileArtifactStore, S3ArtifactStore
from asm.chunks import CHUNK
from asm.core.errors import Error
from asm.testing.artifacts import SourceError, breaking

PART = 5 * CHUNK
"""From which size an artifact is sent to S3 in parts."""

ALIKE = ["x" * 1023 + "y", "x" * 1023 + "z", "🙂" * 256]
NAMES = ["a", "A", "a/b", "a//b", "../a", ".", "ключ", "e\u0301", "é", " a\n", "%2e", *ALIKE]
KEYS = st.sampled_from(NAMES)
STARTS = st.sampled_from(["", "a", "a/", ".", "к", "e", "x", "x" * 1023, "🙂" * 200, "nothing"]) | KEYS
SIZES = st.sampled_from([0, 1, 2, 4096, CHUNK - 1, CHUNK, CHUNK + 1])
LARGE = st.sampled_from([PART - 1, PART, PART + 1, 2 * PART + 1])


@functools.cache
def content(size, number):
    return random.Random(number).randbytes(size)


@functools.cache
def known(key, data):
    """What a store has to know of an artifact, without the time."""
    return key, len(data), hashlib.sha256(data).hexdigest()


def told(info):
    """What it knows."""
    return info.key, info.byte_size, info.checksum_sha256


def split(data):
    """Chunks of several sizes, some of them empty."""
    yield b""
    for start in range(0, len(data), 700_001):
        yield bytearray(data[start : start + 700_001])
    yield memoryview(b"")


FORMS = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(data + b"more")[: len(data)],
    "file": io.BytesIO,
    "list": lambda data: [data, b""],
    "generator": split,
}
"""Ways in which data is given to ``put``."""


class Agreement(RuleBasedStateMachine):
    """Calls of a store and of a map.

    :param store: the store, empty.
    """

    def __init__(self, store):
        super().__init__()
        self.store = store
        self.model = {}

    def infos(self, keys):
        return [known(key, self.model[key]) for key in sorted(keys)]

    def agree(self, key, read, expected):
        """A key that is there gives what is expected of it, and one that is not is not found."""
        try:
            found = read(key)
        except Error as error:
            assert (error.code, key in self.model) == ("not_found", False)
        else:
            assert found == expected(key)

    @rule(key=KEYS, size=SIZES, number=st.integers(0, 3), form=st.sampled_from(list(FORMS)))
    def put(self, key, size, number, form):
        data = content(size, number)
        self.store.put(key, FORMS[form](data))
        self.model[key] = data

    @rule(key=KEYS, size=LARGE, form=st.sampled_from(list(FORMS)))
    def put_large(self, key, size, form):
        self.put(key, size, 4, form)

    @rule(key=KEYS, size=SIZES | LARGE)
    def put_what_breaks(self, key, size):
        with pytest.raises(SourceError):
            self.store.put(key, breaking(bytes(size)))

    @rule(key=KEYS)
    def delete(self, key):
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(prefix=STARTS.filter(bool))
    def delete_prefix(self, prefix):
        wanted = [key for key in self.model if key.startswith(prefix)]
        assert self.store.delete_prefix(prefix) == len(wanted)
        for key in wanted:
            del self.model[key]

    @rule(key=KEYS)
    def get(self, key):
        self.agree(key, self.store.get, self.model.__getitem__)

    @rule(key=KEYS, size=st.sampled_from([100_000, CHUNK, 2 * CHUNK]))
    def read(self, key, size):
        def read(key):
            with self.store.open(key) as file:
                return b"".join(iter(lambda: file.read(size), b""))

        self.agree(key, read, self.model.__getitem__)

    @rule(key=KEYS, share=st.floats(0, 1.1), size=st.sampled_from([1, 100_000]))
    def read_from(self, key, share, size):
        def place(key):
            return int(share * len(self.model.get(key, b"")))

        def read(key):
            with self.store.open(key) as file:
                file.seek(place(key))
                return file.read(size)

        self.agree(key, read, lambda key: self.model[key][place(key) : place(key) + size])

    @rule(key=KEYS)
    def stat(self, key):
        self.agree(key, lambda key: told(self.store.stat(key)), lambda key: self.infos([key])[0])

    @rule(prefix=STARTS, after=st.none() | STARTS, limit=st.none() | st.integers(1, 4))
    def list_some(self, prefix, after, limit):
        wanted = [key for key in self.model if key.startswith(prefix) and (after is None or key > after)]
        found = self.store.list(prefix=prefix, after=after, limit=limit)
        assert [told(info) for info in found] == self.infos(wanted)[:limit]

    @invariant()
    def all_is_listed(self):
        assert [told(info) for info in self.store.list()] == self.infos(self.model)


# -- The stores -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_directory(tmp_path):
    """A function that returns an empty store in files."""
    numbers = itertools.count()
    return lambda: FileArtifactStore(root=tmp_path / str(next(numbers)))


@pytest.fixture
def empty_bucket(s3_server):
    """A function that returns a store in a bucket, which it empties."""
    bucket = s3_server.new_bucket()
    with S3ArtifactStore(bucket=bucket, endpoint_url=s3_server.url) as store:

        def empty():
            for item in s3_server.client.list_objects_v2(Bucket=bucket).get("Contents", ()):
                s3_server.client.delete_object(Bucket=bucket, Key=item["Key"])
            return store

        yield empty


def test_artifacts_in_files_keep_the_contract(empty_directory, explore):
    explore(lambda: Agreement(empty_directory()), examples=10, steps=20)


def test_artifacts_in_a_bucket_keep_the_contract(empty_bucket, explore):
    explore(lambda: Agreement(empty_bucket()), examples=4, steps=20)
