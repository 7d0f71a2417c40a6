"""The listening socket of a name: its lock, its file, and the removal of what a killed tree left behind.

Two files make a name: ``<path>``, the socket, and ``<path>.lock``. Who holds the lock (``flock``) owns the name, and the
lock's content, a pid, says who that is. The kernel releases the lock of a process that dies, however it dies; so a socket
whose lock can be had is a stale one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import select
import socket
import stat
import struct
import time
from pathlib import Path
from typing import Final

from supervisor import forks

__all__ = ["MAX_PATH_BYTES", "ListenError", "Listener", "NameInUse", "lock_path"]

logger = logging.getLogger("supervisor")

MAX_PATH_BYTES: Final = 107
"""How long the path of an AF_UNIX socket may be: ``sun_path`` has 108 bytes, the last one is NUL."""

BACKLOG: Final = 1024
"""How many connections may queue while nobody accepts. The kernel caps it with ``net.core.somaxconn``."""

ORPHAN_PATIENCE: Final = 3.0
"""How many seconds the children of a killed process have to let go of its socket. They should be gone after two."""

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
    """

    def __init__(self, path: Path, lock: int, listening: socket.socket) -> None:
        """Use :meth:`acquire`."""
        self.path = path
        self.socket: socket.socket | None = listening
        self._lock: int | None = lock
        self._bound = os.lstat(path)
        forks.close_in_forks(self)

    @classmethod
    def acquire(cls, path: str | os.PathLike[str], *, backlog: int = BACKLOG) -> Listener:
        """Take the lock, remove a stale socket, bind and listen. The socket has mode 0600 from its first moment on.

        When children of a killed process still listen on a stale socket, this waits for their end, for up to three seconds.

        :param path: in a directory that exists and that the caller trusts.
        :param backlog: how many connections may queue.
        :raises NameInUse: when another process, or another listener of this one, holds the lock.
        :raises ListenError: when there is something at ``path`` that is not ours to remove, or the system refuses.
        """
        where = Path(path).absolute()
        if len(os.fsencode(where)) > MAX_PATH_BYTES:
            raise ListenError(where, f"the path is too long for an AF_UNIX socket, which takes {MAX_PATH_BYTES} bytes")
        try:
            with forks.guard, contextlib.ExitStack() as undo:
                lock = _lock(where)
                undo.callback(os.close, lock)
                undo.callback(os.unlink, lock_path(where))
                _remove_stale(where)
                listening = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                # A socket's file gets the mode of the socket's inode, less the umask. So there is no moment at which
                # others may connect, and the umask, which all threads share, stays as it is.
                os.fchmod(listening.fileno(), 0o600)
                listening.bind(os.fspath(where))
                undo.callback(os.unlink, where)
                where.chmod(0o600)
                listening.listen(backlog)
                listener = cls(where, lock, listening)
                undo.pop_all()
                return listener
        except OSError as cause:
            raise ListenError(where, cause.strerror or str(cause)) from cause

    def hand_over(self) -> None:
        """Close this process's copy of the socket, and keep the name.

        When the process that the socket was handed down to dies, connections are then refused instead of queued.
        """
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def close(self) -> None:
        """Remove the socket and the lock, in this order and while the lock is held. A second call does nothing."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self._bound.st_dev, self._bound.st_ino):
                self.path.unlink()
        self.hand_over()
        lock_path(self.path).unlink(missing_ok=True)
        os.close(lock)

    def abandon(self) -> None:
        """Close a fork's copies. The name stays with the parent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)
        self.hand_over()


def lock_path(path: Path) -> Path:
    """Return where the lock of the socket at ``path`` is."""
    return path.with_name(path.name + ".lock")


def _lock(path: Path) -> int:
    """Open and lock the lock's file; return its descriptor."""
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
                    os.fchmod(lock, 0o600)
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
                    return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    raise ListenError(path, f"its lock {name} is another file each time it is opened")


def _holder(lock: int) -> int | None:
    """Read who holds a lock."""
    content = os.pread(lock, 32, 0).strip()
    return int(content) if content.isdigit() else None


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed process left at ``path``, and nothing else."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(path, "there is something that is not a socket")
    if found.st_uid != os.geteuid():
        raise ListenError(path, f"there is a socket of another user, uid {found.st_uid}")
    _outlast(path)
    path.unlink()


def _outlast(path: Path) -> None:
    """Wait until nobody listens on a stale socket any more.

    When a supervisor is killed, its children have a moment to finish what they are doing. Their successors are not to be
    started beside them. A connection to such a socket is closed when the last process that holds the socket is gone.
    """
    deadline = time.monotonic() + ORPHAN_PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # Python's own timeout would not wait for room in the queue: AF_UNIX says EAGAIN there.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(left), int(left % 1 * 1e6) or 1))
            try:
                probe.connect(os.fspath(path))
            except BlockingIOError:
                continue
            except OSError:
                return
            poll = select.poll()
            poll.register(probe, 0)
            poll.poll(left * 1000)
    logger.warning("%s: somebody whom a killed process left behind still listens; the name is taken all the same", path)
