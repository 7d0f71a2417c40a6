"""Checks of single values: what a field or an argument may hold.

A check takes a value and the name of the place that it was given in, and returns the value in its
normal form or raises. Fields of the values (:mod:`asm.core.values`) and arguments of the contracts
(:mod:`asm.ports`) name their check in their annotation: ``Annotated[int | None, limit]``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeVar

from asm.core.freezing import EMPTY, LEAST, MAX_JSON_DEPTH, MAX_VALUES, MOST, frozen, held, is_map
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.refusals import a, instead, kind, refusal, refuse, shown

__all__ = [
    "LEAST",
    "MAX_ID_BYTES",
    "MAX_JSON_DEPTH",
    "MAX_KEY_BYTES",
    "MAX_VALUES",
    "MOST",
    "Check",
    "a",
    "amount",
    "count",
    "counts",
    "flag",
    "held_amount",
    "held_int",
    "held_kind",
    "held_map",
    "held_map_or_empty",
    "held_tags",
    "held_text",
    "identifier",
    "instead",
    "is_map",
    "json_map",
    "json_map_or_empty",
    "kind",
    "limit",
    "list_of",
    "member",
    "members",
    "name",
    "named",
    "one_of",
    "optional",
    "refusal",
    "refuse",
    "seconds",
    "shown",
    "tags",
    "text",
    "utc_time",
    "whole",
]

MAX_ID_BYTES: Final = 1024
"""How many bytes of UTF-8 an id, a name or the key of an artifact may have."""

MAX_KEY_BYTES: Final = MAX_ID_BYTES

MAX_KIND: Final = 128
"""How many characters an event type of one's own may have."""

OWN: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
"""What an event type of one's own looks like."""

WORD: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")
"""What any event type or status looks like, also one that only a later version knows."""

EPOCH: Final = datetime.fromtimestamp(0, UTC)

