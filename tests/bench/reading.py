"""Reads, and what calls cost when there is much: a long history, many sessions, many who wait."""

import asyncio
import contextlib
import multiprocessing

from calls import append_p50
from measuring import event, medians_of, together
from table import Row, at_most
from trees import MEMORY, SESSIONS, SQLITE, tree

import asm

PAGE = 50
LAST = 20
RARE = "turn_completed"
"""The type of one event in as many as are asked for."""

FEW = 1000
"""Events and sessions of the store that is compared with."""

LONG = "ses_long"

BATCH = 2000
"""Events of a call that fills a store."""

FILLING = 600.0
"""Seconds that filling the stores may take."""

CONNECTIONS = 10

STORES = {"memory": MEMORY, "SQLite": SQLITE}

_FORK = multiprocessing.get_context("fork")


def much_rows(size):
    """Return the rows of :func:`much`."""
    named = {
        "page": f"last page of {PAGE} of {size.events:,} events",
        "last": f"get_events(last={LAST}) of a type, of {size.events:,} events",
        "list": f"list_sessions(limit={PAGE}) of {size.sessions:,}",
    }
    return [
        Row(f"{what}, {store}", "µs", f"{name}, {store}", f"{name} of {FEW:,}, {store}", at_most(1.3, relative=True))
        for name, what in named.items()
        for store in STORES
    ]


def much(bench):
    """Measure reading a page where there is much, and where there is little, in a tree of its own; call by call in turn."""
    with contextlib.ExitStack() as stack:
        large, small = ([stack.enter_context(tree(bench, config)) for config in STORES.values()] for _ in range(2))
        fill_events(large, 0, bench.size.events)
        fill_events(small, 0, FEW)
        reads = []
        for store, with_much, with_little in zip(STORES, large, small, strict=True):
            fill_sessions(with_much, 0, bench.size.sessions)
            fill_sessions(with_little, 0, FEW)
            much_of, little_of = (stack.enter_context(running.connect()) for running in (with_much, with_little))
            pages = {
                f"page, {store}": last_page(much_of, bench.size.events),
                f"page of {FEW:,}, {store}": last_page(little_of, FEW),
            }
            latest = {f"last, {store}": last_of_type(much_of), f"last of {FEW:,}, {store}": last_of_type(little_of)}
            reads += [
                pages,
                latest,
                {f"list, {store}": first_page(much_of), f"list of {FEW:,}, {store}": first_page(little_of)},
            ]
        for _ in range(bench.rounds):
            yield _in_turn(reads, max(bench.size.calls // 10, 10))


def polls_rows(size):
    """Return the rows of :func:`polls`."""
    what = f"append with {size.polls:,} waiting long-polls, p50"
    return [Row(f"{what}, {store}", "µs", store, f"without them, {store}", at_most(1.5, relative=True)) for store in STORES]


def polls(bench):
    """Measure appends while many long-polls wait for other sessions, and in a tree of its own without any."""
    with contextlib.ExitStack() as stack:
        appends = []
        for store, config in STORES.items():
            with_polls, without = (stack.enter_context(tree(bench, config)) for _ in range(2))
            stack.enter_context(waiting(with_polls, bench.size.polls))
            named = {store: with_polls, f"without them, {store}": without}
            appends.append({name: _append(stack.enter_context(running.connect())) for name, running in named.items()})
        for _ in range(bench.rounds):
            yield _in_turn(appends, max(bench.size.calls // 5, 10))


def _in_turn(groups, count):
    """Make the calls of each group in turn; return the median of each call, by its name."""
    figures = {}
    for named in groups:
        figures |= zip(named, medians_of(list(named.values()), count), strict=True)
    return figures


def _append(store):
    return lambda: store.append_event_with_sequence(event("ses_appended"))


def last_page(store, count, session_id=LONG):
    """Return a function that reads the last page of a history of so many events."""

    def read():
        page = store.get_events(session_id, after=count - PAGE, limit=PAGE)
        assert page[-1].sequence_number == count

    return read


def last_of_type(store):
    """Return a function that reads the latest events of a type."""

    def read():
        assert len(store.get_events(LONG, type=RARE, last=LAST)) == LAST

    return read


def first_page(store):
    """Return a function that lists the first sessions."""

    def read():
        assert len(store.list_sessions(limit=PAGE)) == PAGE

    return read


def fill_events(trees, there, count, session_id=LONG):
    """Append to a session of each tree until it has so many events, all at once from two processes each."""
    batches = [min(BATCH, count - start) for start in range(there, count, BATCH)]

    def prepare(number):
        store = trees[number // 2].connect()

        def work():
            for size in batches[number % 2 :: 2]:
                store.append_events([event(session_id, **({} if at % LAST else {"type": RARE})) for at in range(size)])

        return work

    together(2 * len(trees), prepare, FILLING)


def fill_sessions(running, there, count):
    """Save sessions until there are so many."""

    async def fill():
        numbers = iter(range(there, count))
        async with running.aconnect() as store:

            async def save():
                for number in numbers:
                    await store.save_session(asm.Session.new(agent_id=f"agent {number % 10}", id=f"ses_{number}"))

            async with asyncio.TaskGroup() as group:
                for _ in range(256):
                    group.create_task(save())

    asyncio.run(fill())


@contextlib.contextmanager
def waiting(running, count):
    """Have so many long-polls wait, each for a session of its own, on some connections of another process."""
    process = _FORK.Process(target=lambda: asyncio.run(_wait(running, count)), daemon=True)
    process.start()
    try:
        running.wait_in_flight(SESSIONS, count)
        yield
        running.wait_in_flight(SESSIONS, count)  # they still do
    finally:
        process.kill()
        process.join()


async def _wait(running, count):
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(running.aconnect()) for _ in range(CONNECTIONS)]
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                poll = stores[number % CONNECTIONS].get_events(f"ses_waited_{number}", wait_timeout_ms=3_600_000)
                group.create_task(poll)


def append_p50_with_polls(running, count, calls):
    """Return the median of an append in microseconds while so many long-polls wait."""
    with waiting(running, count), running.connect() as store:
        return append_p50(store, calls)
