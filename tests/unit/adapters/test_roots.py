"""The root of a file store: what can be one, what is refused, and what happens when it is away. With real mounts."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asm.adapters import FileArtifactStore
from asm.core.errors import Error
from asm.testing.samples import refused

KEYS = [str(number) for number in range(700)]
"""So many that there is one in each directory."""


@pytest.fixture
def root(tmp_path):
    return tmp_path / "artifacts"


@pytest.fixture
def store(root):
    with FileArtifactStore(root=root) as made:
        made.put("key", b"data")
        yield made


def place(root, key):
    name = hashlib.sha256(key.encode()).hexdigest()
    return root / "objects" / name[:2] / name


def note(root):
    return root.parent / f".{root.name}.asm-store.json"


def tree(directory):
    """All that there is in a directory."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


def both(**options):
    """Whatever checks the options: at the start of a tree and in the worker."""
    return [lambda: FileArtifactStore.preflight(**options), lambda: FileArtifactStore(**options)]


def is_away(code="storage_read_failed"):
    return refused(code, away=True, reason="volume_away")


def all_is_away(store):
    """See that no call takes what is away for what is not there."""
    for call in (store.get, store.stat, store.open):
        for key in ("key", "other"):
            with is_away():
                call(key)
    for call in (store.list, store.ping):
        with is_away():
            call()
    for call in (store.delete, lambda key: store.put(key, b"new")):
        for key in ("key", "other"):
            with is_away("storage_write_failed"):
                call(key)


def all_is_there(store):
    store.ping()
    assert store.get("key") == b"data"
    assert [info.key for info in store.list()] == ["key"]
    with refused("not_found"):
        store.get("other")
    store.put("other", b"other")
    store.delete("other")


# -- Options ------------------------------------------------------------------------------------------------------------


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FileArtifactStore(root="artifacts") as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.put("key", b"data")
    assert place(tmp_path / "artifacts", "key").exists()


@pytest.mark.parametrize("bad", [None, 5, "", b"bytes", "a\0b"], ids=repr)
def test_a_root_is_a_path(bad):
    for refuses in (FileArtifactStore.preflight, FileArtifactStore):
        with refused("validation_error", field="root"):
            refuses(root=bad)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with refused("validation_error", field="root"):
            FileArtifactStore.preflight(root=root)


@pytest.mark.parametrize("bad", [None, 0, "false"], ids=repr)
def test_whether_a_store_is_made_is_a_truth_value(root, bad):
    for call in both(root=root, create=bad):
        with refused("validation_error", field="create"):
            call()


# -- What is no store ----------------------------------------------------------------------------------------------------


FOREIGN = {
    "a project": ["README", "src/program.py", "tmp/notes.txt", "tmp/0123456789abcdef-0"],
    "a directory for what is temporary": ["tmp/0123456789abcdef-0"],
    "a repository": ["HEAD", "objects/ab/cdef0123456789abcdef0123456789abcdef01", "objects/pack/pack"],
    "objects": ["objects/thing"],
    "a directory in place of an artifact": ["notes", f"objects/ab/{'ab' * 32}/file"],
    "a file like an artifact's": ["notes", f"objects/ab/{'ab' * 32}"],
}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_directory_with_other_things_in_it_is_refused_and_left_alone(root, files):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"foreign")
    before = tree(root.parent)
    for call in both(root=root):
        with refused("validation_error", field="root", path=str(root)):
            call()
    assert tree(root.parent) == before


def test_an_empty_directory_becomes_a_store(root):
    (root / "lost+found").mkdir(parents=True)  # a disk of its own
    FileArtifactStore.preflight(root=root)
    assert [path.name for path in root.iterdir()] == ["lost+found"]
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
        all_is_there(store)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"asm": "artifact store", "format": 2, "id": "x"}'])
def test_a_marker_that_is_damaged_or_newer_is_refused(store, root, content):
    (root / "asm-store.json").write_bytes(content)
    for call in both(root=root):
        with refused("validation_error", field="root"):
            call()
    all_is_away(store)


# -- How a store is made ---------------------------------------------------------------------------------------------------


