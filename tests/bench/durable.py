"""Durable appends: SQLite with ``synchronous=FULL``, every event on the disk before its append returns."""

import contextlib
import subprocess

from anchors import database
from anchors.outside import HERE, NotInstalledError, Outside, interpreter
from measuring import CONTENT, event, together
from table import Row, at_least, at_most
from trees import SQLITE, tree

import asm

CLIENTS = 16
BATCHERS = 4
BATCH = 100

FASTEST = "fastest peer"
PEERS_FAILED = "peers, all together"
SINGLES = "one SQLite connection"
BATCHES = f"one SQLite connection, batches of {BATCH}"

PEERS = {
    "openai_agents": ("OpenAI Agents SQLiteSession", "agents", "openai-agents"),
    "google_adk": ("ADK SqliteSessionService", "google.adk", "google-adk aiosqlite"),
    "langgraph": ("LangGraph SqliteSaver", "langgraph.checkpoint.sqlite", "langgraph-checkpoint-sqlite"),
}
"""For each peer its name, the module that must be there, and what brings it."""

_FIND = "import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"

_SINGLE = f"durable single appends, {CLIENTS} processes"

SINGLE_APPENDS = (
    Row(_SINGLE, "events/s", "rate", goal=at_least(10_000)),
    Row(_SINGLE, "events/s", "rate", FASTEST, at_least(8, relative=True)),
    Row(f"{_SINGLE}: errors", "", "failed", PEERS_FAILED, at_most(0)),
    *(Row(_SINGLE, "events/s", "rate", name) for name, _, _ in PEERS.values()),
    Row(_SINGLE, "events/s", "rate", SINGLES),
)
BATCHED_APPENDS = (
    Row(f"durable appends of {BATCH}, {BATCHERS} processes", "events/s", "rate", goal=at_least(40_000)),
    Row(f"durable appends of {BATCH}, {BATCHERS} processes", "events/s", "rate", BATCHES),
)


def single_appends(bench):
    """Measure how many events a second as many processes append one by one, each to a session of its own."""
    calls = bench.size.calls // 3
    with contextlib.ExitStack() as stack:
        peers = {}
        for peer, (name, *_) in PEERS.items():
            if started := stack.enter_context(bench.anchor([name], lambda peer=peer: _peer(peer, bench.peers_python))):
                peers[name] = started
        if not peers:
            bench.absent |= dict.fromkeys((FASTEST, PEERS_FAILED), " ".join(["pip install", *(it[2] for it in PEERS.values())]))
        alone = stack.enter_context(database.one_connection(bench.directory() / "alone.db", {"content": CONTENT}))
        running = stack.enter_context(tree(bench, SQLITE))
        for _ in range(bench.rounds):
            told = {name: peer.ask(CLIENTS, max(calls // 10, 1)) for name, peer in peers.items()}
            figures = {name: answer["rate"] for name, answer in told.items()}
            if told:
                figures[FASTEST] = max(figures.values())
                figures[PEERS_FAILED] = sum(answer["failed"] for answer in told.values())
            rate, failed = append_rate(running, CLIENTS, calls, 1)
            yield {**figures, SINGLES: alone(calls, 1), "rate": rate, "failed": failed}


def batched_appends(bench):
    """Measure how many events a second some processes append a hundred at a time."""
    calls = max(bench.size.calls // 30, 1)
    with (
        database.one_connection(bench.directory() / "alone.db", {"content": CONTENT}) as alone,
        tree(bench, SQLITE) as running,
    ):
        for _ in range(bench.rounds):
            rate, _ = append_rate(running, BATCHERS, calls, BATCH)
            yield {BATCHES: alone(calls, BATCH), "rate": rate}


def append_rate(running, clients, calls, size):
    """Append from so many processes at once; return events a second, and how many calls failed.

    :param size: how many events each call appends.
    """

    def prepare(number):
        session_id = f"ses_{number}"
        store = running.connect()
        made = [[event(session_id) for _ in range(size)] for _ in range(calls)]
        store.append_events([event(session_id)])
        before = store.get_latest_sequence(session_id)

        def work():
            failed = 0
            for events in made:
                try:
                    if size == 1:
                        store.append_event_with_sequence(events[0])
                    else:
                        store.append_events(events)
                except asm.Error:
                    failed += 1
            return failed, before

        return work

    seconds, told = together(clients, prepare)
    failed = sum(errors for errors, _ in told)
    acknowledged, stored = (clients * calls - failed) * size, 0
    with running.connect() as store:
        for number, (_, before) in enumerate(told):
            stored += store.get_latest_sequence(f"ses_{number}") - before
    assert stored >= acknowledged
    return acknowledged / seconds, failed


def _peer(peer, peers_python):
    """Start a peer in the interpreter that has it."""
    _, module, packages = PEERS[peer]
    python = interpreter(peers_python)
    if subprocess.run([python, "-I", "-c", _FIND.format(module=module)], stderr=subprocess.DEVNULL).returncode:
        raise NotInstalledError(f"pip install {packages}")
    return Outside(python, "-I", HERE / "peers.py", peer)
