"""One process of a child, from the decision to start it to the moment when it is certainly gone.

A link holds the process and the parent's end of its lifeline, and answers three questions without ever waiting: what has
the process said, is it gone, and how did it end. The answers come from different places::

    the lifeline    what it says; EOF: nobody is there who could say anything
    the pidfd       whether it is gone. This, and nothing else, when the process was identified
    the sentinel    how it ended. From a fork server, which may itself be killed, and then looks like the child's end

A fork server's child is not our own child, so its pid may already belong to a stranger when we learn it. After its pidfd was
opened it is *identified* when its lifeline is still open: the fork server reaps a process only after it closed its own copies
of what it handed over, so an open lifeline means that the process was there all the time. Or when its parent is the fork
server, which tells it from strangers even if it has closed its lifeline. Only an identified process is sent signals.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import multiprocess

from asm_supervisor import forks
from asm_supervisor.bootstrap import run_child
from asm_supervisor.launch import Launcher, Parcel, is_child_of_fork_server
from asm_supervisor.pipe import End, Message, encode
from asm_supervisor.spec import ChildSpec, target_name

__all__ = ["Ending", "Link", "wait"]

logger = logging.getLogger("asm_supervisor")

STATUS_PATIENCE: Final = 0.5
"""For how many seconds the exit status of a process that is gone is waited for. The fork server tells it within a moment."""

MAX_GRACE: Final = 2.0
"""How many seconds a child may at most outlive its parent."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended."""

    reason: str
    """In words that follow the child's name: ``was killed by SIGKILL``."""
    status: int | None = None
    """Its exit status, negative for a signal; ``None`` when it is not known."""
    error: Mapping[str, Any] | None = None
    """Why it could not come up, as it said itself."""


