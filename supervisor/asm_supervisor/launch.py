"""How a process is started: everything that this package needs of multiprocess, its private parts included.

Private names are used where the documented ones leave a child with more than it needs, or leave something running. Each
use says why, and is guarded, so that another version of multiprocess costs the nicety and not the function.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import multiprocess
from multiprocess import resource_tracker, spawn
from multiprocess.reduction import ForkingPickler

from asm_supervisor import forks
from asm_supervisor.forkserver import ForkServer
from asm_supervisor.signals import blocked

__all__ = ["Launcher", "Parcel", "is_child_of_fork_server"]

PRELOADED: Final = ("asm_supervisor.bootstrap",)
"""What every child needs. The fork server imports it once for all."""

TRACKER_PATIENCE: Final = 1.0
"""How many seconds the resource tracker has to finish; a forked process of a user may keep it waiting for ever."""


class Launcher:
    """Starts processes with one start method, and knows which helper processes came up for them.

    :param start_method: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports before it forks the first child.
    """

    def __init__(self, start_method: str = "forkserver", preload: Sequence[str] = ()) -> None:
        self.start_method = start_method
        self._preload = dict.fromkeys((*PRELOADED, *preload))
        self._servers: set[ForkServer] = set()
        self._trackers: set[int] = set()

    @property
    def blocks(self) -> bool:
        """Whether :meth:`start` waits for another process, which may be stuck."""
        return self.start_method != "fork"

    def start(self, name: str, function: Callable[..., None], arguments: Mapping[str, Any]) -> Any:
        """Start a process and return what there is to know of it: multiprocess's object, or what is like it.

        The new process begins with signals blocked that it is not prepared for; the bootstrap unblocks them. A forked child
        has our handlers at first, which would swallow a SIGTERM. A new interpreter would answer Ctrl-C, which reaches the
        whole foreground group, with a traceback while it still imports, and the end of a terminal with its own.

        :raises Exception: whatever multiprocess raises when it cannot. A process may exist all the same: a fork server
            that is killed after the fork and before it told us the pid leaves one.
        """
        if self.start_method == "forkserver":
            return self._fork_server().fork(name, function, arguments)
        process = multiprocess.get_context(self.start_method).Process(target=function, kwargs=dict(arguments), name=name)
        if self.start_method == "fork":
            with blocked(signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                process.start()
        else:
            tempfile.gettempdir()  # without one it cannot import multiprocess (see ``anywhere``), and could not say so
            before = _tracker()
            with blocked(signal.SIGHUP):
                resource_tracker.ensure_running()  # as a side effect this unblocks the other signals: so do it first
                self._trackers |= _tracker() - before
                with blocked(signal.SIGINT), _without_main():
                    process.start()
        # At the interpreter's exit multiprocess waits for all processes that it knows: ours would wait for our end.
        with contextlib.suppress(AttributeError):
            multiprocess.process._children.discard(process)  # noqa: SLF001
        return process

    @property
    def helpers(self) -> frozenset[int]:
        """The pids of the processes that came up for this launcher, and that are waited for."""
        return frozenset(self._trackers | {server.pid for server in self._servers})

    def interrupt(self) -> None:
        """Make a :meth:`start` that hangs in another thread fail: kill the fork server. The next start makes a new one."""
        if self.start_method == "forkserver" and _shared is not None and _shared.alive:
            _shared.kill()

    def stop_helpers(self) -> None:
        """Stop and reap the fork server and the resource tracker, if it was for this launcher that they came up."""
        with forks.guard:
            for server in self._servers:
                server.stop()
            self._servers.clear()
        with contextlib.suppress(AttributeError, OSError):
            if _tracker() & self._trackers:
                _stop_tracker(resource_tracker._resource_tracker)  # noqa: SLF001
        self._trackers.clear()

    def _fork_server(self) -> ForkServer:
        """Return the fork server of this process, which all launchers share; start it if there is none."""
        global _shared  # noqa: PLW0603  # as there is one environment, and one standard error
        with forks.guard:
            if _shared is None or not _shared.alive:
                ended = [server for server in self._servers if not server.alive]
                for server in ended:
                    server.close()
                    self._servers.discard(server)
                _preloads.update(self._preload)
                _shared = ForkServer(_preloads)
                self._servers.add(_shared)
            return _shared


_shared: ForkServer | None = None
_preloads: Final[dict[str, None]] = {}
"""What the fork servers of this process import. The next one does so for all who had one before."""


class Parcel:
    """Something that is pickled with a process, and unpickled only when the child asks for it.

    So a value that cannot be unpickled is an error that the child can report, and not one before its first line.
    """

    def __init__(self, value: Any = None, packed: bytes | None = None) -> None:
        self._value = value
        self._packed = packed

    def open(self) -> Any:
        """Return the value."""
        return self._value if self._packed is None else ForkingPickler.loads(self._packed)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parcel, (None, bytes(ForkingPickler.dumps(self._value)))


def is_child_of_fork_server(pid: int) -> bool:
    """Tell whether the process that has this pid now was forked by our fork server, as long as that one lives."""
    with contextlib.suppress(OSError):
        # The second field is the program's name in brackets, which may hold anything; the fourth is the parent.
        parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        return _shared is not None and _shared.alive and parent == _shared.pid
    return False


def _tracker() -> set[int]:
    """Return the pid of multiprocess's resource tracker, if there is one."""
    return {getattr(resource_tracker._resource_tracker, "_pid", None)} - {None}  # type: ignore[return-value]  # noqa: SLF001


def _stop_tracker(tracker: Any) -> None:
    """Let the tracker finish, which it does when nobody holds its pipe any more."""
    pidfd = os.pidfd_open(tracker._pid)  # noqa: SLF001
    try:
        fd, tracker._fd = tracker._fd, None  # noqa: SLF001
        os.close(fd)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(TRACKER_PATIENCE * 1000):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(tracker._pid, 0)  # noqa: SLF001
    finally:
        tracker._pid = None  # noqa: SLF001
        os.close(pidfd)


# Multiprocess tells a new process where the main script is, and the process runs it again, as ``__mp_main__``, so that what
# is defined there can be unpickled. Our targets are functions of modules: we need no second run, which is slow, and which
# starts a script that has no ``if __name__ == "__main__"`` all over again. It tells the working directory, too, which the
# process has anyway, and fails when that one has no name any more. So our own processes, which the flag of the thread tells
# from those of others, are told where modules are, and nothing else.
_thread: Final = threading.local()
_get_preparation_data: Final = spawn.get_preparation_data


def _preparation_data(name: str) -> Any:
    if getattr(_thread, "without_main", False):
        return {"name": name, "sys_path": list(sys.path), "sys_argv": list(sys.argv)}
    return _get_preparation_data(name)


spawn.get_preparation_data = _preparation_data


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    _thread.without_main = True
    try:
        yield
    finally:
        _thread.without_main = False
