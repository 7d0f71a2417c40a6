"""A ``get_events`` that waits, without a thread: it watches first and looks then, so that no append falls in between."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from asm.core.errors import Error
from asm.processes.calls import Call
from asm.processes.loops import Loop

__all__ = ["LongPoll", "LongPolls"]

NOTHING: Final = b"\x90"
"""A list without anything in it, encoded."""


class LongPolls:
    """Those who wait, by session."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[LongPoll]] = defaultdict(set)
        self._loop = Loop.running()

    def appended(self, session_id: str | None) -> None:
        """Learn, in any thread, that a session has new events; ``None`` means that any may have."""
        if session_id is None or session_id in self._waiting:
            self._loop.post(self._wake, session_id)

    def interrupt(self, error: Error) -> None:
        """End all of them with this error."""
        for poll in [poll for polls in self._waiting.values() for poll in polls]:
            poll.interrupt(error)

    def add(self, session_id: str, poll: LongPoll) -> None:
        """Tell this one of the appends to a session."""
        self._waiting[session_id].add(poll)

    def remove(self, session_id: str, poll: LongPoll) -> None:
        """Tell it no more."""
        polls = self._waiting[session_id]
        polls.discard(poll)
        if not polls:
            del self._waiting[session_id]

    def _wake(self, session_id: str | None) -> None:
        sessions = list(self._waiting) if session_id is None else [session_id]
        for poll in [poll for name in sessions for poll in self._waiting.get(name, ())]:
            poll.look()


class LongPoll:
    """One who waits.

    :param polls: where it is told of appends.
    :param call: the call that is answered in the end.
    :param run: makes a call to the store.
    """

    def __init__(self, polls: LongPolls, call: Call, run: Callable[[Call], None]) -> None:
        self._polls = polls
        self._call = call
        self._run = run
        self._session_id: str = call.arguments["session_id"]
        self._query = call.arguments | {"wait_timeout_ms": None}
        self._looking: Call | None = None
        self._again = False
        self._final = False
        self._ended = False
        self._polls.add(self._session_id, self)
        call.cancel_work = self._end
        seconds = call.arguments["wait_timeout_ms"] / 1000
        self._timer = asyncio.get_running_loop().call_later(seconds, self._time_is_up)
        self.look()

    def look(self) -> None:
        """Query now, or once more when the present query is back."""
        if self._looking is not None:
            self._again = True
            return
        self._again = False
        self._looking = Call(self._call.operation, self._query, self._seen)
        self._run(self._looking)

    def interrupt(self, error: Error) -> None:
        """Wait no longer."""
        self._end()
        self._call.fail(error)

    def _seen(self, events: bytes, error: Error | None) -> None:
        self._looking = None
        if self._ended:
            return
        found = error is not None or events != NOTHING
        if self._again and not found:
            self.look()
        elif found or self._final:
            self._end()
            self._call.finish(events, error)

    def _time_is_up(self) -> None:
        """Look once more: somebody may have appended of whom the store was not told."""
        self._final = True
        self.look()

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._polls.remove(self._session_id, self)
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