def test_a_store_is_marked_and_noted_beside_it(store, root):
    marker, noted = json.loads((root / "asm-store.json").read_text()), json.loads(note(root).read_text())
    assert marker == {"asm": "artifact store", "format": 1, "id": marker["id"]}
    assert noted["id"] == marker["id"]
    FileArtifactStore(root=root).close()
    assert json.loads((root / "asm-store.json").read_text()) == marker


def test_the_marker_is_synced_before_it_has_its_name_and_then_the_root(root, monkeypatch):
    steps, fsync, link = [], os.fsync, os.link

    def sync(descriptor):
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(root)).partition("-")[0][:5])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", lambda *names, **more: (steps.append("link"), link(*names, **more)))
    FileArtifactStore(root=root).close()
    assert steps[3:6] == ["/tmp/", "link", ""]


@pytest.mark.parametrize("artifacts", [[], ["key"]])
def test_a_store_of_the_version_before_is_recognised_and_marked(root, artifacts):
    with FileArtifactStore(root=root) as store:
        for key in artifacts:
            store.put(key, b"data")
        store.list()
    (root / "asm-store.json").unlink()
    note(root).unlink()
    for name in ("notes.txt", "0123456789abcdef-7"):
        (root / "tmp" / name).write_bytes(b"what is left")
    if artifacts:
        (root / "README").write_bytes(b"somebody wrote this")
    FileArtifactStore.preflight(root=root)
    assert not (root / "asm-store.json").exists()
    with FileArtifactStore(root=root) as store:
        assert [info.key for info in store.list()] == artifacts
    assert (root / "asm-store.json").exists()
    assert [path.name for path in (root / "tmp").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("call", ["mkdir", "open", "write", "fsync", "link", "unlink"])
def test_a_store_that_was_not_made_to_its_end_is_made_by_the_next(root, monkeypatch, call):
    real = getattr(os, call)

    def fail(*args, **kwargs):
        if call != "open" or args[1] & os.O_CREAT:
            raise OSError(errno.EIO, "the disk fails")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "link":  # a file system without
            FileArtifactStore(root=root).close()
        else:
            with refused("storage_write_failed", errno="EIO"):
                FileArtifactStore(root=root)
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
        all_is_there(store)
    assert list((root / "tmp").iterdir()) == []


def test_those_that_make_a_store_at_once_make_one(tmp_path):
    for number in range(20):
        root, together = tmp_path / str(number), threading.Barrier(4)

        def make(root=root, together=together):
            together.wait()
            return FileArtifactStore(root=root)

        with ThreadPoolExecutor(4) as pool:
            stores = [made.result() for made in [pool.submit(make) for _ in range(4)]]
        stores[0].put("key", b"data")
        for store in stores:
            all_is_there(store)
            store.close()
        assert list((root / "tmp").iterdir()) == []


# -- A root that is away ---------------------------------------------------------------------------------------------------


def missing(_root):
    pass


def empty(root):
    root.mkdir()


def another(root):
    with FileArtifactStore(root=root.with_name("another")) as other:
        other.put("key", b"of another store")
    root.with_name("another").rename(root)


def unmarked(root):
    (root / "objects").mkdir(parents=True)
    (root / "tmp").mkdir()


def dangling(root):
    root.symlink_to(root.parent / "nowhere")


def file(root):
    root.write_bytes(b"")


@pytest.fixture(params=[missing, empty, another, unmarked, dangling, file])
def away(request, root):
    """A function that takes the root away, and puts something in its place; and one that brings it back."""

    def take():
        root.rename(root.with_name("away"))
        request.param(root)

    def bring():
        if root.is_dir():
            shutil.rmtree(root)
        else:
            root.unlink(missing_ok=True)
        root.with_name("away").rename(root)

    return take, bring


def test_what_is_away_is_not_taken_for_what_is_not_there(store, away):
    take, bring = away
    take()
    all_is_away(store)
    bring()
    all_is_there(store)


def test_no_store_is_made_where_one_was(store, root, away):
    """Whatever stands in its place. When it is back, it serves what it has."""
    take, bring = away
    store.close()
    take()
    before = tree(root.parent)
    if not root.is_file():
        FileArtifactStore.preflight(root=root)
        with is_away():
            FileArtifactStore(root=root)
    else:
        for call in both(root=root):
            with refused("validation_error", field="root"):
                call()
    assert tree(root.parent) == before
    bring()
    with FileArtifactStore(root=root) as again:
        all_is_there(again)


def test_a_store_that_is_gone_for_good_is_forgotten_with_its_note(store, root):
    store.close()
    shutil.rmtree(root)
    with pytest.raises(Error, match=f"delete {note(root)}, too"):
        FileArtifactStore(root=root)
    note(root).unlink()
    with FileArtifactStore(root=root) as new:
        assert new.list() == []


def test_a_torn_note_tells_that_there_was_a_store(store, root):
    store.close()
    note(root).write_bytes(b"")
    root.rename(root.with_name("away"))
    with is_away():
        FileArtifactStore(root=root)
    root.with_name("away").rename(root)
    FileArtifactStore(root=root).close()
    assert json.loads(note(root).read_text())["id"]


def test_a_note_that_cannot_be_written_is_done_without(root, monkeypatch):
    note(root).mkdir()
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
    with FileArtifactStore(root=root) as store:
        all_is_there(store)


def test_a_store_that_must_be_there_is_never_made(root):
    FileArtifactStore.preflight(root=root, create=False)
    for _ in range(2):
        with is_away():
            FileArtifactStore(root=root, create=False)
        root.mkdir(exist_ok=True)
    assert list(root.iterdir()) == []
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
    with FileArtifactStore(root=root, create=False) as store:
        all_is_there(store)


def test_a_store_may_be_moved(store, root, tmp_path):
    store.close()
    root.rename(tmp_path / "elsewhere")
    with FileArtifactStore(root=tmp_path / "elsewhere") as moved:
        all_is_there(moved)


def test_a_link_may_lead_to_the_root(root, tmp_path):
    root.symlink_to(tmp_path / "volume")
    with is_away():
        FileArtifactStore(root=root)
    (tmp_path / "volume").mkdir()
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
        (tmp_path / "volume").rename(tmp_path / "away")
        all_is_away(store)
        with is_away():
            FileArtifactStore(root=root)
        (tmp_path / "volume").mkdir()
        with is_away():
            FileArtifactStore(root=root)
        (tmp_path / "volume").rmdir()
        (tmp_path / "away").rename(tmp_path / "volume")
        all_is_there(store)


@pytest.mark.parametrize("name", ["ESTALE", "ENOTCONN", "EIO"])
def test_a_volume_whose_server_is_gone_is_away(store, root, monkeypatch, name):
    opening = os.open

    def fail(path, *args, **kwargs):
        if str(path).startswith(str(root)):
            raise OSError(getattr(errno, name), "gone")
        return opening(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        all_is_away(store)
        FileArtifactStore.preflight(root=root)
        with is_away():
            FileArtifactStore(root=root)
    all_is_there(store)


def test_who_has_no_descriptors_left_is_not_told_that_the_root_is_away(store, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with refused("storage_read_failed", errno="EMFILE", away=None):
            store.get("key")
    all_is_there(store)


def test_a_closed_store_is_not_asked_how_it_is(store):
    store.close()
    with refused("storage_error", reason="closed"):
        store.ping()


# -- Mounts ----------------------------------------------------------------------------------------------------------------


class Volume:
    """A disk that can be mounted and unmounted, and keeps what it has."""

    def __init__(self, directory):
        self.disk, self.path = directory / "disk", directory / "volume"
        self.disk.mkdir()
        self.path.mkdir()
        if not shutil.which("mount") or run("mount", "-t", "tmpfs", "tmpfs", self.disk):
            pytest.skip("nothing may be mounted here")

    def mount(self, *options):
        assert run("mount", "--bind", self.disk, self.path) == 0
        if options:
            assert run("mount", "-o", f"remount,bind,{','.join(options)}", self.path) == 0

    def unmount(self):
        """Nothing that is held can be unmounted."""
        assert run("umount", self.path) == 0

    def close(self):
        for path in (self.path, self.path, self.disk):
            run("umount", "--lazy", path)


def run(*command):
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.fixture
def volume(tmp_path):
    made = Volume(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("below", ["", "artifacts", "deep/artifacts"])
def test_a_volume_that_is_unmounted_and_mounted_again(volume, below):
    """Whether it is the root, or the root is on it. Below the mount point nothing is made."""
    root = volume.path / below
    volume.mount()
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
        volume.unmount()
        all_is_away(store)
        FileArtifactStore.preflight(root=root)
        with is_away():
            FileArtifactStore(root=root)
        assert list(volume.path.iterdir()) == []
        volume.mount()
        all_is_there(store)
        with FileArtifactStore(root=root) as again:
            all_is_there(again)


def test_a_volume_that_becomes_read_only(volume):
    """Reading goes on, also in a store that is opened then."""
    volume.mount()
    with FileArtifactStore(root=volume.path) as store:
        store.put("key", b"data")
        volume.unmount()
        volume.mount("ro")
        FileArtifactStore.preflight(root=volume.path)
        with FileArtifactStore(root=volume.path) as again:
            for reader in (store, again):
                reader.ping()
                assert reader.get("key") == b"data"
                assert [info.key for info in reader.list()] == ["key"]
                with refused("not_found"):
                    reader.stat("other")
                with refused("storage_write_failed", errno="EROFS", away=None):
                    reader.put("key", b"new")
                with refused("storage_write_failed", errno="EROFS", away=None):
                    reader.delete("key")
        volume.unmount()
        volume.mount()
        all_is_there(store)


def other_disk(volume, directory):
    shutil.move(directory, volume.disk / directory.name)
    directory.symlink_to(volume.disk / directory.name)


def mounted(volume, directory):
    assert run("mount", "--bind", volume.disk, directory) == 0
    volume.path.rmdir()
    volume.path = directory


def mounted_by_itself(volume, directory):
    assert run("mount", "--bind", directory, directory) == 0
    volume.path.rmdir()
    volume.path = directory


@pytest.mark.parametrize("how", [other_disk, mounted, mounted_by_itself])
@pytest.mark.parametrize("below", ["tmp", "objects", "objects/ab"])
def test_a_root_that_is_of_two_file_systems_is_refused(volume, root, how, below):
    with FileArtifactStore(root=root) as store:
        store.put("key", b"data")
    (root / "objects" / "ab").mkdir()
    how(volume, root / below)
    for call in both(root=root):
        with refused("validation_error", field="root"):
            call()


def test_a_file_in_place_of_a_directory_is_refused(store, root):
    shutil.rmtree(root / "objects")
    (root / "objects").touch()
    for call in both(root=root):
        with refused("validation_error", field="root"):
            call()


def test_a_link_to_a_directory_of_the_same_file_system_will_do(store, root, tmp_path):
    (root / "objects").rename(tmp_path / "objects")
    (root / "objects").symlink_to(tmp_path / "objects")
    with FileArtifactStore(root=root) as again:
        all_is_there(again)


# -- Directories that are removed ----------------------------------------------------------------------------------------


def test_empty_directories_are_made_again(root):
    with FileArtifactStore(root=root) as store:
        for key in KEYS:
            store.put(key, b"old")
            store.delete(key)
        assert run("find", root, "-mindepth", "1", "-empty", "-delete") == 0
        assert [path.name for path in root.iterdir()] == ["asm-store.json"]
        store.ping()
        assert store.list() == []
        with refused("not_found"):
            store.get("0")
        store.delete("0")
        with FileArtifactStore(root=root) as again:
            for key in KEYS:
                again.put(key, b"new")
            for key in KEYS:
                store.put(key, b"newer")
        assert len(store.list()) == len(KEYS)


def test_directories_that_are_made_again_are_synced(store, root, monkeypatch):
    store.delete("key")
    place(root, "key").parent.rmdir()
    (root / "objects").rmdir()
    synced, fsync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    store.put("key", b"data")
    assert synced[1:] == [str(path) for path in (place(root, "key").parent, root / "objects", root)]


def test_directories_that_are_removed_as_soon_as_they_are_made(store, root, monkeypatch):
    store.delete("key")
    assert run("find", root, "-mindepth", "1", "-empty", "-delete") == 0
    made, mkdir = [], os.mkdir

    def remove(name, *args, **kwargs):
        mkdir(name, *args, **kwargs)
        made.append(name)
        if made.count(name) < 3:
            (root / name).rmdir()

    monkeypatch.setattr(os, "mkdir", remove)
    store.put("key", b"data")
    assert len(made) == 9
    all_is_there(store)
