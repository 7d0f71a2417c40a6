"""The index of a file store says what the files say, whatever happened to it, to them and to the machine."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from datetime import UTC, datetime

import pytest

from asm.adapters import FileArtifactStore, file_index
from asm.adapters.artifact_file import FileReader, pack_header
from asm.core.values import ArtifactInfo
from asm.testing.samples import at_once

KEYS = sorted(f"{group}/{number:03}" for group in ("run", "Run", "ключ", "x" * 1000) for number in range(60))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture
def store(root):
    with FileArtifactStore(root=root) as made:
        yield made


@pytest.fixture
def index(root):
    return root / "asm-index.sqlite"


def place(root, key):
    name = hashlib.sha256(key.encode()).hexdigest()
    return root / "objects" / name[:2] / name


def write(root, keys):
    """Make the files of artifacts as another program would: quickly, and without a word to the index."""
    for key in keys:
        info = ArtifactInfo(key=key, byte_size=0, checksum_sha256=hashlib.sha256(b"").hexdigest(), updated_at=datetime.now(UTC))
        place(root, key).parent.mkdir(exist_ok=True)
        place(root, key).write_bytes(pack_header(info))


def listed(store, **filters):
    return [info.key for info in store.list(**filters)]


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened from here on."""
    names, init = [], FileReader.__init__

    def note(self, path, *args, **kwargs):
        names.append(path.name)
        init(self, path, *args, **kwargs)

    monkeypatch.setattr(FileReader, "__init__", note)
    return names


# -- What a list costs ----------------------------------------------------------------------------------------------


def test_a_list_opens_what_it_returns(store, root, opened):
    write(root, KEYS)
    assert listed(store) == KEYS
    opened.clear()
    assert listed(store, limit=5) == KEYS[:5]
    assert listed(store, prefix="run/05", limit=3) == ["run/050", "run/051", "run/052"]
    assert listed(store, after="run/050", limit=2) == ["run/051", "run/052"]
    assert len(opened) == 10


def test_those_that_list_at_once_read_what_is_new_once(store, root, opened):
    write(root, KEYS)
    assert at_once(4, lambda _: listed(store, limit=1)) == [KEYS[:1]] * 4
    assert len(opened) == len(KEYS) + 4


def test_a_list_opens_what_is_new_once(store, root, opened):
    write(root, KEYS)
    assert listed(store, limit=1) == KEYS[:1]
    write(root, ["zzz"])
    opened.clear()
    assert listed(store, limit=1) == KEYS[:1]
    assert listed(store, limit=1) == KEYS[:1]
    assert sorted(opened) == sorted([place(root, "zzz").name, *[place(root, KEYS[0]).name] * 2])


def test_who_deletes_much_pays_for_it_once(store, root, opened):
    write(root, KEYS)
    assert listed(store) == KEYS
    for key in KEYS[:-1]:
        place(root, key).unlink()
    opened.clear()
    assert listed(store, limit=5) == KEYS[-1:]
    assert len(opened) == 1


# -- The files are the truth ----------------------------------------------------------------------------------------


def test_a_root_of_the_version_before_is_listed(store, root, index):
    write(root, KEYS)
    assert not index.exists()
    assert listed(store) == KEYS
    assert index.stat().st_mode & 0o777 == 0o600


def test_whoever_changes_the_files_is_noticed_at_once(store, root):
    """Also when that happens within one tick of the clock."""
    there = set()
    choose = random.Random(0)
    for number in range(300):
        key = f"key-{choose.randrange(40)}"
        if key in there:
            place(root, key).unlink()
            there.remove(key)
        else:
            write(root, [key])
            there.add(key)
        assert listed(store) == sorted(there), number


def test_a_clock_without_fractions_is_not_trusted(store, root, monkeypatch):
    """Two changes in one second look the same there."""
    stat = os.stat

    def coarse(path, *args, **kwargs):
        status = stat(path, *args, **kwargs)
        if not str(path).startswith("objects/"):
            return status
        second = status.st_mtime_ns // 10**9 * 10**9

        class Coarse:
            st_mode, st_ino, st_mtime_ns, st_ctime_ns = status.st_mode, status.st_ino, second, second

        return Coarse

    monkeypatch.setattr(os, "stat", coarse)
    for number in range(10):
        write(root, [f"key-{number}"])
        assert len(store.list()) == number + 1


def test_an_index_of_before_the_machine_was_started_is_compared_with_the_files(store, root, index, monkeypatch):
    """What it had not on the disk when the power went, is missing from it."""
    write(root, KEYS)
    assert listed(store) == KEYS
    with closing(sqlite3.connect(index)) as database, database:
        database.execute("DELETE FROM artifact WHERE key > ?", (KEYS[100].encode(),))
    identity = file_index._identity
    monkeypatch.setattr(file_index, "_identity", lambda root: f"another start {identity(root)}")
    assert listed(store) == KEYS


