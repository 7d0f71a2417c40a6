"""Values to test with, and the ways in which tests compare and refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import pytest

from asm.core.errors import Error
from asm.core.values import Event, Run, Session, Value

__all__ = [
    "HUGE",
    "INVALID_COUNTS",
    "INVALID_IDS",
    "INVALID_LIMITS",
    "INVALID_NAMES",
    "JSON",
    "LONGEST_IDS",
    "MOMENTS",
    "ODD_IDS",
    "all_refused",
    "argument_refused",
    "at",
    "at_once",
    "event",
    "refused",
    "run",
    "same",
    "session",
]

T = TypeVar("T")

HUGE: Final = 2**63 - 1
"""The greatest number that a limit, an offset or a sequence can be."""

LONGEST_IDS: Final = ["x" * 1024, "ж" * 512, "\U0001f9ea" * 256]
"""The longest that an id, and whatever else names something, can be: 1,024 bytes of UTF-8."""

INVALID_NAMES: Final[list[Any]] = [7, b"ses", ["ses"], "a\0b", "\ud800", *(name + "x" for name in LONGEST_IDS)]
"""What nothing can be that names something."""

INVALID_IDS: Final[list[Any]] = ["", None, *INVALID_NAMES]
"""What no id can be."""

INVALID_COUNTS: Final[list[Any]] = [-1, -HUGE, True, 1.0, "1", HUGE + 1]
"""What no ``after``, ``before`` or ``offset`` can be."""

INVALID_LIMITS: Final[list[Any]] = [0, *INVALID_COUNTS]
"""What no ``limit`` can be."""

ODD_IDS: Final = ["ключ", "a b", "A", "a", "'; DROP TABLE asm_events; --", "%", "_", "é", "e\u0301", "\U0001f9ea", *LONGEST_IDS]
"""Ids that a store may not mistake for anything, nor for each other."""

MOMENTS: Final = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=UTC),
    datetime(2026, 1, 2, 12, 4, 5, 678_901, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
"""Times that are easily lost, in their order."""


def _nested(depth: int) -> dict[str, Any]:
    value: Any = "the bottom"
    for level in range(depth):
        value = {"in": value} if level % 2 == 0 else [value]
    return {"in": value}


JSON: Final[dict[str, dict[str, Any]]] = {
    "empty": {},
    "empty inside": {"map": {}, "list": [], "text": "", "": "a key without letters"},
    "constants": {"true": True, "false": False, "null": None, "one": 1},
    "integers": {"greatest": 2**63 - 1, "least": -(2**63), "zero": 0, "beyond doubles": 2**53 + 1},
    "floats": {
        "tenth": 0.1,
        "one": 1.0,
        "minus zero": -0.0,
        "greatest": 1.7976931348623157e308,
        "least": 5e-324,
        "sum": 0.1 + 0.2,
    },
    "text": {"unicode": "päť 漢字 🙂 \u2028 e\u0301", "control": "\0\x01\t\r\n\x7f", "quotes": "\"'\\", "ключ": "é"},
    "deep": _nested(60),
    "wide": {f"key {number}": [number] * 10 for number in range(500)},
    "long": {"text": "0123456789" * 20_000},
    "looks like a value": {"created_at": "2026-01-01T00:00:00Z", "id": "x", "__type__": "Event", "$ref": "#"},
}
"""Free-form maps that are easily changed on their way."""


def at(seconds: float) -> datetime:
    """Return a moment, so many seconds after a fixed one."""
    return datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC) + timedelta(seconds=seconds)


def session(agent_id: str = "agent", **fields: Any) -> Session:
    """Make a session."""
    return Session.new(agent_id=agent_id, **fields)


def run(session_id: str = "ses", **fields: Any) -> Run:
    """Make a run."""
    return Run.new(session_id=session_id, **fields)


def event(session_id: str = "ses", **fields: Any) -> Event:
    """Make an event."""
    return Event.new(session_id=session_id, **{"type": "message_received", **fields})


@contextmanager
def refused(code: str, **details: Any) -> Iterator[None]:
    """Expect an :class:`Error` with this code, and these of its details.

    :param details: facts that the error must carry.
    """
    with pytest.raises(Error) as caught:
        yield
    error = caught.value
    assert error.code == code, error
    assert {name: error.details.get(name) for name in details} == details, error.details
    assert error.message


def all_refused(code: str, call: Callable[[Any], object], values: Iterable[Any]) -> None:
    """Expect an :class:`Error` with this code for each of the values."""
    for value in values:
        try:
            call(value)
        except Error as error:
            answer = error.code
        else:
            answer = "accepted"
        assert answer == code, f"for {value!r}"


def argument_refused(code: str, call: Callable[..., object], name: str, values: Iterable[Any]) -> None:
    """Expect an :class:`Error` with this code for each of the values as the argument of this name."""
    all_refused(code, lambda value: call(**{name: value}), values)


def same(found: Value, expected: Value) -> bool:
    """Tell whether two values are the same to the last digit: 1 is not 1.0 here, and 0.0 is not -0.0."""
    return found == expected and _text(found.to_map()) == _text(expected.to_map())


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def at_once(count: int, function: Callable[[int], T]) -> list[T]:
    """Call ``function(0)``, ``function(1)``, … in as many threads, all let go together; return the results in order."""
    barrier = threading.Barrier(count)

    def call(number: int) -> T:
        barrier.wait(timeout=60)
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))
