import os
import tempfile

import pytest

import asm
from asm.wire.names import find_runtime_dir, prepare_runtime_dir, socket_path


def test_where_names_are_looked_for(monkeypatch):
    monkeypatch.setenv("ASM_RUNTIME_DIR", "/a")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/x")
    assert find_runtime_dir("/given") == "/given"
    assert find_runtime_dir() == "/a"
    monkeypatch.delenv("ASM_RUNTIME_DIR")
    assert find_runtime_dir() == "/x/asm"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_runtime_dir() == "/run/asm"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert find_runtime_dir().endswith("/asm-1000")


def test_without_any_directory_it_says_which_variable_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("ASM_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    with pytest.raises(asm.StorageError, match=r"No usable temporary directory.* set ASM_RUNTIME_DIR"):
        find_runtime_dir()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(asm.StorageError, match="set ASM_RUNTIME_DIR to the full path"):
        find_runtime_dir("run")


@pytest.mark.parametrize("name", ["MyApp.Store", "a", "0-_.x"])
def test_names(name):
    assert socket_path(name, "/run/asm") == f"/run/asm/{name}.sock"


@pytest.mark.parametrize("name", ["", ".x", "-x", "a/b", "..", "a b", "ü", "a\n", None])
def test_what_is_no_name(name):
    with pytest.raises(asm.ValidationError):
        socket_path(name, "/run/asm")


def test_a_path_that_is_too_long_says_what_to_do():
    assert len(socket_path("n" * (107 - len("/r/.sock")), "/r")) == 107
    with pytest.raises(asm.ValidationError, match="ASM_RUNTIME_DIR"):
        socket_path("n" * (108 - len("/r/.sock")), "/r")


def test_the_directory_is_made_for_us_alone(tmp_path):
    path = tmp_path / "a" / "b"
    prepare_runtime_dir(str(path))
    prepare_runtime_dir(str(path))
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_lets_others_in_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(asm.StorageError, match="0755"):
        prepare_runtime_dir(str(tmp_path))


def test_what_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link", "file/below"):
        with pytest.raises(asm.StorageError):
            prepare_runtime_dir(str(tmp_path / name))


def test_a_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(asm.StorageError, match="belongs to"):
        prepare_runtime_dir(str(tmp_path))
