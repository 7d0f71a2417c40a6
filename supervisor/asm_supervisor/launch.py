"""How a process is started: everything that this package needs of multiprocess, its private parts included.

Private names are used where the documented ones leave a child with more than it needs, or leave something running. Each
use says why, and is guarded, so that another version of multiprocess costs the nicety and not the function.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import multiprocess
from multiprocess import forkserver, resource_tracker, spawn
from multiprocess.reduction import ForkingPickler

__all__ = ["Launcher", "Parcel", "descriptors", "exit_status", "is_child_of_fork_server"]

logger = logging.getLogger("asm_supervisor")

PRELOADED: Final = ("asm_supervisor.bootstrap",)
"""What every child needs. The fork server imports it once for all."""

FIRST: Final = "asm_supervisor.preloading"
LAST: Final = "asm_supervisor.preloaded"
"""Before and after everything that the fork server imports."""

TRACKER_PATIENCE: Final = 1.0
"""How many seconds the resource tracker has to finish; a forked process of a user may keep it waiting for ever."""

UNKNOWN_STATUS: Final = 255
"""What multiprocess gives as the exit status of a child whose fork server is gone."""


class Launcher:
    """Starts processes with one start method, and knows which helper processes came up for them.

    :param start_method: ``forkserver``, ``spawn`` or ``fork``.
    :param preload: modules that the fork server imports before it forks the first child.
    """

    def __init__(self, start_method: str = "forkserver", preload: Sequence[str] = ()) -> None:
        self.start_method = start_method
        self._context = multiprocess.get_context(start_method)
        self._preload = tuple(preload)
        self._helpers: set[int] = set()

    @property
    def blocks(self) -> bool:
        """Whether :meth:`start` waits for another process, which may be stuck."""
        return self.start_method != "fork"

    def start(self, name: str, function: Callable[..., None], arguments: Mapping[str, Any]) -> Any:
        """Start a process and return multiprocess's object for it.

        :raises Exception: whatever multiprocess raises when it cannot. A process may exist all the same: a fork server
            that is killed after the fork and before it told us the pid leaves one.
        """
        process = self._context.Process(target=function, kwargs=dict(arguments), name=name)
        before = _helper_pids()
        try:
            with _without_main(), self._signals_blocked():
                if self.start_method == "forkserver":
                    self._set_preload()
                process.start()
        except EOFError as cause:
            raise ChildProcessError("the fork server ended before the process was started; stderr may say why") from cause
        finally:
            self._helpers |= _helper_pids() - before
        # At the interpreter's exit multiprocess waits for all processes that it knows: ours would wait for our end.
        with contextlib.suppress(AttributeError):
            multiprocess.process._children.discard(process)  # noqa: SLF001
        return process

    @property
    def helpers(self) -> frozenset[int]:
        """The pids of the processes that came up for this launcher, and that multiprocess waits for."""
        return frozenset(self._helpers)

    def interrupt(self) -> None:
        """Make a :meth:`start` that hangs in another thread fail: kill the fork server. The next start makes a new one."""
        if self.start_method == "forkserver":
            with contextlib.suppress(AttributeError, OSError):
                _kill_fork_server()

    def stop_helpers(self) -> None:
        """Stop and reap the fork server and the resource tracker, if it was for this launcher that they came up."""
        with contextlib.suppress(AttributeError, OSError):
            if forkserver._forkserver._forkserver_pid in self._helpers:  # noqa: SLF001
                # Its own way to stop it waits until every process that inherited its pipe has ended.
                _kill_fork_server()
                forkserver._forkserver._stop()  # noqa: SLF001
        with contextlib.suppress(AttributeError, OSError):
            if resource_tracker._resource_tracker._pid in self._helpers:  # noqa: SLF001
                _stop_tracker(resource_tracker._resource_tracker)  # noqa: SLF001
        self._helpers.clear()

    def _set_preload(self) -> None:
        """Add to what the fork server imports, and take the main script away: it is not run again in children."""
        with contextlib.suppress(AttributeError):
            if forkserver._forkserver._forkserver_pid is None:  # noqa: SLF001
                others = forkserver._forkserver._preload_modules  # noqa: SLF001
                wanted = dict.fromkeys((FIRST, *others, *PRELOADED, *self._preload))
                wanted.pop(LAST, None)  # it is among the others if there was a fork server before this one
                forkserver.set_forkserver_preload([*(name for name in wanted if name != "__main__"), LAST])

    @contextlib.contextmanager
    def _signals_blocked(self) -> Iterator[None]:
        """Let the new process begin with signals blocked that it is not prepared for; the bootstrap unblocks them.

        A forked child has our handlers at first, which would swallow a SIGTERM. A fork server or a new interpreter would
        answer Ctrl-C, which reaches the whole foreground group, with a traceback while it still imports.
        """
        if self.blocks:
            resource_tracker.ensure_running()  # as a side effect this unblocks both signals: so do it first
        blocked = {signal.SIGINT} if self.blocks else {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


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


def exit_status(process: Any) -> int | None:
    """Return the exit status of a process that has ended, negative for a signal; ``None`` when nobody knows it (yet)."""
    status: int | None = process.exitcode
    return None if status == UNKNOWN_STATUS and isinstance(process, multiprocess.context.ForkServerProcess) else status


def descriptors(process: Any) -> list[int]:
    """Return the descriptors that multiprocess keeps in the parent for a process."""
    try:
        return list(process._popen.finalizer._args)  # noqa: SLF001
    except (AttributeError, TypeError):
        return []


def is_child_of_fork_server(pid: int) -> bool:
    """Tell whether the process that has this pid now was forked by our fork server, as long as that one lives."""
    with contextlib.suppress(AttributeError, OSError):
        # The second field is the program's name in brackets, which may hold anything; the fourth is the parent.
        parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        return bool(parent == forkserver._forkserver._forkserver_pid)  # noqa: SLF001
    return False


def _helper_pids() -> set[int]:
    pids = set()
    with contextlib.suppress(AttributeError):
        pids |= {forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid}  # noqa: SLF001
    return pids - {None}


def _kill_fork_server() -> None:
    with forkserver._forkserver._lock:  # noqa: SLF001
        pid = forkserver._forkserver._forkserver_pid  # noqa: SLF001
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


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


def _abandon_fork_server() -> None:
    """Let a fork forget the fork server: it is no child of the fork, and would live as long as the fork does."""
    server = forkserver._forkserver  # noqa: SLF001
    with contextlib.suppress(AttributeError, OSError):
        if server._forkserver_alive_fd is not None:  # noqa: SLF001
            os.close(server._forkserver_alive_fd)  # noqa: SLF001
            server._forkserver_alive_fd = server._forkserver_address = server._forkserver_pid = None  # noqa: SLF001


os.register_at_fork(after_in_child=_abandon_fork_server)

# Multiprocess tells a new process where the main script is, and the process runs it again, as ``__mp_main__``, so that what
# is defined there can be unpickled. Our targets are functions of modules: we need no second run, which is slow, and which
# starts a script that has no ``if __name__ == "__main__"`` all over again. So this information is left out for our own
# processes, which the flag of the thread tells from those of others.
_thread: Final = threading.local()
_get_preparation_data: Final = spawn.get_preparation_data


def _preparation_data(name: str) -> Any:
    data = _get_preparation_data(name)
    if getattr(_thread, "without_main", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


spawn.get_preparation_data = _preparation_data


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    _thread.without_main = True
    try:
        yield
    finally:
        _thread.without_main = False
