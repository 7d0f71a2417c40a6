"""Where the time of a call goes: each step alone, in one process and again and again; and what the processes of a tree spend.

The difference between the two is what it costs to be woken: a processor that has just run another program, or nothing at
all, has to learn the code anew, and runs it several times as slowly as in a loop.
"""

import asyncio
import itertools
import socket
import statistics
import time
from pathlib import Path

from artifacts import MIB, make
from calls import CLIENTS, IN_FLIGHT, append_p50, async_rate, blocking_rate
from durable import BATCH, BATCHERS, append_rate
from measuring import event
from trees import ARTIFACTS, MEMORY, SESSIONS, SQLITE, STORE, tree

from asm.adapters import InMemorySessionStore
from asm.client.calling import outgoing
from asm.client.conversation import Conversation
from asm.operations import OPERATIONS
from asm.processes import loops
from asm.processes.access import Access
from asm.processes.gate import Gate
from asm.processes.hosted import Hosted
from asm.processes.limits import Limits
from asm.processes.links import Link, Named, Upstream
from asm.processes.service import Service

HEAD = ("step, alone and warm", "µs of a processor")
TREE_HEAD = ("in a tree, µs of a processor a call", "clients", "composite", "worker", "its threads")

STEPS = (
    "client: check, encode",
    "composite: request",
    "worker: decode, check, store, answer",
    "composite: answer",
    "client: decode",
    "all",
)

OPERATION = OPERATIONS["append_event_with_sequence"]


def alone(bench):
    """Measure the steps of an append, each the median of many; return rows of a table."""
    return loops.run(_alone(bench.size.calls))


def in_a_tree(bench):
    """Measure what clients, composite and worker spend on an append, or a MiB of an artifact; return rows of a table."""
    calls = bench.size.calls
    many = f"{CLIENTS} blocking clients, a process each"
    with tree(bench, MEMORY) as running, running.connect() as store:
        rows = [
            _row(running, "one blocking client", calls, lambda: append_p50(store, calls - 100)),
            _row(running, many, CLIENTS * (calls + 10), lambda: blocking_rate(running, CLIENTS, calls)),
            _row(running, f"{IN_FLIGHT} in flight", 4 * calls, lambda: asyncio.run(async_rate(running, IN_FLIGHT, 4 * calls))),
        ]
        data, mib = make(bench.size.artifact), max(bench.size.artifact // MIB, 1)
        artifacts = [
            _row(running, "put to files, a MiB", mib, lambda: store.put("large", data), ARTIFACTS),
            _row(running, "get from files, a MiB", mib, lambda: store.get("large"), ARTIFACTS),
        ]
    with tree(bench, SQLITE) as running:
        singles, batches = max(calls // 3, 1), max(calls // 30, 1)
        rows += [
            _row(running, f"{many}, SQLite", CLIENTS * singles, lambda: append_rate(running, CLIENTS, singles, 1)),
            _row(
                running,
                f"{BATCHERS} of them, appending {BATCH} at a time, an event",
                BATCHERS * batches * BATCH,
                lambda: append_rate(running, BATCHERS, batches, BATCH),
            ),
        ]
    for row in rows[1], *rows[3:]:
        row[1] = ""  # these clients are processes of their own
    return rows + artifacts


def _row(running, what, count, work, backend=SESSIONS):
    """Return what each of so many costs: the client in this process, the composite, and the worker's loop and its threads."""
    composite, worker = (running.child(name).pid for name in (STORE, backend))

    def spent():
        return [time.process_time(), _spent(composite), _spent(worker), _spent_in_threads(worker)]

    before = spent()
    work()
    return [what, *(f"{(now - then) / count * 1e6:.1f}" for now, then in zip(spent(), before, strict=True))]


def _spent(pid):
    """How many seconds a processor was busy with a process's main thread, which is where its loop runs."""
    return _busy(f"/proc/{pid}")


def _spent_in_threads(pid):
    """The same for all other threads."""
    return sum(_busy(task) for task in Path(f"/proc/{pid}/task").iterdir() if task.name != str(pid))


def _busy(task):
    return int(Path(task, "schedstat").read_text().split()[0]) / 1e9


async def _alone(count):
    passing, serving = _Side(_composite), _Side(_worker)
    conversation = Conversation(hello=None)
    took = []
    for number in range(count):
        made = event("ses_steps")
        moments = [time.thread_time_ns()]

        def note(moments=moments):
            moments.append(time.thread_time_ns())

        out = outgoing(OPERATION, OPERATION.bind((made,), {}), 5.0)
        call, request = conversation.begin(out)
        note()
        passed = passing.take(passing.near, request, passing.far)
        note()
        answer = serving.take(serving.near, passed, serving.near)
        note()
        answered = passing.take(passing.far, answer, passing.near)
        note()
        conversation.receive(answered)
        assert out.result(call, None).sequence_number == number + 1
        note()
        took.append([(after - before) / 1000 for before, after in itertools.pairwise(moments)])
    figures = [statistics.median(column) for column in zip(*took, strict=True)]
    return [(step, f"{figure:.1f}") for step, figure in zip(STEPS, (*figures, sum(figures)), strict=True)]


class _Side:
    """A process with connections whose other ends are not there."""

    def __init__(self, make):
        self._gate = Gate("bench", Limits(), Access())
        store, self.far = make()
        self._gate.routes = Service({"session": store}).routes
        self.near = _connected(self._gate.accept())

    def take(self, source, data, target):
        """Have a connection take bytes in; return what is written to another one in the same turn of the loop."""
        source.take_in(data)
        loop = loops.Loop.running()
        senders, loop.unflushed = loop.unflushed, []
        for sender in senders:
            sender.flush()
        return target._transport.written.pop()


def _worker():
    hosted = Hosted("bench", InMemorySessionStore, {})
    hosted.open()
    hosted.begin(lambda: None, lambda _error: None)
    return hosted, None


def _composite():
    link = Link(Named("bench", "/nowhere"), "session", Limits())
    link._upstream = _connected(Upstream(link, Limits().bytes_untaken))
    return link, link._upstream


def _connected(line):
    line.connection_made(_Transport())
    return line


class _Transport:
    """A transport that keeps what is written."""

    def __init__(self):
        self.written = []
        self._sockets = socket.socketpair()

    def get_extra_info(self, _name):
        return self._sockets[0]

    def is_closing(self):
        return False

    def write(self, data):
        self.written.append(bytes(data))
