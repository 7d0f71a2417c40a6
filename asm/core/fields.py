"""What the values share: how their fields are checked, and the way to and from maps.

Writing is strict, and reading is tolerant. Whoever makes a value, or gives one as a map, has all of it checked. What is stored
may be older or newer than the code that reads it, and one value that could not be read would hide those beside it: so
:meth:`Value.read` takes it as it is. Between the two stands :meth:`Value.receive`, for a process that stores what others made.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self, TypeVar, get_type_hints

from asm.core import checks
from asm.core.errors import Error

__all__ = [
    "Count",
    "Given",
    "Id",
    "Map",
    "OptionalMap",
    "OptionalName",
    "OptionalTime",
    "Time",
    "Value",
    "fields_of",
    "optional",
    "put",
]

V = TypeVar("V", bound="Value")


def optional(check: checks.Check, *tolerant: checks.Check) -> tuple[checks.Check, ...]:
    """Return checks that let ``None`` pass."""
    return tuple(map(checks.optional, (check, *tolerant)))


class Given(NamedTuple):
    """Stands behind the type of a field where a caller may give something else than what the field can hold."""

    annotation: Any


# Behind the type of a field stands what checks it when it is made, then what checks it when it is received, if that is another
# check, and then what takes it when it is read, if that is another one.
Id = Annotated[str, checks.identifier, checks.held_text]
OptionalName = Annotated[str | None, *optional(checks.name, checks.held_text)]
Time = Annotated[datetime, checks.utc_time]
OptionalTime = Annotated[datetime | None, *optional(checks.utc_time)]
Map = Annotated[Mapping[str, Any], Given(Mapping[str, Any] | None), checks.json_map_or_empty, checks.held_map_or_empty]
OptionalMap = Annotated[Mapping[str, Any] | None, *optional(checks.json_map, checks.held_map)]
Count = Annotated[int, checks.count, checks.held_int]


class _Field(NamedTuple):
    """How a field of a value is made."""

    name: str
    where: str
    """What messages call it."""
    check: checks.Check
    required: bool
    default: Any
    """What it holds when it is not given, in its normal form …"""
    factory: Callable[[], Any] | None
    """… or what makes that."""


put: Final = object.__setattr__
"""Sets a field of a value that is being made; afterwards none changes."""


class Value:
    """What the values share: checks at construction, and the way to and from maps."""

    __slots__ = ()

    _fields: ClassVar[tuple[_Field, ...]]
    """How they are made from what a caller gives …"""
    _received: ClassVar[tuple[_Field, ...]]
    """… from what another process wants stored …"""
    _held: ClassVar[tuple[_Field, ...]]
    """… and from what is stored."""
    _names: ClassVar[tuple[str, ...]]
    """The names of the fields."""
    _get: ClassVar[Any]
    """Returns what they hold."""
    _told: ClassVar[frozenset[str]]
    """The names of those that are something else than ``None`` when they are missing."""
    _times: ClassVar[frozenset[str]]
    """The names of those that hold a time."""
    _given: ClassVar[Mapping[str, Any]]
    """The types of what a caller may give for them."""

    def __post_init__(self) -> None:
        """Check every field and put it into its normal form.

        :raises Error: ``validation_error``, ``invalid_status`` or ``invalid_event_type``, naming the field.
        """
        for name, where, check, *_default in self._fields:
            put(self, name, check(getattr(self, name), where))

    def to_map(self) -> dict[str, Any]:
        """Return a plain map of JSON values; times are ISO 8601 in UTC with microseconds."""
        return {name: _plain(value) for name, value in self.to_fields().items()}

    @classmethod
    def from_map(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a value from :meth:`to_map`.

        :raises Error: ``validation_error`` for a field that is missing, unknown or malformed, and as the constructor.
        """
        return cls.from_fields(cls._parsed(data))

    @classmethod
    def receive_map(cls, data: Mapping[str, Any]) -> Self:
        """Build a value from :meth:`to_map` that another process made. Tolerates and raises as :meth:`receive`."""
        return cls.receive(cls._parsed(data))

    @classmethod
    def _parsed(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields in a map, times as ``datetime``."""
        _must_be_map(cls, data)
        return {str(name): _time(data[name], f"{cls.__name__}.{name}") if name in cls._times else data[name] for name in data}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Build a value from a map of its fields with times as ``datetime``.

        :raises Error: as :meth:`from_map`.
        """
        return cls._build(fields, cls._fields, strict=True)

    @classmethod
    def receive(cls, fields: Mapping[str, Any]) -> Self:
        """Build a value that another process wants stored, and has checked, unless it is none of ours.

        It may be a later version: a field that is unknown is passed over, and a type or status that is unknown stays a string.

        :raises Error: as :meth:`from_map`, for the rest.
        """
        return cls._build(fields, cls._received)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """Build a value from its fields as a store holds them or has sent them, times as ``datetime``.

        A field that is unknown is passed over, and a type or status that is unknown is a string. Limits are those of whoever
        wrote it.

        :raises Error: ``validation_error`` when it is no such value at all: a field is missing, or holds what it never can.
        """
        return cls._build(fields, cls._held)

    @classmethod
    def _build(cls, fields: Mapping[str, Any], made: tuple[_Field, ...], *, strict: bool = False) -> Self:
        """Build a value whose fields are made so. A strict one has no others."""
        _must_be_map(cls, fields)
        # Not by the constructor: every event that travels is built here, and this takes half the time.
        value = object.__new__(cls)
        known = 0
        for name, where, check, required, default, factory in made:
            if name in fields:
                known += 1
                put(value, name, check(fields[name], where))
            elif not required:
                put(value, name, default if factory is None else factory())
            else:
                missing = [field.name for field in made if field.required and field.name not in fields]
                raise Error("validation_error", f"{cls.__name__} lacks {', '.join(missing)}", details={"missing": missing})
        if strict and known < len(fields):
            cls._refuse_unknown(fields)
        return value

    @classmethod
    def _refuse_unknown(cls, names: Iterable[Any]) -> None:
        if unknown := sorted(repr(name) for name in names if name not in cls._names):
            checks.refuse(cls.__name__, f"has no field {', '.join(unknown)}")

    def _changed(self, **changes: Any) -> Self:
        """Return the value with these fields, checked. The others stay as they are: they were checked, or came from a store."""
        self._refuse_unknown(changes)
        value = object.__new__(type(self))
        for name, where, check, *_default in self._fields:
            put(value, name, check(changes[name], where) if name in changes else getattr(self, name))
        return value

    def to_fields(self) -> dict[str, Any]:
        """Return the fields by name, as they are. The opposite of :meth:`from_fields`."""
        return dict(zip(self._names, self._get(self), strict=True))

    def held_fields(self) -> dict[str, Any]:
        """Return the fields, without those that are ``None`` and are so, too, when they are missing."""
        fields = zip(self._names, self._get(self), strict=True)
        return {name: value for name, value in fields if value is not None or name in self._told}


def fields_of(cls: type[V]) -> type[V]:
    """Read how the fields of a value are made from its annotations."""
    hints = get_type_hints(cls, include_extras=True)
    fields: Any = dataclasses.fields(cls)  # type: ignore[arg-type]  # every caller is a dataclass
    behind = {item.name: hints[item.name].__metadata__ for item in fields}
    checked = {name: tuple(each for each in found if not isinstance(each, Given)) for name, found in behind.items()}

    def made(chosen: Callable[[tuple[checks.Check, ...]], checks.Check]) -> tuple[_Field, ...]:
        return tuple(
            _Field(item.name, f"{cls.__name__}.{item.name}", chosen(checked[item.name]), *_default(item)) for item in fields
        )

    cls._fields = made(operator.itemgetter(0))
    cls._received = made(lambda found: found[1] if len(found) > 2 else found[0])
    cls._held = made(operator.itemgetter(-1))
    cls._names = tuple(item.name for item in fields)
    cls._get = staticmethod(operator.attrgetter(*cls._names))
    cls._told = frozenset(item.name for item in fields if item.default not in (dataclasses.MISSING, None))
    cls._times = frozenset(name for name in hints if hints[name] in (Time, OptionalTime))
    cls._given = {
        name: next((each.annotation for each in found if isinstance(each, Given)), hints[name].__origin__)
        for name, found in behind.items()
    }
    return cls


def _default(item: dataclasses.Field[Any]) -> tuple[bool, Any, Callable[[], Any] | None]:
    """Return whether a field is required, its default, and what makes that."""
    if item.default_factory is not dataclasses.MISSING:
        return False, None, item.default_factory
    return item.default is dataclasses.MISSING, item.default, None


def _plain(value: Any) -> Any:
    """Turn a field into JSON values that its owner may change."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def _time(value: Any, where: str) -> Any:
    """Read a time from ISO 8601; what is no text is left to the check."""
    if not isinstance(value, str):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        checks.refuse(where, f"must be a time in ISO 8601, not {checks.shown(value)}")


def _must_be_map(cls: type[Value], value: Any) -> None:
    if not checks.is_map(value):
        checks.refuse(cls.__name__, f"must be a map, not {checks.kind(value)}")
