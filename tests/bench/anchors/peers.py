"""What a user would pick instead: K processes append to one SQLite file, each to a session of its own, with a peer's store.

    peers.py PEER        for each line "PROCESSES COUNT": {"rate": events a second, "failed": how many were refused}

Runs in the interpreter in which the peers are installed, and needs nothing of ours. Imports and set-up are not timed, and
what is appended is made beforehand.
"""

# ruff: noqa: PLC0415  # each peer is imported only where it is measured

import asyncio
import json
import logging
import multiprocessing
import sqlite3
import sys
import tempfile
import time
import warnings

PATIENCE = 120
CONTENT = "x" * 80

_FORK = multiprocessing.get_context("fork")


async def openai_agents(path, number, count):
    """SQLiteSession of the OpenAI Agents SDK."""
    from agents import SQLiteSession

    session = SQLiteSession(f"ses_{number}", path)
    items = [[{"role": "user", "content": CONTENT}] for _ in range(count)]
    return [lambda item=item: session.add_items(item) for item in items]


async def google_adk(path, number, count):
    """SqliteSessionService of Google's ADK."""
    from google.adk.events import Event
    from google.adk.sessions.sqlite_session_service import SqliteSessionService
    from google.genai import types

    service = SqliteSessionService(path)
    for attempt in range(100):  # all of them make the tables
        try:
            session = await service.create_session(app_name="a", user_id="u", session_id=f"ses_{number}")
            break
        except Exception:
            if attempt == 99:
                raise
            await asyncio.sleep(0.05)
    content = types.Content(role="user", parts=[types.Part(text=CONTENT)])
    events = [Event(author="user", invocation_id="i", content=content) for _ in range(count)]
    return [lambda event=event: service.append_event(session, event) for event in events]


async def langgraph(path, number, count):
    """SqliteSaver of LangGraph."""
    from langgraph.checkpoint.base import empty_checkpoint
    from langgraph.checkpoint.sqlite import SqliteSaver

    saver = SqliteSaver(sqlite3.connect(path, check_same_thread=False))
    for attempt in range(100):
        try:
            saver.setup()
            break
        except sqlite3.OperationalError:
            if attempt == 99:
                raise
            await asyncio.sleep(0.05)
    config = {"configurable": {"thread_id": f"ses_{number}", "checkpoint_ns": ""}}
    checkpoints = [empty_checkpoint() | {"channel_values": {"m": CONTENT}} for _ in range(count)]

    async def append(step, checkpoint):
        nonlocal config
        config = saver.put(config, checkpoint, {"step": step, "source": "loop", "parents": {}}, {})

    return [lambda step=step, made=made: append(step, made) for step, made in enumerate(checkpoints)]


PEERS = {peer.__name__: peer for peer in (openai_agents, google_adk, langgraph)}


async def append_all(peer, path, number, count, barrier):
    """Be one of the processes; return when it began, when it ended, and how many appends failed."""
    calls, failed = await PEERS[peer](path, number, count), 0
    barrier.wait(PATIENCE)
    began = time.monotonic()
    for call in calls:
        try:
            await call()
        except Exception:  # noqa: BLE001  # that it failed is what counts
            failed += 1
    return began, time.monotonic(), failed


def work(peer, path, number, count, barrier, results):
    """Run in each process."""
    try:
        results.put(asyncio.run(append_all(peer, path, number, count, barrier)))
    except BaseException:
        barrier.abort()
        raise


def measure(peer, processes, count):
    """Return events a second, and how many failed."""
    with tempfile.TemporaryDirectory() as directory:
        barrier, results = _FORK.Barrier(processes), _FORK.Queue()
        workers = [
            _FORK.Process(target=work, args=(peer, f"{directory}/peer.db", number, count, barrier, results))
            for number in range(processes)
        ]
        for worker in workers:
            worker.start()
        told = [results.get(timeout=PATIENCE) for _ in workers]
        for worker in workers:
            worker.join()
    failed = sum(errors for _, _, errors in told)
    seconds = max(ended for _, ended, _ in told) - min(began for began, _, _ in told)
    return {"rate": (processes * count - failed) / seconds, "failed": failed}


def main(peer):
    """Answer line by line."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(PEERS[peer](f"{directory}/peer.db", 0, 1))  # imports what the processes need, once for all
    print("true", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(peer, *map(int, line.split()))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
