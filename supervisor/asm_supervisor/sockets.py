"""The listening socket of a name: its lock, its file, and the removal of what a killed tree left behind.

Two files make a name: ``<path>``, the socket, and ``<path>.lock``. Who holds the lock (``flock``) owns the name, and the
lock's first line, a pid, says who that is. The kernel releases the lock of a process that dies, however it dies; so a socket
whose lock can be had is a stale one. The lock's second line names the process that the socket was handed down to: one that
outlives its parent against all rules, because it is stopped, is killed by the next owner of the name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import select
import signal
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Final

from asm_supervisor import forks

__all__ = ["MAX_PATH_BYTES", "ListenError", "Listener", "NameInUse", "lock_path"]

logger = logging.getLogger("asm_supervisor")

MAX_PATH_BYTES: Final = 107
"""How long the path of an AF_UNIX socket may be: ``sun_path`` has 108 bytes, the last one is NUL."""

BACKLOG: Final = 1024
"""How many connections may queue while nobody accepts. The kernel caps it with ``net.core.somaxconn``."""

ORPHAN_PATIENCE: Final = 3.0
"""How many seconds the children of a killed process have to let go of its socket. They should be gone after two."""

KILL_PATIENCE: Final = 1.0
"""How many seconds a killed process has to be gone."""

LOCK_ATTEMPTS: Final = 100
"""How often the lock's file may vanish between its opening and its locking. Once is rare."""


class ListenError(Exception):
    """There can be no listening socket at a path.

    :ivar path: where it was to be.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"cannot listen on {path}: {problem}")
        self.path = path


class NameInUse(ListenError):  # noqa: N818  # says what happened
    """Another process holds the name.

    :ivar pid: its process id; ``None`` when it has not written it yet.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path, f"it is in use by {f'process {pid}' if pid else 'another process'}")
        self.pid = pid


