"""Freezing: how free-form maps are checked and made unchangeable, in one walk.

On the way nothing is noted of where in a map the walk is: most maps are right, and the place of a value that has long keys
above it may be longer than all the rest. Only what is refused gathers its place, on its way out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, NoReturn

from asm.core.errors import Error
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.refusals import instead, kind, refusal, shown

__all__ = ["EMPTY", "LEAST", "MAX_JSON_DEPTH", "MAX_VALUES", "MOST", "frozen", "held", "is_map"]

EMPTY: Final = FrozenMap()
"""The map without anything in it. It never changes, so one is enough."""

MAX_JSON_DEPTH: Final = 64
"""How deep maps and lists may nest in a free-form map."""

MAX_VALUES: Final = 1_000_000
"""How many values a map, and a message, may have: each key, each element and each map or list counted."""

LEAST: Final = -(2**63)
MOST: Final = 2**63 - 1
"""The integers that every part of asm can carry: 64 bits, signed."""

SHOWN: Final = 200
"""How many characters of the place of a value are shown."""


def frozen(value: Mapping[Any, Any], where: str) -> FrozenMap:
    """Return a frozen copy of a map of JSON values with string keys.

    :param where: what messages call the map.
    :raises Error: ``validation_error`` for anything else inside, with its place, and for a map that is too deep or too large.
    """
    try:
        return _map(value, MAX_JSON_DEPTH, [MAX_VALUES - 1])
    except _Unfit as unfit:
        raise unfit.error(where) from None


def held(value: Any) -> Any:
    """Return a frozen copy of a JSON value that is stored, or was sent by a store: as it is, whatever our checks would say.

    What could not be sent on, and would keep others from being read with it, is shown: integers beyond 64 bits as strings, and
    text that has no UTF-8 with a question mark for each character that has none.
    """
    of = type(value)
    if of is dict:
        return FrozenMap({held(key): held(item) for key, item in value.items()}) if value else EMPTY
    if of is list:
        return FrozenList([item if type(item) in _SENDABLE else held(item) for item in value])
    if of is str and not value.isascii():
        return value.encode(errors="replace").decode()
    if of is int and not LEAST <= value <= MOST:
        return str(value)
    return value


_SENDABLE: Final = frozenset({float, bool, NoneType})


def is_map(value: Any) -> bool:
    """Tell whether a value is a map. Nearly every one is a ``dict``, which is told much faster."""
    return type(value) is dict or isinstance(value, Mapping)


class _Unfit(Exception):  # noqa: N818  # becomes an Error where the name of the map is known
    """A value that cannot be kept."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.path: list[str] = []
        """Where it is: the steps to it, the last one first."""

    def error(self, where: str) -> Error:
        place = where + "".join(reversed(self.path))
        return refusal(place if len(place) <= SHOWN else f"{place[: SHOWN - 1]}…", self.problem)


class _TooMany(_Unfit):
    """A map has too much in it, wherever that was noticed."""

    def __init__(self, values: int) -> None:
        what = f"has {values:,} values or more, each key, element, map and list counted"
        super().__init__(f"{what}; at most {MAX_VALUES:,} are possible: split it")
        self.values = values

    def error(self, where: str) -> Error:
        return refusal(where, self.problem, values=self.values, limit=MAX_VALUES)


def _map(value: Mapping[Any, Any], depth: int, left: list[int]) -> FrozenMap:
    """Freeze a map.

    :param depth: how many levels there may be, with its own.
    :param left: how many values there may still be.
    """
    if not depth:
        _refuse_depth()
    if not value:
        return EMPTY
    _count(left, 2 * len(value))
    done: dict[str, Any] = {}
    for given, item in value.items():
        key = given if type(given) is str and given.isascii() else _key(given)
        if type(item) is str and item.isascii():  # what nearly all of it is
            done[key] = item
            continue
        try:
            done[key] = _value(item, depth - 1, left)
        except _Unfit as unfit:
            unfit.path.append(f".{key}")
            raise
    return FrozenMap(done)


def _list(value: list[Any], depth: int, left: list[int]) -> FrozenList:
    """Freeze a list, as a map."""
    if not depth:
        _refuse_depth()
    _count(left, len(value))
    done: list[Any] = []
    try:
        # Vectors of numbers are the longest lists. A float less itself is 0 unless it is not finite.
        done.extend(item if type(item) is float and item - item == 0.0 else _value(item, depth - 1, left) for item in value)
    except _Unfit as unfit:
        unfit.path.append(f"[{len(done)}]")
        raise
    return FrozenList(done)


def _value(item: Any, depth: int, left: list[int]) -> Any:
    """Freeze any value."""
    of = type(item)
    if of is str:
        return item if item.isascii() else _text(item)
    if of is dict:
        return _map(item, depth, left)
    if of is list:
        return _list(item, depth, left)
    if of is bool or item is None:
        return item
    if of is int or of is float:
        return _number(item)
    return _other(item, depth, left)


def _other(item: Any, depth: int, left: list[int]) -> Any:
    """Freeze a value of a type that stands for one of JSON's."""
    if isinstance(item, str):
        return _text(item)
    if isinstance(item, int | float):
        return _number(item)
    if is_map(item):
        return _map(item, depth, left)
    if isinstance(item, list):
        return _list(item, depth, left)
    raise _Unfit(f"must be a JSON value (map, list, string, number, bool or None), not {kind(item)}{instead(item)}")


def _count(left: list[int], more: int) -> None:
    left[0] -= more
    if left[0] < 0:
        raise _TooMany(MAX_VALUES - left[0])


def _refuse_depth() -> NoReturn:
    raise _Unfit(f"nests deeper than {MAX_JSON_DEPTH} levels")


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise _Unfit(f"must have string keys, not {shown(key)} ({kind(key)}); give str(…)")
    return _text(key)


def _text(value: str) -> str:
    """Return the text itself, of a member of an Enum, too."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unfit("contains a lone surrogate, which has no UTF-8") from None
    return str.__str__(value)


def _number(value: float) -> int | float:
    if isinstance(value, int):
        if not LEAST <= value <= MOST:
            raise _Unfit("must fit into 64 bits; give larger integers as strings")
        return int(value)
    if not math.isfinite(value):
        raise _Unfit(f"must be finite: JSON has no {value}{instead(value)}")
    return float(value)
