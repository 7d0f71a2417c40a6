"""The queries in SQL, beside their contract: JSON that others wrote, rows that hold no value, and reading in batches."""

import contextlib
import json
import sqlite3
import tracemalloc
from datetime import timedelta

import pytest
import sqlalchemy

from asm.adapters import SqlSessionStore
from asm.adapters.sql import reading
from asm.core.results import Page
from asm.testing.samples import at, event, refused, run, session


def ids(found):
    return [item.id for item in found]


@pytest.fixture
def opened(tmp_path):
    """A store in SQLite, and a function that runs a statement behind its back."""

    def change(*statement):
        with contextlib.closing(sqlite3.connect(tmp_path / "sessions.db")) as connection, connection:
            connection.execute(*statement)

    with SqlSessionStore(url=f"sqlite:///{tmp_path}/sessions.db") as store:
        yield store, change


# -- What JSON may look like ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "text", "found"),
    [
        (r'{"a":"\u0053tra\u00dfe"}', "STRASSE", True),
        (r'{"a":"Straße"}', "strasse", True),
        (r'{"\u0061b":1}', "AB", True),
        (r'{"a":"x\/y"}', "X/Y", True),
        (r'{"a":"x\\ny"}', "\\N", True),
        (r'{"a":"x\ny"}', "x\ny", True),
        (r'{"a":"say \"hi\""}', '"HI"', True),
        (r'{"a":"\u212a"}', "k", True),
        (r'{"a":"K"}', "k", True),
        (r'{"a":["b",{"C":null}]}', "c", True),
        (r'{"a":"b"}', '":"', False),
        (r'{"a":true,"b":12}', "true", False),
        (r'{"a":true,"b":12}', "12", False),
        (r'{"a":"100%"}', "100_", False),
        (r'{"a":"x"}', "%", False),
        (r'{"a":"\u0000"}', "u0000", False),
    ],
)
def test_text_is_found_however_it_is_written(store, behind, written, text, found):
    store.append_events([event(id="evt"), event(id="other")])
    behind("UPDATE asm_events SET data = :data WHERE id = 'evt'", data=sqlalchemy.literal(written).value)
    assert ids(store.search_events(text=text)) == (["evt"] if found else [])
    assert store.count_events(text=text) == int(found)


def test_metadata_is_compared_as_json(store, behind):
    maps = [{"n": 1}, {"n": 1.0}, {"n": True}, {"n": {"a": [1, 2], "b": None}}, {"m": 1}, {"s": 'é"%'}, {}]
    for number, metadata in enumerate(maps):
        store.save_session(session(id=str(number), metadata=metadata, created_at=at(number)))
    behind("UPDATE asm_sessions SET metadata = :data WHERE id = '4'", data=r'{"\u006e":1}')

    def found(**metadata):
        return ids(store.search_sessions(metadata=metadata, order="created_at"))

    assert found(n=1) == found(n=1.0) == ["0", "1", "4"]
    assert found(n=True) == ["2"]
    assert found(n={"b": None, "a": [1.0, 2]}) == ["3"]
    assert found(s='é"%') == ["5"]
    assert found(s="%") == []
    assert found(n=1, s=1) == []


def test_token_usage_of_any_form_is_summed(store, behind):
    usages = [
        {"total_tokens": 2**62, "a.b": {'c"d\\': 1.5, "é": 2}, "list": [1, {"x": 1}], "text": "1", "yes": True, "none": None},
        {"total_tokens": 2**61, "a.b": {'c"d\\': 1, "é": 3}, "\0": {"": 7}, "🧪": -1},
        {"total_tokens": 1, "a.b": 5, "list": 2, "🧪": 0.5},
        {},
    ]
    for number, usage in enumerate(usages):
        store.save_run(run("ses", id=str(number), token_usage=usage, cost_usd=0.25 * number or None, provider="p"))
    behind("UPDATE asm_runs SET token_usage = NULL WHERE id = '3'")
    (used,) = store.get_usage()
    assert (used.group, used.run_count, used.cost_usd, used.runs_without_cost) == ({"provider": "p"}, 4, 1.5, 1)
    assert json.dumps(used.token_totals, sort_keys=True) == json.dumps(
        {
            "total_tokens": 2**62 + 2**61 + 1,
            "a.b": {'c"d\\': 2.5, "é": 5},
            "list": 2,
            "\0": {"": 7},
            "🧪": -0.5,
        },
        sort_keys=True,
    )
    assert store.get_session_stats("ses").token_totals == used.token_totals


def test_what_has_no_map_for_its_usage_counts_without_it(store, behind):
    store.save_run(run("ses", id="run", token_usage={"total_tokens": 1}, provider_metadata={"model": "m"}))
    behind("UPDATE asm_runs SET token_usage = '[1]', metadata = '\"text\"'")
    (used,) = store.get_usage(group_by=("model",))
    assert (used.group, used.run_count, used.token_totals) == ({"model": "m"}, 1, {})


