"""Keys of artifacts: what they may be, and that none is mistaken for another."""

from __future__ import annotations

from typing import Any

from asm.ports import ArtifactStore
from asm.testing.samples import all_refused, refused

__all__ = ["KEYS", "Keys"]

KEYS = [
    "../x",
    "..",
    ".",
    "../../../../etc/passwd",
    "/absolute",
    "//two",
    "trailing/",
    "a/b",
    "a",
    "A",
    "a/../b",
    "b",
    "a//b",
    "a/./b",
    "a\\b",
    "C:\\x",
    "~",
    "~root",
    "$HOME",
    "%2e%2e%2fx",
    "ключ",
    "é",
    "e\u0301",
    "漢字",
    "🙂",
    " ",
    " leading and trailing ",
    "new\nline",
    "tab\t",
    "\r\n",
    "\x01\x7f",
    "-rf",
    "*",
    "?",
    "a?b=c&d#e",
    "tmp",
    "objects",
    "key.tmp",
    "CON",
    "x" * 255,
    "x" * 256,
    "x" * 1024,
    "ж" * 512,
    "🙂" * 256,
    "/" * 1024,
]
"""Keys that a store may not mistake for paths, patterns, options, nor for each other."""

INVALID_KEYS: list[Any] = ["", None, 5, b"key", ["key"], "a\0b", "\ud800", "x" * 1025, "ж" * 513, "🙂" * 257]
"""What no key can be."""


class Keys:
    """A key is text of 1 to 1,024 bytes of UTF-8 without NUL, and nothing else is known of it."""

    def test_keys_are_told_apart(self, store: ArtifactStore) -> None:
        """All of them at the same time, in every operation."""
        for key in KEYS:
            store.put(key, key.encode())
        for key in KEYS:
            assert store.get(key) == key.encode()
            assert store.stat(key).key == key
            with store.open(key) as file:
                assert file.read() == key.encode()
        assert [info.key for info in store.list()] == sorted(KEYS)

    def test_deleting_a_key_deletes_no_other(self, store: ArtifactStore) -> None:
        """However alike they are."""
        for key in KEYS:
            store.put(key, key.encode())
        for number, key in enumerate(KEYS, start=1):
            store.delete(key)
            with refused("not_found"):
                store.get(key)
            if number % 10 == 0:
                assert len(store.list()) == len(KEYS) - number
        assert store.list() == []

    def test_what_is_no_key_is_refused(self, store: ArtifactStore) -> None:
        """``validation_error`` from every operation."""
        all_refused("validation_error", lambda bad: store.put(bad, b"data"), INVALID_KEYS)
        for operation in (store.get, store.open, store.stat, store.delete):
            all_refused("validation_error", operation, INVALID_KEYS)
        assert store.list() == []
