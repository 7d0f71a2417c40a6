"""A store at work: how calls reach an adapter, without one holding up another.

    call ──► non-blocking adapter ──────────────────────────► done     (memory: at once, in the loop)
         ──► blocking adapter ──► a thread ─────────────────► done     (files, SQL)
         ──► get_events that waits ──► query ──► nothing? ──► wait for an append, query again ──► done

A long-poll holds no thread while it waits: the store tells of appends (:class:`asm.adapters.appends.Appends`), and the query is
made again. Used by a worker, and by a composite for a module-backed reference.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from asm.adapters import contract_of
from asm.core.errors import Error
from asm.operations import OPERATIONS, Operation
from asm.processes.peers import Peer
from asm.wire.calls import decode_arguments, encode_result
from asm.wire.messages import Head, MessageError, decode_params

__all__ = ["Backend", "Call", "perform", "unknown_operation"]

_log = logging.getLogger(__name__)

THREADS: Final = 32
"""How many calls of a blocking adapter run at the same time; more wait their turn."""

Done = Callable[[Any, Error | None], None]
"""Told the result of a call, ready to be sent, or its error."""


def perform(backend: Backend, peer: Peer, head: Head, body: bytes) -> None:
    """Decode a request, make its call, and answer it."""
    msgid = head.msgid
    try:
        arguments, meta = decode_params(body, head)
    except MessageError:
        peer.malformed(msgid)
        return
    operation = backend.operations.get(head.method)
    if operation is None:
        peer.answer_error(msgid, unknown_operation(backend.name, head.method, backend.operations))
        return
    try:
        checked = decode_arguments(operation, arguments)
    except Error as error:
        peer.answer_error(msgid, error)
        return

    def done(result: Any, error: Error | None) -> None:
        if error is None:
            peer.answer_result(msgid, result)
        else:
            peer.answer_error(msgid, error)

    timeout_ms = meta.get("timeout_ms")
    expires = time.monotonic() + timeout_ms / 1000 if isinstance(timeout_ms, int | float) else None
    call = Call(operation, checked, done, expires)
    peer.calls[msgid] = call
    backend.start(call)


def unknown_operation(name: str, method: bytes, known: Iterable[bytes]) -> Error:
    """Say that a store has no such operation."""
    asked = method.decode(errors="replace")
    has = ", ".join(item.decode() for item in known)
    code = "capability_not_supported" if asked in OPERATIONS else "invalid_operation"
    return Error(code, f"{name} has no operation {asked!r}; it has: {has}", details={"backend": name, "operation": asked})


class Call:
    """One call at work.

    :param operation: what to do.
    :param arguments: with what, checked.
    :param done: told the outcome, once, in the event loop; not told if the call is cancelled first.
    :param expires: the ``time.monotonic()`` after which nobody waits for it.
    """

    __slots__ = ("arguments", "cancel_work", "cancelled", "done", "expires", "operation")

    def __init__(self, operation: Operation, arguments: dict[str, Any], done: Done, expires: float | None = None) -> None:
        self.operation = operation
        self.arguments = arguments
        self.done = done
        self.expires = expires
        self.cancelled = False
        self.cancel_work: Callable[[], object] | None = None

    def finish(self, result: Any, error: Error | None) -> None:
        """Tell the outcome, if anybody still waits for it."""
        if not self.cancelled:
            self.cancelled = True
            self.done(result, error)

    def cancel(self) -> None:
        """Drop the call: nobody is told, and what has not begun will not."""
        self.cancelled = True
        if self.cancel_work is not None:
            self.cancel_work()


class Backend:
    """One adapter, and the calls that it is working on.

    :param name: the name that errors give it.
    :param store: the adapter.
    """

    def __init__(self, name: str, store: Any) -> None:
        self.name = name
        self.contract = contract_of(type(store))
        self.operations = {key.encode(): item for key, item in OPERATIONS.items() if item.contract == self.contract}
        self._store = store
        self._loop = asyncio.get_running_loop()
        blocking = getattr(store, "blocking", True)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name) if blocking else None
        self._waiting: defaultdict[str, set[_LongPoll]] = defaultdict(set)
        appends = getattr(store, "appends", None)
        self._can_wait = appends is not None
        self._unsubscribe = appends.subscribe(self._appended) if appends is not None else None

    def start(self, call: Call) -> None:
        """Begin a call."""
        wait_ms = call.arguments.get("wait_timeout_ms")
        if wait_ms and self._can_wait:
            _LongPoll(self, call, wait_ms / 1000).start()
        else:
            self.run(call)

    def run(self, call: Call) -> None:
        """Make the call, in this thread or in another, and finish it."""
        if self._threads is None:
            call.finish(*self._perform(call))
            return
        future = self._threads.submit(self._perform_in_thread, call)
        call.cancel_work = future.cancel

    def close(self) -> None:
        """Close the store, after the calls that have begun."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        if close := getattr(self._store, "close", None):
            close()

    def interrupt(self, error: Error) -> None:
        """End every long-poll with this error."""
        for poll in [poll for polls in self._waiting.values() for poll in polls]:
            poll.interrupt(error)

    def watch(self, session_id: str, poll: _LongPoll) -> None:
        """Tell this poll of the appends to a session."""
        self._waiting[session_id].add(poll)

    def unwatch(self, session_id: str, poll: _LongPoll) -> None:
        """Tell it no more."""
        polls = self._waiting[session_id]
        polls.discard(poll)
        if not polls:
            del self._waiting[session_id]

    def _perform(self, call: Call) -> tuple[Any, Error | None]:
        """Call the adapter; return its result, ready to be sent, or the error.

        Whatever the adapter raises becomes a typed error; a worker survives any of it.
        """
        operation = call.operation
        if call.expires is not None and time.monotonic() > call.expires:
            return None, Error(
                "timeout", f"{operation.name} waited in {self.name} until its time was up", details=self._where(operation)
            )
        try:
            return encode_result(operation, getattr(self._store, operation.name)(**call.arguments)), None
        except Error as error:
            return None, error
        except Exception as error:  # noqa: BLE001  # whatever a store raises is answered
            _log.exception("a store raised what is no asm.Error", extra={"operation": operation.name})
            details = self._where(operation) | {"exception": type(error).__name__, "text": str(error)[:1000]}
            return None, Error("internal_error", f"{self.name} failed in {operation.name}: {error!r}", details=details)

    def _perform_in_thread(self, call: Call) -> None:
        if call.cancelled:
            return
        outcome = self._perform(call)
        self._loop.call_soon_threadsafe(call.finish, *outcome)

    def _appended(self, session_id: str | None) -> None:
        """Learn, in any thread, that a session has new events; ``None`` means that any may have."""
        if session_id is None or session_id in self._waiting:
            self._loop.call_soon_threadsafe(self._wake, session_id)

    def _wake(self, session_id: str | None) -> None:
        sessions = list(self._waiting) if session_id is None else [session_id]
        for poll in [poll for name in sessions for poll in self._waiting.get(name, ())]:
            poll.look()

    def _where(self, operation: Operation) -> dict[str, str]:
        return {"backend": self.name, "operation": operation.name}


class _LongPoll:
    """A ``get_events`` that waits: it watches first and looks then, so that no append falls in between."""

    def __init__(self, backend: Backend, call: Call, seconds: float) -> None:
        self._backend = backend
        self._call = call
        self._session_id: str = call.arguments["session_id"]
        self._query = call.arguments | {"wait_timeout_ms": None}
        self._seconds = seconds
        self._looking: Call | None = None
        self._again = False
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._backend.watch(self._session_id, self)
        self._call.cancel_work = self._end
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._time_is_up)
        self.look()

    def look(self) -> None:
        """Query now, or once more when the present query is back."""
        if self._looking is not None:
            self._again = True
            return
        self._again = False
        self._looking = Call(self._call.operation, self._query, self._seen)
        self._backend.run(self._looking)

    def interrupt(self, error: Error) -> None:
        self._end()
        self._call.finish(None, error)

    def _seen(self, events: Any, error: Error | None) -> None:
        self._looking = None
        if self._ended:
            return
        if events or error is not None:
            self._end()
            self._call.finish(events, error)
        elif self._again:
            self.look()

    def _time_is_up(self) -> None:
        self._end()
        self._call.finish([], None)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._backend.unwatch(self._session_id, self)
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
