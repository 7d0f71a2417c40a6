"""Calls: what one costs, and how many there are in a second. Sessions in memory, through a composite in a real tree."""

import asyncio
import contextlib

from anchors import beam, hops, relay
from measuring import event, median_of, together
from table import Row, at_least, at_most
from trees import MEMORY, tree

CLIENTS = 16
IN_FLIGHT = 64

C_HOPS = "C, two hops"
PIPES = "blocking pipes in Python, two hops"
BEAM_ONE = "BEAM across two nodes"
BEAM_MANY = f"BEAM across two nodes, {CLIENTS} callers"
BARE = "bare asyncio relay"

ONE_CLIENT = (
    Row("append, one blocking client, p50", "µs", "p50", C_HOPS, at_most(2.5, relative=True)),
    Row("append, one blocking client, p50", "µs", "p50", BEAM_ONE, at_most(1.0, relative=True)),
    Row("append, one blocking client, p50", "µs", "p50", PIPES),
)
MANY_CLIENTS = (
    Row(f"append, {CLIENTS} blocking clients, a process each", "calls/s", "rate", BEAM_MANY, at_least(1.0, relative=True)),
)
ASYNC_CLIENT = (
    Row(f"append, one asyncio client, {IN_FLIGHT} in flight", "calls/s", "rate", goal=at_least(20_000)),
    Row(f"append, one asyncio client, {IN_FLIGHT} in flight", "calls/s", "rate", BARE, at_least(0.5, relative=True)),
)


def one_client(bench):
    """Measure what an append costs a client that is alone."""
    calls = bench.size.calls
    with contextlib.ExitStack() as stack:
        compiled = stack.enter_context(bench.anchor([C_HOPS], lambda: contextlib.nullcontext(hops.compiled(bench.directory()))))
        pipes = stack.enter_context(hops.pipes(event().to_map()))
        nodes = stack.enter_context(bench.anchor([BEAM_ONE], beam.nodes))
        store = stack.enter_context(stack.enter_context(tree(bench, MEMORY)).connect())
        for _ in range(bench.rounds):
            figures = {PIPES: pipes(calls), "p50": append_p50(store, calls)}
            if compiled:
                figures[C_HOPS] = compiled(calls)
            if nodes:
                figures[BEAM_ONE] = nodes.ask("one", calls)
            yield figures


def many_clients(bench):
    """Measure how many appends as many processes make in a second, each with a blocking handle."""
    calls = bench.size.calls // 2
    with bench.anchor([BEAM_MANY], beam.nodes) as nodes, tree(bench, MEMORY) as running:
        for _ in range(bench.rounds):
            figures = {"rate": blocking_rate(running, CLIENTS, calls)}
            if nodes:
                figures[BEAM_MANY] = nodes.ask("together", CLIENTS, calls)
            yield figures


def async_client(bench):
    """Measure how many appends a client makes in a second that keeps many in flight on its connection."""
    calls = bench.size.calls * 10
    message = event().to_map()
    with relay.relay(bench.directory()) as path, tree(bench, MEMORY) as running:
        for _ in range(bench.rounds):
            bare = asyncio.run(relay.calls_a_second(path, message, calls, IN_FLIGHT))
            yield {"rate": asyncio.run(async_rate(running, IN_FLIGHT, calls)), BARE: bare}


def append_p50(store, count, session_id="ses_one"):
    """Append so many events; return the median of what that took, in microseconds."""
    events = iter([event(session_id) for _ in range(2 * count)])
    return median_of(lambda: store.append_event_with_sequence(next(events)), count)


def blocking_rate(running, clients, calls):
    """Append from so many processes at once, so many events each; return calls a second."""

    def prepare(number):
        store = running.connect()
        events = [event(f"ses_{number}") for _ in range(calls)]
        for _ in range(10):
            store.append_event_with_sequence(event(f"ses_{number}"))

        def work():
            for made in events:
                store.append_event_with_sequence(made)

        return work

    seconds, _ = together(clients, prepare)
    return clients * calls / seconds


async def async_rate(running, in_flight, calls):
    """Append from one connection with so many calls in flight; return calls a second."""
    made = [event("ses_async") for _ in range(calls)]
    loop = asyncio.get_running_loop()
    async with running.aconnect() as store:
        events = iter(made)

        async def caller():
            for one in events:
                await store.append_event_with_sequence(one)

        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(caller())
        return calls / (loop.time() - began)