Check = Callable[[Any, str], Any]
E = TypeVar("E", bound=StrEnum)


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
        refuse(where, f"must be a string, not {kind(value)}{instead(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        refuse(where, "contains a lone surrogate, which has no UTF-8")
    if "\0" in value:
        refuse(where, "must not contain the character NUL")
    return str.__str__(value)  # the text itself, of a member of an Enum, too


def name(value: Any, where: str) -> str:
    """Accept text that names something, possibly empty: at most :data:`MAX_ID_BYTES` bytes, which every index can hold."""
    if type(value) is str and len(value) <= MAX_ID_BYTES and value.isascii() and "\0" not in value:  # nearly all of it
        return value
    checked = text(value, where)
    if (size := len(checked.encode())) > MAX_ID_BYTES:
        refuse(where, f"must have at most {MAX_ID_BYTES:,} bytes of UTF-8, not {size:,}", byte_size=size, limit=MAX_ID_BYTES)
    return checked


def identifier(value: Any, where: str) -> str:
    """Accept a name that is not empty: an id, an agent, the key of an artifact."""
    if type(value) is str and 0 < len(value) <= MAX_ID_BYTES and value.isascii() and "\0" not in value:  # nearly all of them
        return value
    if value is None or value == "":
        refuse(where, "is required and must not be empty")
    return name(value, where)


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


def whole(least: int, greatest: int) -> Check:
    """Return a check for a whole number in a range."""
    return _between("a whole number", int, least, greatest)


def seconds(least: float, greatest: float) -> Check:
    """Return a check for a number of seconds in a range."""
    return _between("a number of seconds", (int, float), least, greatest)


def _between(what: str, kinds: Any, least: float, greatest: float) -> Check:
    expected = f"must be {what} from {least} to {greatest}"

    def check_between(value: Any, where: str) -> Any:
        if not isinstance(value, kinds) or isinstance(value, bool):
            refuse(where, f"{expected}, not {kind(value)}")
        if not least <= value <= greatest:
            refuse(where, f"{expected}, not {value}")
        return value

    return check_between


def amount(value: Any, where: str) -> float:
    """Accept a finite number."""
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        refuse(where, f"must be a finite number, not {shown(value)}")
    return number


def utc_time(value: Any, where: str) -> datetime:
    """Accept an aware time, turned to UTC. A naive one is refused, because nobody knows which moment it means."""
    if type(value) is datetime and value.tzinfo is UTC:
        return value
    if not isinstance(value, datetime):
        ways = {str: "datetime.fromisoformat(…)", int: (stamp := "datetime.fromtimestamp(…, timezone.utc)"), float: stamp}
        way = ways.get(type(value))
        refuse(where, f"must be a datetime, not {kind(value)}{f'; give {way}' if way else ''}")
    if value.utcoffset() is None:
        refuse(where, "must be an aware datetime; give it a time zone, such as datetime.now(timezone.utc)")
    try:
        return EPOCH + (value - EPOCH)
    except OverflowError:
        refuse(where, f"is out of range in UTC: {value.isoformat()}")


def member(kinds: type[E], code: str, *, own: bool = False) -> Check:
    """Return a check for a member of ``kinds`` or its text. An unknown one is refused with ``code``.

    :param own: whether text with a dot that looks like :data:`OWN` will do, too. It stays text.
    """
    by_text: dict[str, E | str] = {str(item): item for item in kinds}
    known = ", ".join(kinds)
    if own:
        known += (
            f"; or one of your own, with a dot in it, such as 'myapp.thought': a-z, 0-9 and _, at most {MAX_KIND} characters"
        )

    def check_member(value: Any, where: str) -> E | str:
        found = by_text.get(value) if isinstance(value, str) else None
        if found is None and own and _is_kind(value, OWN):
            found = str.__str__(value)
        if found is None:
            refuse(where, f"is {shown(value)}; it must be one of: {known}", code=code, value=str(value)[:100])
        return found

    return check_member


def named(kinds: type[E], code: str) -> Check:
    """Return a check for a member of ``kinds`` or any word that may be one in a later version, and then stays text."""
    by_text: dict[str, E | str] = {str(item): item for item in kinds}

    def check_named(value: Any, where: str) -> E | str:
        found = by_text.get(value, value) if isinstance(value, str) else None
        if found is None or (found is value and not _is_kind(value, WORD)):
            refuse(where, f"is {shown(value)}, which is none in any version", code=code, value=str(value)[:100])
        return found

    return check_named


def _is_kind(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and len(value) <= MAX_KIND and form.fullmatch(value) is not None


def members(one: Check) -> Check:
    """Return a check for one or several of what ``one`` accepts. Its normal form is a tuple, or ``None`` for no filter."""

    def check_members(value: Any, where: str) -> tuple[Any, ...] | None:
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, Iterable):
            return (one(value, where),)
        return tuple(dict.fromkeys(one(item, where) for item in value))

    return check_members


def json_map(value: Any, where: str) -> FrozenMap:
    """Accept a map of JSON values with string keys. Returns a frozen copy.

    It may be at most :data:`MAX_JSON_DEPTH` levels deep and have :data:`MAX_VALUES` values.
    """
    if type(value) is FrozenMap:
        return value
    if not is_map(value):
        refuse(where, f"must be a map, not {kind(value)}{instead(value)}")
    return frozen(value, where)


def json_map_or_empty(value: Any, where: str) -> FrozenMap:
    """Accept a map as :func:`json_map` has it; ``None`` is an empty one."""
    return EMPTY if value is None else json_map(value, where)


def flag(value: Any, where: str) -> bool:
    """Accept ``True`` or ``False``."""
    if not isinstance(value, bool):
        refuse(where, f"must be True or False, not {shown(value)}")
    return value


def one_of(*choices: str) -> Check:
    """Return a check for one of these texts."""

    def check_choice(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in choices:
            refuse(where, f"is {shown(value)}; it must be one of: {', '.join(choices)}")
        return str.__str__(value)

    return check_choice


def list_of(one: Check) -> Check:
    """Return a check for a list or tuple of what ``one`` accepts. Returns a frozen copy."""

    def check_list(value: Any, where: str) -> FrozenList:
        if not isinstance(value, list | tuple):
            refuse(where, f"must be a list, not {kind(value)}")
        return FrozenList(one(item, f"{where}[{index}]") for index, item in enumerate(value))

    return check_list


def counts(value: Any, where: str) -> dict[str, int]:
    """Accept a map of whole numbers that are not negative, by id."""
    if not is_map(value):
        refuse(where, f"must be a map of session ids and sequence numbers, not {kind(value)}")
    return {identifier(key, f"a key of {where}"): count(number, f"{where}[{shown(key)}]") for key, number in value.items()}


def tags(value: Any, where: str) -> FrozenList:
    """Accept a list of strings; ``None`` is an empty one. Returns a frozen copy."""
    if value is None:
        return FrozenList()
    if not isinstance(value, list | tuple):
        refuse(where, f"must be a list of strings, not {kind(value)}")
    return FrozenList(text(item, f"{where}[{index}]") for index, item in enumerate(value))


# -- What is stored, or comes from a store, is taken as it is: only what its field can never have is refused -------------------


def held_text(value: Any, where: str) -> str:
    """Take any text."""
    if not isinstance(value, str):
        refuse(where, f"must be a string, not {kind(value)}")
    return value


def held_int(value: Any, where: str) -> int:
    """Take any whole number."""
    if type(value) is not int:
        refuse(where, f"must be a whole number, not {kind(value)}")
    return value


def held_amount(value: Any, where: str) -> float:
    """Take any number."""
    if type(value) is not float and type(value) is not int:
        refuse(where, f"must be a number, not {kind(value)}")
    return float(value)


def held_kind(kinds: type[E]) -> Check:
    """Return what takes a member of ``kinds`` by its text, and any other text as it is."""
    by_text: dict[str, E] = {str(item): item for item in kinds}

    def take(value: Any, where: str) -> E | str:
        text = held_text(value, where)
        return by_text.get(text, text)

    return take


def held_map(value: Any, where: str) -> FrozenMap:
    """Take any map. Returns a frozen copy."""
    if type(value) is FrozenMap:
        return value
    if type(value) is not dict:
        refuse(where, f"must be a map, not {kind(value)}")
    taken: FrozenMap = held(value)
    return taken


def held_map_or_empty(value: Any, where: str) -> FrozenMap:
    """Take any map; ``None`` is an empty one."""
    return EMPTY if value is None else held_map(value, where)


def held_tags(value: Any, where: str) -> FrozenList:
    """Take any list; ``None`` is an empty one."""
    if value is None:
        return FrozenList()
    if type(value) is FrozenList:
        return value
    if type(value) is not list:
        refuse(where, f"must be a list of strings, not {kind(value)}")
    taken: FrozenList = held(value)
    return taken
