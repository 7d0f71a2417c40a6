"""Listening sockets: who owns a name, and what becomes of its files."""

import fcntl
import os
import socket
import stat

import pytest

from asm_supervisor import Listener, ListenError, NameInUse, sockets
from asm_supervisor.sockets import lock_path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.sock"


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


def test_a_listener_listens_until_it_is_closed(path):
    listener = Listener.acquire(path)
    connect(path)
    assert lock_path(path).read_text() == f"{os.getpid()}\n"
    listener.close()
    listener.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_its_files_are_private_whatever_the_umask(path, umask):
    before = os.umask(umask)
    try:
        listener = Listener.acquire(path)
    finally:
        assert os.umask(before) == umask
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(lock_path(path).stat().st_mode) == 0o600
    assert not os.get_inheritable(listener.socket.fileno())
    listener.close()


def test_a_name_is_taken_only_once(path):
    listener = Listener.acquire(path)
    with pytest.raises(NameInUse, match=f"{path}: it is in use by process {os.getpid()}") as caught:
        Listener.acquire(path)
    assert (caught.value.pid, caught.value.path) == (os.getpid(), path)
    connect(path)  # it was not touched
    listener.close()
    Listener.acquire(path).close()


def test_a_holder_that_has_not_said_its_pid(path):
    with lock_path(path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(NameInUse, match="in use by another process") as caught:
            Listener.acquire(path)
        assert caught.value.pid is None


def test_what_a_killed_process_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    lock_path(path).write_text("123456789012\n")
    listener = Listener.acquire(path)
    assert lock_path(path).read_text() == f"{os.getpid()}\n"
    connect(path)
    listener.close()


@pytest.mark.parametrize("backlog", [10, 0])  # with 0 there is no room for another connection
def test_who_holds_a_stale_socket_too_long_does_not_keep_the_name(path, backlog, monkeypatch, caplog):
    monkeypatch.setattr(sockets, "ORPHAN_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as orphan, socket.socket(socket.AF_UNIX) as waiting:
        orphan.bind(os.fspath(path))
        orphan.listen(backlog)
        waiting.connect(os.fspath(path))
        Listener.acquire(path).close()
    assert "still listens" in caplog.text


def test_a_relative_path_stays_where_it_was(path, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(path.parent)
    listener = Listener.acquire("a.sock")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert listener.path == path
    listener.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_foreign_things_are_refused_and_stay(path, kind):
    other = path.with_name("other")
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.fspath(other))
        path.symlink_to(other)
    with pytest.raises(ListenError, match="not a socket"):
        Listener.acquire(path)
    assert os.path.lexists(path)
    assert not lock_path(path).exists()


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_lock_that_is_no_file_is_refused_and_stays(path, kind):
    lock = lock_path(path)
    if kind == "link":
        lock.symlink_to(path.with_name("other"))
    elif kind == "directory":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    with pytest.raises(ListenError, match="its lock"):
        Listener.acquire(path)
    assert os.path.lexists(lock)
    assert not path.with_name("other").exists()


def test_files_of_another_user_are_refused(path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(os.fspath(path))
    uid, lstat = os.geteuid(), os.lstat

    def foreign(name):
        found = lstat(name)
        return os.stat_result([*found[:4], uid + 1, *found[5:]]) if name == path else found

    with monkeypatch.context() as patch:
        patch.setattr(os, "lstat", foreign)
        with pytest.raises(ListenError, match=f"a socket of another user, uid {uid + 1}"):
            Listener.acquire(path)
    assert path.exists()
    lock_path(path).touch()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(ListenError, match="is not a file of ours"):
        Listener.acquire(path)


def test_a_lock_that_is_another_file_each_time_is_given_up(path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: lock_path(path).unlink())
    with pytest.raises(ListenError, match="is another file each time"):
        Listener.acquire(path)


def test_a_directory_that_is_not_there(path):
    with pytest.raises(ListenError, match="No such file or directory"):
        Listener.acquire(path.parent / "none" / "a.sock")


def test_a_path_that_is_too_long(tmp_path):
    with pytest.raises(ListenError, match="too long"):
        Listener.acquire(tmp_path / ("x" * 108))


def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_one(path, monkeypatch):
    # Between the open and the flock the holder lets go: the lock's file is another one then.
    flock, calls = fcntl.flock, []

    def late(fd, how):
        calls.append(fd)
        if len(calls) == 1:
            lock_path(path).unlink()
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    listener = Listener.acquire(path)
    assert len(calls) == 2
    assert lock_path(path).exists()
    listener.close()


def test_a_file_that_another_one_put_at_the_path_stays(path):
    listener = Listener.acquire(path)
    path.unlink()
    path.write_text("another")
    listener.close()
    assert path.read_text() == "another"
    assert not lock_path(path).exists()


def test_a_fork_holds_neither_the_name_nor_the_socket(path):
    listener = Listener.acquire(path)
    pid = os.fork()
    if pid == 0:
        listener.close()
        held = [
            os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
        ]
        os._exit(os.path.lexists(path) + 2 * any("a.sock" in file for file in held))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1  # the file is there, and the lock's descriptor is not
    connect(path)
    listener.close()


def test_a_handed_over_socket_belongs_to_the_one_who_has_the_copy(path):
    listener = Listener.acquire(path)
    with listener.socket.dup():
        listener.hand_over()
        connect(path)
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with pytest.raises(NameInUse):
        Listener.acquire(path)
    listener.close()


def test_nothing_is_left_when_listening_fails(path, monkeypatch):
    files = os.listdir("/proc/self/fd")

    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    with pytest.raises(ListenError, match="Too many open files"):
        Listener.acquire(path)
    assert list(path.parent.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(files)


def test_what_is_lost_is_made_again_in_its_place(path):
    listener = Listener.acquire(path)
    assert listener.is_in_place()
    path.unlink()
    assert not listener.is_in_place()
    assert listener.restore()
    connect(path)
    lock_path(path).unlink()
    assert not listener.is_in_place()
    assert not listener.restore()  # the socket is the same
    with pytest.raises(NameInUse):
        Listener.acquire(path)
    connect(path)
    listener.close()
    assert list(path.parent.iterdir()) == []


def test_a_name_that_somebody_else_has_now_is_left_to_him(path):
    listener = Listener.acquire(path)
    for file in path.parent.iterdir():
        file.unlink()
    other = Listener.acquire(path)
    assert not listener.is_in_place()
    with pytest.raises(NameInUse):
        listener.restore()
    listener.close()
    assert other.is_in_place()
    connect(path)
    other.close()
    assert list(path.parent.iterdir()) == []


def test_a_stale_socket_in_the_place_of_a_lost_one_is_removed(path):
    listener = Listener.acquire(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert listener.restore()
    connect(path)
    listener.close()


def test_a_lost_name_that_refuses_goes_on_refusing(path):
    listener = Listener.acquire(path)
    listener.hand_over()
    path.unlink()
    assert listener.restore()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    listener.close()
    assert list(path.parent.iterdir()) == []