DAMAGE = {
    "deleted": lambda index: index.unlink(),
    "empty": lambda index: index.write_bytes(b""),
    "no database": lambda index: index.write_bytes(b"something else" * 1000),
    "cut": lambda index: os.truncate(index, index.stat().st_size // 2),
    "of zeros": lambda index: index.write_bytes(index.read_bytes()[:4096] + bytes(index.stat().st_size - 4096)),
    "a directory": lambda index: (index.unlink(), index.mkdir()),
    "a link": lambda index: (index.unlink(), index.symlink_to("nowhere")),
    "a pipe": lambda index: (index.unlink(), os.mkfifo(index)),
    "of another version": lambda index: execute(index, "PRAGMA user_version = 99"),
    "without tables": lambda index: execute(index, "DROP TABLE artifact"),
}


def execute(index, statement):
    with closing(sqlite3.connect(index)) as database:
        database.execute(statement)


@pytest.mark.parametrize("how", DAMAGE)
def test_an_index_that_is_no_good_is_done_without(store, root, index, how):
    write(root, KEYS)
    assert listed(store) == KEYS
    DAMAGE[how](index)
    for _ in range(2):
        assert listed(store) == KEYS
        assert listed(store, prefix="run/", after="run/010", limit=2) == ["run/011", "run/012"]
    write(root, ["zzz"])
    assert listed(store, after="xyz") == ["zzz", *(key for key in KEYS if key > "xyz")]


@pytest.mark.parametrize("seed", range(12))
def test_a_copy_that_is_torn_is_noticed(store, root, index, seed, tmp_path):
    """The pages of the index are of different moments, and so are the files."""
    choose = random.Random(seed)
    write(root, KEYS)
    assert listed(store) == KEYS
    before = index.read_bytes()
    for key in KEYS[::3]:
        place(root, key).unlink()
    write(root, [f"new/{number}" for number in range(100)])
    now = listed(store)
    after = index.read_bytes()
    pages = [
        (after if choose.random() < 0.5 else before)[start : start + 4096]
        for start in range(0, max(len(before), len(after)), 4096)
    ]
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    (copy / index.name).write_bytes(b"".join(pages))
    with FileArtifactStore(root=copy) as other:
        assert listed(other) == now
        assert listed(other) == now


def test_an_index_that_somebody_holds_is_not_waited_for_for_long(store, root, index, monkeypatch, caplog):
    monkeypatch.setattr(file_index, "PATIENCE", 0.05)
    write(root, KEYS)
    assert listed(store) == KEYS
    with closing(sqlite3.connect(index, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        write(root, ["zzz"])
        assert listed(store) == sorted([*KEYS, "zzz"])
        assert listed(store, limit=3) == KEYS[:3]
    assert caplog.text.count("is locked") == 1
    assert listed(store) == sorted([*KEYS, "zzz"])


@pytest.mark.parametrize("step", [1, 100, 239])
def test_who_makes_it_is_killed(store, root, step):
    program = """
    import os, signal, sys
    from asm.adapters import FileArtifactStore, file_index

    file_index.STEP = 0.0  # each file is a step
    read, left = file_index.FileReader, int(sys.argv[2])

    def die_of_it(*args, **kwargs):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*args, **kwargs)

    file_index.FileReader = die_of_it
    with FileArtifactStore(root=sys.argv[1]) as store:
        store.list()
    """
    write(root, KEYS)
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(root), str(step)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert listed(store) == KEYS


def test_what_was_read_before_it_was_killed_is_not_read_again(store, root, opened, monkeypatch):
    class Enough(BaseException):
        pass

    init = FileReader.__init__

    def stop(self, *args, **kwargs):
        if len(opened) == 200:
            raise Enough
        init(self, *args, **kwargs)

    write(root, KEYS)
    with monkeypatch.context() as patch:
        patch.setattr(file_index, "STEP", 0.0)
        patch.setattr(FileReader, "__init__", stop)
        with pytest.raises(Enough):
            store.list()
    opened.clear()
    assert listed(store, limit=1) == KEYS[:1]
    assert len(opened) < len(KEYS) - 190


def test_processes_that_put_delete_and_list_at_once(store, root):
    """Each sees what it has done itself, at every moment."""
    program = """
    import os, random, sys
    from asm.adapters import FileArtifactStore

    os.fsync = lambda descriptor: None
    own, there, choose = sys.argv[2], set(), random.Random(sys.argv[2])
    with FileArtifactStore(root=sys.argv[1]) as store:
        for number in range(150):
            key = f"{own}/{choose.randrange(30)}"
            if key in there and choose.random() < 0.5:
                store.delete(key)
                there.remove(key)
            else:
                store.put(key, b"data")
                there.add(key)
            found = [info.key for info in store.list(prefix=f"{own}/")]
            assert found == sorted(there), (number, key, found)
        print(len(there))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(root)]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "abcd"]
    counts = [int(process.communicate()[0]) for process in processes]
    assert len(store.list()) == sum(counts)
