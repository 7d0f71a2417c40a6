"""Token usage, added up: maps of numbers as providers report them, also in nested maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from asm.core import checks

__all__ = ["add", "is_number", "require_addable"]


def add(total: dict[str, Any], usage: Mapping[str, Any]) -> None:
    """Add a map to a total, number by number. What is no number is passed over.

    Where one has a map with numbers in it and another a number, the map counts: so the order in which maps are added makes no
    difference.
    """
    for key, value in usage.items():
        before = total.get(key)
        if checks.is_map(value):
            inside = dict(before or {}) if checks.is_map(before) else {}
            add(inside, value)
            if inside:
                total[key] = inside
        elif is_number(value) and not checks.is_map(before):
            total[key] = (before if is_number(before) else 0) + value


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a number. ``True`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def require_addable(total: Mapping[str, Any], usage: Mapping[str, Any], place: str = "") -> None:
    """Refuse a map in which anything is neither a number nor a map of numbers, or is not what a total has in its place.

    ``None`` is passed over: providers report it for what they did not count.

    :param place: where both maps are in those that they are part of.
    :raises Error: ``validation_error``.
    """
    for key, value in usage.items():
        before = total.get(key)
        if checks.is_map(value):
            if before is not None and not checks.is_map(before):
                checks.refuse(f"Run.token_usage{place}.{key}", f"must be a map, not {checks.shown(before)}")
            require_addable(before or {}, value, f"{place}.{key}")
            continue
        for name, item in (("usage", value), ("Run.token_usage", before)):
            if item is not None and not is_number(item):
                checks.refuse(f"{name}{place}.{key}", f"must be a number, not {checks.shown(item)}")
