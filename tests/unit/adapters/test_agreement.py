"""The two session stores, told the same, say the same: the memory store is the model of the SQL store."""

import itertools
import tempfile

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from asm.adapters import InMemorySessionStore, SqlSessionStore
from asm.core.values import EventType, RunStatus, SessionStatus
from asm.testing.samples import at, event, run, session

IDS = st.sampled_from(["a", "A", "b", "é"])
TIMES = st.integers(-2, 2).map(at)
TYPES = st.sampled_from(list(EventType)[:3])
COUNTS = st.none() | st.integers(0, 6)
LIMITS = st.none() | st.integers(1, 4)
SESSIONS = st.builds(session, IDS, id=IDS, status=st.sampled_from(SessionStatus), created_at=TIMES)
RUNS = st.builds(
    run, IDS, id=IDS, status=st.sampled_from(list(RunStatus)[:3]), started_at=TIMES, provider_metadata=st.just({"a": 1})
)
EVENTS = st.builds(event, IDS, id=st.integers(0, 15).map(str), type=TYPES, run_id=st.none() | IDS, timestamp=TIMES)


class Agreement(RuleBasedStateMachine):
    numbers = itertools.count()
    directory = None

    def __init__(self):
        super().__init__()
        self.memory = InMemorySessionStore()
        self.sql = SqlSessionStore(url=f"sqlite:///{self.directory}/{next(self.numbers)}.db")

    def teardown(self):
        self.memory.close()
        self.sql.close()

    def both(self, name, *args, **kwargs):
        assert getattr(self.memory, name)(*args, **kwargs) == getattr(self.sql, name)(*args, **kwargs)

    @rule(value=SESSIONS)
    def save_session(self, value):
        self.both("save_session", value)

    @rule(value=RUNS)
    def save_run(self, value):
        self.both("save_run", value)

    @rule(value=EVENTS)
    def append_event(self, value):
        self.both("append_event_with_sequence", value)

    @rule(values=st.lists(EVENTS, max_size=6))
    def append_events(self, values):
        self.both("append_events", values)

    @rule(saved=SESSIONS, done=RUNS, values=st.lists(EVENTS, max_size=3))
    def flush(self, saved, done, values):
        self.both("flush", {"session": saved, "run": done, "events": values, "provider_metadata": {"b": 2}})

    @rule(session_id=IDS)
    def delete_session(self, session_id):
        self.both("delete_session", session_id)

    @rule(
        status=st.none() | st.lists(st.sampled_from(SessionStatus), max_size=3),
        agent_id=st.none() | IDS,
        limit=LIMITS,
        offset=st.integers(0, 3),
    )
    def list_sessions(self, **filters):
        self.both("list_sessions", **filters)

    @rule(session_id=IDS, status=st.none() | st.lists(st.sampled_from(RunStatus), max_size=3), limit=LIMITS)
    def list_runs(self, session_id, **filters):
        self.both("list_runs", session_id, **filters)
        self.both("get_active_run", session_id)

    @rule(
        session_id=IDS,
        run_id=st.none() | IDS,
        type=st.none() | TYPES | st.lists(TYPES, max_size=2),
        since=st.none() | TIMES,
        after=COUNTS,
        before=COUNTS,
        limit=LIMITS,
    )
    def get_events(self, session_id, **filters):
        self.both("get_events", session_id, **filters)

    @invariant()
    def logs_are_contiguous_and_the_same(self):
        for session_id in ("a", "A", "b", "é"):
            events = self.sql.get_events(session_id)
            assert events == self.memory.get_events(session_id)
            assert [item.sequence_number for item in events] == list(range(1, self.sql.get_latest_sequence(session_id) + 1))


def test_the_session_stores_agree():
    with tempfile.TemporaryDirectory() as directory:
        Agreement.directory = directory
        chosen = settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # making a failure smaller takes longer than a test may
        )
        run_state_machine_as_test(Agreement, settings=chosen)
