"""A store at work: how calls reach an adapter, without one holding up another.

    large call ──► decoded aside, in a thread ──► …
    call ──► non-blocking adapter ──► answer                          (memory: at once, in the loop)
         ──► a thread ──► answer                                      (files, reads of SQL)
         ──► the adapter's own queue ──► answer                       (writes of SQL, which commit in groups)
         ──► get_events that waits ──► LongPoll ──► answer            (no thread while it waits)
         ──► put, get, open in pieces ──► Upload, Download ──► answer (a window of bytes at a time)
    answer ──► small: one message;  large: Download                   (rows, encoded as they may go)

Used by a worker, and by a composite for a module-backed reference. Whatever a call goes on with here holds it: it is counted
(:mod:`asm.processes.admission`) until a thread, or the adapter's queue, has let go of it.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

from asm.core.errors import Error
from asm.operations import Operation, unchecked
from asm.processes.accounts import Lane
from asm.processes.answers import Answer
from asm.processes.health import Health
from asm.processes.limits import Limits
from asm.processes.longpolls import LongPoll, LongPolls
from asm.processes.loops import Loop
from asm.processes.opening import Opener
from asm.processes.peers import HEAD_BYTES, Call
from asm.processes.streams import Download, Upload, read_pieces
from asm.registry import operations_of
from asm.wire.calls import decode_request, encode_result, pack_rows
from asm.wire.messages import MessageError, packed
from asm.wire.streams import PIECE

__all__ = ["Backend", "lanes"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

LARGE: Final = 64 * 1024
"""From how many bytes on a message is not decoded or encoded in the loop, where others would wait: some take a second."""

Failed = Callable[[str, Error], None]
"""Told of a call that failed: the operation, and the error."""

Then = Callable[[Call, Answer], None]


def lanes(kind: type, limits: Limits) -> dict[bytes, Lane]:
    """Return whose turns the operations of a store take, by method.

    :param kind: the class of the store.
    """
    at_once, threads = Lane(), Lane(limits.threads)
    blocks = getattr(kind, "blocking", True)
    queued = getattr(kind, "queued", ())
    return {
        method: at_once if not blocks or operation.name in queued else threads
        for method, operation in operations_of(kind).items()
    }


class _Request(NamedTuple):
    """What a call asks for."""

    operation: Operation
    arguments: dict[str, Any]
    """Checked. The data of an artifact that comes in pieces is not among them."""
    meta: dict[str, Any]
    expires: float | None
    """The ``time.monotonic()`` after which nobody waits for it to begin."""

    @property
    def is_streamed(self) -> bool:
        """Whether its data comes, or its answer may go, in pieces."""
        return self.meta.get("stream") is True

    @property
    def sent(self) -> dict[str, Any] | None:
        """What need not be sent back, for a caller who wants no event back that is stored as it was sent, but its number."""
        return self.arguments if self.meta.get("numbers") is True else None


class _Queued:
    """A call in the adapter's own queue.

    :param take_back: takes it out of there, unless it has begun; returns whether it did.
    """

    def __init__(self, take_back: Callable[[], bool]) -> None:
        self._take_back = take_back

    def cancel(self, call: Call) -> None:
        """Let it not begin."""
        if self._take_back():
            call.let_go()

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Refuse: it has no stream."""
        raise MessageError("this call has no stream")


