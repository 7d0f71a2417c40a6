"""What the memory store costs, and what its logs do when events are deleted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asm.adapters import InMemorySessionStore
from asm.adapters.memory.logs import Filter
from asm.testing.samples import at, event, refused, run, session


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
            store.save_session(
                session(
                    agent,
                    id=f"{number:05}",
                    created_at=at(number // 7),
                    status=status,
                    tags=[f"tag {number % 4000}"],
                    parent_session_id=f"parent {number % 4000}",
                )
            )
            status = "failed" if number % 100 == 0 else "running"
            provider = f"provider {number % 4000}"
            store.save_run(
                run("ses", id=f"{number:05}", started_at=at(number), status=status, token_usage={"total_tokens": number})
            )
            store.save_run(run(f"{number:05}", id=f"own {number:05}", started_at=at(-number - 1), provider=provider))
        store.append_events(
            [
                event(
                    run_id=f"run {number % 1000}", type=["message_sent", "run_failed"][number % 100 == 0], timestamp=at(number)
                )
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
        ({"last": 10}, 10),
        ({"last": 10, "before": 5000}, 10),
        ({"last": 5, "type": "run_failed"}, 5),
        ({"last": 10, "type": ["run_failed", "message_sent"]}, 10),
        ({"last": 3, "run_id": "run 7"}, 3),
        ({"correlation_id": "none"}, 0),
    ],
    ids=str,
)
def test_a_read_of_events_takes_only_what_it_returns(full, monkeypatch, filters, count):
    log = full._contents.logs["ses"]
    counting = CountingList(log.events)
    monkeypatch.setattr(log, "events", counting)
    assert len(full.get_events("ses", **filters)) == count
    assert counting.taken <= 10 + 2 * len(bin(10_000))  # to look for where it begins and ends


@pytest.mark.parametrize(
    ("filters", "first"),
    [
        ({}, "09999"),
        ({"order": "created_at", "limit": 5}, "00000"),
        ({"order": "-created_at", "limit": 5, "status": ["active", "paused"]}, "09999"),
        ({"status": "active", "limit": 5}, "09900"),
        ({"agent_id": "agent 7", "order": "updated_at", "limit": 5}, "00007"),
        ({"created_before": at(1), "limit": 5}, "00006"),
        ({"updated_after": at(1427), "order": "updated_at", "limit": 5}, "09996"),
        ({"id_prefix": "0777", "limit": 10}, "07779"),
        ({"tags": ["tag 4"], "limit": 2}, "08004"),
        ({"parent_session_id": "parent 3", "limit": 5}, "08003"),
        ({"provider": "provider 9", "limit": 5}, "08009"),
    ],
    ids=str,
)
def test_a_search_of_sessions_takes_only_what_it_returns(full, monkeypatch, filters, first):
    monkeypatch.setattr(full._contents.sessions, "_values", Counting(full._contents.sessions._values))
    page = full.search_sessions(**filters)
    assert page.items[0].id == first
    limit = filters.get("limit", 50)
    assert len(page.items) <= limit
    assert full._contents.sessions._values.taken <= 3 * limit
    if page.cursor:
        full._contents.sessions._values.taken = 0
        behind = full.search_sessions(**filters, cursor=page.cursor).items
        assert behind
        assert not {item.id for item in behind} & {item.id for item in page}
        assert full._contents.sessions._values.taken <= 3 * limit


@pytest.mark.parametrize(
    ("filters", "first"),
    [
        ({"order": "-tokens", "limit": 5}, "09999"),
        ({"limit": 5}, "09999"),
        ({"session_id": "ses", "order": "started_at", "limit": 5}, "00000"),
        ({"status": "failed", "limit": 5}, "09900"),
        ({"order": "tokens", "min_tokens": 9000, "limit": 5}, "09000"),
    ],
    ids=str,
)
def test_a_search_of_runs_takes_only_what_it_returns(full, monkeypatch, filters, first):
    monkeypatch.setattr(full._contents.runs, "_values", Counting(full._contents.runs._values))
    page = full.search_runs(**filters)
    assert page.items[0].id == first
    assert full._contents.runs._values.taken <= 2 * len(page.items)


@pytest.mark.parametrize(
    ("filters", "number"),
    [
        ({}, 1),
        ({"order": "-timestamp"}, 10_000),
        ({"session_ids": "ses", "since": at(500)}, 501),
        ({"until": at(600), "order": "-timestamp"}, 600),
        ({"run_ids": "run 7"}, 8),
        ({"session_ids": "none", "order": "timestamp"}, None),
    ],
    ids=str,
)
def test_a_search_of_events_looks_only_at_what_it_returns(full, monkeypatch, filters, number):
    looked, passes = [], Filter.passes
    monkeypatch.setattr(Filter, "passes", lambda self, event: looked.append(event) or passes(self, event))
    page = full.search_events(**filters, limit=5)
    assert [item.sequence_number for item in page][:1] == ([number] if number else [])
    assert len(looked) <= 11


def test_events_are_found_by_time_whatever_was_appended_and_deleted_meanwhile():
    with InMemorySessionStore() as store:

        def found():
            return [int((item.timestamp - at(0)).total_seconds()) for item in store.search_events(limit=1000)]

        def append(name, seconds):
            store.append_events([event(name, timestamp=at(number)) for number in seconds])

        append("a", range(0, 200, 2))
        assert found() == list(range(0, 200, 2))
        append("b", [7])  # one goes to its place by itself
        append("b", range(201, 211))
        assert found() == sorted([*range(0, 200, 2), 7, *range(201, 211)])
        append("c", range(1, 200, 2))  # many are sorted in
        assert found() == sorted([*range(200), 7, *range(201, 211)])
        store.delete_session("a")
        assert found() == sorted([*range(1, 200, 2), 7, *range(201, 211)])
        assert store.delete_events("c", through=90) == 90
        assert found() == sorted([*range(181, 200, 2), 7, *range(201, 211)])
        assert len(store._contents.timeline._sorted) < 200  # what was deleted is not kept for ever


def test_a_log_keeps_its_numbers_when_events_are_deleted():
    with InMemorySessionStore() as store:
        kinds = ["message_sent", "run_failed"]
        store.append_events(
            [
                event(type=kinds[number % 2], run_id=f"run {number % 3}", correlation_id=f"c {number % 4}")
                for number in range(12)
            ]
        )

        def numbers(**filters):
            return [item.sequence_number for item in store.get_events("ses", **filters)]

        assert store.delete_events("ses", type="run_failed", through=6) == 3  # 2, 4, 6
        assert store.delete_events("ses", run_id="run 0") == 3  # 1, 7, 10
        assert numbers() == [3, 5, 8, 9, 11, 12]
        assert numbers(after=3, before=11) == [5, 8, 9]
        assert numbers(last=2) == [11, 12]
        assert numbers(type="run_failed", last=2) == [8, 12]
        assert numbers(run_id="run 1") == [5, 8, 11]
        assert numbers(correlation_id="c 0") == [5, 9]
        assert numbers(after=2, limit=2) == [3, 5]
        assert store.delete_events("ses", through=99) == 6
        assert (numbers(), store.get_latest_sequence("ses")) == ([], 12)
        assert store.append_event_with_sequence(event()).sequence_number == 13
        assert store.delete_events("other", through=99) == 0
        assert store.get_latest_sequence("other") == 0


def test_an_import_wakes_who_waits():
    with InMemorySessionStore() as store, InMemorySessionStore() as other:
        stored = other.append_event_with_sequence(event())
        waiting = threading.Event()
        store.appends.wait = lambda *args, wait=store.appends.wait: waiting.set() or wait(*args)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(store.get_events, "ses", wait_timeout_ms=60_000)
            assert waiting.wait(60)
            with other.export_session("ses") as data:
                assert store.import_session(data) == "ses"
            assert found.result(60) == [stored]


def test_an_import_is_all_or_nothing():
    with InMemorySessionStore() as store, InMemorySessionStore() as other:
        values = [run(id="run"), event(id="evt"), session(id="ses")]
        other.flush(dict(zip(["run", "events", "session"], [values[0], [values[1]], values[2]], strict=True)))
        exported = other.export_session("ses").read()
        for there, code in [
            (lambda: store.save_run(run("elsewhere", id="run")), "session_mismatch"),
            (lambda: store.append_event(event("elsewhere", id="evt")), "session_mismatch"),
            (lambda: store.save_session(session(id="ses")), "already_exists"),
            (lambda: store.save_run(run()), "already_exists"),
            (lambda: store.append_event(event()) or store.delete_events("ses", through=1), "already_exists"),
        ]:
            there()
            before = (store.list_runs("ses"), store.get_events("ses"), store.list_sessions())
            with refused(code):
                store.import_session(exported)
            assert (store.list_runs("ses"), store.get_events("ses"), store.list_sessions()) == before
            for name in ("ses", "elsewhere"):
                store.delete_session(name)
        assert store.import_session(exported) == "ses"
        assert store.export_session("ses").read() == exported


@pytest.mark.parametrize("kind", ["run", "event"])
def test_an_import_has_no_id_twice(kind):
    with InMemorySessionStore() as store:
        store.save_run(run(id="a", started_at=at(0)))
        store.save_run(run(id="b", started_at=at(1)))
        store.append_events([event(id="a"), event(id="b")])
        exported = store.export_session("ses").read()
        store.delete_session("ses")
        lines = exported.splitlines(keepends=True)
        line = [1, 2, 3, 4][{"run": 1, "event": 3}[kind]]
        lines[line] = lines[line].replace(b'"id":"b"', b'"id":"a"')
        with refused("invalid_format", line=line + 1):
            store.import_session(b"".join(lines))
        assert store.list_runs("ses") == []


def test_a_session_that_is_saved_again_in_its_place_is_not_moved(full, monkeypatch):
    before = full.get_session("00003")
    lists = dict.fromkeys(full._contents.sessions._lists)  # without the lists in them nothing can be moved
    monkeypatch.setattr(full._contents.sessions, "_lists", lists)
    full.save_session(before.changed(context={"new": True}, updated_at=before.updated_at))
    monkeypatch.undo()
    assert full.get_session("00003").context == {"new": True}
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
