"""How values are made and changed: ``new`` and ``changed``, derived from the fields, each of which is spelled once.

What type checkers and editors read of them is made from the fields, too (:mod:`asm.core.forms`).
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from asm.core import checks
from asm.core.errors import Error
from asm.core.fields import Value

__all__ = ["changing", "fresh_id", "made", "now"]

V = TypeVar("V", bound=Value)
Makers = Mapping[str, Callable[[], Any]]

RAISES: Final = ":raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field."


def made(fresh: Makers, *, like: Mapping[str, str] | None = None) -> Callable[[type[V]], type[V]]:
    """Return a class decorator for a value: it gets ``new``.

    :param fresh: what makes those fields that a caller may leave out, or give as ``None``, although they are never empty.
    :param like: those that are then what another one of these is.
    """

    def decorate(cls: type[V]) -> type[V]:
        cls.new = classmethod(_new(cls, fresh, like or {}))  # type: ignore[attr-defined]  # a type checker knows its form
        return cls

    return decorate


def changing(follow: Makers) -> Callable[[type[V]], type[V]]:
    """Return a class decorator for a value: it gets ``changed``.

    :param follow: what makes those fields that follow when others are changed.
    """

    def decorate(cls: type[V]) -> type[V]:
        cls.changed = _changed(cls, follow)  # type: ignore[attr-defined]  # likewise
        return cls

    return decorate


def now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def fresh_id(prefix: str) -> Callable[[], str]:
    """Return what makes ids: UUIDs of version 7 (RFC 9562), behind a prefix.

    They begin with the time, so what is made together stands together in the index of a database. With random ids each event
    of a batch would change a page of its own there.
    """

    def make() -> str:
        number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
        return f"{prefix}_{number & ~_FIXED | _VERSION_7:032x}"

    return make


_FIXED: Final = 0xF << 76 | 0b11 << 62
_VERSION_7: Final = 7 << 76 | 0b10 << 62
"""The bits of a UUID that say how it was made."""


def _new(cls: type[V], fresh: Makers, like: Mapping[str, str]) -> Callable[..., V]:
    makers, copies = tuple(fresh.items()), tuple(like.items())
    signature = _new_signature(cls, {*fresh, *like})

    def new(cls: type[V], /, *args: Any, **given: Any) -> V:
        if args:
            _require_call(signature, cls, *args, **given)
        for name, make in makers:
            if given.get(name) is None:
                given[name] = make()
        for name, other in copies:
            if given.get(name) is None:
                given[name] = given[other]
        try:
            return cls._build(given, cls._fields, strict=True)
        except Error:
            _require_call(signature, cls, **given)
            raise

    params = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[2]
    what = checks.a(cls.__name__.lower())
    doc = f"Make {what}, with a fresh id and the present time where none is given.\n\n{params}\n{RAISES}"
    return _called(new, cls, signature, doc)


def _new_signature(cls: type[Value], optional: Collection[str]) -> inspect.Signature:
    """Return the signature of ``new``: what is required stands in front."""
    required, others = [], []
    for name, _where, _check, needed, default, factory in cls._fields:
        if name in optional:
            others.append(_keyword(name, cls._given[name] | None, None))
        elif needed:
            required.append(_keyword(name, cls._given[name]))
        else:
            others.append(_keyword(name, cls._given[name], default if factory is None else None))
    return inspect.Signature([_itself("cls"), *required, *others], return_annotation=cls)


def _changed(cls: type[V], follow: Makers) -> Callable[..., V]:
    parameters = [_keyword(field.name, cls._given[field.name], ...) for field in cls._fields]

    def changed(self: V, /, **fields: Any) -> V:
        return self._changed(**{name: make() for name, make in follow.items()} | fields)

    meanwhile = "".join(f", and the present time as ``{name}`` unless that is one of them" for name in follow)
    doc = f"Return the {cls.__name__.lower()} with other fields{meanwhile}.\n\n{RAISES}"
    return _called(changed, cls, inspect.Signature([_itself("self"), *parameters], return_annotation=cls), doc)


def _require_call(signature: inspect.Signature, cls: type[Value], *args: Any, **given: Any) -> None:
    """Refuse arguments that are too many, missing or unknown, in the words of a call.

    :raises Error: ``validation_error``.
    """
    try:
        signature.bind(cls, *args, **given)
    except TypeError as misuse:
        raise Error("validation_error", f"{cls.__name__}: {misuse}") from None


def _itself(name: str) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY)


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _called(function: Callable[..., V], cls: type[V], signature: inspect.Signature, doc: str) -> Callable[..., V]:
    """Have a function look as if it had been written in the class."""
    function.__qualname__ = f"{cls.__qualname__}.{function.__name__}"
    function.__module__ = cls.__module__
    function.__doc__ = doc
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
