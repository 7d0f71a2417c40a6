"""What clients do in a campaign of chaos, each a role that ``chaos_client.py`` plays again and again.

A role makes its calls through :meth:`Caller.perform`, which keeps the journal.
"""

import functools
import hashlib
import json

import asm
import asm.retention

PIECE = 64 * 1024

SHARED = ("ses_shared_1", "ses_shared_2")
"""Sessions to which all clients append."""

EXPECTING = "ses_expecting"
"""One to which all append where they expect its end."""

SHARED_KEYS = ("shared/1", "shared/2", "shared/3")

SIZES = ((40, 2000), (4000, 64_000), (100_000, 700_000), (1_000_000, 4_000_000))
"""Of artifacts, in bytes: the second half moves in pieces."""

POLL_MS = 1000

KEPT = 5
"""How many of the latest events of its session a role keeps that deletes the others."""

POLICY = asm.retention.RetentionPolicy(max_completed_age_days=0, hard_delete_after_days=0, archive=True)
"""Deletes each session that has ended, and nothing else."""

RETENTION_SECONDS = 30.0


def event(session_id, chance):
    return asm.Event.new(type="message_sent", session_id=session_id, data={"text": "x" * chance.randrange(200)})


def places(events):
    """Return where events are, as JSON values."""
    return [[item.session_id, item.id, item.sequence_number] for item in events]


async def append_alone(caller, chance, session_id):
    """One event after the other to one session."""
    new = event(session_id, chance)

    async def call(_steps):
        return places([await caller.store.call("append_event_with_sequence", new)])

    await caller.perform(chance, call, op="append", events=[[new.session_id, new.id]])


async def append_batch(caller, chance, own):
    """Batches over a session of its own and shared ones."""
    batch = [event(chance.choice([own, *SHARED]), chance) for _ in range(chance.randrange(2, 20))]

    async def call(_steps):
        return places(await caller.store.call("append_events", batch))

    await caller.perform(chance, call, op="batch", events=[[item.session_id, item.id] for item in batch])


async def flush(caller, chance, _own):
    """A session, its run and its events at once, each time others."""
    session = asm.Session.new(agent_id=f"flush-{caller.number}")
    run = asm.Run.new(session_id=session.id)
    events = [event(session.id, chance) for _ in range(chance.randrange(1, 8))]
    result = {"session": session, "run": run, "events": events, "provider_metadata": {"by": caller.number}}

    async def call(_steps):
        return places(await caller.store.call("flush", result))

    intended = [[item.session_id, item.id] for item in events]
    if await caller.perform(chance, call, op="flush", events=intended, session=session.id, run=run.id) is not None:
        caller.flushed[session.id] = [item.id for item in events]


async def save_and_get(caller, chance, own):
    """Sessions and runs that are replaced again and again."""
    kind, value = chance.choice(["session", "run"]), f"{chance.getrandbits(64):x}"
    identifier = f"{own}_{kind}_{chance.randrange(3)}"
    if kind == "session":
        saved = asm.Session.new(agent_id="saver", id=identifier, metadata={"value": value})
    else:
        saved = asm.Run.new(session_id=own, id=identifier, metadata={"value": value})

    async def save(_steps):
        await caller.store.call(f"save_{kind}", saved)

    async def get(_steps):
        return await unless_missing(caller.store.call(f"get_{kind}", identifier), lambda found: found.metadata["value"])

    await caller.perform(chance, save, op="write", key=f"{kind}:{identifier}", value=value)
    await caller.perform(chance, get, op="read", key=f"{kind}:{identifier}")


async def put_and_get(caller, chance, keys):
    """Artifacts under one of the keys; small ones whole, larger ones in pieces."""
    if chance.random() < 0.6:
        key = chance.choice(keys)
        data = chance.randbytes(chance.randint(*chance.choices(SIZES, (6, 3, 2, 1))[0]))
        whole = chance.random() < 0.5

        async def put(steps):
            await caller.store.call("put", key, data if whole else pieces(data, steps))

        await caller.perform(chance, put, moves_data=True, op="write", key=f"artifact:{key}", value=sha256(data))
    key = chance.choice(keys)

    async def get(steps):
        if chance.random() < 0.5:
            return await unless_missing(caller.store.read("open", key, step=steps.step), sha256)
        return await unless_missing(caller.store.call("get", key), sha256)

    await caller.perform(chance, get, moves_data=True, op="read", key=f"artifact:{key}")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def pieces(data, steps):
    for start in range(0, len(data), PIECE):
        steps.step()
        yield data[start : start + PIECE]


