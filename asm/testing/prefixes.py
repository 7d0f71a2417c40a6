"""``delete_prefix``."""

from __future__ import annotations

from asm.ports import ArtifactStore
from asm.testing.keys import INVALID_KEYS, KEYS
from asm.testing.samples import all_refused, at_once, refused

__all__ = ["Prefixes"]


class Prefixes:
    """What begins alike is deleted together."""

    def test_what_begins_so_is_deleted_and_counted(self, store: ArtifactStore) -> None:
        """And nothing else."""
        keys = ["ses_1/a", "ses_1/b/c", "ses_1/", "ses_1", "ses_10/a", "ses_2/a", "Ses_1/a", "ses%1/a", "x"]
        for key in keys:
            store.put(key, key.encode())
        assert store.delete_prefix("ses_1/") == 3
        assert [info.key for info in store.list()] == sorted(set(keys) - {"ses_1/a", "ses_1/b/c", "ses_1/"})
        for key in ("ses_1/a", "ses_1/b/c", "ses_1/"):
            with refused("not_found"):
                store.get(key)
        assert store.get("ses_10/a") == b"ses_10/a"
        assert store.delete_prefix("ses_1") == 2
        assert [info.key for info in store.list()] == sorted(["ses_2/a", "Ses_1/a", "ses%1/a", "x"])

    def test_where_nothing_begins_so_nothing_is_deleted(self, store: ArtifactStore) -> None:
        """And a repeated call counts what it has deleted itself: nothing."""
        store.put("other", b"data")
        store.put("key", b"data")
        assert store.delete_prefix("nothing") == 0
        assert store.delete_prefix("key") == 1
        assert store.delete_prefix("key") == 0
        assert [info.key for info in store.list()] == ["other"]

    def test_a_prefix_of_any_key_will_do(self, store: ArtifactStore) -> None:
        """However odd it is, and the key itself is one."""
        left = set(KEYS)
        for key in KEYS:
            store.put(key, b"data")
        for prefix in ["../", "new\n", "$", "кл", "🙂", "x" * 256, "/" * 1000, "C:\\", "%2e", "b", "-rf"]:
            wanted = {key for key in left if key.startswith(prefix)}
            assert wanted
            assert store.delete_prefix(prefix) == len(wanted)
            left -= wanted
            assert [info.key for info in store.list()] == sorted(left)

    def test_long_keys_that_begin_alike_are_told_apart(self, store: ArtifactStore) -> None:
        """To their last character."""
        keys = ["я" * length + end for length in (200, 450) for end in ("", "a", "ab", "b", "ю")]
        for key in keys:
            store.put(key, b"data")
        assert store.delete_prefix("я" * 450 + "a") == 2
        assert store.delete_prefix("я" * 450 + "ю" * 10) == 0
        assert store.delete_prefix("я" * 200 + "b") == 1
        left = [key for key in keys if key not in {"я" * 450 + "a", "я" * 450 + "ab", "я" * 200 + "b"}]
        assert [info.key for info in store.list()] == sorted(left)
        assert store.delete_prefix("я") == len(left)
        assert store.list() == []

    def test_what_was_deleted_can_be_put_again(self, store: ArtifactStore) -> None:
        """As if it had never been."""
        store.put("run/1", b"old")
        assert store.delete_prefix("run/") == 1
        store.put("run/1", b"new")
        assert store.get("run/1") == b"new"
        assert [info.key for info in store.list()] == ["run/1"]

    def test_others_may_work_below_it_meanwhile(self, store: ArtifactStore) -> None:
        """What they put after that is there, and the rest is whole or gone."""
        for number in range(40):
            store.put(f"run/{number}", b"data")

        def work(thread: int) -> int:
            if thread == 0:
                return store.delete_prefix("run/")
            for number in range(10):
                store.put(f"other/{thread}/{number}", b"data")
                store.delete(f"run/{number * thread}")
            return 0

        assert sum(at_once(4, work)) <= 40
        assert [info.key for info in store.list(prefix="run/")] == []
        assert len(store.list(prefix="other/")) == 30

    def test_what_is_no_prefix_is_refused(self, store: ArtifactStore) -> None:
        """``validation_error``, above all for the empty one, which would be everything."""
        store.put("key", b"data")
        all_refused("validation_error", store.delete_prefix, INVALID_KEYS)
        assert [info.key for info in store.list()] == ["key"]
