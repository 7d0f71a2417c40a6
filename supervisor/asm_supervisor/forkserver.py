"""The fork server: a process that imports once what every child needs, and then forks each of them from itself.

::

    parent                                                                   fork server
      │   ── [name, [argv, path], pickled call, …], and then descriptors ►         │  imports; then waits for requests
      │      a pipe for the answers, the working directory, and those             │
      │      that the call refers to                                              ├── fork ──► child: makes the call
      │   ◄── pid; when the child has ended, its exit status ─────────────        │
     EOF on the pipe of a child: the fork server is gone             EOF: the parent is gone

multiprocess has one, too, but that one is reached by a path below the temporary directory, which is swept some day, and then
it starts nobody any more. This one is reached by a pipe that it inherits, and by nothing else: it needs no path, no temporary
directory, and no working directory that still has a name. What it forks are processes of multiprocess.

A call is pickled by the parent, comes by a pipe that nobody else has, and is unpickled in the child.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgpack
import multiprocess
from multiprocess import spawn, util
from multiprocess.connection import Connection
from multiprocess.context import set_spawning_popen
from multiprocess.reduction import ForkingPickler, recv_handle, send_handle

from asm_supervisor import forks
from asm_supervisor.signals import blocked

__all__ = ["ForkServer", "Forked", "main"]

COMMAND: Final = "import sys; sys.path[:] = {path!r}; from asm_supervisor.forkserver import main; main({pipe}, {preload!r})"
"""What the new interpreter runs. It finds this module where its parent has found it."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What comes to a whole group or session is no order to the fork server, which goes when its parent goes."""


# -- In the parent ------------------------------------------------------------------------------------------------------


class ForkServer:
    """The fork server of this process, which its parent has started. Making one starts it.

    :param preload: modules that it imports before it forks the first child. One that cannot be imported is passed over:
        whoever needs it will say so.
    :ivar pid: its process id.
    """

    def __init__(self, preload: Iterable[str]) -> None:
        # As multiprocess does: the flags of this interpreter. Without them the other one has its defaults.
        flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
        with forks.guard, contextlib.ExitStack() as undo:
            self._pipe, theirs = multiprocess.Pipe()
            undo.callback(theirs.close)
            command = COMMAND.format(path=_path(), pipe=theirs.fileno(), preload=list(preload))
            with contextlib.ExitStack() as failed:
                failed.callback(self._pipe.close)
                with blocked(*IGNORED):  # until it ignores them
                    executable = spawn.get_executable()
                    self.pid: int = util.spawnv_passfds(executable, [executable, *flags, "-c", command], [theirs.fileno()])
                failed.pop_all()
            self._pidfd: int | None = os.pidfd_open(self.pid)
            self._owner = os.getpid()
            forks.close_in_forks(self)
        self._sending = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether it is there, and was started by this very process."""
        return self._pidfd is not None and self._owner == os.getpid() and not _is_readable(self._pidfd)

    def fork(self, name: str, function: Callable[..., None], arguments: Mapping[str, Any]) -> Forked:
        """Have a process forked that calls a function.

        :param arguments: its keyword arguments. They may hold what multiprocess can hand to a process, such as connections.
        :raises ChildProcessError: when the fork server ends before it has said that there is a process. There may be one.
        :raises OSError: when the system has no room for a process.
        :raises Exception: whatever pickling raises; nothing was asked for then.
        """
        call = _Call(function, arguments)
        forked = Forked()
        try:
            with contextlib.ExitStack() as undo:
                files = [forked.answers.fileno()]
                with contextlib.suppress(OSError):  # whoever may not look at it has none to give
                    directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    undo.callback(os.close, directory)
                    files.append(directory)
                request = [name, [sys.argv, _path()], call.packed, len(files) > 1, len(call.files)]
                with self._sending:
                    self._pipe.send_bytes(msgpack.packb(request, unicode_errors="surrogateescape"))
                    for file in (*files, *call.files):
                        send_handle(self._pipe, file, self.pid)
            forked.answers.close()
            forked.hear()
        except (EOFError, BrokenPipeError, ConnectionResetError) as cause:
            forked.close()
            raise ChildProcessError("the fork server ended before the process was started; stderr may say why") from cause
        except BaseException:
            forked.close()
            raise
        return forked

    def kill(self) -> None:
        """Kill it. Who waits for it in :meth:`fork`, in another thread, is told."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def stop(self) -> None:
        """Kill it, and take note of its end."""
        self.kill()
        self.close()

    def close(self) -> None:
        """Let go of one that has been killed."""
        with contextlib.suppress(ChildProcessError):  # somebody else took note of it
            os.waitpid(self.pid, 0)
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors; also a fork's copies, which would let the fork server live as long as the fork.

        A second call does nothing: by then somebody else may have the number of a descriptor.
        """
        self._owner = 0
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)
        with contextlib.suppress(OSError):
            self._pipe.close()


class Forked:
    """A process that was made by the fork server, as far as its parent knows it.

    :ivar pid: its process id.
    :ivar answers: the end of the pipe that the fork server gets.
    """

    def __init__(self) -> None:
        self.pid = 0
        self._status: int | None = None
        self._is_over = False
        with forks.guard:
            self._pipe, self.answers = multiprocess.Pipe(duplex=False)
            forks.close_in_forks(self)

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when the process has ended, or the fork server."""
        return int(self._pipe.fileno())

    @property
    def exitcode(self) -> int | None:
        """The exit status, negative for a signal; ``None`` when nobody knows it (yet)."""
        if not self._is_over and _is_readable(self.sentinel):
            self._is_over = True
            with contextlib.suppress(EOFError, OSError):
                (self._status,) = msgpack.unpackb(self._pipe.recv_bytes())
        return self._status

    def hear(self) -> None:
        """Wait for the pid.

        :raises EOFError: when it does not come.
        :raises OSError: when there could be no process.
        """
        match msgpack.unpackb(self._pipe.recv_bytes()):
            case [int() as pid]:
                self.pid = pid
            case [number, text]:
                raise OSError(number, text)

    def close(self) -> None:
        """Close the descriptors."""
        self._pipe.close()
        self.answers.close()

    abandon = close


