"""What every session store does when events are stored: number them, and wake who waits.

``Appends`` is the place where the two sides meet::

    append ──► commit ──► announce(session) ──► callbacks of subscribers     (a worker's event loop)
                                            └─► threads inside wait()        (callers of get_events)

Whoever waits registers before the first look. So an append either comes before the look and is seen by it, or
comes after and is announced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.values import Event, Run, Session
from asm.ports import ExecutionResult

__all__ = ["Appends", "Callback", "flushed_run", "numbered", "require_expected", "require_same_session", "require_unchanged"]

_log: Final = logging.getLogger(__name__)

Callback = Callable[[str | None], object]
"""Told the id of a session that has new events; ``None`` means that any session may have."""

Reserve = Callable[[Mapping[str, int]], Mapping[str, int]]
"""Takes how many numbers each session needs, returns the first of each. The sessions come in the order of their ids, so that
two who reserve and lock never wait for each other."""


def numbered(events: Iterable[Event], stored: Mapping[str, Event], reserve: Reserve) -> dict[str, Event]:
    """Give sequence numbers to the events that are new, in their order.

    :param events: what is to be appended; of an id that comes twice, the first counts.
    :param stored: those of them that are stored already, and others, by id.
    :param reserve: reserves the numbers; it is not called when there is nothing new.
    :returns: the new events by id, with their numbers, in their order.
    :raises Error: ``session_mismatch`` when an id is that of another session's event. No numbers were reserved then.
    """
    new: dict[str, Event] = {}
    needs: dict[str, int] = {}
    for event in events:
        known = stored.get(event.id) or new.get(event.id)
        if known is None:
            new[event.id] = event
            needs[event.session_id] = needs.get(event.session_id, 0) + 1
        else:
            require_same_session("event", event, known)
    following = dict(reserve(dict(sorted(needs.items())))) if needs else {}
    for event in new.values():
        new[event.id] = event.sequenced(following[event.session_id])
        following[event.session_id] += 1
    return new


def require_same_session(kind: str, given: Event | Run, stored: Event | Run) -> None:
    """Refuse to take what is stored under the id of a value for that value, when it belongs to another session.

    :raises Error: ``session_mismatch``, which tells nothing of the other session.
    """
    if given.session_id != stored.session_id:
        raise Error(
            "session_mismatch",
            f"the {kind} {given.id!r} cannot be stored in session {given.session_id!r}: another session has the id already; "
            f"give it another one, or leave the id out, and one is made that is unique in all sessions",
            details={f"{kind}_id": given.id, "session_id": given.session_id},
        )


def require_unchanged(expected: Session | Run, stored: Session | Run | None) -> None:
    """Refuse to replace a value that is not stored as whoever replaces it expects.

    :param expected: what was given as ``replacing``.
    :param stored: what is stored under its id, if anything is.
    :raises Error: ``conflict``, with the id and the map of what is stored as ``current``.
    """
    if stored != expected:
        kind = type(expected).__name__.lower()
        problem = "is not stored any more, or never was" if stored is None else "was changed by somebody else in the meantime"
        raise Error(
            "conflict",
            f"the {kind} {expected.id!r} {problem}; read it, change that, and save it again",
            details={f"{kind}_id": expected.id, "current": None if stored is None else stored.to_map()},
        )


def require_expected(expect: Mapping[str, int] | None, latest: Callable[[str], int]) -> None:
    """Refuse an append to sessions of which one does not stand where it is expected to.

    Not called when there are events and all of them are stored already: these come back whatever is expected, and the rest of
    a ``flush`` is stored as ever.

    :param expect: what was given as ``expect``.
    :param latest: returns the last number that was given in a session.
    :raises Error: ``conflict``, for the first of the sessions by id.
    """
    for session_id, expected in sorted((expect or {}).items()):
        if (actual := latest(session_id)) != expected:
            raise Error(
                "conflict",
                f"the session {session_id!r} stands at {actual}, and not at {expected}: somebody else appended to it or "
                f"deleted it; read what is there now, and append again if that still makes sense",
                details={"session_id": session_id, "expected": expected, "actual": actual},
            )


def flushed_run(result: ExecutionResult) -> Run | None:
    """Return the run of a ``flush``, if it has one, with the ``provider_metadata`` that came beside it merged into its own."""
    run, beside = result.get("run"), result.get("provider_metadata")
    if run is None or not beside:
        return run
    return run.changed(provider_metadata={**run.provider_metadata, **beside})


class Appends:
    """Tells of appends. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callback] = {}
        self._waiting: dict[str, set[threading.Event]] = {}
        tell_of_forks(self)

    def announce(self, session_ids: Iterable[str] | None) -> None:
        """Tell that sessions have new events. Called after the commit, by whichever thread made it.

        :param session_ids: which ones; ``None`` when it is not known, and any session may have.
        """
        with self._lock:
            callbacks = list(self._callbacks.values())
            told: list[str] | list[None] = [None] if session_ids is None else list(dict.fromkeys(session_ids))
            for session_id in self._waiting if session_ids is None else told:
                for waiter in self._waiting.get(str(session_id), ()):
                    waiter.set()
        for callback in callbacks:
            for session_id in told:
                try:
                    callback(session_id)
                except Exception:  # noqa: BLE001  # the events are stored: whoever appended them must not be told of a failure
                    _log.exception("a subscriber to appends failed")

    def _forked(self) -> None:
        self._lock = threading.Lock()  # the old one may be held by a thread that is not here

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Have the callback told of every append from now on.

        :param callback: called in the thread of whoever appends, so it must not block.
        :returns: a function that ends it; calling it twice is no error.
        """
        token = object()
        with self._lock:
            self._callbacks[token] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(token, None)

        return unsubscribe

    def wait(self, session_id: str, query: Callable[[], list[Event]], timeout_ms: int | None) -> list[Event]:
        """Return what the query finds, as soon as it finds something.

        :param session_id: the session that the query is about.
        :param query: called at once, after each append to the session, and when the time is up.
        :param timeout_ms: how many milliseconds to wait; ``None`` and 0 do not wait.
        :returns: what the query found; empty when the time was up.
        """
        if not timeout_ms:
            return query()
        deadline = time.monotonic() + timeout_ms / 1000
        waiter = threading.Event()
        with self._lock:
            self._waiting.setdefault(session_id, set()).add(waiter)
        try:
            while True:
                left = deadline - time.monotonic()
                waiter.clear()
                if (found := query()) or left <= 0:
                    return found
                waiter.wait(min(left, threading.TIMEOUT_MAX))
        finally:
            with self._lock:
                waiters = self._waiting[session_id]
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[session_id]
