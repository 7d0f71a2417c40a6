"""Calls: how the arguments and the result of an operation become MessagePack values, and back.

A value travels as a map of its fields with times as MessagePack timestamps; the bytes of an artifact travel as ``bin``.
All of it follows from the annotations of the contracts; nothing here speaks of a particular operation.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple, get_origin

import msgpack

from asm.chunks import chunks
from asm.core import checks
from asm.core.arguments import ArtifactInfos
from asm.core.policies import RetentionPolicy
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import ArtifactInfo, Event, Run, Session, Value
from asm.operations import METHODS, OPERATIONS, Operation
from asm.ports import Data, ExecutionResult
from asm.wire.frames import MAX_FRAME
from asm.wire.messages import Head, MessageError, array_head, decode, packed
from asm.wire.scan import check

__all__ = [
    "Rows",
    "decode_arguments",
    "decode_params",
    "decode_request",
    "decode_result",
    "encode_arguments",
    "encode_result",
    "pack_rows",
    "whole",
]


def encode_arguments(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :meth:`Operation.bind` returned, ready to be sent.

    :raises Error: ``validation_error`` when the data of an artifact yields something else than bytes.
    """
    forms = _ARGUMENTS[operation.name]
    return {name: forms[name].encode(value) if name in forms else value for name, value in arguments.items()}


def decode_params(body: bytes, head: Head) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode the meta and the arguments of a request.

    :raises MessageError: when they are not two maps with string keys.
    """
    check(body, head.params_at)
    params = decode(memoryview(body)[head.params_at :])
    if type(params) is not list or len(params) != 2 or type(params[0]) is not dict or type(params[1]) is not dict:
        raise MessageError("the params of a request must be two maps: meta and arguments")
    return params[0], params[1]


def decode_request(body: bytes, head: Head) -> tuple[Operation, dict[str, Any], dict[str, Any]]:
    """Decode the request of an operation; return that, its arguments as an adapter takes them, and the meta.

    The data of an artifact that comes in pieces is not among the arguments yet.

    :raises MessageError: as :func:`decode_params`.
    :raises Error: as :func:`decode_arguments`.
    """
    meta, arguments = decode_params(body, head)
    operation = METHODS[head.method]
    if meta.get("stream") is True and (name := operation.data_parameter) is not None:
        arguments = arguments | {name: b""}
    return operation, decode_arguments(operation, arguments), meta


def decode_arguments(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were received, checked, as an adapter takes them.

    :raises Error: ``validation_error`` and whatever a value or the check of an argument refuses.
    """
    forms = _ARGUMENTS[operation.name]
    given = {name: forms[name].decode(value) if name in forms else value for name, value in arguments.items()}
    return operation.receive(given)


def encode_result(operation: Operation, result: Any, sent: Mapping[str, Any] | None = None) -> Any:
    """Return what an adapter returned, ready to be sent.

    :param sent: the arguments of a caller who wants no event back that is stored as it was sent, but only its number.
    """
    if sent is not None and operation.sent_events is not None:
        events = operation.sent_events(sent)
        if operation.result is Event:
            return _numbered(events, result)
        return list(itertools.starmap(_numbered, zip(events, result, strict=True)))
    return _RESULTS[operation.name].encode(result)


def pack_rows(operation: Operation, result: Iterable[Any], sent: Mapping[str, Any] | None = None) -> Iterator[bytes]:
    """Yield what an operation returns row by row, encoded, so that no step takes long; of a page the items, and its cursor.

    :param result: what it returned, or its rows one after the other; of a page, a last one ``Page([], cursor)`` behind them.
    :param sent: as for :func:`encode_result`.
    """
    if sent is not None and operation.sent_events is not None:
        yield from map(packed, itertools.starmap(_numbered, zip(operation.sent_events(sent), result, strict=True)))
        return
    row = _RESULTS[operation.name].row or _same
    cursor = None
    for value in (*result.items, result) if isinstance(result, Page) else result:
        if isinstance(value, Page):
            cursor = value.cursor
        else:
            yield packed(row(value))
    if _is_page(operation):
        yield packed(cursor)


def whole(operation: Operation, rows: list[bytes]) -> bytes:
    """Return what :func:`pack_rows` yielded as it travels where it is little: the array, or the map of a page."""
    if not _is_page(operation):
        return array_head(len(rows)) + b"".join(rows)
    *items, cursor = rows
    return b"".join((b"\x82\xa5items", array_head(len(items)), *items, b"\xa6cursor", cursor))


def _is_page(operation: Operation) -> bool:
    """Whether an operation returns a page."""
    return get_origin(operation.result) is Page


def decode_result(operation: Operation, result: Any, sent: Mapping[str, Any]) -> Any:
    """Return what an operation returns, from what was received.

    :param sent: the arguments of the call.
    :raises Error: ``validation_error`` when the peer sent something else.
    """
    if operation.sent_events is not None:
        events = operation.sent_events(sent)
        if operation.result is Event:
            return _event(events, result)
        if isinstance(result, list) and len(result) == len(events):
            return [_event(*pair) for pair in zip(events, result, strict=True)]
    return _RESULTS[operation.name].read(result)


def _numbered(sent: Event, stored: Event) -> Any:
    """Return the number of an event that is stored as it was sent, and the whole event otherwise."""
    return stored.sequence_number if stored.is_sequenced_from(sent) else stored.held_fields()


def _event(sent: Event, received: Any) -> Event:
    """Return the event that is meant by what :func:`_numbered` returned."""
    return sent.sequenced(received) if type(received) is int else Event.read(received)


