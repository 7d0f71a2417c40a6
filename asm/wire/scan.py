"""Scan: what is known of a value in MessagePack before it is decoded.

A header of five bytes may announce an array of millions, for which a decoder makes room at once, and a byte may be an empty
map, which takes a hundred in memory. So a message of a peer whom we need not trust is walked through first, and nothing is made
of it meanwhile. A small one that announces nothing large cannot do harm, and is not walked through.
"""

from __future__ import annotations

from typing import Final

import msgpack

from asm.core.checks import MAX_VALUES

__all__ = ["MAX_VALUES", "MessageError", "check", "values_in"]

SMALL: Final = 64 * 1024
"""Up to so many bytes only what a message announces can be too much, …"""

COUNTED: Final = 256 * 1024
"""… and up to so many bytes the number of its values cannot."""

LARGE: Final = (b"\xdc", b"\xdd", b"\xde", b"\xdf")
"""The headers of arrays and maps with more than 15 elements. The same bytes may stand in a text; that costs a walk."""


class MessageError(ValueError):
    """The body of a frame is no message."""


def check(body: bytes, at: int) -> None:
    """Make sure that decoding what begins at a place in a message takes memory in proportion to its bytes.

    Deeper nesting than 1,024 is refused by MessagePack itself, and of what a store keeps beyond 64 levels when it is checked.

    :raises MessageError: when it is no MessagePack, announces more than there is, or has more than :data:`MAX_VALUES` values.
    """
    size = len(body) - at
    if size <= SMALL and not (LARGE[0] in body or LARGE[1] in body or LARGE[2] in body or LARGE[3] in body):
        return
    walker = msgpack.Unpacker(max_buffer_size=max(size, 1))
    try:
        walker.feed(memoryview(body)[at:])
        walker.skip()
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"the message is no MessagePack: {type(error).__name__}: {error}") from error
    if size > COUNTED and values_in(body, at, MAX_VALUES) > MAX_VALUES:
        raise MessageError(f"the message has more than {MAX_VALUES:,} values")


def values_in(body: bytes, at: int, most: int | None = None) -> int:
    """Return how many values there are in one that is whole, each key, each element and each map or array counted.

    :param most: with more, as many and one are returned.
    """
    left = 1
    for count in range(1, len(body) if most is None else most + 1):
        first = body[at]
        left += _CHILDREN[first] - 1
        at += _SIZES[first]
        if width := _WIDTHS.get(first):
            length = int.from_bytes(body[at - width : at], "big")
            if first < 0xDC:
                at += length
            else:
                left += length if first < 0xDE else 2 * length
        elif 0xC7 <= first <= 0xC9:  # an extension has its type behind its length
            at += int.from_bytes(body[at - _SIZES[first] + 1 : at - 1], "big")
        if not left:
            return count
    return len(body) if most is None else most + 1


_WIDTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""In how many bytes behind the first the length of bytes, a text, an array or a map stands."""

_FIXED: Final = (
    {first: 1 + width for first, width in _WIDTHS.items()}
    | {0xA0 + length: 1 + length for length in range(32)}
    | {0xC7: 3, 0xC8: 4, 0xC9: 6, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}
    | {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
)
_SIZES: Final = [_FIXED.get(first, 1) for first in range(256)]
"""How many bytes a value has by its first one, without what a length behind it announces."""

_CHILDREN: Final = [
    2 * (first - 0x80) if 0x80 <= first < 0x90 else first - 0x90 if 0x90 <= first < 0xA0 else 0 for first in range(256)
]
"""How many values follow within a short map or array, by its first byte."""
