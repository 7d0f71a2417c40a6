"""How cost grows: each dimension from little to much, in one tree that grows. There are no goals here, only shapes."""

import contextlib
import statistics

from artifacts import MIB, make, put_and_get
from calls import append_p50, blocking_rate
from durable import append_rate
from measuring import median_of
from reading import PAGE, STORES, append_p50_with_polls, fill_events, fill_sessions, first_page, last_page
from table import number, render
from trees import MEMORY, SQLITE, tree

CLIENTS = (1, 4, 16, 64)
GROWING = "ses_growing"


def clients(bench):
    """More clients, each a process with a blocking handle that appends."""
    yield ("clients", "memory, calls/s", "SQLite, events/s")
    with tree(bench, MEMORY) as memory, tree(bench, SQLITE) as sqlite:
        for count in CLIENTS:
            calls = max(bench.size.calls * 4 // count, 10)
            rate, _ = append_rate(sqlite, count, max(calls // 4, 5), 1)
            yield (count, blocking_rate(memory, count, calls), rate)


def events(bench):
    """A longer history of one session."""
    yield ("events", *(f"{what}, {store}, µs" for store in STORES for what in (f"last {PAGE}", "append")))
    with _both(bench) as handles:
        for count in _decades(1000, bench.size.events):
            line = [count]
            for running, store in handles:
                fill_events([running], store.get_latest_sequence(GROWING), count, GROWING)
                line += [median_of(last_page(store, count, GROWING), 200), append_p50(store, 200, GROWING)]
            yield line


def sessions(bench):
    """More sessions in one store."""
    yield ("sessions", *(f"list {PAGE}, {store}, µs" for store in STORES))
    with _both(bench) as handles:
        there = 0
        for count in _decades(100, bench.size.sessions):
            line = [count]
            for running, store in handles:
                fill_sessions(running, there, count)
                line.append(median_of(first_page(store), 200))
            yield line
            there = count


def polls(bench):
    """More long-polls that wait for other sessions."""
    yield ("long-polls", *(f"append, {store}, µs" for store in STORES))
    with _both(bench) as handles:
        for count in _decades(1, bench.size.polls):
            yield (count, *(append_p50_with_polls(running, count, max(bench.size.calls // 5, 10)) for running, _ in handles))


def artifacts(bench):
    """Larger artifacts, put and got."""
    yield ("bytes", "put, ms", "get, ms", "put, MiB/s", "get, MiB/s")
    with tree(bench, MEMORY) as running, running.connect() as store:
        size = 1024
        while size <= 2 * bench.size.artifact:
            times = 10 if size < MIB else 3 if size < 256 * MIB else 1
            took = [put_and_get(store, make(size)) for _ in range(times)]
            put, got = (statistics.median(column) for column in zip(*took, strict=True))
            yield (size, put * 1000, got * 1000, size / MIB / put, size / MIB / got)
            size *= 32


GROWTHS = {growth.__name__: growth for growth in (clients, events, sessions, polls, artifacts)}


def grow(bench, names):
    """Measure along some dimensions, printing as it goes; return the tables as JSON values."""
    tables = {}
    for name in names:
        growth = GROWTHS[name]
        head, *lines = growth(bench)
        tables[name] = {"head": head, "lines": lines}
        print(f"\n{growth.__doc__}\n\n{render(head, [[number(cell) for cell in line] for line in lines])}", flush=True)
    return tables


@contextlib.contextmanager
def _both(bench):
    """Start a tree for each store; the value is each tree with a handle."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(tree(bench, config)) for config in STORES.values()]
        yield [(each, stack.enter_context(each.connect())) for each in running]


def _decades(first, last):
    count = first
    while count <= last:
        yield count
        count *= 10
