"""What a free-form map must have in it to be found. A database that cannot tell all of it asks here about what it found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["has_items", "has_text"]


def has_text(data: Any, folded: str) -> bool:
    """Tell whether a text occurs in a map: within a key or a value that is a string, however deep, whatever the case.

    :param folded: the text, after :meth:`str.casefold`.
    """
    if isinstance(data, str):
        return folded in data.casefold()
    if isinstance(data, dict):
        return not folded or any(folded in key.casefold() or has_text(value, folded) for key, value in data.items())
    return isinstance(data, list) and any(has_text(item, folded) for item in data)


def has_items(data: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether a map has some values under their keys."""
    return all(key in data and _equal(data[key], value) for key, value in wanted.items())


def _equal(one: Any, other: Any) -> bool:
    """Compare as JSON does: to Python, 1 is ``True``."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and has_items(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
