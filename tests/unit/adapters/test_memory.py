"""What the memory store costs."""

import pytest

from asm.adapters import InMemorySessionStore
from asm.testing.samples import at, event, run, session


class Counting(dict):
    """A dict that counts what is taken from it."""

    taken = 0

    def __getitem__(self, key):
        self.taken += 1
        return super().__getitem__(key)


class CountingList(list):
    """A list that counts what is taken from it, one by one."""

    taken = 0

    def __getitem__(self, key):
        self.taken += 1
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def full():
    """A store with 10,000 sessions, and as many runs and events in one of them."""
    with InMemorySessionStore() as store:
        for number in range(10_000):
            agent = f"agent {number % 1000}"
            status = "active" if number % 100 == 0 else "paused"
            store.save_session(session(agent, id=f"{number:05}", created_at=at(number // 7), status=status))
            store.save_run(
                run("ses", id=f"{number:05}", started_at=at(number), status="failed" if number % 100 == 0 else "running")
            )
        store.append_events(
            [
                event(run_id=f"run {number % 1000}", type=["message_sent", "run_failed"][number % 100 == 0])
                for number in range(10_000)
            ]
        )
        yield store


@pytest.mark.parametrize(
    ("filters", "first"),
    [
        ({"limit": 50}, "00000"),
        ({"limit": 5, "offset": 20}, "00020"),
        ({"limit": 5, "status": "active"}, "00000"),
        ({"limit": 5, "status": ["active", "paused"]}, "00000"),
        ({"limit": 5, "agent_id": "agent 7"}, "00007"),
    ],
    ids=str,
)
def test_a_list_of_sessions_takes_only_what_it_returns(full, monkeypatch, filters, first):
    counting = Counting(full._contents.sessions._values)
    monkeypatch.setattr(full._contents.sessions, "_values", counting)
    found = full.list_sessions(**filters)
    assert found[0].id == first
    assert len(found) == filters["limit"]
    assert counting.taken <= filters["limit"] + filters.get("offset", 0)


def test_a_list_of_runs_takes_only_what_it_returns(full, monkeypatch):
    counting = Counting(full._contents.runs._values)
    monkeypatch.setattr(full._contents.runs, "_values", counting)
    assert [item.id for item in full.list_runs("ses", limit=2)] == ["00000", "00001"]
    assert [item.id for item in full.list_runs("ses", status="failed", limit=2)] == ["00000", "00100"]
    assert full.get_active_run("ses").id == "09999"
    assert counting.taken == 5


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"after": 9000, "limit": 10}, 10),
        ({"before": 50, "after": 40}, 9),
        ({"type": "run_failed", "limit": 10}, 10),
        ({"type": "run_failed", "after": 9900}, 1),
        ({"run_id": "run 7"}, 10),
        ({"run_id": "run 0", "type": "message_sent"}, 0),
        ({"run_id": "run 0", "type": ["message_sent", "run_failed"]}, 10),
    ],
    ids=str,
)
def test_a_read_of_events_takes_only_what_it_returns(full, monkeypatch, filters, count):
    log = full._contents.logs["ses"]
    counting = CountingList(log.events)
    monkeypatch.setattr(log, "events", counting)
    assert len(full.get_events("ses", **filters)) == count
    assert counting.taken <= 10 + 2 * len(bin(10_000))  # to look for where it begins and ends


def test_a_session_that_is_saved_again_in_its_place_is_not_moved(full, monkeypatch):
    before = full.get_session("00003")
    monkeypatch.setattr(full._contents.sessions, "remove", None)
    full.save_session(session(before.agent_id, id="00003", created_at=before.created_at, status=before.status, tags=["new"]))
    assert full.get_session("00003").tags == ["new"]
    assert len(full.list_sessions()) == 10_000


def test_deleting_leaves_nothing_behind():
    with InMemorySessionStore() as store:
        for number in range(3):
            store.save_session(session(id=f"ses {number}"))
            store.save_run(run(f"ses {number}"))
            store.append_events([event(f"ses {number}", run_id="run") for _ in range(3)])
        for number in range(3):
            store.delete_session(f"ses {number}")
        contents = store._contents
        assert not any(
            [
                contents.events,
                contents.logs,
                *vars(contents.timeline).values(),
                *(held for table in (contents.sessions, contents.runs) for held in (table._values, table._lists, table._ids)),
            ]
        )


def test_values_are_handed_out_without_a_copy():
    with InMemorySessionStore() as store:
        stored = store.append_event_with_sequence(event())
        assert store.get_events("ses")[0] is stored
