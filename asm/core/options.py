"""The options of a store, described once: by the signature of its constructor, in which each type stands with its check.

::

    class Shelf:
        @options
        def __init__(self, *, root: Path, create: Flag = True) -> None: ...

What the constructor checks, what is checked before anything starts, and what a configuration refuses: all of it follows. A
constructor without checks, as other people's stores have it, is read as well: a type for which TOML has a form is the check.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from asm.core import checks
from asm.core.errors import Error

__all__ = ["Option", "Options", "options", "options_of"]

P = ParamSpec("P")
R = TypeVar("R")

REQUIRED: Final = inspect.Parameter.empty
"""The default of an option that must be given."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a store."""

    name: str
    annotation: Any
    """Its type, without the check."""
    check: checks.Check
    default: Any
    """What it is when it is not given, or :data:`REQUIRED`."""


@dataclass(frozen=True, slots=True)
class Options:
    """All options of a store."""

    store: str
    """The name of its class."""
    known: Mapping[str, Option]
    others: bool
    """Whether it takes others, too, of which nothing is known."""

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return options in their normal form, with the defaults of those that are not given.

        :raises Error: ``validation_error`` with the name of the first that is wrong in ``details["field"]``.
        """
        for error in self._misnamed(given):
            raise error
        return {**given, **self.pick(given)}

    def pick(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what :meth:`check` does, of those that are known here: a subclass may take others, and not all of these."""
        defaults = {name: option.default for name, option in self.known.items() if option.default is not REQUIRED}
        return defaults | {name: self._checked(name, value) for name, value in given.items() if name in self.known}

    def problems(self, given: Mapping[str, Any]) -> Iterator[Error]:
        """Yield all that is wrong with options, as :meth:`check` raises the first."""
        yield from self._misnamed(given)
        for name, value in given.items():
            try:
                self._checked(name, value)
            except Error as error:
                yield error

    def _misnamed(self, given: Mapping[str, Any]) -> Iterator[Error]:
        takes = f"takes: {', '.join(self.known)}" if self.known else "takes no options"
        for name in given:
            if name not in self.known and not self.others:
                yield checks.refusal(name, f"is no option of {self.store}; it {takes}")
        for name, option in self.known.items():
            if option.default is REQUIRED and name not in given:
                yield checks.refusal(name, f"is required by {self.store}")

    def _checked(self, name: str, value: Any) -> Any:
        return self.known[name].check(value, name) if name in self.known else value


def options(constructor: Callable[P, R]) -> Callable[P, R]:
    """Have the constructor of a store check its options; it finds them in their normal form.

    :raises TypeError: when one of them can be given by position.
    """
    known, others = _read(constructor)
    if any(item.kind is item.POSITIONAL_OR_KEYWORD for item in list(inspect.signature(constructor).parameters.values())[1:]):
        message = f"the options of {constructor.__qualname__} must be keywords"
        raise TypeError(message)

    @functools.wraps(constructor)
    def checked(*args: Any, **given: Any) -> Any:
        described = Options(type(args[0]).__name__, known, others=others)
        return constructor(*args, **described.check(given))

    return typing.cast("Callable[P, R]", checked)


def options_of(store: type) -> Options:
    """Return the options of a store: those of its constructor, and of the next one that it hands others on to."""
    known: dict[str, Option] = {}
    others = False
    for constructor in [vars(kind)["__init__"] for kind in store.__mro__[:-1] if "__init__" in vars(kind)]:
        its, others = _read(constructor)
        known = its | known
        if not others:
            break
    return Options(store.__name__, known, others=others)


@functools.cache
def _read(constructor: Callable[..., Any]) -> tuple[dict[str, Option], bool]:
    """Read the description of options, and whether there are others."""
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except Exception:  # noqa: BLE001  # names that only a type checker knows: then the names of the options are what is checked
        hints = {}
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    named = [item for item in parameters if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)]
    known = {item.name: _option(item.name, hints.get(item.name, Any), item.default) for item in named}
    return known, any(item.kind is item.VAR_KEYWORD for item in parameters)


def _option(name: str, hint: Any, default: Any) -> Option:
    if typing.get_origin(hint) is typing.Annotated:
        found = next((item for item in hint.__metadata__ if callable(item)), None)
        if found is not None:
            return Option(name, hint.__origin__, found, default)
        hint = hint.__origin__
    return Option(name, hint, _check_of(hint), default)


def _check_of(hint: Any) -> checks.Check:
    """Return the check of a type that has none. For what TOML has no form, that is the store's own affair."""
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    choices = [choice for part in parts if typing.get_origin(part) is typing.Literal for choice in typing.get_args(part)]
    kinds = [part for part in parts if typing.get_origin(part) is not typing.Literal]
    if not all(part in _FORMS for part in kinds):
        return lambda value, _where: value
    expected = " or ".join([*(_FORMS[part] for part in kinds if part is not type(None)), *map(repr, choices)])

    def check(value: Any, where: str) -> Any:
        chosen = any(type(value) is type(choice) and value == choice for choice in choices)
        if not chosen and not any(_is(value, part) for part in kinds):
            checks.refuse(where, f"must be {expected}, not {checks.kind(value) if kinds else checks.shown(value)}")
        return value

    return check


_FORMS: Final[dict[Any, str]] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "none",
}
"""The types that TOML has a form for, and how it is called."""


def _is(value: Any, kind: type) -> bool:
    """Tell whether a value is of a type; no truth value is a number, and a whole one is a number as well."""
    return isinstance(value, (int, float) if kind is float else kind) and not (isinstance(value, bool) and kind is not bool)