class Backend:
    """One adapter, and the calls that it is working on.

    :param name: the name that errors give it.
    :param store: the adapter.
    :param health: told how the store does.
    :param failed: told of each call that failed.
    :param limits: what calls may cost.
    """

    def __init__(self, name: str, store: Any, health: Health, failed: Failed, limits: Limits) -> None:
        self._name = name
        self._store = store
        self._health = health
        self._has_failed = failed
        self._operations = operations_of(type(store))
        self._methods = {item.name: unchecked(store, item.name) for item in self._operations.values()}
        self._opener = Opener(self._methods)
        self._rows = getattr(store, "rows", None)
        self._loop = Loop.running()
        self._in_loop = not getattr(store, "blocking", True)
        self._queued: frozenset[str] = getattr(store, "queued", frozenset())
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix=name)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-codec")
        self._uploads = ThreadPoolExecutor(2 * limits.total_uploads, thread_name_prefix=f"{name}-long")
        self._most = limits.max_frame_bytes - HEAD_BYTES
        appends = getattr(store, "appends", None)
        self._polls = LongPolls(appends) if appends is not None else None

    def take(self, call: Call) -> None:
        """Make a call. What is large is decoded aside, and begins when that is done."""
        if len(call.body) <= LARGE:
            self._begin(call, self._decoded(call))
        else:
            self._in_thread(self._aside, call, lambda: self._decoded(call), self._begin)

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""
        if self._polls is not None:
            self._polls.interrupt(error)

    def close(self) -> None:
        """Close the store, after the calls that have begun."""
        if self._polls is not None:
            self._polls.close()
        for threads in (self._aside, self._threads, self._uploads):
            threads.shutdown(wait=True, cancel_futures=True)
        if close := getattr(self._store, "close", None):
            close()

    # -- What is asked for

    def _decoded(self, call: Call) -> _Request | Exception:
        """Decode and check a request; return what it asks for, or why it cannot be done."""
        try:
            operation, arguments, meta = decode_request(call.body, call.head)
            timeout_ms = meta.get("timeout_ms")
            expires = time.monotonic() + timeout_ms / 1000 if isinstance(timeout_ms, int | float) else None
            return _Request(operation, arguments, meta, expires)
        except Exception as error:  # noqa: BLE001  # whoever sent it is answered
            return error

    def _begin(self, call: Call, request: _Request | Exception) -> None:
        """Make the call that a request asks for."""
        call.body = b""
        if isinstance(request, MessageError):
            call.malformed()
            return
        if isinstance(request, Exception):
            call.fail(request if isinstance(request, Error) else self._defect(request))
            return
        call.request = request
        operation, arguments = request.operation, request.arguments
        if request.is_streamed and (name := operation.data_parameter) is not None:
            call.work = arguments[name] = Upload(call)
            self._in_thread(self._uploads, call, lambda: self._perform(request), self._finish)
        elif request.is_streamed and operation.returns_data:
            self._send(call, read_pieces(functools.partial(self._open, request)), self._threads)
        elif not (wait := arguments.get("wait_timeout_ms")):
            self._run(call, self._finish)
        elif self._polls is not None:
            call.request = request._replace(arguments=arguments | {"wait_timeout_ms": None})
            LongPoll(self._polls, call, arguments["session_id"], wait / 1000, self._run, self._finish)
        elif error := call.peer.admission.lengthen(call):
            call.fail(error)
        else:
            call.wait()
            if call.is_over:
                return
            self._in_thread(self._uploads, call, lambda: self._perform(request), self._finish)

    # -- The store

    def _run(self, call: Call, then: Then) -> None:
        """Make the call: in the loop, by the store's own queue, or in a thread."""
        request: _Request = call.request
        if self._in_loop:
            self._run_in_loop(call, request, then)
        elif request.operation.name in self._queued:
            call.holds += 1
            taken = self._store.submit(request.operation.name, request.arguments, self._submitted(call, request, then))
            if callable(taken):
                call.work = _Queued(taken)
        else:
            self._in_thread(self._threads, call, lambda: self._perform(request), then)

    def _run_in_loop(self, call: Call, request: _Request, then: Then) -> None:
        """Make a call that waits for nothing. When its answer turns out to be large, the rest of it is encoded aside."""
        answer = self._perform(request, LARGE)
        if answer.is_complete or answer.size > self._bound(request):
            then(call, answer)
        else:
            self._in_thread(self._aside, call, lambda: self._encoded(answer, request), then)

    def _submitted(self, call: Call, request: _Request, then: Then) -> Any:
        """Return what the store's queue tells the outcome, in a thread of its own."""

        def done(result: Any, cause: BaseException | None) -> None:
            if cause is None:
                answer = self._encoded(self._answer(request, result), request)
            else:
                answer = self._failed(request.operation, cause)
            self._loop.post(self._did, call, then, answer)

        return done

    def _in_thread(
        self, threads: ThreadPoolExecutor, call: Call, work: Callable[[], T], then: Callable[[Call, T], None]
    ) -> None:
        """Have a thread do a part of a call, which is held until that is done; what comes of it is handed over in the loop."""
        call.holds += 1
        threads.submit(lambda: self._loop.post(self._did, call, then, None if call.is_over else work()))

    def _did(self, call: Call, then: Callable[[Call, Any], None], outcome: Any) -> None:
        if call.is_over:
            call.let_go()
        else:
            call.holds -= 1
            then(call, outcome)

    def _perform(self, request: _Request, most: int | None = None) -> Answer:
        """Call the adapter, and encode what it returns: what there is at first, and as far as it is answered in one message.

        :param most: how many bytes of it are encoded now, if there may be more.
        """
        operation, arguments = request.operation, request.arguments
        if request.expires is not None and time.monotonic() > request.expires:
            message = f"{operation.name} waited in {self._name} until its time was up"
            return Answer(operation, error=Error("timeout", message, details=self._where(operation)))
        try:
            result = None
            if self._rows is not None and operation.returns_rows:
                result = self._rows(operation.name, arguments)
            if result is None:
                result = self._methods[operation.name](**arguments)
            answer = self._answer(request, result)
        except Exception as cause:  # noqa: BLE001  # whatever a store raises is answered
            return self._failed(operation, cause)
        return self._encoded(answer, request, most)

    def _open(self, request: _Request) -> tuple[bytes, BinaryIO]:
        """Open what goes out in pieces; return what stands in front of it, and the file. A ``get`` in pieces is an ``open``."""
        operation, arguments, meta, _expires = request
        if operation.contract == "artifact":
            return self._opener.open(arguments, meta)
        return b"", self._methods[operation.name](**arguments)

    # -- The answer

    def _answer(self, request: _Request, result: Any) -> Answer:
        operation = request.operation
        if operation.returns_rows:
            return Answer(operation, pack_rows(operation, result, request.sent))
        return Answer(operation, iter((packed(encode_result(operation, result, request.sent)),)))

    def _encoded(self, answer: Answer, request: _Request, most: int | None = None) -> Answer:
        """Encode an answer as far as it goes into one message. A store may return anything at all, also what cannot be."""
        try:
            answer.encode(self._bound(request) if most is None else most)
        except Exception as cause:  # noqa: BLE001  # as above
            return self._failed(request.operation, cause)
        return answer

    def _bound(self, request: _Request) -> int:
        """How many bytes an answer may have in one message."""
        return PIECE if request.is_streamed and request.operation.returns_rows else self._most

    def _finish(self, call: Call, answer: Answer) -> None:
        """Answer a call."""
        request: _Request = call.request
        if answer.error is not None:
            self._has_failed(request.operation.name, answer.error)
            call.fail(answer.error)
        elif answer.is_complete and answer.size <= self._bound(request):
            self._health.succeeded(request.operation.name)
            call.finish(answer.whole())
        elif request.is_streamed and request.operation.returns_rows:
            self._send(call, answer.pieces(), self._aside if self._in_loop else self._threads)
        else:
            call.fail(_too_large(answer.size, self._most))

    def _send(self, call: Call, pieces: Any, threads: ThreadPoolExecutor) -> None:
        """Answer a call in pieces."""
        operation = call.request.operation

        def failed(cause: Exception) -> Error:
            error = self._failure(operation, cause)
            self._loop.post(self._has_failed, operation.name, error)
            return error

        Download(call, pieces, threads, failed, lambda: self._health.succeeded(operation.name))

    def _failed(self, operation: Operation, cause: BaseException) -> Answer:
        return Answer(operation, error=self._failure(operation, cause))

    def _failure(self, operation: Operation, cause: BaseException) -> Error:
        """Return what an adapter raised as a typed error. A worker survives any of it."""
        if isinstance(cause, Error):
            return cause
        _log.error("a store raised what is no asm.Error", exc_info=cause, extra={"operation": operation.name})
        details = self._where(operation) | {"exception": type(cause).__name__, "text": str(cause)[:1000]}
        return Error("internal_error", f"{self._name} failed in {operation.name}: {cause!r}", details=details)

    def _defect(self, cause: Exception) -> Error:
        """Return what should never be raised, as a typed error."""
        _log.error("a request could not be taken in", exc_info=cause)
        details = {"backend": self._name}
        return Error("internal_error", f"{self._name} could not take in the request: {cause!r}", details=details)

    def _where(self, operation: Operation) -> dict[str, str]:
        return {"backend": self._name, "operation": operation.name}


def _too_large(size: int, limit: int) -> Error:
    return Error(
        "storage_error",
        f"the answer has {size} bytes or more, and more than the {limit} of a frame; ask for less at once, with limit=…",
        details={"reason": "too_large", "byte_size": size},
    )
