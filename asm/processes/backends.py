"""A store at work: how calls reach an adapter, without one holding up another.

    large call ──► decoded aside, in a thread ──► …
    call ──► non-blocking adapter ──► done                            (memory: at once, in the loop)
         ──► a thread ──► done                                        (files, reads of SQL)
         ──► the adapter's own queue ──► done                         (writes of SQL, which commit in groups)
         ──► get_events that waits ──► LongPoll ──► done              (no thread while it waits)
         ──► put, get, open in pieces ──► Upload, Download ──► done   (a window of bytes at a time)

Used by a worker, and by a composite for a module-backed reference.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar

from asm.core.errors import Error
from asm.operations import METHODS, Operation, unchecked
from asm.processes.calls import Call
from asm.processes.longpolls import LongPoll, LongPolls
from asm.processes.loops import Loop
from asm.processes.peers import Peer
from asm.processes.streams import Download, Upload
from asm.processes.turns import Waiting
from asm.registry import operations_of
from asm.wire import streams
from asm.wire.calls import decode_arguments, pack_result
from asm.wire.messages import Head, MessageError, decode_params, operation_name

__all__ = ["Backend", "perform", "unknown_operation"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

LARGE: Final = 64 * 1024
"""From how many bytes on a message is not decoded or encoded in the loop, where others would wait: some take a second."""

THREADS: Final = 32
"""How many calls of a blocking adapter run at the same time; more wait their turn."""

LONG_THREADS: Final = 64
"""How many uploads may hold a thread, and how many long-polls of a store that cannot tell of appends; more are refused."""


Heard = Callable[[str, Error | None], None]
"""Told the outcome of each call: the operation, and the error that it ended with, if any."""


def perform(backend: Backend, peer: Peer, head: Head, body: bytes) -> None:
    """Decode a request, make its call, and answer it. What is large is decoded aside, and begins when that is done."""
    if len(body) <= LARGE:
        _begin(backend, peer, head.msgid, _request(backend, head, body))
        return
    waiting = peer.calls[head.msgid] = Waiting(head, body)

    def begin(request: _Request | Exception) -> None:
        if not waiting.over:
            _begin(backend, peer, head.msgid, request)

    backend.aside(lambda: _request(backend, head, waiting.body), begin)


class _Request(NamedTuple):
    """What a request asks for."""

    operation: Operation
    arguments: dict[str, Any]
    """Checked. The data of an artifact that comes in pieces is not among them."""
    meta: dict[str, Any]
    streamed: bool


def _request(backend: Backend, head: Head, body: bytes) -> _Request | Exception:
    """Decode and check a request; return what it asks for, or why it cannot be done."""
    try:
        meta, arguments = decode_params(body, head)
        operation = backend.operations.get(head.method)
        if operation is None:
            return unknown_operation(backend.name, head.method, backend.operations)
        streamed = meta.get("stream") is True
        if streamed and (name := operation.data_parameter) is not None:
            arguments = arguments | {name: b""}
        return _Request(operation, decode_arguments(operation, arguments), meta, streamed)
    except Exception as error:  # noqa: BLE001  # whoever sent it is answered
        return error


def _begin(backend: Backend, peer: Peer, msgid: int, request: _Request | Exception) -> None:
    """Make the call that a request asks for, and answer it."""
    if isinstance(request, MessageError):
        peer.malformed(msgid)
        return
    if isinstance(request, Exception):
        peer.answer_error(msgid, request if isinstance(request, Error) else backend.defect(request))
        return
    operation, arguments, meta, streamed = request

    def done(result: bytes, error: Error | None) -> None:
        backend.heard(operation.name, error)
        if error is None:
            peer.answer_result(msgid, result)
        else:
            peer.answer_error(msgid, error)

    timeout_ms = meta.get("timeout_ms")
    expires = time.monotonic() + timeout_ms / 1000 if isinstance(timeout_ms, int | float) else None
    call = Call(operation, arguments, done, expires, numbers=meta.get("numbers") is True)
    peer.calls[msgid] = call
    if streamed and (name := operation.data_parameter) is not None:
        upload = arguments[name] = Upload(lambda size: peer.send(streams.more(peer.packer, msgid, size)))
        backend.receive(call, upload)
    elif streamed and operation.returns_data:

        def send(piece: bytes) -> None:
            peer.leave_turn(msgid)  # what goes on for long keeps nobody waiting
            peer.send(*streams.chunk(peer.packer, msgid, piece))

        backend.send(call, send, peer.writable)
    else:
        backend.start(call)


def _up_to(size: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield pieces until there are so many bytes."""
    while size > 0 and (piece := next(pieces, None)) is not None:
        size -= len(piece)
        yield piece


