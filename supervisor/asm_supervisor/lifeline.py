"""The lifeline: the pipe between a parent and its child, as the child has it.

::

    parent                                                                     child
      │   <────  ["hello",  {"pid": 4711}]                          once, first  │
      │   <────  ["ready",  {…}]                 it is up, and what it has to say │
      │   <────  ["waiting", {"message": …}]   it is up, and what it needs is away │
      │   <────  ["failed", {"code": …, "message": …}]    or why it cannot come up │
      │   <────  ["beat",   {…}]      its loop goes on; with counters, if it has any │
      │   <────  [any other name, {…}]                    what else it wants to say │
      │    ────> ["settings", {…}]                what it is to be told while it runs │
      │    ────> ["socket", {}]     with a descriptor: listen on this one from now on │
      │    ────> ["stop",   {}]                           please go; SIGTERM follows │
     EOF: the child is gone                               EOF: the parent is gone

How messages go through it, and when they do not, is in :mod:`asm_supervisor.pipe`; the parent's side is its
:class:`~asm_supervisor.link.Link`.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from asm_supervisor import forks
from asm_supervisor.pipe import End, encode, poll

__all__ = ["Lifeline"]

PATIENCE: Final = 5.0
"""For how many seconds ``ready``, ``waiting`` and ``failed`` wait for room, which there is unless the parent is stopped."""

ORPHANED: Final = 1
"""The exit status of a child that outlived its parent."""


class Lifeline:
    """The child's end. The first argument of every child's target.

    :ivar name: the child's name.
    :ivar socket: the listening socket that the parent owns; ``None`` when the child was described without one.
    :ivar restarts: how many processes this child had before this one.
    :ivar recovers: whether one of them had come up, and this one is to go on where the last one died; not, when another
        process was asked for.
    :ivar settings: what the child was described with, as the parent told it last.
    :ivar on_settings: called with the settings when :meth:`stop_requested` has found new ones.
    :ivar on_socket: called with another listening socket when :meth:`stop_requested` has found one: the other was lost.
    :ivar heartbeat: every how many seconds the child is to :meth:`beat` once it is up; ``None``: it need not.
    """

    def __init__(
        self,
        name: str,
        connection: Any,
        listening: socket.socket | None = None,
        *,
        restarts: int = 0,
        recovers: bool = False,
        heartbeat: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.socket = listening
        self.restarts = restarts
        self.recovers = recovers
        self.heartbeat = heartbeat
        self.settings: Mapping[str, Any] = settings or {}
        self.on_settings: Callable[[Mapping[str, Any]], None] | None = None
        self.on_socket: Callable[[socket.socket], None] | None = None
        self.told: str | None = None
        """What this child said last of itself: ``ready``, ``waiting`` or ``failed``."""
        self._end = End(connection, takes_files=True)
        self._reading = threading.RLock()
        self._stop_requested = False
        self._leave = threading.Event()
        forks.close_in_forks(self)

    def ready(self, info: Mapping[str, Any] | None = None) -> None:
        """Tell the parent that this child is up; also, that it no longer waits. What is started after it waits for this.

        :param info: what the parent may want to show, JSON values with string keys.
        :raises TypeError: when ``info`` holds something else.
        :raises ValueError: when ``info`` is longer than :data:`~asm_supervisor.pipe.MAX_MESSAGE`.
        """
        self._say("ready", encode("ready", info))

    def waiting(self, info: Mapping[str, Any]) -> None:
        """Tell the parent that this child serves its name, but that its store is away; :meth:`ready`, once it is back.

        Both may be said at any time and any number of times. What is started after this child does not wait.

        :param info: JSON values with string keys; at least ``message``, for a person.
        :raises TypeError: when ``info`` holds something else.
        :raises ValueError: when ``info`` is longer than :data:`~asm_supervisor.pipe.MAX_MESSAGE`.
        """
        self._say("waiting", encode("waiting", info))

    def failed(self, error: Mapping[str, Any]) -> None:
        """Tell the parent that this child cannot come up, and why. Then return from the target: the child exits with 1.

        It may turn out while the child waits. Of a child that is ready it is not true, and nothing is said then.

        :param error: JSON values with string keys; at least ``code``, for a program, and ``message``, for a person.
        """
        if self.told != "ready":
            self._say("failed", _encode_error(error))

    def beat(self, stats: Mapping[str, Any] | None = None) -> bool:
        """Tell the parent that this child gets on with its work.

        Call it from what does the work, such as the event loop, and not from a thread that lives on when that is stuck.

        :param stats: counters for :attr:`~asm_supervisor.snapshot.Snapshot.stats`.
        :return: whether it was sent, as with :meth:`send`.
        """
        return self.send("beat", stats)

    def send(self, message: str, body: Mapping[str, Any] | None = None) -> bool:
        """Tell the parent something else, such as a counter, without ever waiting.

        :return: whether it was sent. It is dropped when the pipe is full or the parent is gone.
        :raises TypeError: when ``body`` holds something that msgpack cannot carry.
        :raises ValueError: when it is longer than :data:`~asm_supervisor.pipe.MAX_MESSAGE`.
        """
        return self._end.write(encode(message, body))

    def fileno(self) -> int:
        """Return a descriptor for ``select`` and event loops. When it is readable, call :meth:`stop_requested`."""
        return self._end.fileno()

    def stop_requested(self) -> bool:
        """Take what the parent says; tell, without waiting, whether it is gone or has asked this child to stop.

        After the parent's death the descriptor stays readable; stop watching it once this returned ``True``.
        """
        with self._reading:
            for message, body in self._end.read():
                self._hear(message, body)
        # Whoever does not keep the protocol is not our parent.
        return self._stop_requested or self._end.eof or self._end.broken is not None

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone, as far as :meth:`stop_requested` has seen."""
        return self._end.eof

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the parent is gone or asks to stop; return whether it did within ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.stop_requested():
            if not poll(self.fileno(), select.POLLIN, None if deadline is None else deadline - time.monotonic()):
                return False
        return True

    def exit_with_parent(self) -> None:
        """Exit at once when the parent is gone, whatever this process is doing then.

        Without this a child has a moment to finish: its ``stop_timeout``, at most two seconds.
        """
        self._leave.set()

    def attach(self, grace: float) -> None:
        """Say hello to the parent, and watch for its end. For the function that calls the target, and for nobody else.

        :param grace: how many seconds after the parent's death this process exits, if it is still there.
        """
        self._end.write(encode("hello", {"pid": os.getpid()}), patience=PATIENCE)
        threading.Thread(target=self._watch, args=(grace,), name="lifeline", daemon=True).start()

    def abandon(self) -> None:
        """Close a fork's copy: a child of this child must not look like this child."""
        self._end.close()

    def _hear(self, message: str, body: Mapping[str, Any]) -> None:
        """Take what the parent said. What a newer one may say besides means nothing here."""
        if message == "stop":
            self._stop_requested = True
        elif message == "settings":
            self.settings = body
            if self.on_settings is not None:
                self.on_settings(body)
        elif message == "socket" and self._end.files:
            self.socket = socket.socket(fileno=self._end.files.popleft())
            if self.on_socket is not None:
                self.on_socket(self.socket)

    def _say(self, message: str, frame: bytes) -> None:
        """Say how this child is. That it has failed is the last word."""
        if self.told != "failed":
            self._end.write(frame, patience=PATIENCE)
            self.told = message

    def _watch(self, grace: float) -> None:
        # Only the hang-up is waited for: what the parent says is for the target to read.
        poll(self.fileno(), select.POLLRDHUP, None)
        self._leave.wait(grace)
        os._exit(ORPHANED)


def _encode_error(error: Mapping[str, Any]) -> bytes:
    """Return the frame of ``failed``. Whatever is wrong with the error, something of it arrives."""
    try:
        return encode("failed", error)
    except (TypeError, ValueError, OverflowError):
        code, message = str(error.get("code", "")), str(error.get("message", ""))
        return encode("failed", {"code": _sendable(code[:100]), "message": _sendable(message[:10_000])})


def _sendable(text: str) -> str:
    return text.encode(errors="replace").decode()
