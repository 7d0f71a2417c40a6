"""Free-form maps as JSON text, written in steps of which none takes long.

The encoder of the standard library is one call, in which no other thread of the process gets on. With a million values, which
one message may hold, that is a fifth of a second, for the writer of a store and for everybody whom its worker serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["dumps"]

LARGE: Final = 20_000
"""How many values are encoded in one step."""

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Any) -> str:
    """Return JSON text, as short as it can be.

    :param value: of maps with string keys, lists, strings, numbers, booleans and ``None``.
    :raises ValueError: for a number that is not finite.
    """
    return _encode(value) if _count(value) < LARGE else "".join(_pieces(value))


def _count(value: Any) -> int:
    """Count the values inside a value, up to :data:`LARGE` or a little more."""
    found, inside = 1, [value]
    while inside and found < LARGE:
        item = inside.pop()
        if isinstance(item, dict):
            found += len(item)
            inside += [child for child in item.values() if isinstance(child, dict | list)]
        elif isinstance(item, list):
            found += len(item)
            inside += [child for child in item if isinstance(child, dict | list)]
    return found


def _pieces(value: Any) -> Iterator[str]:
    """Yield the text of a large map or list: of many small items at once, and of a large item in pieces of its own."""
    is_map = isinstance(value, dict)
    group: list[Any] = []
    weight, separator = 0, ""
    yield "{" if is_map else "["
    for item in value.items() if is_map else value:
        child = item[1] if is_map else item
        count = _count(child)
        if group and weight + count >= LARGE:
            yield separator + _inside(group, is_map=is_map)
            group, weight, separator = [], 0, ","
        if count >= LARGE:
            yield f"{separator}{_encode(item[0])}:" if is_map else separator
            yield from _pieces(child)
            separator = ","
        else:
            group.append(item)
            weight += count
    if group:
        yield separator + _inside(group, is_map=is_map)
    yield "}" if is_map else "]"


def _inside(items: list[Any], *, is_map: bool) -> str:
    return _encode(dict(items) if is_map else items)[1:-1]