def _nobody(_operation: str, _error: Error | None) -> None:
    """Tell nobody."""


def unknown_operation(name: str, method: bytes, known: Iterable[bytes]) -> Error:
    """Say that a store has no such operation."""
    asked, has = operation_name(method), ", ".join(map(operation_name, known))
    code = "capability_not_supported" if method in METHODS else "invalid_operation"
    return Error(code, f"{name} has no operation {asked!r}; it has: {has}", details={"backend": name, "operation": asked})


class Backend:
    """One adapter, and the calls that it is working on.

    :param name: the name that errors give it.
    :param store: the adapter.
    :param heard: told the outcomes.
    """

    def __init__(self, name: str, store: Any, heard: Heard | None = None) -> None:
        self.name = name
        self.heard = heard or _nobody
        self.operations = operations_of(type(store))
        self._store = store
        self._methods = {item.name: unchecked(store, item.name) for item in self.operations.values()}
        self._loop = Loop.running()
        self._in_loop = not getattr(store, "blocking", True)
        self._submit = getattr(store, "submit", None)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._aside = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-codec")
        self._uploads = ThreadPoolExecutor(LONG_THREADS, thread_name_prefix=f"{name}-upload")
        self._waits = ThreadPoolExecutor(LONG_THREADS, thread_name_prefix=f"{name}-wait")
        self._long = {self._uploads: 0, self._waits: 0}
        self._polls = LongPolls()
        appends = getattr(store, "appends", None)
        self._unsubscribe = appends.subscribe(self._polls.appended) if appends is not None else None

    def aside(self, work: Callable[[], T], then: Callable[[T], object]) -> Future[None]:
        """Have a thread do what takes its time without waiting for anything; its outcome is handed over in the loop.

        It is one thread for all of that: more of them would only take the processor from each other and from the loop.
        """
        return self._aside.submit(lambda: self._loop.post(then, work()))

    def start(self, call: Call) -> None:
        """Begin a call."""
        if not call.arguments.get("wait_timeout_ms"):
            self._run(call)
        elif self._unsubscribe is not None:
            LongPoll(self._polls, call, self._run)
        elif future := self._run_long(self._waits, call):
            call.cancel_work = future.cancel

    def receive(self, call: Call, upload: Upload) -> None:
        """Begin a call whose data comes in pieces."""
        call.stream = upload
        future = self._run_long(self._uploads, call)
        if future is None:
            return

        def abandon() -> None:
            future.cancel()
            upload.abandon()

        call.cancel_work = abandon

    def send(self, call: Call, send: Callable[[bytes], None], writable: Callable[[Callable[[], None]], bool]) -> None:
        """Begin a call whose result goes out in pieces. A ``get`` in pieces is an ``open``."""
        opening = self._store.open if call.operation.result is bytes else self._methods[call.operation.name]
        failed = functools.partial(self._failure, call.operation)
        Download(call, lambda: opening(**call.arguments), send, writable, self._threads, failed)

    def defect(self, cause: Exception) -> Error:
        """Return what should never be raised, as a typed error."""
        _log.error("a request could not be taken in", exc_info=cause)
        return Error("internal_error", f"{self.name} could not take in the request: {cause!r}", details={"backend": self.name})

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""
        self._polls.interrupt(error)

    def close(self) -> None:
        """Close the store, after the calls that have begun."""
        if self._unsubscribe is not None:
            self._unsubscribe()
        for threads in (self._aside, self._threads, *self._long):
            threads.shutdown(wait=True, cancel_futures=True)
        if close := getattr(self._store, "close", None):
            close()

    def _run(self, call: Call) -> None:
        """Make the call: in the loop, by the store's own queue, or in a thread."""
        if self._in_loop:
            self._perform_in_loop(call)
        elif self._submit is None or not (taken := self._submit(call.operation.name, call.arguments, self._submitted(call))):
            call.cancel_work = self._threads.submit(self._perform_in_thread, call).cancel
        elif callable(taken):
            call.cancel_work = taken

    def _run_long(self, threads: ThreadPoolExecutor, call: Call) -> Future[None] | None:
        """Make a call that may take long, in a thread that is free; if none is, say so."""
        if self._long[threads] >= LONG_THREADS:
            details = self._where(call.operation) | {"reason": "overloaded"}
            call.fail(Error("storage_error", f"{self.name} has too many of these calls at once", details=details))
            return None
        self._long[threads] += 1
        future = threads.submit(self._perform_in_thread, call)
        future.add_done_callback(lambda _: self._loop.post(self._ended, threads))
        return future

    def _ended(self, threads: ThreadPoolExecutor) -> None:
        self._long[threads] -= 1

    def _submitted(self, call: Call) -> Any:
        """Return what the store's queue tells the outcome, in a thread of its own."""

        def done(result: Any, cause: BaseException | None) -> None:
            if cause is None:
                self._loop.post(call.finish, *self._encoded(call.operation, pack_result(call.operation, result, call.sent)))
            else:
                self._loop.post(call.fail, self._failure(call.operation, cause))

        return done

    def _perform_in_thread(self, call: Call) -> None:
        if not call.over:
            result, error = self._perform(call)
            self._loop.post(call.finish, *(self._encoded(call.operation, result) if error is None else (b"", error)))

    def _perform_in_loop(self, call: Call) -> None:
        """Make a call that waits for nothing. When its result turns out to be large, the rest of it is encoded aside."""
        result, error = self._perform(call)
        if error is not None:
            call.fail(error)
            return
        begun, error = self._encoded(call.operation, _up_to(LARGE, result))
        if error is not None or len(begun) < LARGE:
            call.finish(begun, error)
        else:
            rest = chain((begun,), result)
            call.cancel_work = self.aside(lambda: self._encoded(call.operation, rest), lambda done: call.finish(*done)).cancel

    def _perform(self, call: Call) -> tuple[Iterator[bytes], Error | None]:
        """Call the adapter; return its result, as it is encoded piece by piece, or the error."""
        operation = call.operation
        if call.expires is not None and time.monotonic() > call.expires:
            message = f"{operation.name} waited in {self.name} until its time was up"
            return iter(()), Error("timeout", message, details=self._where(operation))
        try:
            return pack_result(operation, self._methods[operation.name](**call.arguments), call.sent), None
        except Exception as cause:  # noqa: BLE001  # whatever a store raises is answered
            return iter(()), self._failure(operation, cause)

    def _encoded(self, operation: Operation, pieces: Iterable[bytes]) -> tuple[bytes, Error | None]:
        """Put an encoded result together. A store may return anything at all, also what cannot be."""
        try:
            return b"".join(pieces), None
        except Exception as cause:  # noqa: BLE001  # as above
            return b"", self._failure(operation, cause)

    def _failure(self, operation: Operation, cause: BaseException) -> Error:
        """Return what an adapter raised as a typed error. A worker survives any of it."""
        if isinstance(cause, Error):
            return cause
        _log.error("a store raised what is no asm.Error", exc_info=cause, extra={"operation": operation.name})
        details = self._where(operation) | {"exception": type(cause).__name__, "text": str(cause)[:1000]}
        return Error("internal_error", f"{self.name} failed in {operation.name}: {cause!r}", details=details)

    def _where(self, operation: Operation) -> dict[str, str]:
        return {"backend": self.name, "operation": operation.name}
