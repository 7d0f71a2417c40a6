"""Refusals: how a message says what was wrong, where, and what to give instead."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import os
from collections.abc import Callable, Iterable
from typing import Any, Final, NoReturn

from asm.core.errors import Error

__all__ = ["a", "instead", "kind", "refusal", "refuse", "shown"]


def refuse(where: str, problem: str, *, code: str = "validation_error", **details: Any) -> NoReturn:
    """Raise the error that says what was wrong where."""
    raise refusal(where, problem, code=code, **details)


def refusal(where: str, problem: str, *, code: str = "validation_error", **details: Any) -> Error:
    """Return that error."""
    return Error(code, f"{where} {problem}", details={"field": where, **details})


def kind(value: Any) -> str:
    """Name the type of a value for a message, with its module: ``numpy.bool`` is no ``bool``."""
    if value is None:
        return "None"
    found = type(value)
    return found.__qualname__ if found.__module__ == "builtins" else f"{found.__module__}.{found.__qualname__}"


def a(name: str) -> str:
    """Return the name with its article."""
    return f"an {name}" if name[:1] in "AEIOUaeiou" else f"a {name}"


def shown(value: Any) -> str:
    """Show a value in a message, shortened."""
    string = repr(value)
    return string if len(string) <= 100 else f"{string[:97]}…"


def instead(value: Any) -> str:
    """Return the end of a message: what to give in place of a value that JSON has no form for, where that is obvious.

    What is no part of Python is told by what it can do, so none of it is imported.
    """
    if value is None or (isinstance(value, str | int | list | dict | type) and not isinstance(value, enum.Enum)):
        return ""
    return next((f"; give {way}" for fits, way in _WAYS if fits(value)), "")


def _can(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(callable(getattr(value, name, None)) for name in names)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_called(*names: str) -> Callable[[Any], bool]:
    """Tell kinds by their names that a client need not have: to import them would take it longer than much of its own."""
    return lambda value: any(f"{cls.__module__}.{cls.__qualname__}" in names for cls in type(value).__mro__)


def _is_array(value: Any) -> bool:
    return callable(getattr(value, "tolist", None)) and getattr(value, "ndim", 1) != 0


_WAYS: Final[tuple[tuple[Callable[[Any], bool], str], ...]] = (
    (_is(enum.Enum), "its .value"),
    (_is(float), "None, or str(…)"),  # only one that is not finite is refused
    (_is(dt.date, dt.time), "its .isoformat()"),
    (_is(dt.timedelta), "its .total_seconds()"),
    (_is_called("decimal.Decimal", "fractions.Fraction"), "float(…), or str(…) to keep every digit"),
    (_is_called("uuid.UUID"), "str(…)"),
    (_is(os.PathLike, BaseException), "str(…)"),
    (_is(bytes, bytearray, memoryview), "base64.b64encode(…).decode(), or .decode() of what is text"),
    (_can("to_map"), "its .to_map()"),
    (_can("model_dump"), 'its .model_dump(mode="json")'),
    (dataclasses.is_dataclass, "dataclasses.asdict(…)"),
    (_can("_asdict"), "its ._asdict()"),
    (_is_array, "its .tolist()"),
    (_can("tolist", "item"), "its .item()"),
    (_is(Iterable), "list(…)"),
)
"""What is recognised, and what to give instead; the first that fits counts."""
