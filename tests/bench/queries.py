"""What runs used, summed by a SQLite database: through the store, and by the same statement without it."""

import contextlib
import sqlite3
import threading
from datetime import UTC, datetime, timedelta

import sqlalchemy
from measuring import median_of
from table import Row, at_most

import asm
from asm.adapters import SqlSessionStore

GROUPS = ("day", "agent")
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def usage_rows(size):
    """Return the rows of :func:`usage`."""
    what = f"get_usage by {' and '.join(GROUPS)} of {size.sessions:,} runs"
    return [Row(what, "ms", "store", "the same SELECT in sqlite3", at_most(1.5, relative=True))]


def usage(bench):
    """Measure it in turn, in this process."""
    path = bench.directory() / "sessions.db"
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(SqlSessionStore(url=f"sqlite:///{path}"))
        fill(store, bench.size.sessions)
        statement = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
        sent = sent_by(store, lambda: store.get_usage(group_by=GROUPS))
        for _ in range(bench.rounds):
            yield {
                "store": median_of(lambda: store.get_usage(group_by=GROUPS), 3, 1) / 1000,
                "the same SELECT in sqlite3": median_of(lambda: statement.execute(*sent).fetchall(), 3, 1) / 1000,
            }


def fill(store, count):
    """Save runs, which share commits."""
    done = threading.Semaphore(0)
    for number in range(count):
        if number < 10:
            store.save_session(asm.Session.new(agent_id=f"agent {number}", id=f"ses_{number}"))
        run = asm.Run.new(
            session_id=f"ses_{number % 10}",
            started_at=BEGUN + timedelta(minutes=number),
            token_usage={"input_tokens": number, "output_tokens": 7, "details": {"cached": 3}},
            cost_usd=0.25,
        )
        store.submit("save_run", {"run": run}, lambda *_: done.release())
    for _ in range(count):
        done.acquire()


def sent_by(store, call):
    """Return the statement that a call sends, with its parameters."""
    sent = []

    def noted(_connection, _cursor, statement, parameters, _context, _many):
        sent.append((statement, parameters))

    engine = store._database._readers
    sqlalchemy.event.listen(engine, "before_cursor_execute", noted)
    try:
        call()
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", noted)
    (only,) = sent
    return only
