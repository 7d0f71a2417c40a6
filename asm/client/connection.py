"""One connection of the blocking client, for one call at a time.

    call ──► request ──► socket ──► response ──► result

It writes what the conversation (:mod:`asm.client.conversation`) has to say, reads what comes, and waits no longer than it may.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, Final

from asm.client.calling import BUSY_SECONDS, Late, Stale, reach
from asm.client.conversation import Call, Conversation
from asm.wire.conversation import Broken

__all__ = ["Connection"]

RECEIVE_BYTES: Final = 32 * 1024
"""How much is asked for at the least. A buffer that is much larger costs more than the rest of the system call."""

TICKS: Final = 64
"""In what part of a second the time limit of a socket is set, rounded up: so it seldom has to be set anew."""


class Connection:
    """One connection, used by one call at a time. Deadlines are by ``time.monotonic()``.

    :param path: of the socket.
    :param deadline: until when it must be made.
    :raises OSError, Late: when nobody listens, or nobody takes connections.
    :raises Error: when somebody listens whom we do not trust.
    """

    def __init__(self, path: str, deadline: float) -> None:
        self.conversation = Conversation()
        self._socket = socket.socket(socket.AF_UNIX)
        self._ticks = 0
        self._torn = False
        """Whether a message was sent in part, so that nothing can follow."""
        try:
            self._socket.setblocking(False)
            while not reach(self._socket, path):
                time.sleep(min(BUSY_SECONDS, _left(deadline)))
        except BaseException:
            self._socket.close()
            raise

    @property
    def is_free(self) -> bool:
        """Whether another call may be made: the last one was answered, and nothing has broken."""
        conversation = self.conversation
        return conversation.lost is None and not self._torn and not any(map(_is_call, conversation.calls.values()))

    def send(self, call: Call, data: bytes, deadline: float) -> None:
        """Send what the conversation has to say to begin a call, or about it.

        :raises Stale: when the other side has closed the connection since the call before. Nothing was sent then.
        :raises Late: when it was not taken until the deadline.
        """
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(data):  # not sendall, which would begin its time anew with each part that is taken
                self._limit(_left(deadline))
                sent += self._socket.send(view[sent:] if sent else view, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise Late from None
        except OSError as error:
            self._cannot_write(call, error, sent)

    def receive(self, call: Call, deadline: float) -> bytes | None:
        """Return the next bytes of a result that comes in pieces; ``None`` once the call was answered.

        :raises Late: when neither came until the deadline.
        """
        while not call.pieces:
            if call.answered:
                return None
            self._read(_left(deadline))
        piece, more = self.conversation.take(call)
        if more:
            self.send(call, more, deadline)
        return piece

    def upload(self, call: Call, pieces: Iterator[memoryview | int], seconds: float) -> float:
        """Send the data of a call as fast as it may come, until its end, or the call was answered.

        :param seconds: how long each step may take.
        :return: the deadline of the next step.
        :raises Late: when one took longer.
        """
        assert call.sending is not None
        deadline = time.monotonic() + seconds
        for piece in pieces:
            deadline = time.monotonic() + seconds
            size = 0 if isinstance(piece, int) else len(piece)
            self._read_what_came()
            while size > call.sending.room and not call.answered:
                self._read(_left(deadline))
            if call.answered:
                break
            self._write_while_reading(call, self.conversation.upload(call, piece), deadline)
        return deadline

    def wait_closed(self) -> None:
        """Wait until the other side closes the connection, however long that takes."""
        self._socket.settimeout(None)
        self._ticks = -1
        with contextlib.suppress(OSError):
            while self._socket.recv(RECEIVE_BYTES):
                pass

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, seconds: float) -> None:
        """Take in what arrives next, or the end of the connection."""
        try:
            self._limit(seconds)
            data = self._socket.recv(max(self.conversation.missing, RECEIVE_BYTES))
        except (TimeoutError, BlockingIOError):
            raise Late from None
        except OSError as error:
            self.conversation.fail(Broken(str(error)))
            return
        if data:
            self.conversation.receive(data)
        else:
            self.conversation.fail(Broken("the store closed the connection"))

    def _read_what_came(self) -> None:
        """Take in what has arrived."""
        with contextlib.suppress(Late):
            while self.conversation.lost is None:
                self._read(0)

    def _write_while_reading(self, call: Call, data: bytes, deadline: float) -> None:
        """Write, unless the call is answered meanwhile: who has answered may take nothing more."""
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(data):
                self._limit(0)
                try:
                    sent += self._socket.send(view[sent:], socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    _wait(self._socket, _left(deadline))
                    self._read_what_came()
                    if call.answered:
                        self._torn = sent > 0
                        return
        except OSError as error:
            self._cannot_write(call, error, 1)

    def _cannot_write(self, call: Call, error: OSError, sent: int) -> None:
        """Look whether the other side, which takes nothing more, has said why, or has answered.

        :raises Stale: when it did not, and nothing of the call was sent.
        """
        self._read_what_came()
        self._torn = True
        if isinstance(call.error, Broken) and not sent:
            raise Stale(str(error)) from error
        self.conversation.fail(Broken(str(error)))

    def _limit(self, seconds: float) -> None:
        """Set how long the next system call may take. An interrupted one goes on with what is left of that time.

        The time limit is the socket's own, and nothing of the kernel's: that one would begin anew with each signal, and
        greenlets would not know of it.
        """
        ticks = math.ceil(seconds * TICKS)
        if ticks != self._ticks:
            self._socket.settimeout(ticks / TICKS)
            self._ticks = ticks


def _is_call(call: object) -> bool:
    return isinstance(call, Call)


def _wait(connection: socket.socket, seconds: float) -> None:
    """Wait until there is something to read, or room to write.

    :raises Late: when neither comes in time.
    """
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(connection, select.POLLIN | select.POLLOUT)
        ready: Any = poller.poll(math.ceil(seconds * 1000))
    else:  # a library that runs greenlets has taken it away, and has a select of its own
        ready = any(select.select([connection], [connection], [], seconds))
    if not ready:
        raise Late


def _left(deadline: float) -> float:
    """Return how many seconds are left.

    :raises Late: when there are none.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise Late
    return seconds
