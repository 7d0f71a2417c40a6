"""Cursors: where a page of a search ended, as text that is opaque to whoever carries it.

::

    base64url(  8 bytes of a SHA-256 of the rest,
                JSON: [version, operation, digest of filters and order, position]  )

A cursor holds all that is needed to go on, so it survives restarts and is good in any store that holds the same. Its position
is that of the last item of the page, in the order of the search: what is inserted or deleted meanwhile moves nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from asm.core.errors import Error
from asm.operations import OPERATIONS

__all__ = ["cursor_at", "position_of"]

VERSION: Final = 1
"""Another number stands for another order of some search, or another way to write a position."""

SEAL: Final = 8
"""How many bytes tell that a cursor is whole."""


def cursor_at(operation: str, arguments: Mapping[str, Any], position: tuple[Any, ...]) -> str:
    """Return the cursor of a page.

    :param operation: the search, such as ``search_runs``.
    :param arguments: its arguments by name, checked; what is left out has its default.
    :param position: what the last item of the page has of what the order compares: times, texts and numbers.
    """
    places = [[item.isoformat(timespec="microseconds")] if isinstance(item, datetime) else item for item in position]
    return _text([VERSION, operation, _digest(operation, arguments), places])


def position_of(operation: str, arguments: Mapping[str, Any], *kinds: type | tuple[type, ...]) -> tuple[Any, ...] | None:
    """Return the position in the cursor among the arguments of a search; ``None`` if there is none.

    :param kinds: the type of each part of the position, or several of which any will do.
    :raises Error: ``invalid_cursor`` for one of another search, other filters or another order, of another version, or one
        that is cut or altered.
    """
    cursor = arguments.get("cursor")
    if cursor is None:
        return None
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        content = json.loads(raw[SEAL:])
        whole = _text(content) == cursor
    except (UnicodeError, binascii.Error, ValueError, RecursionError):
        whole = False
    if not whole or not isinstance(content, list) or not content:
        _refuse("is none, or was cut or altered on its way")
    if content[0] != VERSION or len(content) != 4:
        _refuse("is of another version of asm")
    if content[1] != operation:
        _refuse(f"belongs to {content[1]}, and not to {operation}")
    if content[2] != _digest(operation, arguments):
        _refuse("belongs to a search with other filters or another order: all but limit must stay what they were")
    position = tuple(map(_placed, content[3])) if isinstance(content[3], list) else ()
    if len(position) != len(kinds) or not all(map(isinstance, position, kinds)):
        _refuse("was altered on its way")
    return position


def _digest(operation: str, arguments: Mapping[str, Any]) -> str:
    """Return what tells this search from others: its filters and its order."""
    parameters = OPERATIONS[operation].signature.parameters
    filters = {name: arguments.get(name, parameters[name].default) for name in OPERATIONS[operation].parameters}
    told = {name: _plain(value) for name, value in filters.items() if name not in ("cursor", "limit")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Return a filter as JSON: several values in no order."""
    if isinstance(value, datetime):
        return value.isoformat()
    return sorted(value) if isinstance(value, tuple) else value


def _text(content: Any) -> str:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(text).digest()[:SEAL] + text).rstrip(b"=").decode()


def _placed(item: Any) -> Any:
    """Return what stands in a position: a time is a list of its text."""
    if not isinstance(item, list):
        return item
    try:
        return datetime.fromisoformat(item[0]).astimezone(UTC)
    except (IndexError, TypeError, ValueError, OverflowError):
        return None


def _refuse(problem: str) -> NoReturn:
    raise Error(
        "invalid_cursor", f"cursor {problem}; search again without it, from the first page", details={"field": "cursor"}
    )
