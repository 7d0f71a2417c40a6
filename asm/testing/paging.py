"""Pages and cursors, of every search alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from asm.core.results import Page
from asm.ports import SessionQueries, SessionStore
from asm.testing.samples import INVALID_LIMITS, all_refused, at, event, refused, run, session

__all__ = ["Paging", "QueriedStore", "ids", "pages"]


class QueriedStore(SessionStore, SessionQueries, Protocol):
    """A session store that answers queries, too."""


@dataclass(frozen=True)
class Search:
    """A search, and what it finds."""

    name: str
    orders: tuple[str, ...]
    filters: dict[str, Any]
    """A filter that everything passes which :attr:`add` stores."""
    others: tuple[dict[str, Any], ...]
    """Other filters."""
    add: Callable[[QueriedStore, str, float], Any]
    """Stores something of a session of its own, at a second; three of those whose times are whole have the same one."""

    def __call__(self, store: QueriedStore, **arguments: Any) -> Page[Any]:
        """Search."""
        page: Page[Any] = getattr(store, self.name)(**arguments)
        return page

    def fill(self, store: QueriedStore, count: int) -> list[str]:
        """Store so many, in an order of none; return their ids."""
        return [
            self.add(store, f"{number:03}", number // 3 * 10).id for number in sorted(range(count), key=lambda it: it * 7 % 11)
        ]


def add_session(store: QueriedStore, key: str, second: float) -> Any:
    """Save a session of an agent."""
    store.save_session(saved := session(id=f"ses {key}", created_at=at(second), updated_at=at(-second)))
    return saved


def add_run(store: QueriedStore, key: str, second: float) -> Any:
    """Save a run."""
    usage = {"total_tokens": abs(second) / 4}
    store.save_run(saved := run(f"ses {key}", id=f"run {key}", started_at=at(second), token_usage=usage))
    return saved


def add_event(store: QueriedStore, key: str, second: float) -> Any:
    """Append an event."""
    return store.append_event_with_sequence(event(f"ses {key}", id=f"evt {key}", timestamp=at(second)))


SEARCHES = [
    Search(
        "search_sessions",
        ("created_at", "-created_at", "updated_at", "-updated_at"),
        {"agent_id": "agent"},
        ({}, {"agent_id": "other"}, {"agent_id": "agent", "status": "pending"}, {"id_prefix": "agent"}),
        add_session,
    ),
    Search(
        "search_runs",
        ("started_at", "-started_at", "tokens", "-tokens"),
        {"status": "pending"},
        ({}, {"status": "failed"}, {"status": ["pending", "failed"]}, {"status": "pending", "min_tokens": 0}),
        add_run,
    ),
    Search(
        "search_events",
        ("timestamp", "-timestamp"),
        {"type": "message_received"},
        ({}, {"type": "message_sent"}, {"type": "message_received", "since": at(-1000)}, {"text": "message_received"}),
        add_event,
    ),
]


def pages(search: Callable[..., Page[Any]], **arguments: Any) -> Iterator[Page[Any]]:
    """Yield page after page, until there is none."""
    cursor = None
    for _ in range(200):
        page = search(**arguments, cursor=cursor)
        yield page
        if (cursor := page.cursor) is None:
            return
    pytest.fail("there is no end of pages")


def ids(items: Any) -> list[str]:
    """Return the ids."""
    return [item.id for item in items]


class Paging:
    """From page to page, everything comes once, whatever comes and goes in between."""

    @pytest.fixture(params=SEARCHES, ids=lambda search: search.name)
    def search(self, request: pytest.FixtureRequest) -> Search:
        """Each test is about each search."""
        search: Search = request.param
        return search

    def test_nothing_is_found_in_an_empty_store(self, store: QueriedStore, search: Search) -> None:
        """A page without items, and no cursor."""
        page = search(store)
        assert isinstance(page, Page)
        assert (page.items, page.cursor) == ([], None)

    def test_pages_give_everything_once(self, store: QueriedStore, search: Search) -> None:
        """In every order and in pages of any size, all of them full but the last; behind that there is none."""
        search.fill(store, 21)
        for order in search.orders:
            whole = search(store, order=order, limit=1000, **search.filters)
            assert whole.cursor is None
            assert len(set(ids(whole))) == len(whole.items) == 21
            for limit in (2, 7, 20, 21):
                found = list(pages(lambda **arguments: search(store, **arguments), order=order, limit=limit, **search.filters))
                assert [item for page in found for item in page] == whole.items, (order, limit)
                assert [len(page.items) for page in found[:-1]] == [limit] * (len(found) - 1)
                assert all(isinstance(page.cursor, str) and page.cursor for page in found[:-1])
        first = search.orders[0]
        assert ids(search(store, order="-" + first, limit=100)) == ids(search(store, order=first, limit=100))[::-1]

    def test_a_page_has_so_many_by_default(self, store: QueriedStore, search: Search) -> None:
        """50 sessions or runs, and 100 events; the rest is on the next one."""
        size = 100 if search.name == "search_events" else 50
        search.fill(store, size + 1)
        page = search(store)
        assert len(page.items) == size
        assert len(search(store, cursor=page.cursor).items) == 1

    def test_what_comes_and_goes_disturbs_nobody(self, store: QueriedStore, search: Search) -> None:
        """What was there all the time is neither repeated nor passed over, and what came is not repeated, either."""
        for order in search.orders:
            search.fill(store, 24)
            whole = search(store, order=order, limit=100).items
            gone: set[str] = set()
            seen: list[str] = []
            for number, page in enumerate(pages(lambda **arguments: search(store, **arguments), order=order, limit=4)):
                seen += ids(page)
                ahead = [item for item in whole if item.id not in seen and item.id not in gone]
                for item in (page.items[-1], page.items[0], *ahead[1:2]):  # the first is that at which the cursor stands
                    store.delete_session(item.session_id if hasattr(item, "session_id") else item.id)
                    gone.add(item.id)
                for second in (-1000, 15, 45.5, 1000):
                    search.add(store, f"{order} {number} {second}", second)
            stayed = [item.id for item in whole if item.id not in gone]
            assert [key for key in seen if key in stayed] == stayed, order
            assert len(set(seen)) == len(seen), order
            for item in search(store, limit=1000):
                store.delete_session(item.session_id if hasattr(item, "session_id") else item.id)

    def test_a_cursor_can_be_given_again(self, store: QueriedStore, search: Search) -> None:
        """Any number of times, and with another limit; also when nothing is left behind it."""
        search.fill(store, 9)
        whole = search(store).items
        cursor = search(store, limit=4).cursor
        for limit in (1, 3, 100):
            assert search(store, limit=limit, cursor=cursor).items == whole[4 : 4 + limit]
        for item in whole[4:]:
            store.delete_session(getattr(item, "session_id", item.id))
        page = search(store, limit=4, cursor=cursor)
        assert (page.items, page.cursor) == ([], None)

    def test_filters_in_any_form_are_the_same_search(self, store: QueriedStore, search: Search) -> None:
        """What is not given is ``None``, and one is as good as a list of one."""
        search.fill(store, 5)
        name, value = next(iter(search.filters.items()))
        cursor = search(store, limit=2, **search.filters).cursor
        rest = search(store, cursor=cursor, **search.filters).items
        assert search(store, cursor=cursor, **search.filters, provider=None).items == rest
        if name != "agent_id":
            assert search(store, cursor=cursor, **{name: [value]}).items == rest

    def test_a_cursor_of_another_search_is_refused(self, store: QueriedStore, search: Search) -> None:
        """``invalid_cursor``, for other filters, another order and another search."""
        for other in SEARCHES:
            other.fill(store, 9)
        cursor = search(store, limit=3, order=search.orders[0], **search.filters).cursor
        for order in search.orders[1:]:
            with refused("invalid_cursor"):
                search(store, order=order, cursor=cursor, **search.filters)
        for filters in search.others:
            with refused("invalid_cursor"):
                search(store, order=search.orders[0], cursor=cursor, **filters)
        for other in SEARCHES:
            if other is not search:
                with refused("invalid_cursor"):
                    search(store, cursor=other(store, limit=3).cursor)

    def test_what_is_no_cursor_is_refused(self, store: QueriedStore, search: Search) -> None:
        """``invalid_cursor`` for text: a cut one, an altered one, one of nobody's; ``validation_error`` for what is no text."""
        search.fill(store, 9)
        cursor = search(store, limit=3).cursor or ""
        middle = len(cursor) // 2
        altered = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in (0, 3, middle, middle + 1)]
        cut = [cursor[:-1], cursor[:middle], cursor[1:], cursor[:4], cursor[4:], cursor + cursor, cursor + "A", " " + cursor]
        foreign = ["", "nonsense", "ключ", "1", "{}", "eyJvZmZzZXQiOiAxMH0=", "'; DROP TABLE asm_events; --", "A" * 5000]
        all_refused("invalid_cursor", lambda bad: search(store, limit=3, cursor=bad), [*altered, *cut, *foreign])
        all_refused("validation_error", lambda bad: search(store, cursor=bad), [1, True, b"cursor", ["cursor"], "a\0b"])
        assert len(search(store, limit=3, cursor=cursor).items) == 3

    def test_what_no_search_takes_is_refused(self, store: Any, search: Search) -> None:
        """``validation_error``: a limit, an order, a filter that there is not, and what is given without a name."""
        search.fill(store, 1)
        all_refused("validation_error", lambda bad: search(store, limit=bad), [*INVALID_LIMITS, None])
        orders = ["", "id", "-", "+" + search.orders[0], search.orders[0].upper(), None, 1, list(search.orders)]
        all_refused("validation_error", lambda bad: search(store, order=bad), orders)
        with refused("validation_error"):
            search(store, colour="blue")
        with refused("validation_error"):
            getattr(store, search.name)("agent")
