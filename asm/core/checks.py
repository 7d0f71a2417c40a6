"""Checks of single values: what a field or an argument may hold.

A check takes a value and the name of the place that it was given in, and returns the value in its
normal form or raises. Fields of the values (:mod:`asm.core.values`) and arguments of the contracts
(:mod:`asm.ports`) name their check in their annotation: ``Annotated[int | None, limit]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeVar

from asm.core.errors import Error
from asm.core.frozen import FrozenList, FrozenMap

__all__ = [
    "MAX_JSON_DEPTH",
    "Check",
    "amount",
    "artifact_key",
    "count",
    "identifier",
    "is_map",
    "json_map",
    "json_map_or_empty",
    "limit",
    "member",
    "members",
    "optional",
    "refuse",
    "tags",
    "text",
    "utc_time",
]

EMPTY: Final = FrozenMap()
"""The map without anything in it. It never changes, so one is enough."""

MAX_JSON_DEPTH: Final = 64
"""How deep maps and lists may nest in a free-form map."""

MAX_KEY_BYTES: Final = 1024
"""How many bytes of UTF-8 the key of an artifact may have."""

LEAST: Final = -(2**63)
MOST: Final = 2**63 - 1
"""The integers that every part of asm can carry: 64 bits, signed."""

EPOCH: Final = datetime.fromtimestamp(0, UTC)

Check = Callable[[Any, str], Any]
E = TypeVar("E", bound=StrEnum)


def refuse(where: str, problem: str, *, code: str = "validation_error", **details: Any) -> NoReturn:
    """Raise the error that says what was wrong where."""
    raise Error(code, f"{where} {problem}", details={"field": where, **details})


def optional(check: Check) -> Check:
    """Return a check that lets ``None`` pass."""

    def check_unless_none(value: Any, where: str) -> Any:
        if value is None:
            return None
        return check(value, where)

    return check_unless_none


def text(value: Any, where: str) -> str:
    """Accept Unicode text without NUL, possibly empty. Databases cannot hold a NUL, and a lone surrogate has no UTF-8."""
    if type(value) is str and value.isascii() and "\0" not in value:  # what nearly all of it is
        return value
    if not isinstance(value, str):
        refuse(where, f"must be a string, not {kind(value)}")
    if not value.isascii():
        encodable(value, where)
    if "\0" in value:
        refuse(where, "must not contain the character NUL")
    return str.__str__(value)  # the text itself, of a member of an Enum, too


def identifier(value: Any, where: str) -> str:
    """Accept non-empty text that names something: an id, an agent."""
    if type(value) is str and value and value.isascii() and "\0" not in value:  # what nearly all of it is
        return value
    if value is None or value == "":
        refuse(where, "is required and must not be empty")
    return text(value, where)


def artifact_key(value: Any, where: str) -> str:
    """Accept the key of an artifact: 1 to 1,024 bytes of UTF-8 without NUL, and otherwise anything."""
    key = identifier(value, where)
    if len(key) * 4 > MAX_KEY_BYTES and (size := len(key.encode())) > MAX_KEY_BYTES:
        refuse(where, f"must have at most {MAX_KEY_BYTES} bytes of UTF-8, not {size}")
    return key


def count(value: Any, where: str) -> int:
    """Accept a whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        refuse(where, f"must be a whole number, 0 or greater, not {shown(value)}")
    return int(value)


def limit(value: Any, where: str) -> int:
    """Accept a whole number that is greater than zero."""
    if type(value) is int and 1 <= value <= MOST:
        return value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        refuse(where, f"must be a whole number, 1 or greater, not {shown(value)}")
    return int(value)


def amount(value: Any, where: str) -> float:
    """Accept a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    refuse(where, f"must be a finite number, not {shown(value)}")


def utc_time(value: Any, where: str) -> datetime:
    """Accept an aware time, turned to UTC. A naive one is refused, because nobody knows which moment it means."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime):
        refuse(where, f"must be a datetime, not {kind(value)}")
    if value.utcoffset() is None:
        refuse(where, "must be an aware datetime; give it a time zone, such as datetime.now(timezone.utc)")
    try:
        return EPOCH + (value - EPOCH)
    except OverflowError:
        refuse(where, f"is out of range in UTC: {value.isoformat()}")


