"""Names of objects for keys of artifacts: safe with every service, in the order of the keys.

A key may be anything; a name may not. Services limit it to 1,024 bytes (some to 255 between two slashes), take ``..`` and
``//`` for paths, cannot tell control characters in XML, and some cannot hold ``a`` beside ``a/b``. So a name is made of
``-``, digits and the letters ``A-Z`` and ``a-y`` as they are; every other byte of the key's UTF-8 is a marker and two hex
digits. The marker is a character that stands where the byte would::

    01 … 2C  !     2E 2F  .     3A … 40  =     5B … 60  _     7A … FF  z

So ``run-1/patch.diff`` is ``run-1.2Fpatch.2Ediff``, the names sort as their keys do, and the names of all keys that begin with
a text begin with the name of the text: the service can list a range of keys, and nothing else.

A name that grows to :data:`HEAD` is cut there and ends with ``!!`` and the SHA-256 of its key. Names that share such a
head are a group: it stands where its keys do, but within it the order is told by the keys alone. (``!!`` is part of no code.)
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["are_told", "group", "is_name", "object_name", "search_prefix", "start_after"]

HEAD: Final = 180
"""From how many characters a name is cut. With the rest it is shorter than 255."""

CUT: Final = "!!"

CODE: Final = re.compile(r"[!.=_z][0-9A-F]{2}|[-0-9A-Za-y]")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def object_name(key: str) -> str:
    """Return the name of the object that holds a key."""
    head, cut = _head(key)
    return f"{head}{CUT}{hashlib.sha256(key.encode()).hexdigest()}" if cut else head


def search_prefix(prefix: str) -> str:
    """Return what the names of all keys with this prefix begin with. Of a prefix that is cut, so do those of other keys."""
    head, cut = _head(prefix)
    return f"{head}{CUT}" if cut else head


def start_after(after: str) -> str:
    """Return a name behind which the names of all keys after this one stand. If it is cut, so do those of other keys."""
    return _head(after)[0]


def are_told(prefix: str) -> bool:
    """Tell whether all names that begin with :func:`search_prefix` are of keys with this prefix, and none of other keys."""
    return not _head(prefix)[1]


def is_name(name: str) -> bool:
    """Tell whether a name is one that :func:`object_name` returns. Others are somebody else's."""
    head, cut, digest = name.partition(CUT)
    codes = CODE.findall(head)
    if "".join(codes) != head or not BYTES.keys() >= set(codes):
        return False
    if cut:
        return len(head) >= HEAD and DIGEST.fullmatch(digest) is not None
    try:
        key = bytes(map(BYTES.__getitem__, codes)).decode()
    except UnicodeDecodeError:
        return False
    return bool(key) and object_name(key) == name


def group(name: str) -> str:
    """Return what a name, or one below a directory, shares with those among which its place is not told by its name."""
    return name.rpartition("/")[2].partition(CUT)[0]


def _head(text: str) -> tuple[str, bool]:
    """Return the name of a text up to where it is cut, and whether it was. What comes behind the cut has no part in that."""
    codes: list[str] = []
    size = 0
    for byte in text.encode():
        if size >= HEAD:
            return "".join(codes), True
        codes.append(CODES[byte])
        size += len(CODES[byte])
    return "".join(codes), False


def _code(byte: int) -> str:
    if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) == "-") and chr(byte) != "z":
        return chr(byte)
    marker = next(marker for last, marker in ((0x2C, "!"), (0x2F, "."), (0x40, "="), (0x60, "_"), (0xFF, "z")) if byte <= last)
    return f"{marker}{byte:02X}"


CODES: Final = [_code(byte) for byte in range(256)]
"""What stands for each byte."""

BYTES: Final = {code: byte for byte, code in enumerate(CODES)}
"""The byte that each stands for."""
