import os

import pytest

from asm.adapters.directories import check_path, check_place, make_directories
from asm.core.errors import Error


@pytest.mark.parametrize("bad", [None, 5, b"bytes", "", "a\0b", ["a"]], ids=repr)
def test_what_is_no_path_is_refused(bad):
    with pytest.raises(Error) as caught:
        check_path(bad, "root")
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == "root"


def test_a_path_may_be_text_or_an_object(tmp_path):
    assert check_path(tmp_path, "root") == check_path(str(tmp_path), "root") == tmp_path


def test_a_place_that_is_there_or_could_be_made_is_accepted(tmp_path, monkeypatch):
    check_place(tmp_path, "root")
    check_place(tmp_path / "a" / "b" / "c", "root")
    monkeypatch.chdir(tmp_path)
    check_place(tmp_path.__class__("relative/path"), "root")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_file_where_a_directory_should_be_is_refused(tmp_path, below):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Error, match=r"cannot be used: .*file") as caught:
        check_place(file / below, "root")
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == "root"


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    with pytest.raises(Error, match=f"no permission to write to {tmp_path}"):
        check_place(tmp_path / "a" / "b", "root")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def test_a_name_that_no_file_system_takes_is_refused(tmp_path):
    with pytest.raises(Error, match="File name too long"):
        check_place(tmp_path / ("x" * 300), "root")


def test_directories_are_made_private_and_synced(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    make_directories(tmp_path / "a" / "b")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    make_directories(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_directories(tmp_path / "file" / "a")
