"""A ``get_events`` that waits, without a thread: it watches first and looks then, so that no append falls in between.

It has a turn while it looks, as any other call, and none while it waits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from asm.core.errors import Error
from asm.processes.answers import Answer
from asm.processes.loops import Loop
from asm.processes.peers import Call
from asm.wire.messages import MessageError

__all__ = ["LongPoll", "LongPolls"]

Then = Callable[[Call, Answer], None]
Look = Callable[[Call, Then], None]
"""Asks the store now, and tells what it found."""


class LongPolls:
    """Those who wait, by session. As long as there are any, whoever appends tells of it.

    :param appends: of the store (:class:`asm.adapters.appends.Appends`).
    """

    def __init__(self, appends: Any) -> None:
        self._appends = appends
        self._unsubscribe: Callable[[], None] = lambda: None
        self._waiting: defaultdict[str, set[LongPoll]] = defaultdict(set)
        self._loop = Loop.running()

    def appended(self, session_id: str | None) -> None:
        """Learn, in any thread, that a session has new events; ``None`` means that any may have."""
        if session_id is None or session_id in self._waiting:
            self._loop.post(self._wake, session_id)

    def interrupt(self, error: Error) -> None:
        """End all of them with this error."""
        for poll in [poll for polls in self._waiting.values() for poll in polls]:
            poll.call.stop(error)

    def add(self, session_id: str, poll: LongPoll) -> None:
        """Tell this one of the appends to a session."""
        if not self._waiting:
            self._unsubscribe = self._appends.subscribe(self.appended)
        self._waiting[session_id].add(poll)

    def remove(self, session_id: str, poll: LongPoll) -> None:
        """Tell it no more."""
        polls = self._waiting[session_id]
        polls.discard(poll)
        if not polls:
            del self._waiting[session_id]
        if not self._waiting:
            self._unsubscribe()

    def close(self) -> None:
        """Be told of nothing any more."""
        self._unsubscribe()

    def _wake(self, session_id: str | None) -> None:
        sessions = list(self._waiting) if session_id is None else [session_id]
        for poll in [poll for name in sessions for poll in self._waiting.get(name, ())]:
            poll.wake()


class LongPoll:
    """One who waits.

    :param polls: where it is told of appends.
    :param call: the call that is answered in the end. It has a turn.
    :param session_id: the session whose events it waits for.
    :param seconds: how long.
    :param look: asks the store.
    :param then: answers.
    """

    def __init__(self, polls: LongPolls, call: Call, session_id: str, seconds: float, look: Look, then: Then) -> None:
        self.call = call
        self._polls = polls
        self._session_id = session_id
        self._ask = look
        self._then = then
        self._looking = True
        self._again = False
        self._final = False
        self._polls.add(session_id, self)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)
        call.work = self
        call.begin = self._look
        self._look(call)

    def wake(self) -> None:
        """Look now, as soon as it is its turn, or once more when the present look is over."""
        if self._looking:
            self._again = True
            return
        self._looking = True
        if self.call.peer.admission.again(self.call):
            self._look(self.call)
        else:
            self.call.peer.look()

    def cancel(self, call: Call) -> None:
        """Wait no longer."""
        self._polls.remove(self._session_id, self)
        self._timer.cancel()

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Refuse: nothing has gone out of which more could come."""
        raise MessageError("this call has no stream yet")

    def _look(self, call: Call) -> None:
        self._again = False
        self._ask(call, self._seen)

    def _seen(self, call: Call, answer: Answer) -> None:
        """Answer with what was found. If that is nothing, wait on, unless the time is up."""
        if self._again and not answer.tells:
            self._look(call)
        elif answer.tells or self._final:
            self.cancel(call)
            call.work = None
            self._then(call, answer)
        else:
            self._looking = False
            call.wait()

    def _time_is_up(self) -> None:
        """Look once more: somebody may have appended of whom the store was not told."""
        self._final = True
        self.wake()
