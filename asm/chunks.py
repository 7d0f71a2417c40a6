"""What an artifact is put from, as one kind of thing: chunks of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from asm.core import checks
from asm.ports import Data

__all__ = ["CHUNK", "chunks"]

CHUNK: Final = 1024 * 1024
"""How many bytes move at a time. No more of an artifact is in memory than a few of these."""


def chunks(data: Data, size: int = CHUNK) -> Iterator[memoryview]:
    """Yield the bytes of ``data`` in order, at most ``size`` of them at a time.

    :param data: bytes or another buffer, a readable binary file, or an iterable of bytes. A file is not closed.
    :raises Error: ``validation_error`` for what gives something else than bytes. What a file or an iterable
        itself raises comes through.
    """
    for piece in _pieces(data, size):
        for start in range(0, len(piece), size):
            yield piece[start : start + size]


def _pieces(data: Any, size: int) -> Iterator[memoryview]:
    if isinstance(data, bytes | bytearray | memoryview):
        yield _flat(data)
    elif callable(read := getattr(data, "read", None)):
        while piece := _bytes(read(size), "data.read()"):
            yield piece
    elif (view := _view(data)) is not None:  # an array, say, which could be iterated as well
        yield _flat(view)
    else:
        for index, item in enumerate(data):
            yield _bytes(item, f"data[{index}]")


def _bytes(value: Any, where: str) -> memoryview:
    view = _view(value)
    if view is None:
        advice = "; open the file in binary mode" if isinstance(value, str) and where.endswith(")") else ""
        checks.refuse(where, f"must be bytes, not {checks.kind(value)}{advice}")
    return _flat(view)


def _view(value: Any) -> memoryview | None:
    try:
        return memoryview(value)
    except TypeError:
        return None


def _flat(data: bytes | bytearray | memoryview) -> memoryview:
    """Return the bytes in one row, whatever shape and format they had."""
    view = memoryview(data)
    return view.cast("B") if view.c_contiguous and view.nbytes else memoryview(view.tobytes())