# -- Rows that hold no value ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [b"\xff", "yesterday", "9999-12-31T23:59:59-12:00", 5])
def test_an_event_of_no_time_is_told_whoever_asks(opened, time):
    """A file that is damaged, or that somebody wrote to, may hold anything in any column."""
    store, change = opened
    store.append_events([event(), event()])
    change("UPDATE asm_events SET timestamp = ? WHERE sequence_number = 1", [time])
    with refused("storage_read_failed", reason="malformed_row"):
        store.get_session_stats("ses")
    assert ids(store.get_events("ses", after=1)) == ids(store.search_events().items[-1:])


def test_a_search_goes_on_behind_a_row_that_holds_no_value(store, behind, caplog):
    for number in range(4):
        store.save_session(session(id=f"ses {number}", created_at=at(number), updated_at=at(number)))
    behind("UPDATE asm_sessions SET metadata = '5' WHERE id = 'ses 1'")
    first = store.search_sessions(order="created_at", limit=1)
    assert ids(first) == ["ses 0"]
    assert ids(store.search_sessions(order="created_at", limit=2, cursor=first.cursor)) == ["ses 2", "ses 3"]
    assert ids(store.rows("list_sessions", {"limit": 2})) == ["ses 0", "ses 2"]
    assert "ses 1" in caplog.text


# -- In batches -------------------------------------------------------------------------------------------------------


def test_what_is_read_in_batches_is_what_the_operation_returns(store, monkeypatch):
    monkeypatch.setattr(reading, "FIRST", 2)
    monkeypatch.setattr(reading, "BYTES", 4000)
    for number in range(9):
        store.save_session(session(f"agent {number % 2}", id=f"ses {number}", created_at=at(number // 3)))
        store.save_run(run("ses", id=f"run {number}", started_at=at(number // 3)))
    sizes = [10, 5000, 10, 10, 3000, 3000, 10, 10, 10, 20_000, 10]
    store.append_events([event("ses", run_id="run", data={"text": "x" * size}, timestamp=at(-size)) for size in sizes])
    for operation, arguments in [
        ("get_events", {"session_id": "ses"}),
        ("get_events", {"session_id": "ses", "last": 7}),
        ("get_events", {"session_id": "ses", "last": 99, "after": 3}),
        ("get_events", {"session_id": "ses", "limit": 6, "run_id": "run"}),
        ("get_events", {"session_id": "none", "last": 2}),
        ("list_sessions", {}),
        ("list_sessions", {"offset": 2, "limit": 5}),
        ("list_sessions", {"offset": 20}),
        ("list_sessions", {"agent_id": "agent 1", "offset": 1, "status": ("pending", "active")}),
        ("list_runs", {"session_id": "ses"}),
        ("list_runs", {"session_id": "ses", "limit": 4}),
    ]:
        assert list(store.rows(operation, arguments)) == getattr(store, operation)(**arguments), (operation, arguments)
    for operation, order in [("search_sessions", "-created_at"), ("search_runs", "tokens"), ("search_events", "-timestamp")]:
        seen, cursor = [], None
        while True:
            *items, end = store.rows(operation, {"order": order, "limit": 4, "cursor": cursor})
            assert end == Page([], end.cursor)
            assert Page(items, end.cursor) == getattr(store, operation)(order=order, limit=4, cursor=cursor)
            seen += items
            cursor = end.cursor
            if cursor is None:
                break
        assert len(set(ids(seen))) == len(seen) >= 9
    assert store.rows("get_run", {"run_id": "run"}) is None
    assert store.rows("get_events", {"session_id": "ses", "wait_timeout_ms": 5}) is None


def test_a_long_history_is_read_with_little_memory_and_nothing_is_held_meanwhile(store):
    size, count = 500_000, 40
    for _ in range(count // 4):
        store.append_events([event("ses", data={"text": "x" * size}) for _ in range(4)])
    tracemalloc.start()
    try:
        rows = store.rows("get_events", {"session_id": "ses"})
        assert next(rows).sequence_number == 1
        assert store._database._readers.pool.checkedout() == 0
        store.append_event(event("ses"))  # what comes later is not waited for
        assert [item.sequence_number for item in rows] == list(range(2, count + 1))
        assert tracemalloc.get_traced_memory()[1] < 12 * size
    finally:
        tracemalloc.stop()


def test_what_is_deleted_in_steps_is_not_found(store):
    store._writer.close()  # nothing is removed any more
    with SqlSessionStore(url=store._database._readers.url.render_as_string(hide_password=False)) as other:
        other._writer._upkeep.step = lambda **_: None
        for session_id in ("gone", "part"):
            other.append_events([event(session_id, correlation_id="c", provider="p", timestamp=at(n)) for n in range(500)])
        other.delete_session("gone")
        assert other.delete_events("part", through=400) == 400
    assert store.count_events() == store.count_events(correlation_id="c") == 100
    found = store.search_events(limit=200)
    assert (len(found.items), found.items[0].timestamp) == (100, at(400))
    assert store.search_events(session_ids="gone").items == []
    stats = store.get_session_stats("part")
    assert (stats.event_count, stats.first_event_at) == (100, at(0) + timedelta(seconds=400))