async def unless_missing(awaitable, of):
    """Return something of what a call returned, and ``None`` when what was asked for is not there."""
    try:
        return of(await awaitable)
    except asm.ResourceError:
        return None


def follower(session_id):
    """Return a role that reads a session as it grows, with long-polls."""
    last = 0

    async def follow(caller, chance, _own):
        nonlocal last

        async def call(_steps):
            found = await caller.store.call("get_events", session_id, after=last, limit=2000, wait_timeout_ms=POLL_MS)
            return [[item.id, item.sequence_number] for item in found]

        seen = await caller.perform(chance, call, wait=POLL_MS / 1000, op="poll", session=session_id, after=last)
        last = seen[-1][1] if seen else last

    return follow


async def append_expecting(caller, chance, session_id):
    """An event where it is expected to go, or none at all."""
    new = event(session_id, chance)

    async def call(_steps):
        last = await caller.store.call("get_latest_sequence", session_id)
        (stored,) = await caller.store.call("append_events", [new], expect={session_id: last})
        assert stored.sequence_number <= last + 1, f"it is at {stored.sequence_number}, and {last + 1} was expected"
        return places([stored])

    await caller.perform(chance, call, op="expect", events=[[new.session_id, new.id]])


async def append_and_prune(caller, chance, session_id):
    """Events to a session of which the latest are kept."""
    new = event(session_id, chance)

    async def append(_steps):
        return places([await caller.store.call("append_event_with_sequence", new)])

    stored = await caller.perform(chance, append, op="append", events=[[new.session_id, new.id]])
    if not stored or chance.random() < 0.7 or (through := stored[0][2] - KEPT) < 1:
        return

    async def prune(_steps):
        return await caller.store.call("delete_events", session_id, through=through)

    await caller.perform(chance, prune, op="prune", session=session_id, through=through)


async def search(caller, chance, _own):
    """All sessions that the client has flushed, page by page, each once."""
    wanted = set(caller.flushed)

    async def call(steps):
        found, cursor = [], None
        while True:
            page = await caller.store.call("search_sessions", agent_id=f"flush-{caller.number}", limit=500, cursor=cursor)
            steps.step()
            found += [session.id for session in page.items]
            if (cursor := page.cursor) is None:
                return {"missing": sorted(wanted - set(found))[:5], "twice": len(found) - len(set(found))}

    await caller.perform(chance, call, op="search")


async def export(caller, chance, _own):
    """A session that the client has flushed: its export has its events, in their order."""
    if not caller.flushed:
        return
    session_id = chance.choice(list(caller.flushed))

    async def call(steps):
        lines = (await caller.store.read("export_session", session_id, step=steps.step)).splitlines()
        text = b"".join(lines).decode()
        at = [text.find(f'"{identifier}"') for identifier in caller.flushed[session_id]]
        return {"whole": all(json.loads(line) for line in lines) and -1 not in at and at == sorted(at)}

    await caller.perform(chance, call, op="export", session=session_id)


async def retire(caller, chance, _own):
    """A session that has ended, with an artifact; and retention, which clients may do all at once."""
    session = asm.Session.new(agent_id="retired", status="completed")
    events = [event(session.id, chance) for _ in range(3)]

    async def put(_steps):
        await caller.store.call("put", f"{session.id}/notes", b"notes")
        return True

    async def flush(_steps):
        return places(await caller.store.call("flush", {"session": session, "events": events}))

    def apply(steps):
        report = asm.retention.apply(caller.store.handle, POLICY, progress=lambda _report: steps.step())
        return len(report.errors)

    if await caller.perform(chance, put, op="put") is None:
        return
    await caller.perform(chance, flush, op="retire", session=session.id)
    await caller.perform(chance, functools.partial(caller.store.run, apply), wait=RETENTION_SECONDS, op="retention")