class Listener:
    """A listening AF_UNIX socket at a path that nobody else can take meanwhile.

    :ivar path: absolute.
    :ivar socket: the listening socket; ``None`` after :meth:`hand_over` and :meth:`close`.
    :ivar trouble: why the name is not this listener's at the moment, as whoever watches it found; empty when it is.
    """

    def __init__(self, path: Path, lock: int, backlog: int, mode: int) -> None:
        """Use :meth:`acquire`."""
        self.path = path
        self.socket: socket.socket | None = None
        self.trouble = ""
        self._lock: int | None = lock
        self._backlog = backlog
        self._mode = mode
        self._bound: os.stat_result | None = None

    @classmethod
    def acquire(cls, path: str | os.PathLike[str], *, backlog: int = BACKLOG, mode: int = 0o600) -> Listener:
        """Take the lock, remove a stale socket, bind and listen. The socket has its mode from its first moment on.

        When children of a killed process still listen on a stale socket, this waits for their end, for up to three seconds.

        :param path: in a directory that exists and that the caller trusts.
        :param backlog: how many connections may queue.
        :param mode: the permissions of the socket; who has the right to write may connect.
        :raises NameInUse: when another process, or another listener of this one, holds the lock.
        :raises ListenError: when there is something at ``path`` that is not ours to remove, or the system refuses.
        """
        where = Path(path).absolute()
        if len(os.fsencode(where)) > MAX_PATH_BYTES:
            raise ListenError(where, f"the path is too long for an AF_UNIX socket, which takes {MAX_PATH_BYTES} bytes")
        try:
            with forks.guard, contextlib.ExitStack() as undo:
                lock, left_behind = _lock(where)
                undo.callback(os.close, lock)
                undo.callback(os.unlink, lock_path(where))
                _remove_stale(where, left_behind)
                listener = cls(where, lock, backlog, mode)
                listener.listen()
                forks.close_in_forks(listener)
                undo.pop_all()
                return listener
        except OSError as cause:
            raise ListenError(where, cause.strerror or str(cause)) from cause

    def listen(self) -> None:
        """Bind and listen, if that is not so already: after :meth:`hand_over` with a socket that is new.

        :raises ListenError: when the system refuses.
        """
        if self.socket is not None:
            return
        try:
            with forks.guard, contextlib.ExitStack() as undo:
                listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                # A socket's file gets the mode of the socket's inode, less the umask. So there is no moment at which
                # others may connect, and the umask, which all threads share, stays as it is.
                os.fchmod(listening.fileno(), self._mode)
                self._unlink()
                listening.bind(os.fspath(self.path))
                undo.callback(os.unlink, self.path)
                self.path.chmod(self._mode)
                listening.listen(self._backlog)
                self._bound = os.lstat(self.path)
                _verify(self.path, self._bound, self._mode)
                undo.pop_all()
                self.socket = listening
        except OSError as cause:
            raise ListenError(self.path, cause.strerror or str(cause)) from cause

    def is_in_place(self) -> bool:
        """Tell, without opening anything, whether the files at the name's paths are still those that were made here."""
        assert self._lock is not None
        return _is_at(lock_path(self.path), os.fstat(self._lock)) and _is_at(self.path, self._bound)

    def restore(self) -> bool:
        """Make again what is gone from its place: take the lock, bind, listen. Nobody is waited for, and nobody pushed out.

        :return: whether the socket is another one now, which is to be handed down.
        :raises NameInUse: when another process has taken the name meanwhile.
        :raises ListenError: when there is something else at ``path``, or the system refuses.
        """
        assert self._lock is not None
        try:
            with forks.guard:
                if not _is_at(lock_path(self.path), os.fstat(self._lock)):
                    lost, (self._lock, _left_behind) = self._lock, _lock(self.path)
                    os.close(lost)
                if _is_at(self.path, self._bound):
                    return False
                _remove_unused(self.path)
                was_refused = self.socket is None
                self.hand_over()  # nobody can reach it any more
                self.listen()
                if was_refused:
                    self.hand_over()
                return True
        except OSError as cause:
            raise ListenError(self.path, cause.strerror or str(cause)) from cause

    def handed_to(self, pid: int) -> None:
        """Note which process the socket was handed down to, for whoever has to clear up after both."""
        started = _started(pid)
        if self._lock is not None and started is not None:
            with contextlib.suppress(OSError):  # a note that is missing costs a successor three seconds, and no more
                os.pwrite(self._lock, f"{os.getpid()}\n{pid} {started}\n{' ' * 20}".encode(), 0)

    def hand_over(self) -> None:
        """Close this process's copy of the socket, and keep the name.

        When there is no process any more that the socket was handed down to, connections are then refused instead of queued.
        """
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def close(self) -> None:
        """Remove the socket and the lock, in this order and while the lock is held, and nobody else's. Twice is once."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        self._unlink()
        self.hand_over()
        if _is_at(lock_path(self.path), os.fstat(lock)):
            lock_path(self.path).unlink(missing_ok=True)
        os.close(lock)

    def abandon(self) -> None:
        """Close a fork's copies. The name stays with the parent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        self.hand_over()

    def _unlink(self) -> None:
        """Remove the socket, if it is the one that was bound here."""
        if _is_at(self.path, self._bound):
            self.path.unlink(missing_ok=True)


def lock_path(path: Path) -> Path:
    """Return where the lock of the socket at ``path`` is."""
    return path.with_name(path.name + ".lock")


def _is_at(path: Path, wanted: os.stat_result | None) -> bool:
    """Tell whether a file is at a path, and nothing else is."""
    try:
        return wanted is not None and os.path.samestat(os.lstat(path), wanted)
    except OSError:
        return False


def _verify(path: Path, found: os.stat_result, mode: int) -> None:
    """Make sure that what was bound is what is there now: a socket of ours, open to whom it should be and to nobody else."""
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != mode:
        raise ListenError(path, f"it is not a socket of ours with the mode {mode:04o}; somebody else writes to its directory")