def member(kinds: type[E], code: str) -> Check:
    """Return a check for a member of ``kinds`` or its text. An unknown one is refused with ``code``."""
    by_text = {str(item): item for item in kinds}

    def check_member(value: Any, where: str) -> E:
        if isinstance(value, str) and (known_as := by_text.get(value)) is not None:
            return known_as
        try:
            return kinds(value)
        except ValueError:
            known = ", ".join(kinds)
            refuse(where, f"is {shown(value)}; it must be one of: {known}", code=code, value=str(value)[:100])

    return check_member


def members(kinds: type[E], code: str) -> Check:
    """Return a check for one or several members of ``kinds``; its normal form is a tuple of them, or ``None`` for no filter."""
    one = member(kinds, code)

    def check_members(value: Any, where: str) -> tuple[E, ...] | None:
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Iterable):
            return (one(value, where),)
        return tuple(dict.fromkeys(one(item, where) for item in value))

    return check_members


def json_map(value: Any, where: str) -> FrozenMap:
    """Accept a map of JSON values with string keys, at most :data:`MAX_JSON_DEPTH` deep. Returns a frozen copy."""
    if type(value) is FrozenMap:
        return value
    if not is_map(value):
        refuse(where, f"must be a map, not {kind(value)}")
    return _frozen_map(value, where, MAX_JSON_DEPTH)


def json_map_or_empty(value: Any, where: str) -> FrozenMap:
    """Accept a map as :func:`json_map` has it; ``None`` is an empty one."""
    return EMPTY if value is None else json_map(value, where)


def tags(value: Any, where: str) -> FrozenList:
    """Accept a list of strings; ``None`` is an empty one. Returns a frozen copy."""
    if value is None:
        return FrozenList()
    if not isinstance(value, list | tuple):
        refuse(where, f"must be a list of strings, not {kind(value)}")
    return FrozenList(text(item, f"{where}[{index}]") for index, item in enumerate(value))


def encodable(value: str, where: str) -> None:
    """Refuse text that has no UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(where, "contains a lone surrogate, which has no UTF-8")


def is_map(value: Any) -> bool:
    """Tell whether a value is a map. Nearly every one is a ``dict``, which is told much faster."""
    return type(value) is dict or isinstance(value, Mapping)


def kind(value: Any) -> str:
    """Name the type of a value for a message."""
    return "None" if value is None else type(value).__name__


def shown(value: Any) -> str:
    """Show a value in a message, shortened."""
    string = repr(value)
    return string if len(string) <= 100 else f"{string[:97]}…"


def _frozen(value: Any, where: str, depth: int) -> Any:
    """Check one JSON value and freeze it."""
    if type(value) is str and value.isascii():
        return value
    if value is None or value is True or value is False:
        return value
    if is_map(value) or isinstance(value, list):
        if depth == 0:
            refuse(where[:200], f"nests deeper than {MAX_JSON_DEPTH} levels")
        if isinstance(value, list):
            return FrozenList(_frozen(item, f"{where}[{index}]", depth - 1) for index, item in enumerate(value))
        return _frozen_map(value, where, depth)
    return _json_scalar(value, where)


def _frozen_map(value: Mapping[Any, Any], where: str, depth: int) -> FrozenMap:
    """Check a map and freeze it."""
    if not value:
        return EMPTY
    return FrozenMap({_json_key(key, where): _frozen(item, f"{where}.{key}", depth - 1) for key, item in value.items()})


def _json_key(key: Any, where: str) -> str:
    if type(key) is str and key.isascii():
        return key
    if not isinstance(key, str):
        refuse(where, f"must have string keys, not {shown(key)} ({kind(key)})")
    if not key.isascii():
        encodable(key, where)
    return str.__str__(key)


def _json_scalar(value: Any, where: str) -> str | int | float:
    if isinstance(value, str):
        if not value.isascii():
            encodable(value, where)
        return str.__str__(value)
    if isinstance(value, int):
        if not LEAST <= value <= MOST:
            refuse(where, "must fit into 64 bits; give larger integers as strings")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            refuse(where, f"must be finite: JSON has no {value}")
        return float(value)
    refuse(where, f"must be a JSON value (map, list, string, number, bool or None), not {kind(value)}")
