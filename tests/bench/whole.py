"""What the contract promises of single calls: an answer comes whole however large it is, and expecting costs little."""

import time
from pathlib import Path

from measuring import event, medians_of
from table import Row, at_most
from trees import MEMORY, SESSIONS, SQLITE, STORE, tree

MIB = 1024**2

LARGE = "ses_large"
"""A session whose events together are as large as an artifact of this run."""

STORES = {"memory": MEMORY, "SQLite": SQLITE}

EXPECTING = tuple(
    Row(f"append_events(expect=…), {store}", "µs", f"expecting, {store}", f"without, {store}", at_most(1.15, relative=True))
    for store in STORES
)


def whole_rows(size):
    """Return the rows of :func:`whole`."""
    what = f"get_events of a session of {size.artifact // MIB:,} MiB: peak memory above idle"
    return [Row(f"{what}, {name}", "MiB", name, goal=at_most(64)) for name in ("composite", "SQLite worker")]


def whole(bench):
    """Measure what passing on a large answer takes in memory."""
    with tree(bench, SQLITE) as running, running.connect() as store:
        fill(store, bench.size.artifact)
        processes = {"composite": running.child(STORE), "SQLite worker": running.child(SESSIONS)}
        for _ in range(bench.rounds):
            idle = {name: process.memory_info().rss for name, process in processes.items()}
            for process in processes.values():
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew (proc(5))
            count = len(store.get_events(LARGE))
            assert count == store.get_latest_sequence(LARGE)
            yield {name: (peak(process) - idle[name]) / MIB for name, process in processes.items()}


def fill(store, size):
    """Append to a session until its events have so many bytes together, a MiB or less at a time."""
    content = "x" * min(MIB // 8, size)
    there = store.get_latest_sequence(LARGE)
    for _ in range(there, size // len(content)):
        store.append_event(event(LARGE, data={"content": content}))


def peak(process):
    """Return how many bytes a process has had in memory at the most."""
    (line,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def expecting(bench):
    """Measure an append that says where it expects to go, and one that does not, in turn."""
    calls = max(bench.size.calls // 5, 10)
    with tree(bench, MEMORY) as memory, tree(bench, SQLITE) as sqlite, memory.connect() as one, sqlite.connect() as two:
        handles = dict(zip(STORES, (one, two), strict=True))
        for _ in range(bench.rounds):
            figures = {}
            for name, store in handles.items():  # not all four in turn: the first call of a tree after a pause wakes it
                figures[f"expecting, {name}"], figures[f"without, {name}"] = medians_of(
                    [with_expectation(store), without(store)], calls
                )
            yield figures


def with_expectation(store):
    """Return a function that appends to a session of which it knows where it stands."""
    session_id = f"ses_expecting_{time.monotonic_ns()}"
    last = 0

    def append():
        nonlocal last
        (stored,) = store.append_events([event(session_id)], expect={session_id: last})
        last = stored.sequence_number

    return append


def without(store):
    """Return a function that appends to a session."""
    session_id = f"ses_plain_{time.monotonic_ns()}"
    return lambda: store.append_events([event(session_id)])