class _Call:
    """A call on its way into a process: pickled, and apart from that the descriptors that it refers to.

    While something is pickled, multiprocess asks whoever takes it to the new process what it will call its descriptors there.
    """

    def __init__(self, function: Callable[..., None], arguments: Mapping[str, Any]) -> None:
        self.files: list[int] = []
        set_spawning_popen(self)
        try:
            self.packed = bytes(ForkingPickler.dumps((function, dict(arguments))))
        finally:
            set_spawning_popen(None)

    def duplicate_for_child(self, file: int) -> int:
        """Take a descriptor along; return which one it is."""
        self.files.append(file)
        return len(self.files) - 1

    class DupFd:
        """A descriptor that a call refers to, by its number among them."""

        def __init__(self, number: int) -> None:
            self._number = number

        def detach(self) -> int:
            """Return the descriptor; called in the child."""
            return _received[self._number]


_received: list[int] = []
"""In a child, the descriptors that its call refers to."""


# -- In the fork server -------------------------------------------------------------------------------------------------


def main(pipe: int, preload: Sequence[str]) -> NoReturn:
    """Be the fork server.

    :param pipe: the descriptor by which the requests come.
    :param preload: what to import first.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nobody learns how a child ended
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.set_inheritable(pipe, False)
    _preload(pipe, preload)
    _Serving(Connection(pipe)).run()
    os._exit(0)


def _preload(pipe: int, modules: Sequence[str]) -> None:
    """Import what the children need.

    On a busy machine that takes seconds, in which nobody looks at the pipe. So a thread looks whether the parent is there. It
    is gone before the first fork, because a thread and ``fork`` do not go together.
    """
    finished = os.eventfd(0, os.EFD_CLOEXEC)

    def watch() -> None:
        poll = select.poll()
        poll.register(pipe, select.POLLRDHUP)
        poll.register(finished, select.POLLIN)
        if pipe in {file for file, _ in poll.poll()}:
            os._exit(0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for name in modules:
        with contextlib.suppress(Exception):  # who needs it will say so
            importlib.import_module(name)
    os.eventfd_write(finished, 1)
    watcher.join()
    os.close(finished)


class _Serving:
    """Forks, and tells how that ended."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._context = multiprocess.get_context("fork")
        self._children: dict[int, tuple[Any, Connection]] = {}
        """For each child's pidfd its process, and where to tell of its end."""
        self._answers: Connection | None = None
        """Those of the child that is just being forked."""
        forks.close_in_forks(self)

    def run(self) -> None:
        """Serve until the parent is gone."""
        while True:
            poll = select.poll()
            for file in (self._pipe.fileno(), *self._children):
                poll.register(file, select.POLLIN)
            for file, _ in poll.poll():
                if file in self._children:
                    self._tell_end(file)
                    continue
                try:
                    self._fork()
                except (EOFError, ConnectionResetError):
                    return

    def _fork(self) -> None:
        """Take a request, fork, and tell the pid."""
        name, given, call, has_directory, count = msgpack.unpackb(self._pipe.recv_bytes(), unicode_errors="surrogateescape")
        answers, *files = (self._receive() for _ in range(1 + has_directory + count))
        self._answers = Connection(answers, readable=False)
        process = self._context.Process(name=name, target=_make, args=(call, given, files, has_directory))
        try:
            with blocked(*IGNORED):  # until the child has the handlers that it wants
                process.start()
            self._children[os.pidfd_open(process.pid)] = process, self._answers
        except OSError as error:
            self._tell(self._answers, [error.errno, error.strerror])
            self._answers.close()
        else:
            self._tell(self._answers, [process.pid])
        finally:
            self._answers = None
            for file in files:  # before anybody asks for the child's status: an open lifeline is to mean that it is there
                os.close(file)

    def _receive(self) -> int:
        file: int = recv_handle(self._pipe)
        os.set_inheritable(file, False)
        return file

    def _tell_end(self, pidfd: int) -> None:
        process, answers = self._children.pop(pidfd)
        os.close(pidfd)
        self._tell(answers, [process.exitcode])
        answers.close()
        with contextlib.suppress(ValueError):  # somebody else has asked for its status
            process.close()

    @staticmethod
    def _tell(answers: Connection, answer: list[Any]) -> None:
        with contextlib.suppress(OSError):  # nobody wants to know
            answers.send_bytes(msgpack.packb(answer))

    def abandon(self) -> None:
        """Close what is of no use to a child."""
        self._pipe.close()
        if self._answers is not None:
            self._answers.close()
        for pidfd, (process, answers) in self._children.items():
            os.close(pidfd)
            answers.close()
            for file in forks.descriptors(process):
                os.close(file)


def _make(call: bytes, given: tuple[list[str], list[str]], files: list[int], has_directory: bool) -> None:
    """Make a call, in a child, whose arguments and path are those that its parent has now."""
    sys.argv[:], sys.path[:] = given
    if has_directory:
        directory = files.pop(0)
        os.fchdir(directory)  # also when it has no name any more
        os.close(directory)
    _received[:] = files
    function, arguments = ForkingPickler.loads(call)
    function(**arguments)


def _path() -> list[str]:
    """Return where modules are looked for."""
    return [os.fspath(entry) for entry in sys.path]


def _is_readable(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))
