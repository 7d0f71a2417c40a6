"""How SQLite answers each query: by an index, and without sorting what an index has in order."""

import sqlite3
from contextlib import closing

import pytest
import sqlalchemy

from asm.adapters import SqlSessionStore
from asm.testing.samples import at, event, run, session


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with enough in it for the planner to have a choice."""
    path = tmp_path_factory.mktemp("plans") / "sessions.db"
    with SqlSessionStore(url=f"sqlite:///{path}") as made:
        for number in range(30):
            made.save_session(session(f"agent {number % 3}", id=f"ses {number}"))
            made.save_run(run(f"ses {number % 2}"))
            made.append_events([event(f"ses {number % 2}", run_id="run") for _ in range(10)])
        yield made


@pytest.fixture
def plans(store):
    """A function that makes a call and returns the steps of the plan of each statement that it sent."""

    def explain(call):
        sent = []

        def noted(_connection, _cursor, statement, parameters, _context, many):
            if not statement.startswith("BEGIN"):
                sent.append((statement, parameters[0] if many and isinstance(parameters, list) else parameters))

        engines = (store._database._readers, store._database._writer)
        for engine in engines:
            sqlalchemy.event.listen(engine, "before_cursor_execute", noted)
        try:
            call(store)
        finally:
            for engine in engines:
                sqlalchemy.event.remove(engine, "before_cursor_execute", noted)
        with closing(sqlite3.connect(store._database._readers.url.database)) as connection:
            return [[row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)] for sql, values in sent]

    return explain


BY_SEQUENCE = "SEARCH asm_events USING INDEX sqlite_autoindex_asm_events_2"
BY_CORRELATION = "SEARCH asm_events USING INDEX asm_events_by_correlation"
BY_TYPE = "SEARCH asm_events USING INDEX asm_events_by_type"
DELETED = [
    "SCALAR SUBQUERY 1",
    "SEARCH asm_session_sequences USING INDEX sqlite_autoindex_asm_session_sequences_1 (session_id=?)",
    "SCALAR SUBQUERY 2",
    "SEARCH asm_event_deletions USING COVERING INDEX sqlite_autoindex_asm_event_deletions_1 (session_id=?)",
    "CORRELATED SCALAR SUBQUERY 3",
    "SEARCH asm_event_deletions USING INDEX sqlite_autoindex_asm_event_deletions_1 (session_id=?)",
]
"""How it is looked up which events of a session are deleted: once for each query, and for each row only where any are."""
ANY_DELETED = {
    "SCAN asm_event_deletions USING COVERING INDEX sqlite_autoindex_asm_event_deletions_1",
    "SCAN asm_session_sequences USING INDEX asm_session_sequences_by_deleted",
}
"""How it is looked up whether events of any session are: at the first row it is known, and what is not deleted has none."""
SORTED = "USE TEMP B-TREE FOR ORDER BY"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda s: s.list_sessions(), "SCAN asm_sessions USING INDEX asm_sessions_by_created"),
        (lambda s: s.list_sessions(limit=5, offset=5), "SCAN asm_sessions USING INDEX asm_sessions_by_created"),
        (
            lambda s: s.list_sessions(status="active", limit=5),
            "SEARCH asm_sessions USING INDEX asm_sessions_by_status (status=?)",
        ),
        (lambda s: s.list_sessions(agent_id="agent 1"), "SEARCH asm_sessions USING INDEX asm_sessions_by_agent (agent_id=?)"),
        (lambda s: s.list_runs("ses 0"), "SEARCH asm_runs USING INDEX asm_runs_by_session (session_id=?)"),
        (lambda s: s.list_runs("ses 0", limit=5), "SEARCH asm_runs USING INDEX asm_runs_by_session (session_id=?)"),
        (
            lambda s: s.list_runs("ses 0", status="failed"),
            "SEARCH asm_runs USING INDEX asm_runs_by_status (session_id=? AND status=?)",
        ),
        (lambda s: s.get_active_run("ses 0"), "SEARCH asm_runs USING INDEX asm_runs_by_status (session_id=? AND status=?)"),
        (lambda s: s.get_events("ses 0"), f"{BY_SEQUENCE} (session_id=? AND sequence_number<?)"),
        (
            lambda s: s.get_events("ses 0", after=5, before=9, limit=2),
            f"{BY_SEQUENCE} (session_id=? AND sequence_number>? AND sequence_number<?)",
        ),
        (
            lambda s: s.get_events("ses 0", type="run_failed", after=5),
            f"{BY_TYPE} (session_id=? AND type=? AND sequence_number>? AND sequence_number<?)",
        ),
        (
            lambda s: s.get_events("ses 0", run_id="run", limit=5),
            "SEARCH asm_events USING INDEX asm_events_by_run (run_id=? AND session_id=? AND sequence_number<?)",
        ),
        (
            lambda s: s.get_events("ses 0", since=at(0), after=5),
            f"{BY_SEQUENCE} (session_id=? AND sequence_number>? AND sequence_number<?)",
        ),
        (
            lambda s: s.get_events("ses 0", correlation_id="call", after=5),
            f"{BY_CORRELATION} (correlation_id=? AND session_id=? AND sequence_number>? AND sequence_number<?)",
        ),
        (lambda s: s.get_events("ses 0", last=5), f"{BY_SEQUENCE} (session_id=? AND sequence_number<?)"),
        (
            lambda s: s.get_events("ses 0", type="run_failed", last=5),
            f"{BY_TYPE} (session_id=? AND type=? AND sequence_number<?)",
        ),
        (
            lambda s: s.get_latest_sequence("ses 0"),
            "SEARCH asm_session_sequences USING INDEX sqlite_autoindex_asm_session_sequences_1 (session_id=?)",
        ),
    ],
)
def test_a_read_is_one_query_by_index_in_its_order(plans, call, expected):
    assert plans(call) == [[expected, *(DELETED if "asm_events" in expected else [])]]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("search_sessions", {}, "SCAN asm_sessions USING INDEX asm_sessions_by_updated"),
        ("search_sessions", {"tags": ("a",), "metadata": {"a": 1}}, "SCAN asm_sessions USING INDEX asm_sessions_by_updated"),
        ("search_sessions", {"updated_after": at(0)}, "SEARCH asm_sessions USING INDEX asm_sessions_by_updated (updated_at>?)"),
        ("search_sessions", {"order": "created_at"}, "SCAN asm_sessions USING INDEX asm_sessions_by_created"),
        (
            "search_sessions",
            {"order": "created_at", "agent_id": "agent 1"},
            "SEARCH asm_sessions USING INDEX asm_sessions_by_agent (agent_id=?)",
        ),
        (
            "search_sessions",
            {"order": "-created_at", "status": ("failed",)},
            "SEARCH asm_sessions USING INDEX asm_sessions_by_status (status=?)",
        ),
        (
            "search_sessions",
            {"agent_id": "agent 1"},
            "SEARCH asm_sessions USING INDEX asm_sessions_by_agent_updated (agent_id=?)",
        ),
        (
            "search_sessions",
            {"status": ("failed",)},
            "SEARCH asm_sessions USING INDEX asm_sessions_by_status_updated (status=?)",
        ),
        (
            "search_sessions",
            {"parent_session_id": "ses 1"},
            "SEARCH asm_sessions USING INDEX asm_sessions_by_parent (parent_session_id=?)",
        ),
        ("search_runs", {}, "SCAN asm_runs USING INDEX asm_runs_by_started"),
        ("search_runs", {"agent_id": "agent 1"}, "SCAN asm_runs USING INDEX asm_runs_by_started"),
        ("search_runs", {"provider": "p"}, "SEARCH asm_runs USING INDEX asm_runs_by_provider (provider=?)"),
        ("search_runs", {"order": "-tokens"}, "SCAN asm_runs USING INDEX asm_runs_by_tokens"),
        ("search_runs", {"order": "tokens", "min_tokens": 1}, "SEARCH asm_runs USING INDEX asm_runs_by_tokens (tokens>?)"),
        ("search_runs", {"session_id": "ses 1"}, "SEARCH asm_runs USING INDEX asm_runs_by_session (session_id=?)"),
        ("search_events", {}, "SCAN asm_events USING INDEX asm_events_by_timestamp"),
        ("search_events", {"type": ("run_failed",)}, "SCAN asm_events USING INDEX asm_events_by_timestamp"),
        ("search_events", {"since": at(0)}, "SEARCH asm_events USING INDEX asm_events_by_timestamp (timestamp>?)"),
        ("search_events", {"correlation_id": "c"}, f"{BY_CORRELATION} (correlation_id=?)"),
        ("search_events", {"run_ids": ("run",)}, "SEARCH asm_events USING INDEX asm_events_by_run (run_id=?)"),
        ("search_events", {"session_ids": ("ses 1",)}, f"{BY_SEQUENCE} (session_id=?)"),
        ("count_events", {"correlation_id": "c"}, f"{BY_CORRELATION} (correlation_id=?)"),
        ("get_session_stats", {"session_id": "ses 1"}, f"{BY_SEQUENCE} (session_id=? AND sequence_number<?)"),
    ],
)
def test_a_search_goes_by_an_index(plans, name, given, expected):
    plan = plans(lambda s: getattr(s, name)(**given))[0]
    assert plan[0] == expected
    if name in ("search_sessions", "search_runs"):  # one index has the order, too
        assert SORTED not in plan


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("search_sessions", "SEARCH asm_sessions USING INDEX asm_sessions_by_updated ((updated_at,id)<(?,?))"),
        ("search_runs", "SEARCH asm_runs USING INDEX asm_runs_by_started ((started_at,id)<(?,?))"),
        ("search_events", "SEARCH asm_events USING INDEX asm_events_by_timestamp (timestamp>?)"),
    ],
)
def test_a_page_begins_where_the_last_one_ended(plans, store, name, expected):
    cursor = getattr(store, name)(limit=2).cursor
    (plan,) = plans(lambda s: getattr(s, name)(limit=2, cursor=cursor))
    assert plan[0] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"provider": "p"}, "asm_runs_by_provider (provider=?)"),
        ({"since": at(0)}, "asm_runs_by_started (started_at>?)"),
        ({"session_id": "ses 1"}, "asm_runs_by_session (session_id=?)"),
    ],
)
def test_what_runs_used_is_summed_of_those_alone(plans, given, expected):
    (plan,) = plans(lambda s: s.get_usage(**given, group_by=("day", "agent")))
    assert f"SEARCH runs USING INDEX {expected}" in plan


@pytest.mark.parametrize("name", ["session", "run"])
def test_one_value_is_found_by_its_id(plans, store, name):
    found = (store.list_sessions() if name == "session" else store.list_runs("ses 0"))[0]
    (plan,) = plans(lambda s: getattr(s, f"get_{name}")(found.id))
    assert plan == [f"SEARCH asm_{name}s USING INDEX sqlite_autoindex_asm_{name}s_1 (id=?)"]


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.list_sessions(status=["active", "paused"], agent_id="agent 1"),
        lambda s: s.list_runs("ses 0", status=["failed", "completed"]),
        lambda s: s.get_events("ses 0", type=["run_failed", "run_started"], run_id="run", since=at(0), after=1, before=9),
    ],
)
def test_several_filters_still_use_an_index(plans, call):
    (plan,) = plans(call)
    assert plan[0].startswith("SEARCH asm_")
    assert plan[1:] in ([], [SORTED], DELETED, [*DELETED, SORTED])


def test_writes_look_up_by_index(plans):
    def write(s):
        given = [event("ses 0"), event("ses 1")]
        for _ in range(2):  # the second time it is looked up whether they are stored
            s.append_events(given)
        s.save_run(run("ses 0"))
        s.delete_events("ses 0", through=2, run_id="run", type="message_sent")
        s.delete_session("ses 1")

    steps = [step for plan in plans(write) for step in plan]
    assert steps
    scans = [step for step in steps if step.startswith("SCAN asm_") or "TEMP B-TREE" in step]
    assert set(scans) <= ANY_DELETED