class Link:
    """A process and the lifeline to it. Making one starts the process.

    :param listening: the listening socket to hand down.
    :param restarts: how many processes the child had before this one.
    :param recovers: whether it is to go on where one of them died.
    :ivar pid: the process id, once it is known.
    :raises OSError: when there are no descriptors for it.
    """

    def __init__(
        self,
        spec: ChildSpec,
        launcher: Launcher,
        listening: socket.socket | None,
        restarts: int = 0,
        *,
        recovers: bool = False,
    ) -> None:
        self.pid: int | None = None
        self._name = spec.name
        self._launcher = launcher
        self._process: Any = None
        self._failure: str | None = None
        self._pidfd: int | None = None
        self._identified = False
        self._gone_at: float | None = None
        self._signals: list[signal.Signals] = []
        self._launching_thread: int | None = None
        with forks.guard, contextlib.ExitStack() as undo:
            ours, theirs = multiprocess.Pipe()
            undo.callback(ours.close)
            undo.callback(theirs.close)
            copy = undo.enter_context(listening.dup()) if listening is not None else None
            self._handed: list[Any] = [theirs] if copy is None else [theirs, copy]
            self._lifeline = End(ours)
            # The launching thread says on it that it has finished. It is never closed before that.
            self._launched: int | None = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            forks.close_in_forks(self)
            undo.pop_all()
        arguments = {
            "name": spec.name,
            "target": target_name(spec.target),
            "kwargs": Parcel(dict(spec.kwargs)),
            "connection": theirs,
            "listening": copy,
            "environment": dict(os.environ),
            "grace": min(spec.stop_timeout, MAX_GRACE),
            "restarts": restarts,
            "recovers": recovers,
            "heartbeat": spec.heartbeat,
            "settings": dict(spec.settings),
        }
        if launcher.blocks:
            threading.Thread(target=self._launch, args=(arguments,), name=f"launch {spec.name}", daemon=True).start()
        else:
            self._launch(arguments)

    @property
    def eof(self) -> bool:
        """Whether the process has closed its lifeline."""
        return self._lifeline.eof

    @property
    def broken(self) -> str | None:
        """How the process broke the lifeline's protocol; ``None`` as long as it did not. It is not listened to any more."""
        return self._lifeline.broken

    def files(self) -> list[int]:
        """Return the descriptors to wait for. When one is readable, or :attr:`deadline` has come, call :meth:`step`."""
        if self._launched is not None:
            return [self._launched]
        if self._gone_at is not None:
            return [] if self._process is None else [self._process.sentinel]
        files = [] if self.eof or self.broken else [self._lifeline.fileno()]
        if self._pidfd is not None:
            files.append(self._pidfd)
        if not self._identified and self._process is not None:
            files.append(self._process.sentinel)
        return files

    @property
    def deadline(self) -> float | None:
        """When :meth:`step` is due though nothing is readable, by ``time.monotonic``."""
        return None if self._gone_at is None else self._gone_at + STATUS_PATIENCE

    def step(self, now: float) -> list[Message]:
        """Find out what has happened; return what the process said."""
        if self._launched is not None:
            if not wait([self._launched]):
                return []
            self._finish_launch()
        # Whoever is gone has said everything; so look first, and read then.
        if self._gone_at is None and self._is_gone():
            self._gone_at = now
        messages = self._read(everything=self._gone_at is not None)
        if self._gone_at is None and self.pid is None and self.eof:
            self._gone_at = now
        return messages

    def ending(self, now: float) -> Ending | None:
        """Return how the process ended, or ``None`` as long as it may be there, or its exit status may still come."""
        if self._gone_at is None:
            return None
        status = None
        if self._process is not None:
            was_told = wait([self._process.sentinel])
            status = self._process.exitcode
            if status is None and not was_told and now < self._gone_at + STATUS_PATIENCE:
                return None
        if self._failure is not None and self.pid is None:
            return Ending(f"could not be started: {self._failure}")
        return Ending(_describe(status), status)

    def tell(self, message: str, body: Mapping[str, Any], file: int | None = None) -> bool:
        """Tell the process something, also when it is just being started; return whether there was room for it.

        :param file: a descriptor that goes with it.
        """
        return self._lifeline.write(encode(message, body), file=file)

    def terminate(self) -> None:
        """Ask the process to stop, by lifeline and by SIGTERM. If it is just being started, as soon as it is there."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process. If it is just being started, see that the start comes to an end."""
        self._signal(signal.SIGKILL)
        if self._launched is not None:
            self._launcher.interrupt()

    def close(self) -> None:
        """Let go of the descriptors."""
        self._lifeline.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._process is not None:
            with contextlib.suppress(ValueError):  # it may be there as far as multiprocess knows
                self._process.close()
            self._process = None

    def abandon(self) -> None:
        """Close a fork's copies."""
        is_this_child = self._launching_thread == threading.get_ident()
        files = [file for file in (self._pidfd, self._launched) if file is not None]
        if self._process is not None:
            files += forks.descriptors(self._process)
        for file in files:
            with contextlib.suppress(OSError):
                os.close(file)
        self._lifeline.close()
        for item in [] if is_this_child else self._handed:
            item.close()
        self._pidfd = self._launched = self._process = None

    def _launch(self, arguments: Mapping[str, Any]) -> None:
        """Start the process; the only method that may run in a thread, because it waits for the fork server."""
        self._launching_thread = threading.get_ident() if not self._launcher.blocks else None
        try:
            self._process = self._launcher.start(self._name, run_child, arguments)
        except Exception as error:  # whatever it was, the child is not started, and its parent decides what that means
            logger.debug("%s: could not be started", self._name, exc_info=True, extra={"child": self._name})
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._launching_thread = None
            for item in self._handed:
                item.close()
            self._handed = []
            if self._launched is not None:
                os.eventfd_write(self._launched, 1)

    def _finish_launch(self) -> None:
        if self._launched is not None:
            os.close(self._launched)
            self._launched = None
        if self._process is not None:
            self._identify(self._process.pid)
        self._send_what_waits()

    def _identify(self, pid: int) -> None:
        """Get hold of the process with this pid, and find out whether it is really ours."""
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        forked_by_us = self._process is not None and self._launcher.start_method != "forkserver"
        self._identified = forked_by_us or not self._lifeline.is_hung_up() or is_child_of_fork_server(pid)

    def _is_gone(self) -> bool:
        if self.pid is None:
            return False
        if self._pidfd is None:
            return True
        if wait([self._pidfd]):
            return True
        # Whoever has the pid now, the sentinel tells when ours was reaped.
        return not self._identified and self._process is not None and wait([self._process.sentinel])

    def _read(self, *, everything: bool) -> list[Message]:
        messages = self._lifeline.read(everything=everything)
        if self.pid is None:
            self._take_hello(messages)
        return [message for message in messages if message[0] != "hello"]

    def _take_hello(self, messages: Iterable[Message]) -> None:
        """Learn the pid from the process itself: the fork server was killed after the fork, and before it told us."""
        for message, body in messages:
            pid = body.get("pid")
            if message == "hello" and isinstance(pid, int) and pid > 0:
                self._identify(pid)
                self._send_what_waits()

    def _send_what_waits(self) -> None:
        waiting, self._signals = self._signals, []
        for number in waiting:
            self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        if self._launched is not None or self.pid is None:
            self._signals.append(number)
            if self._launched is None:  # there may be a process, and the lifeline is all that we have of it
                with contextlib.suppress(OSError):
                    self._lifeline.hang_up()
            return
        if self._gone_at is not None or not self._identified or self._pidfd is None:
            return
        if number == signal.SIGTERM:
            self._lifeline.write(encode("stop"))
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            logger.exception("%s: may not be sent %s", self._name, number.name, extra={"child": self._name, "pid": self.pid})


def wait(files: Iterable[int], timeout: float | None = 0.0) -> bool:
    """Wait until a descriptor is readable, for at most ``timeout`` seconds; return whether one is."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))


def _describe(status: int | None) -> str:
    if status is None:
        return "ended, and its exit status is not known"
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
