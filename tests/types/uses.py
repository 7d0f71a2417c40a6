"""What users write, right and wrong: a line with the comment ``wrong`` is refused by a type checker, and no other is.

Read by ``tests/types/test_types.py``, and never run.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import BinaryIO, assert_type

import asm
import asm.aio
from asm.client.aio import AsyncClient
from asm.ports import ExecutionResult


class NoStore:
    """Lacks nearly everything."""

    def save_session(self, session: asm.Session) -> None: ...


def stores_are_their_contracts(client: asm.Client) -> None:
    memory: asm.SessionStore = asm.InMemorySessionStore()
    memory_queries: asm.SessionQueries = asm.InMemorySessionStore()
    memory_maintenance: asm.Maintenance = asm.InMemorySessionStore()
    sql: asm.SessionStore = asm.SqlSessionStore(url="sqlite:///app.db")
    sql_queries: asm.SessionQueries = asm.SqlSessionStore(url="sqlite:///app.db")
    sql_maintenance: asm.Maintenance = asm.SqlSessionStore(url="sqlite:///app.db")
    files: asm.ArtifactStore = asm.FileArtifactStore(root="artifacts")
    s3: asm.ArtifactStore = asm.S3ArtifactStore(bucket="bucket")
    sessions: asm.SessionStore = client
    artifacts: asm.ArtifactStore = client
    queries: asm.SessionQueries = client
    maintenance: asm.Maintenance = client
    none: asm.SessionStore = NoStore()  # wrong
    crossed: asm.SessionStore = asm.FileArtifactStore(root="artifacts")  # wrong
    crossed_too: asm.ArtifactStore = asm.InMemorySessionStore()  # wrong


def statuses_are_spelt_right(store: asm.SessionStore, session: asm.Session, run: asm.Run) -> None:
    asm.Session.new(agent_id="agent", status="active")
    asm.Session.new(agent_id="agent", status=asm.SessionStatus.ACTIVE)
    asm.Session.new(agent_id="agent", status=session.status)
    asm.Session.new(agent_id="agent", status="actve")  # wrong
    asm.Session.new(agent_id="agent", status="running")  # wrong
    asm.Run.new(session_id=session.id, status="running")
    asm.Run.new(session_id=session.id, status=run.status)
    asm.Run.new(session_id=session.id, status="active")  # wrong
    session.update_status("completed").update_status(asm.SessionStatus.FAILED).update_status(session.status)
    session.update_status("complete")  # wrong
    run.update_status("timeout")
    run.update_status("timed_out")  # wrong
    store.list_sessions(status="active")
    store.list_sessions(status=["active", asm.SessionStatus.PAUSED, session.status])
    store.list_sessions(status=("active", "paused"), limit=5, offset=2)
    store.list_sessions(status=session.status)
    store.list_sessions(status=asm.SessionStatus("active"))
    store.list_sessions(status="actve")  # wrong
    store.list_sessions(status=["active", "actve"])  # wrong
    store.list_runs(session.id, status=["running", run.status])
    store.list_runs(session.id, status="runing")  # wrong
    if session.status == "active" or session.status is asm.SessionStatus.PAUSED or run.status in ("failed", "timeout"):
        print(session.status.upper(), f"{run.status}")


def types_of_events(store: asm.SessionStore, event: asm.Event, text: str) -> None:
    asm.Event.new(type="message_sent", session_id="ses")
    asm.Event.new(type=asm.EventType.MESSAGE_SENT, session_id="ses", data={"text": text, "list": [1, None]})
    asm.Event.new(type="myapp.thought", session_id="ses")
    asm.Event.new(type=text, session_id="ses")
    asm.Event.new(type=event.type, session_id="ses")
    asm.Event.new(type=1, session_id="ses")  # wrong
    asm.Event.new(type="message_sent")  # wrong
    asm.Event.new(type="message_sent", session="ses")  # wrong
    store.get_events("ses", type=["message_sent", "myapp.thought", event.type, asm.EventType.RUN_FAILED])
    store.get_events("ses", type=event.type, last=20, correlation_id=event.correlation_id, until=datetime.now(UTC))
    store.get_events("ses", type=5)  # wrong
    store.get_events("ses", "run")  # wrong
    store.get_events("ses", since="2026-01-01")  # wrong
    store.get_events("ses", colour="blue")  # wrong


def values_say_what_they_hold(store: asm.SessionStore, session: asm.Session, run: asm.Run, event: asm.Event) -> None:
    assert_type(store.get_session("ses"), asm.Session)
    assert_type(store.get_active_run("ses"), asm.Run | None)
    assert_type(store.append_event_with_sequence(event), asm.Event)
    assert_type(store.get_events("ses"), list[asm.Event])
    assert_type(store.delete_events("ses", through=5), int)
    assert_type(event.sequence_number, int | None)
    assert_type(session.created_at, datetime)
    assert_type(session.changed(metadata={"a": 1}), asm.Session)
    assert_type(run.increment_turn().set_output({"a": 1}), asm.Run)
    assert_type(event.timestamp, datetime)
    event.sequence_number + 1  # wrong
    session.agent_id = "other"  # wrong
    session.agent  # wrong
    store.get_active_run("ses").id  # wrong


def writes(store: asm.SessionStore, session: asm.Session, run: asm.Run, events: list[asm.Event]) -> None:
    store.save_session(session.update_status("active"), replacing=session)
    store.save_session(session, replacing=None)
    store.save_session(session, replacing=run)  # wrong
    store.save_session(session, session)  # wrong
    store.save_run(run.increment_turn(), replacing=run)
    store.save_run(session)  # wrong
    store.append_events(events, expect={"ses": 3, "ses_other": 0})
    store.append_events(events, expect=3)  # wrong
    store.append_events(events, expect={"ses": "3"})  # wrong
    store.append_events(events[0])  # wrong
    store.append_event("event")  # wrong
    assert_type(store.flush({"session": session, "run": run, "events": events, "provider_metadata": {"a": 1}}), list[asm.Event])
    store.flush({"session": session})
    store.flush({"events": events}, expect={"ses": 0})
    result: ExecutionResult = {"run": run}
    store.flush(result)
    store.flush({"session": run})  # wrong
    store.flush({"sessions": session})  # wrong
    store.flush({"events": [session]})  # wrong
    store.delete_events("ses", type=["message_sent", "myapp.thought"], run_id=run.id)
    store.delete_events()  # wrong


def artifacts_are_bytes(store: asm.ArtifactStore) -> None:
    store.put("key", b"data")
    store.put("key", memoryview(b"data"))
    store.put("key", io.BytesIO(b"data"))
    store.put("key", (piece for piece in (b"a", b"b")))
    store.put("key", open("file", "rb"))
    store.put("key", store.open("key"))
    store.put("key", "text")  # wrong
    store.put(1, b"data")  # wrong
    assert_type(store.get("key"), bytes)
    assert_type(store.open("key"), BinaryIO)
    assert_type(store.stat("key").byte_size, int)
    assert_type(store.list(prefix="a/"), list[asm.ArtifactInfo])
    assert_type(store.delete_prefix("a/"), int)
    store.list("a/")  # wrong
    store.get("key").read()  # wrong


def questions(store: asm.SessionQueries, session: asm.Session, cursor: str | None) -> None:
    page = store.search_sessions(status="active", tags=["pinned"], metadata={"team": "red"}, order="-created_at", cursor=cursor)
    assert_type(page, asm.Page[asm.Session])
    assert_type(page.items, list[asm.Session])
    assert_type(page.cursor, str | None)
    for found in page:
        assert_type(found, asm.Session)
    assert_type(store.search_runs(min_tokens=5, order="-tokens", status=["failed"]), asm.Page[asm.Run])
    assert_type(store.search_events(session_ids=["ses"], type="myapp.thought", text="needle"), asm.Page[asm.Event])
    assert_type(store.count_events(run_ids="run"), int)
    assert_type(store.get_session_stats("ses"), asm.SessionStats)
    assert_type(store.get_usage(group_by=["day", "agent"]), list[asm.Usage])
    store.get_usage(group_by="day")
    assert_type(store.import_session(store.export_session("ses")), str)
    store.search_sessions(status="actve")  # wrong
    store.search_sessions(order="-created")  # wrong
    store.search_runs(order="created_at")  # wrong
    store.search_events(order="-sequence")  # wrong
    store.search_sessions("agent")  # wrong
    store.count_events(limit=5)  # wrong
    store.get_usage(group_by="month")  # wrong
    store.get_usage(group_by=["day", "month"])  # wrong
    store.search_sessions().item  # wrong


async def the_same_with_coroutines(store: AsyncClient, session: asm.Session, run: asm.Run, event: asm.Event) -> None:
    assert_type(await store.get_session("ses"), asm.Session)
    assert_type(await store.get_events("ses", type="message_sent", last=3), list[asm.Event])
    assert_type(await store.flush({"session": session}, expect={"ses": 1}), list[asm.Event])
    assert_type(await store.search_runs(order="tokens"), asm.Page[asm.Run])
    assert_type(await store.list(prefix="a/"), list[asm.ArtifactInfo])
    assert_type(await store.get("key"), bytes)
    async with await store.open("key") as file:
        assert_type(await file.read(), bytes)
    await store.save_run(run.update_status("failed"), replacing=run)
    await store.put("key", b"data")
    store.get_session("ses").agent_id  # wrong
    await store.get_events("ses", since=5)  # wrong
    await store.list_sessions(status="actve")  # wrong
    await store.flush({"sessions": session})  # wrong
    await store.append_event(session)  # wrong


async def handles(name: str) -> None:
    with asm.connect(name, timeout=5) as client:
        assert_type(client, asm.Client)
        assert_type(client.get_session("ses"), asm.Session)
        for event in client.follow("ses", after=3, type=["message_sent", "myapp.thought"]):
            assert_type(event, asm.Event)
        assert_type(client.update_run("run", lambda run: run.increment_turn()), asm.Run)
        assert_type(client.update_session("ses", lambda session: session.update_status("active")), asm.Session)
        client.get_sesion("ses")  # wrong
        client.update_run("run", lambda run: run.turn_count)  # wrong
        client.follow("ses", after="3")  # wrong
    async with asm.aio.connect(name) as store:
        assert_type(await store.get_latest_sequence("ses"), int)
        async for event in store.follow("ses", run_id="run"):
            assert_type(event, asm.Event)
        assert_type(await store.update_run("run", lambda run: run.set_output({"a": 1})), asm.Run)
        await store.get_latest_sequence(5)  # wrong
        await store.update_run("run", lambda run: run.id)  # wrong
