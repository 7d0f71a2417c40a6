"""What is particular to artifacts in files: the tree, durability, what is left behind, and what goes wrong."""

import errno
import fcntl
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import pytest

from asm.adapters import FileArtifactStore
from asm.core.errors import Error
from asm.testing.samples import refused

MIB = 1024 * 1024


@pytest.fixture
def root(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture
def store(root):
    with FileArtifactStore(root=root) as made:
        yield made


def place(root, key):
    name = hashlib.sha256(key.encode()).hexdigest()
    return root / "objects" / name[:2] / name


def failing(error_number):
    def fail(*_args, **_kwargs):
        raise OSError(error_number, os.strerror(error_number))

    return fail


class Program:
    """A Python program in another process, which tells of what it does line by line."""

    def __init__(self, source, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def wait_for(self, text):
        line = self.process.stdout.readline()
        assert line == f"{text}\n", f"{line!r} {self.process.poll()}"

    def tell(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()


UPLOAD = """
import sys
from asm.adapters import FileArtifactStore

def data():
    yield b"n" * 2_000_000
    print("halfway", flush=True)
    sys.stdin.readline()
    yield b"ew"

with FileArtifactStore(root=sys.argv[1]) as store:
    store.put("key", data())
    print("done", flush=True)
"""
"""Puts an artifact, and waits for a line halfway."""


# -- The tree -------------------------------------------------------------------------------------------------------


def test_an_artifact_is_one_file_named_by_the_hash_of_its_key(store, root):
    store.put("../x", b"data")
    assert {path for path in root.rglob("*") if path.is_file()} == {place(root, "../x"), root / "asm-store.json"}
    assert sorted(path.name for path in root.iterdir()) == ["asm-store.json", "objects", "tmp"]


def test_files_and_directories_are_private(store, root):
    store.put("key", b"data")
    store.put("large", bytes(2 * MIB))
    modes = {path: path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    assert all(mode == (0o600 if path.is_file() else 0o700) for path, mode in modes.items()), modes


def test_what_was_put_is_there_after_a_restart(root):
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
        before = store.list()
    with FileArtifactStore(root=root) as store:
        assert store.get("key") == b"data"
        assert store.list() == before


def test_two_stores_on_one_root_see_each_other(root):
    with FileArtifactStore(root=root) as first, FileArtifactStore(root=root) as second:
        first.put("key", b"first")
        assert second.get("key") == b"first"
        second.put("key", b"second")
        assert first.get("key") == b"second"
        second.delete("key")
        with refused("not_found"):
            first.get("key")


# -- Durability -----------------------------------------------------------------------------------------------------


def test_a_put_syncs_the_file_then_renames_it_then_syncs_the_directory(store, root, monkeypatch):
    store.put("key", b"old")
    steps, fsync, rename = [], os.fsync, os.rename

    def name(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(root)

    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (steps.append(("sync", str(name(descriptor)).split("/")[0])), fsync(descriptor))
    )
    monkeypatch.setattr(
        os, "rename", lambda *names, **below: (steps.append(("rename", root / names[1])), rename(*names, **below))
    )
    store.put("key", b"new")
    assert steps == [("sync", "tmp"), ("rename", place(root, "key")), ("sync", "objects")]


def test_what_leads_to_a_new_directory_is_synced_once(store, root, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    store.put("key", b"data")
    assert synced[1:] == [place(root, "key").parent, root / "objects", root]
    store.put("key", b"data")
    assert synced[5:] == [place(root, "key").parent]


def test_a_delete_is_synced(store, root, monkeypatch):
    store.put("key", b"data")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    store.delete("key")
    assert synced == [str(place(root, "key").parent)]


def test_a_small_put_is_written_at_once(store, monkeypatch):
    writes, write = [], os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: (writes.append(len(data)), write(descriptor, data))[1])
    monkeypatch.setattr(os, "pwrite", None)
    store.put("key", b"x" * 1000)
    assert writes == [62 + 3 + 1000]


def test_large_data_passes_through_little_memory(store):
    def data():
        for number in range(48):
            yield bytes([number]) * MIB

    tracemalloc.start()
    try:
        store.put("key", data())
        with store.open("key") as file:
            while file.read(MIB):
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert store.stat("key").byte_size == 48 * MIB
    assert peak < 8 * MIB


# -- What goes wrong ------------------------------------------------------------------------------------------------


def test_the_disk_begins_before_all_has_come(store, monkeypatch):
    """With each part once, and whether it takes the advice or not."""
    asked = []

    def advise(_descriptor, start, size, _advice):
        asked.append((start, start + size))
        raise OSError(errno.EINVAL, "no advice")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    data = os.urandom(1024 * 1024) * 20
    store.put("key", data)
    assert store.get("key") == data
    (first, middle), (then, last) = asked
    assert (first, middle) == (0, then)
    assert last <= len(data)


@pytest.mark.parametrize(
    ("call", "error_number"), [("fsync", "EIO"), ("write", "ENOSPC"), ("write", "EDQUOT"), ("rename", "EROFS")]
)
def test_a_put_that_fails_leaves_the_old_and_nothing_else(store, root, monkeypatch, call, error_number):
    store.put("key", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(__import__("errno"), error_number)))
        with refused("storage_write_failed", errno=error_number):
            store.put("key", b"new")
        with refused("storage_write_failed", errno=error_number, outcome=None):
            store.put("key", bytes(3 * MIB))
    assert store.get("key") == b"old"
    assert list((root / "tmp").iterdir()) == []
    store.put("key", b"new")
    assert store.get("key") == b"new"


@pytest.fixture
def failing_directories(monkeypatch):
    """A function that has directories fail to be synced for as long as its context lasts."""
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "the disk fails")
        fsync(descriptor)

    @contextmanager
    def failing_now():
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            yield

    return failing_now


def test_of_a_put_that_is_not_synced_it_is_said_that_its_outcome_is_unknown(store, failing_directories):
    """The new bytes are there, and may be gone after a power loss."""
    store.put("key", b"old")
    with failing_directories(), refused("storage_write_failed", errno="EIO", outcome="unknown"):
        store.put("key", b"new")
    assert store.get("key") == b"new"


def test_of_a_delete_that_is_not_synced_it_is_said_that_its_outcome_is_unknown(store, root, monkeypatch, failing_directories):
    """And when it is repeated, the directory is synced, although nothing is left to be deleted."""
    store.put("key", b"data")
    for _ in range(2):
        with failing_directories(), refused("storage_write_failed", errno="EIO", outcome="unknown"):
            store.delete("key")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    store.delete("key")
    assert synced == [str(place(root, "key").parent)]


def test_a_file_that_cannot_be_closed_is_put_as_it_is_synced(store, monkeypatch):
    close, failed = os.close, []

    def fail(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        close(descriptor)
        if "/objects/" in name and not failed:
            failed.append(name)
            raise OSError(errno.EIO, "the disk fails")

    monkeypatch.setattr(os, "close", fail)
    store.put("key", b"data")
    assert failed
    assert store.get("key") == b"data"


def test_an_error_of_the_source_is_not_an_error_of_the_store(store):
    def source():
        yield b"data"
        raise PermissionError(13, "the source's own")

    with pytest.raises(PermissionError, match="the source's own"):
        store.put("key", source())


def test_a_put_that_is_interrupted_leaves_nothing(store, root):
    def source():
        yield b"data"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put("key", source())
    assert list((root / "tmp").iterdir()) == []


def test_a_disk_that_is_full(root):
    program = """
    import resource, sys
    from asm.adapters import FileArtifactStore
    from asm.core.errors import Error

    with FileArtifactStore(root=sys.argv[1]) as store:
        store.put("key", b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for data in (bytes(200_000), [bytes(1000)] * 200, bytes(3_000_000)):
            try:
                store.put("key", data)
            except Error as error:
                print(error.code, error.details["errno"], type(error.__cause__).__name__)
        print(store.get("key"))
    """
    with Program(program, root) as full:
        for _ in range(3):
            full.wait_for("storage_write_failed EFBIG OSError")
        full.wait_for("b'old'")
    assert list((root / "tmp").iterdir()) == []


def test_a_disk_that_cannot_be_read(store, monkeypatch):
    store.put("key", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(5))
        for read in (store.get, store.stat, store.open):
            with refused("storage_read_failed", errno="EIO"):
                read("key")
    with store.open("key") as file, monkeypatch.context() as patch:
        patch.setattr(os, "preadv", failing(5))
        with refused("storage_read_failed", errno="EIO"):
            file.read(1)


def test_a_directory_in_the_place_of_an_artifact(store, root):
    place(root, "key").mkdir(parents=True)
    for read in (store.get, store.stat, store.open):
        with refused("storage_read_failed", reason="damaged"):
            read("key")
    with refused("storage_write_failed", errno="EISDIR"):
        store.put("key", b"data")
    with refused("storage_write_failed"):
        store.delete("key")
    assert list((root / "tmp").iterdir()) == []


def test_a_link_in_the_place_of_an_artifact_is_not_followed(store, root, tmp_path):
    store.put("other", b"other")
    secret = tmp_path / "secret"
    secret.write_bytes(place(root, "other").read_bytes())
    link = place(root, "key")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    for read in (store.get, store.stat, store.open):
        with refused("storage_read_failed", errno="ELOOP"):
            read("key")
    store.put("key", b"data")
    assert not link.is_symlink()
    assert secret.read_bytes() == place(root, "other").read_bytes()
    assert store.get("key") == b"data"


def test_a_pipe_in_the_place_of_an_artifact_is_not_waited_for(store, root):
    place(root, "key").parent.mkdir(exist_ok=True)
    os.mkfifo(place(root, "key"))
    for read in (store.get, store.stat, store.open):
        with refused("storage_read_failed", reason="damaged"):
            read("key")
    store.put("key", b"data")
    assert store.get("key") == b"data"


def test_the_file_of_another_key_is_not_taken_for_this_ones(store, root):
    store.put("key", b"data")
    store.put("other", b"other")
    place(root, "other").rename(place(root, "key"))
    for read in (lambda: store.get("key"), store.list):
        with refused("storage_read_failed", reason="damaged", path=str(place(root, "key"))):
            read()


def test_what_is_not_ours_does_not_break_a_list(store, root):
    store.put("key", b"data")
    objects = root / "objects"
    (objects / "file").write_bytes(b"foreign")
    (objects / "empty").mkdir()
    (objects / "link").symlink_to(place(root, "key").parent)
    for name in ("file", "x" * 64, "f" * 64):
        (place(root, "key").parent / name).write_bytes(b"foreign")
    os.mkfifo(place(root, "key").parent / ("e" * 64))
    (place(root, "key").parent / ("d" * 64)).mkdir()
    assert [info.key for info in store.list()] == ["key"]


UNREADABLE = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[:10]),
    "foreign": lambda file: file.write_bytes(b"something else"),
    "empty": lambda file: file.write_bytes(b""),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("how", UNREADABLE)
@pytest.mark.parametrize("known", [False, True], ids=["never listed", "listed before"])
def test_one_that_cannot_be_read_is_an_error_and_never_left_out(store, root, how, known):
    """Where its key is known, of the lists that it belongs to; else of all. With the file, so that somebody can mend it."""
    for key in ("a", "b", "c"):
        store.put(key, b"data")
    if known:
        store.list()
    UNREADABLE[how](place(root, "b"))
    for filters in ({}, {"prefix": "b"}, {"after": "a"}, {"limit": 2}):
        with refused("storage_read_failed", path=str(place(root, "b"))):
            store.list(**filters)
    if known:
        assert [info.key for info in store.list(limit=1)] == ["a"]
        assert [info.key for info in store.list(after="b")] == ["c"]
    if how == "a directory":
        place(root, "b").rmdir()
    else:
        store.delete("b")
    assert [info.key for info in store.list()] == ["a", "c"]


@pytest.mark.parametrize("known", [False, True], ids=["never listed", "listed before"])
@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.parametrize("name", ["EACCES", "EIO"])
def test_one_that_the_system_does_not_let_be_read(store, root, monkeypatch, known, what, name):
    store.put("a", b"data")
    store.put("b", b"data")
    if known:
        store.list()
        store.put("b", b"data")  # or nobody would look at its directory
    path, opened = place(root, "b"), os.open
    failing_name = str((path if what == "file" else path.parent).relative_to(root))

    def fail(path, *args, **kwargs):
        if path == failing_name:
            raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with refused("storage_read_failed", errno=name, path=str(root / failing_name)):
            store.list()
    assert [info.key for info in store.list()] == ["a", "b"]


def test_an_artifact_that_goes_while_it_is_listed(store, monkeypatch):
    store.put("key", b"data")
    assert [info.key for info in store.list()] == ["key"]
    listdir = os.listdir

    def gone(path):
        names = listdir(path)
        store.delete("key")
        return names

    monkeypatch.setattr(os, "listdir", gone)
    assert store.list() == []


# -- Deleting what begins alike ---------------------------------------------------------------------------------------


def test_a_prefix_is_deleted_with_one_sync_a_directory(store, root, monkeypatch):
    for number in range(600):
        name = place(root, f"run/{number}")
        name.parent.mkdir(exist_ok=True)
    for number in range(30):
        store.put(f"run/{number}", b"data")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    assert store.delete_prefix("run/") == 30
    assert sorted(synced) == sorted({str(place(root, f"run/{number}").parent) for number in range(30)})


def test_of_a_prefix_that_is_not_synced_it_is_said_and_the_next_time_it_is(store, root, monkeypatch, failing_directories):
    store.put("run/1", b"data")
    with failing_directories(), refused("storage_write_failed", errno="EIO", outcome="unknown"):
        store.delete_prefix("run/")
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    assert store.delete_prefix("run/") == 0
    assert synced == [str(place(root, "run/1").parent)]


def test_of_a_prefix_one_that_cannot_be_deleted_is_an_error(store, root):
    """And what was deleted before that is synced, and not there any more."""
    for key in ("run/1", "run/2", "run/3"):
        store.put(key, b"data")
    store.list()
    place(root, "run/2").unlink()
    place(root, "run/2").mkdir()
    with refused("storage_write_failed", path=str(place(root, "run/2"))):
        store.delete_prefix("run/")
    place(root, "run/2").rmdir()
    assert [info.key for info in store.list()] == ["run/3"]
    assert store.delete_prefix("run/") == 1


def test_a_prefix_whose_deletion_was_killed_is_deleted_by_the_next(root):
    program = """
    import os, signal, sys
    from asm.adapters import FileArtifactStore
    unlink = os.unlink
    left = 7

    def die_of_it(*args, **kwargs):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(*args, **kwargs)

    with FileArtifactStore(root=sys.argv[1]) as store:
        for number in range(20):
            store.put(f"run/{number}", b"data")
        store.put("other", b"other")
        os.unlink = die_of_it
        store.delete_prefix("run/")
    """
    with Program(program, root) as deleting:
        assert deleting.process.wait() == -signal.SIGKILL
    with FileArtifactStore(root=root) as store:
        assert store.delete_prefix("run/") == 14
        assert [info.key for info in store.list()] == ["other"]


# -- What is left behind --------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_is_removed_at_the_next_start(root):
    with FileArtifactStore(root=root) as store:
        store.put("key", b"old")
    with Program(UPLOAD, root) as upload:
        upload.wait_for("halfway")
        assert len(list((root / "tmp").iterdir())) == 1
        upload.process.send_signal(signal.SIGKILL)
        upload.process.wait()
    with FileArtifactStore(root=root) as store:
        assert list((root / "tmp").iterdir()) == []
        assert store.get("key") == b"old"


def test_what_a_living_process_writes_is_left_alone(root):
    with FileArtifactStore(root=root) as store:
        store.put("key", b"old")
    with Program(UPLOAD, root) as upload:
        upload.wait_for("halfway")
        with FileArtifactStore(root=root) as store:
            assert len(list((root / "tmp").iterdir())) == 1
            assert store.get("key") == b"old"
            upload.tell("go on")
            upload.wait_for("done")
            assert store.get("key") == b"n" * 2_000_000 + b"ew"
            assert list((root / "tmp").iterdir()) == []


def test_leftovers_of_any_kind_do_not_keep_a_store_from_starting(store, root):
    tmp = root / "tmp"
    names = [f"{number:016x}-{number}" for number in range(4)]
    (tmp / names[0]).write_bytes(b"left")
    (tmp / names[1]).mkdir()
    (tmp / names[2]).symlink_to(tmp / "nowhere")
    os.mkfifo(tmp / names[3])
    with FileArtifactStore(root=root) as again:
        again.put("key", b"data")
    assert sorted(path.name for path in tmp.iterdir()) == names[1:3]


def test_what_somebody_else_keeps_in_our_directory_is_left_alone(store, root):
    for name in ("notes.txt", "0123456789abcdef", "0123456789abcdef-0.bak", "0123456789ABCDEF-0"):
        (root / "tmp" / name).write_bytes(b"foreign")
    before = sorted(root.rglob("*"))
    FileArtifactStore(root=root).close()
    assert sorted(root.rglob("*")) == before


def test_a_file_that_is_taken_for_a_leftover_before_it_is_locked(store, root, monkeypatch):
    flock, removed = fcntl.flock, []

    def remove_first(descriptor, how):
        if not removed:
            removed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
            removed[0].unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    store.put("key", b"data")
    assert removed
    assert store.get("key") == b"data"


def test_a_file_that_is_looked_at_as_a_leftover_when_it_is_locked(store, root, monkeypatch):
    flock, looking = fcntl.flock, []

    def look_first(descriptor, how):
        if not looking:
            looking.append(os.open(os.readlink(f"/proc/self/fd/{descriptor}"), os.O_RDONLY))
            flock(looking[0], fcntl.LOCK_EX)
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", look_first)
    store.put("key", b"data")
    os.close(looking[0])
    assert store.get("key") == b"data"


def test_a_forked_child_does_not_write_into_its_parents_file(store, root, monkeypatch):
    store.put("key", b"data")
    used = {path.name for path in (root / "tmp").iterdir()}
    names = iter(["taken", "free"])
    (root / "tmp" / "taken").write_bytes(b"the parent's")
    monkeypatch.setattr(store, "_names", names)
    store.put("key", b"new")
    assert store.get("key") == b"new"
    assert (root / "tmp" / "taken").read_bytes() == b"the parent's"
    assert used == set()


def test_processes_that_put_at_once(root):
    program = """
    import sys
    from asm.adapters import FileArtifactStore
    with FileArtifactStore(root=sys.argv[1]) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(20):
            store.put("shared", sys.argv[2].encode() * (10_000 + number))
            store.put(f"own {sys.argv[2]} {number}", b"x")
        print("done", flush=True)
    """
    writers = [Program(program, root, name) for name in "abc"]
    for writer in writers:
        writer.wait_for("ready")
    for writer in writers:
        writer.tell("go")
    with FileArtifactStore(root=root) as store:
        for writer in writers:
            with writer:
                writer.wait_for("done")
        assert len(store.list(prefix="own ")) == 60
        data = store.get("shared")
        assert data == data[:1] * 10_019


def test_readers_do_not_hold_descriptors(store):
    store.put("key", bytes(3 * MIB))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        store.get("key")
        store.stat("key")
        store.list()
        store.put("key", io.BytesIO(b"data"))
        store.open("key").close()
        with pytest.raises(Error):
            store.get("nothing")
        store.delete("other")
    assert len(os.listdir("/proc/self/fd")) == before