def _lock(path: Path) -> tuple[int, int | None]:
    """Open and lock the lock's file; return its descriptor, and which process its last owner left behind, if any."""
    name = lock_path(path)
    for _ in range(LOCK_ATTEMPTS):
        try:
            lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            problem = "it is a symbolic link" if cause.errno == errno.ELOOP else cause.strerror
            raise ListenError(path, f"its lock {name} cannot be opened: {problem}") from cause
        try:
            found = os.fstat(lock)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise ListenError(path, f"its lock {name} is not a file of ours")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise NameInUse(path, _holder(lock)) from None
            # Whoever had the lock removed its file before letting go. Then this is the lock of a file that nobody
            # else can find, and the next one would lock another file under the same name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.lstat(name), found):
                    left_behind = _left_behind(lock)
                    os.fchmod(lock, 0o600)
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                    return lock, left_behind
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise ListenError(path, f"its lock {name} is another file each time it is opened")


def _holder(lock: int) -> int | None:
    """Read who holds a lock."""
    content = os.pread(lock, 64, 0).partition(b"\n")[0]
    return int(content) if content.isdigit() else None


def _left_behind(lock: int) -> int | None:
    """Read which process the last owner of a lock handed the socket down to, if it is still there."""
    match os.pread(lock, 64, 0).split():
        case [_owner, pid, started] if pid.isdigit() and started.isdigit() and _started(int(pid)) == int(started):
            return int(pid)
    return None


def _started(pid: int) -> int | None:
    """Return when a process started, in the kernel's clock ticks: with the pid it names a process for ever (proc(5))."""
    try:
        # The second field is the program's name in brackets, which may hold anything.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _remove_stale(path: Path, left_behind: int | None) -> None:
    """Remove a socket that a killed process left at ``path``, and nothing else."""
    deadline = time.monotonic() + ORPHAN_PATIENCE
    if left_behind is not None:
        _see_off(path, left_behind)
    if not _has_socket(path):
        return
    if not _outlast(path, max(deadline - time.monotonic(), KILL_PATIENCE)):
        logger.warning("%s: somebody whom a killed process left behind still listens; the name is taken all the same", path)
    path.unlink()


def _remove_unused(path: Path) -> None:
    """Remove a socket on which nobody listens, and nothing else."""
    if _has_socket(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
                raise ListenError(path, "somebody else listens there")
        path.unlink()


def _has_socket(path: Path) -> bool:
    """Tell whether there is a socket of this user.

    :raises ListenError: when there is something else.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(path, "there is something that is not a socket")
    if found.st_uid != os.geteuid():
        raise ListenError(path, f"there is a socket of another user, uid {found.st_uid}")
    return True


def _see_off(path: Path, pid: int) -> None:
    """Wait until the process is gone that a killed one had handed its socket to; kill it if it stays.

    That nobody listens any more is not enough: a process that finishes what it is doing closes its socket first.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not _is_readable(pidfd, ORPHAN_PATIENCE):
            logger.warning("%s: process %d outlived its parent; killed", path, pid, extra={"pid": pid})
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _is_readable(pidfd, KILL_PATIENCE)
    finally:
        os.close(pidfd)


def _is_readable(fd: int, patience: float) -> bool:
    """Wait until a descriptor is readable, for so many seconds at the most; return whether it is."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience * 1000))


def _outlast(path: Path, patience: float) -> bool:
    """Wait until nobody listens on a stale socket any more; return whether that is so.

    When a supervisor is killed, its children have a moment to finish what they are doing. Their successors are not to be
    started beside them. A connection to such a socket is closed when the last process that holds the socket is gone.
    """
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # Python's own timeout would not wait for room in the queue: AF_UNIX says EAGAIN there.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(left), int(left % 1 * 1e6) or 1))
            try:
                probe.connect(os.fspath(path))
            except BlockingIOError:
                continue
            except OSError:
                return True
            poll = select.poll()
            poll.register(probe, 0)
            poll.poll(left * 1000)
    return False
