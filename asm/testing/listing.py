"""``list``."""

from __future__ import annotations

from typing import Any

from asm.ports import ArtifactStore
from asm.testing.keys import KEYS as ODD_KEYS
from asm.testing.samples import HUGE, INVALID_LIMITS, all_refused, refused

__all__ = ["Listing"]

KEYS = sorted(
    [
        "",
        *(f"run-{number:02}/patch" for number in range(12)),
        "run",
        "run-",
        "Run",
        "a%b",
        "a_b",
        "axb",
        "é",
        "\uffff",
        "🙂",
        "z",
    ]
)[1:]


def fill(store: ArtifactStore) -> list[str]:
    """Put something under every key, in an order that is not theirs; return the keys in order."""
    for key in [*KEYS[::2], *KEYS[1::2]]:
        store.put(key, key.encode())
    return KEYS


def keys(store: ArtifactStore, **filters: Any) -> list[str]:
    """Return the keys of a list."""
    return [info.key for info in store.list(**filters)]


class Listing:
    """Artifacts are listed by key, in the order of its characters."""

    def test_an_empty_store_lists_nothing(self, store: ArtifactStore) -> None:
        """An empty list, no error."""
        assert store.list() == []
        assert store.list(prefix="a", after="b", limit=5) == []

    def test_all_come_in_order(self, store: ArtifactStore) -> None:
        """That of the code points, whatever the language."""
        assert keys(store) == []
        assert fill(store) == keys(store)

    def test_a_list_tells_what_stat_tells(self, store: ArtifactStore) -> None:
        """Of each."""
        fill(store)
        assert store.list() == [store.stat(key) for key in KEYS]

    def test_a_prefix_filters(self, store: ArtifactStore) -> None:
        """To the letter: no character of it is a pattern."""
        fill(store)
        for prefix in ["", "run", "run-", "run-0", "run-00/patch", "Run", "a%", "a_", "é", "\uffff", "🙂", "nobody"]:
            assert keys(store, prefix=prefix) == [key for key in KEYS if key.startswith(prefix)]

    def test_after_passes_over(self, store: ArtifactStore) -> None:
        """The key itself and all before it, whether it is there or not."""
        fill(store)
        for after in ["", "run-05/patch", "run-05", "a", "zzz", "é", "\uffff", "🙂", "x" * 2000]:
            assert keys(store, after=after) == [key for key in KEYS if key > after]
            assert keys(store, after=after, prefix="run-") == [key for key in KEYS if key > after and key.startswith("run-")]

    def test_a_limit_takes_the_first(self, store: ArtifactStore) -> None:
        """After the other filters."""
        fill(store)
        rest = [f"run-{number:02}/patch" for number in range(4, 12)]
        for limit in (1, 2, 5, len(KEYS), len(KEYS) + 1, HUGE):
            assert keys(store, limit=limit) == KEYS[:limit]
            assert keys(store, limit=limit, prefix="run-", after="run-03/patch") == rest[:limit]

    def test_pages_give_every_key_once(self, store: ArtifactStore) -> None:
        """The way to list a large store."""
        fill(store)
        for limit in (1, 4, 100):
            found: list[str] = []
            while page := keys(store, after=found[-1] if found else None, limit=limit):
                found += page
            assert found == KEYS

    def test_odd_keys_are_listed_from_any_place(self, store: ArtifactStore) -> None:
        """In the order of their UTF-8, whatever they are, and however long: after each, below each, a few at a time."""
        odd = sorted([*ODD_KEYS, *(f"{'я' * 400}{number:03}" for number in range(9))])
        for key in reversed(odd):
            store.put(key, b"data")
        assert sorted(odd, key=str.encode) == odd
        assert keys(store) == odd
        for number, key in list(enumerate(odd))[::3]:
            assert keys(store, after=key, limit=3) == odd[number + 1 : number + 4]
            for prefix in {key[:1], key[:400], key}:
                assert keys(store, prefix=prefix, limit=2) == [other for other in odd if other.startswith(prefix)][:2]

    def test_what_was_put_and_deleted_shows_at_once(self, store: ArtifactStore) -> None:
        """A list is as true as a ``get``."""
        store.put("a", b"1")
        store.put("b", b"1")
        assert keys(store) == ["a", "b"]
        store.put("a", b"22")
        store.delete("b")
        store.put("c", b"1")
        assert [(info.key, info.byte_size) for info in store.list()] == [("a", 2), ("c", 1)]

    def test_a_limit_is_positive(self, store: ArtifactStore) -> None:
        """Anything but an integer above 0 is a ``validation_error``."""
        all_refused("validation_error", lambda bad: store.list(limit=bad), INVALID_LIMITS)

    def test_a_prefix_is_text(self, store: ArtifactStore) -> None:
        """And so is ``after``; anything else is a ``validation_error``."""
        no_text = [5, b"a", ["a"], "a\0"]
        all_refused("validation_error", lambda bad: store.list(prefix=bad), no_text)
        all_refused("validation_error", lambda bad: store.list(after=bad), no_text)

    def test_an_unknown_filter_is_refused(self, store: Any) -> None:
        """``validation_error``, and so is a positional argument."""
        with refused("validation_error"):
            store.list(suffix="a")
        with refused("validation_error"):
            store.list("a")
