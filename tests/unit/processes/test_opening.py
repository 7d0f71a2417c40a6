"""Which version of an artifact was opened, where the store's files know it and where they do not."""

import io
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest

import asm
from asm.core.errors import Error
from asm.processes.opening import ATTEMPTS, Opener
from asm.wire.streams import read_opened

KEY = {"key": "key"}


class Changing:
    """A store in which somebody else may do something whenever it has been asked something."""

    def __init__(self, *changes):
        self.data, self.moment = b"first", datetime(2026, 1, 2, tzinfo=UTC)
        self.changes = list(changes)
        self.asked = []

    def put(self, data):
        self.data, self.moment = data, self.moment + timedelta(microseconds=1)

    def open(self, key):
        return self.answer("open", self.file(self.data))

    def file(self, data):
        return io.BytesIO(data)

    def stat(self, key):
        if self.data is None:
            raise Error("not_found", "it is gone")
        digest = sha256(self.data).hexdigest()
        info = asm.ArtifactInfo(key=key, byte_size=len(self.data), checksum_sha256=digest, updated_at=self.moment)
        return self.answer("stat", info)

    def answer(self, asked, answer):
        self.asked.append(asked)
        if self.changes and (change := self.changes.pop(0)):
            change(self)
        return answer


class Knowing(Changing):
    """One whose files know what they are of."""

    def file(self, data):
        raw = io.BytesIO(data)
        file = io.BufferedReader(Known(raw))
        file.raw.version, file.raw.byte_size = sha256(data).hexdigest(), len(data)
        return file


class Known(io.RawIOBase):
    def __init__(self, file):
        self._file = file

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(buffer)


def opener(store):
    return Opener({"open": store.open, "stat": store.stat})


def first(store):
    """Open an artifact for the first time; return its size and version as they are told, and its bytes."""
    head, file = opener(store).open(KEY, {"stream": True, "info": True})
    with file:
        size, version, nothing = read_opened(head)
        assert not nothing
        return size, version, file.read()


def again(store, offset, version):
    head, file = opener(store).open(KEY, {"stream": True, "offset": offset, "version": version})
    with file:
        assert not head
        return file.read()


def second(store):
    store.put(b"second")


def there_and_back(store):
    store.put(b"second")
    store.put(b"first")


@pytest.mark.parametrize(
    ("changes", "data", "asked"),
    [
        ([], b"first", 4),
        ([second], b"second", 4),  # replaced behind the first look that counts for nothing
        ([None, second], b"second", 6),
        ([None, None, second], b"second", 6),
        ([None, None, None, second], b"first", 4),  # the second look was over
        ([None, None, there_and_back], b"first", 6),
    ],
)
def test_what_is_told_is_of_what_was_opened(changes, data, asked):
    store = Changing(*changes)
    assert first(store) == (len(data), sha256(data).hexdigest(), data)
    assert len(store.asked) == asked


def test_a_store_whose_files_know_nothing_is_looked_at_before_and_after():
    store = Changing()
    opens = opener(store)
    for _ in range(3):
        opens.open(KEY, {"info": True})
    assert store.asked == ["open", "stat"] * 2 + ["stat", "open", "stat"] * 2


def test_a_store_whose_files_know_is_asked_once():
    store = Knowing(second)
    size, version, data = first(store)
    assert (size, version, data) == (5, sha256(b"first").hexdigest(), b"first")
    assert store.asked == ["open"]
    assert again(store, 2, sha256(b"second").hexdigest()) == b"cond"  # by a file that does not seek


@pytest.mark.parametrize("kind", [Changing, Knowing])
def test_what_was_replaced_or_deleted_is_not_opened_again(kind):
    store = kind()
    _size, version, data = first(store)
    assert again(store, 1, version) == data[1:]
    for change in (b"second", None):
        store.put(change)
        store.changes = []
        if change is None:
            store.open = store.stat
        with pytest.raises(asm.StorageError) as caught:
            again(store, 1, version)
        assert (caught.value.code, caught.value.details) == ("storage_read_failed", {"key": "key", "reason": "changed"})


def test_one_that_is_replaced_all_the_time_is_given_up():
    numbers = iter(range(1000))
    store = Changing(*1000 * [lambda store: store.put(str(next(numbers)).encode())])
    with pytest.raises(asm.StorageError) as caught:
        first(store)
    assert caught.value.details["reason"] == "changed"
    assert store.asked == ATTEMPTS * ["open", "stat"]


def test_who_wants_to_know_nothing_costs_nothing():
    store = Changing()
    for meta in ({"stream": True}, {"stream": True, "offset": 2}):
        head, file = opener(store).open(KEY, meta)
        assert (head, file.read()) == (b"", store.data[meta.get("offset", 0) :])
    assert store.asked == ["open", "open"]
