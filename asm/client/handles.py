"""What handles have beside the operations, described once for both clients.

What is to be done is a *script*: a generator that yields one step after the other, each a function of the handle that takes it,
and is sent what came of it, or has raised in it what went wrong. The blocking client takes a step and goes on; the asyncio
client awaits it. So neither can say or do what the other does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from asm.core import checks
from asm.core.errors import Error
from asm.core.values import Event, Run, Session
from asm.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from asm.core.arguments import Count, EventTypes, Id, OptionalId

__all__ = ["Following", "Handles", "Script", "Step", "connecting", "may_repeat", "repeated"]

T = TypeVar("T")
V = TypeVar("V", Session, Run)

Step = Callable[[Any], Any]
"""What a handle is to do next: called with the handle."""

Script = Generator[Step, Any, T]

PAGE: Final = 256
"""How many events are asked for at once by who follows a session."""

POLL_MS: Final = 20_000
"""For how long each question for further events waits."""

FIRST_PAUSE: Final = 0.02
"""How many seconds are waited at the most before a call that failed is repeated. Each further pause may be twice as long, …"""
LAST_PAUSE: Final = 2.0
"""… up to so many seconds."""

CONFLICT_PAUSE: Final = 0.002
"""Likewise, before what somebody else has changed meanwhile is read again …"""
LAST_CONFLICT_PAUSE: Final = 0.1
"""… up to so many seconds: whoever was faster is done by then."""

ALWAYS: Final = math.inf
"""How often to repeat what has to be done within its time, however often it fails."""


class Handles:
    """What both clients have beside the operations. Each runs the scripts in its manner."""

    _timeout: float

    def follow(
        self,
        session_id: Id,
        *,
        after: Count = 0,
        type: EventTypes = None,  # noqa: A002  # as in get_events
        run_id: OptionalId = None,
    ) -> Generator[Event, None, None]:
        """Yield the events of a session from there on: past ones first, then each as it is appended, until it is closed.

        It goes on by itself when a process behind the handle is restarted, or is away for any time.

        :param after: the sequence number behind which to begin.
        :param type: only events of this type, or of one of these.
        :param run_id: only events of this run.
        :raises Error: ``validation_error`` for what is no such thing; while it is read, whatever is not worth repeating.
        """
        given = {"after": after, "type": type, "run_id": run_id}
        asked = GET_EVENTS.bind((session_id,), {name: value for name, value in given.items() if value is not None})
        return self._each(Following(asked, self._timeout))

    def update_session(self, session_id: Id, change: Callable[[Session], Session]) -> Session:
        """Read a session, change it and save it; again from the start, if somebody else saved it meanwhile.

        :param change: returns what is to be saved, from what is stored. It may be called several times.
        :return: what was saved.
        :raises Error: ``session_not_found``; ``conflict`` when somebody else was faster until the handle's timeout was up;
            what became of it is unknown after ``timeout`` and a lost connection only. What ``change`` raises comes through.
        """
        return self._run(_updating("session", session_id, change, self._timeout))

    def update_run(self, run_id: Id, change: Callable[[Run], Run]) -> Run:
        """Read a run, change it and save it; again from the start, if somebody else saved it meanwhile.

        :param change: returns what is to be saved, from what is stored. It may be called several times.
        :return: what was saved.
        :raises Error: ``run_not_found``; ``conflict`` when somebody else was faster until the handle's timeout was up; what
            became of it is unknown after ``timeout`` and a lost connection only. What ``change`` raises comes through.
        """
        return self._run(_updating("run", run_id, change, self._timeout))

    def _run(self, script: Script[T]) -> T:
        """Take the steps of a script; return what it returns."""
        raise NotImplementedError

    def _each(self, following: Following) -> Generator[Event, None, None]:
        """Yield the events of one page after the other."""
        raise NotImplementedError


class Following:
    """Where somebody is who follows a session.

    :param asked: the arguments of ``get_events``, checked.
    :param timeout: how many seconds an answer may take beside the wait.
    """

    def __init__(self, asked: dict[str, Any], timeout: float) -> None:
        self._asked = {"after": 0, **asked, "limit": PAGE, "wait_timeout_ms": POLL_MS}
        self._seconds = timeout + POLL_MS / 1000

    def page(self) -> Script[list[Event]]:
        """Return the next events; none, if there were none for a while."""
        seconds = pauses(FIRST_PAUSE, LAST_PAUSE)
        while True:
            try:
                events: list[Event] = yield _ask(GET_EVENTS, self._asked, self._seconds)
            except Error as error:
                if not error.retryable:
                    raise
            else:
                if events:
                    self._asked = self._asked | {"after": events[-1].sequence_number}
                return events
            yield _pause(next(seconds))


def may_repeat(operation: Operation, arguments: dict[str, Any]) -> bool:
    """Whether a call may be made again when it failed, or when what became of it is unknown."""
    if not operation.repeatable:
        return False
    if operation.data_parameter is None:
        return True
    data = arguments[operation.data_parameter]  # what is read but once is gone
    return isinstance(data, bytes | bytearray | memoryview) or not (hasattr(data, "read") or iter(data) is data)


def repeated(operation: Operation, arguments: dict[str, Any], deadline: float, retries: float) -> Script[Any]:
    """Make a call; again with growing pauses, if it failed with an error that is worth it.

    :param arguments: checked.
    :param deadline: the ``time.monotonic()`` until when it must be over, all in all.
    :param retries: how often it is repeated.
    """
    wait_ms = arguments.get("wait_timeout_ms")
    until = time.monotonic() + (wait_ms or 0) / 1000
    seconds = pauses(FIRST_PAUSE, LAST_PAUSE)
    while True:
        try:
            return (yield _ask(operation, arguments, _left(deadline)))
        except Error as error:
            pause = next(seconds)
            if not retries or not error.retryable or time.monotonic() + pause >= deadline:
                raise
        retries -= 1
        yield _pause(pause)
        if wait_ms:
            arguments = arguments | {"wait_timeout_ms": max(int((until - time.monotonic()) * 1000), 0)}


def connecting(wait: float, timeout: float) -> Script[Any]:
    """Connect; while nobody listens, again and again.

    :param wait: for how many seconds.
    :param timeout: how many seconds it may take once somebody does.
    """
    until = time.monotonic() + wait
    seconds = pauses(FIRST_PAUSE, LAST_PAUSE / 4)
    while True:
        try:
            return (yield lambda handle: handle._dial(timeout))  # noqa: SLF001  # a step is the handle's own
        except Error as error:
            left = until - time.monotonic()
            if left <= 0 or not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
                raise
        yield _pause(min(next(seconds), left))


def pauses(first: float, last: float) -> Iterator[float]:
    """Yield how many seconds to wait, each time up to twice as long, and never the same for everybody who waits."""
    from random import uniform  # noqa: PLC0415  # slow to import, and seldom needed

    while True:
        yield uniform(first / 2, first)  # noqa: S311  # this is no secret
        first = min(2 * first, last)


def _updating(kind: str, value_id: str, change: Callable[[V], V], timeout: float) -> Script[V]:
    """Read a value, change it and save it in the place of what was read.

    What became of a save may be unknown. Then what is stored tells: what was to be saved, and it is done; what was there
    before, and it is tried again; something else, and nobody can say.
    """
    if not callable(change):
        checks.refuse("change", f"must be a function of a {kind}, not {checks.kind(change)}")
    get, save = OPERATIONS[f"get_{kind}"], OPERATIONS[f"save_{kind}"]
    asked, deadline = get.bind((value_id,), {}), time.monotonic() + timeout
    seconds = pauses(CONFLICT_PAUSE, LAST_CONFLICT_PAUSE)
    doubtful: V | None = None  # what may yet be saved by a call that seemed to have done nothing
    while True:
        before: V = yield from repeated(get, asked, deadline, ALWAYS)
        if before == doubtful:
            return before
        after: V = yield _apply(change, before)
        try:
            yield _ask(save, save.bind((after,), {"replacing": before}), _left(deadline))
        except Error as error:
            if error.code != "conflict":
                stored = yield from _stored(repeated(get, asked, deadline, ALWAYS), error)
                if stored == after:
                    return after
                if stored != before:
                    raise
                doubtful = after
            pause = next(seconds)
            if time.monotonic() + pause >= deadline:
                raise
        else:
            return after
        yield _pause(pause)


def _stored(reading: Script[Any], error: Error) -> Script[Any]:
    """Read what is stored, to learn what became of a save that failed with an error.

    :raises Error: the same, when it says that nothing was done, or when nothing can be read.
    """
    if not error.retryable:
        raise error
    try:
        return (yield from reading)
    except Error:
        raise error from None


def _left(deadline: float) -> float:
    """Return how many seconds a call may take: hardly any when there are none, so that it says itself that it is late."""
    return max(deadline - time.monotonic(), 0.001)


def _ask(operation: Operation, arguments: dict[str, Any], seconds: float) -> Step:
    return lambda handle: handle._once(operation, arguments, seconds)  # noqa: SLF001  # as above


def _pause(seconds: float) -> Step:
    return lambda handle: handle._pause(seconds)  # noqa: SLF001  # as above


def _apply(change: Callable[[V], V], value: V) -> Step:
    return lambda handle: handle._apply(change, value)  # noqa: SLF001  # as above


GET_EVENTS: Final = OPERATIONS["get_events"]