class Rows:
    """The result of an operation, decoded while its rows arrive: their bytes one behind the other, cut anywhere.

    :param sent: the arguments of the call.
    """

    def __init__(self, operation: Operation, sent: Mapping[str, Any]) -> None:
        form = _RESULTS[operation.name]
        self._events = iter(operation.sent_events(sent)) if operation.sent_events is not None else None
        self._read = _same if form.read_row is None else form.read_row
        self._is_page = _is_page(operation)
        self._unpacker = msgpack.Unpacker(timestamp=3, max_buffer_size=2 * MAX_FRAME)
        self._size = 0
        self._rows: list[Any] = []

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        :raises MessageError: when they are no MessagePack.
        :raises Error: ``validation_error`` when a row is something else than the operation returns.
        """
        self._size += len(piece)
        try:
            self._unpacker.feed(piece)
            for value in self._unpacker:
                self._rows.append(self._row(value))
        except (ValueError, OverflowError, msgpack.UnpackException) as error:
            raise MessageError(f"the rows of an answer are no MessagePack: {type(error).__name__}: {error}") from error

    def end(self) -> Any:
        """Return the result.

        :raises MessageError: when the last row was cut, or there is no cursor behind the rows of a page.
        """
        if self._unpacker.tell() != self._size:
            raise MessageError("the rows of an answer end within one")
        if not self._is_page:
            return self._rows
        cursor = self._rows.pop() if self._rows else self
        if not (cursor is None or isinstance(cursor, str)):
            raise MessageError("behind the rows of a page its cursor must come")
        return Page(self._rows, cursor)

    def _row(self, value: Any) -> Any:
        if self._events is not None and (sent := next(self._events, None)) is not None:
            return _event(sent, value)
        if self._is_page and (value is None or isinstance(value, str)):
            return value
        return self._read(value)


class _Form(NamedTuple):
    """How a type travels."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    """Of an argument."""
    read: Callable[[Any], Any]
    """Of a result."""
    row: Callable[[Any], Any] | None = None
    """How to encode each row of a list, or each item of a page …"""
    read_row: Callable[[Any], Any] | None = None
    """… and to decode it, of a result."""


def _same(value: Any) -> Any:
    return value


def _one(kind: type[Value]) -> _Form:
    return _Form(kind.held_fields, kind.receive, kind.read)


def _optional(form: _Form) -> _Form:
    return _Form(_unless_none(form.encode), _unless_none(form.decode), _unless_none(form.read))


def _unless_none(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else function(value)


def _several(form: _Form) -> _Form:
    return _Form(
        lambda value: [form.encode(item) for item in value], _each(form.decode), _each(form.read), form.encode, form.read
    )


def _each(one: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    def decode(value: Any) -> list[Any]:
        if not isinstance(value, list):
            checks.refuse("the message", f"must hold a list here, not {checks.kind(value)}")
        return [one(item) for item in value]

    return decode


def _page(kind: type[Value]) -> _Form:
    def encode(page: Page[Any]) -> dict[str, Any]:
        return {"items": [item.held_fields() for item in page.items], "cursor": page.cursor}

    def read(value: Any) -> Page[Any]:
        if not isinstance(value, dict) or not isinstance(value.get("items"), list):
            checks.refuse("the message", f"must hold a page here, not {checks.kind(value)}")
        return Page([kind.read(item) for item in value["items"]], value.get("cursor"))

    return _Form(encode, _same, read, kind.held_fields, kind.read)


def _map_of(forms: dict[str, _Form]) -> _Form:
    def encode(value: Any) -> dict[str, Any]:
        return {name: forms[name].encode(item) if name in forms else item for name, item in value.items()}

    def decode(value: Any) -> Any:
        if not isinstance(value, dict):
            return value  # for the check of the argument to refuse
        return {name: forms[name].decode(item) if name in forms else item for name, item in value.items()}

    return _Form(encode, decode, _same)


def _read(data: Data | None) -> bytes | None:
    """Return the bytes that the data of an artifact stands for; ``None`` when they follow in a stream."""
    return data if data is None or isinstance(data, bytes) else b"".join(chunks(data))


def _drain(file: BinaryIO) -> bytes:
    with file:
        return file.read()


_PLAIN: Final = _Form(_same, _same, _same)
_EVENTS: Final = _several(_one(Event))

_FORMS: Final[list[tuple[Any, _Form]]] = [
    (Session, _one(Session)),
    (Session | None, _optional(_one(Session))),
    (list[Session], _several(_one(Session))),
    (Page[Session], _page(Session)),
    (Page[Run], _page(Run)),
    (Page[Event], _page(Event)),
    (SessionStats, _one(SessionStats)),
    (list[Usage], _several(_one(Usage))),
    (RetentionPolicy, _one(RetentionPolicy)),
    (Run, _one(Run)),
    (Run | None, _optional(_one(Run))),
    (list[Run], _several(_one(Run))),
    (Event, _one(Event)),
    (list[Event], _EVENTS),
    (ExecutionResult, _map_of({"session": _one(Session), "run": _one(Run), "events": _EVENTS})),
    (ArtifactInfo, _one(ArtifactInfo)),
    (ArtifactInfos, _several(_one(ArtifactInfo))),
    (Data, _Form(_read, _same, _same)),
    (BinaryIO, _Form(_drain, _same, io.BytesIO)),
]
"""The types that travel as something else than themselves."""


def _form(annotation: Any) -> _Form:
    return next((form for kind, form in _FORMS if kind == annotation), _PLAIN)


_RESULTS: Final = {operation.name: _form(operation.result) for operation in OPERATIONS.values()}
_ARGUMENTS: Final = {
    operation.name: {
        parameter.name: form
        for parameter in operation.parameters.values()
        if (form := _form(parameter.annotation)) is not _PLAIN
    }
    for operation in OPERATIONS.values()
}
