"""Versions of asm that are not the same: what one knows and the other does not."""

import os
import socket
import struct

import msgpack
import pytest

import asm
from asm.wire.frames import frame

PATIENCE = 30.0


def ask(tree, method, arguments):
    """Make a call as another version may; return its error and its result."""
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as received:
        connection.settimeout(PATIENCE)
        connection.connect(os.fspath(tree.runtime_dir / "MyApp.Store.sock"))
        connection.sendall(frame(msgpack.packb([0, 1, f"session.{method}", [{}, arguments]])))
        (size,) = struct.unpack("!i", received.read(4))
        return msgpack.unpackb(received.read(size), timestamp=3)[2:]


NOW = msgpack.Timestamp(1_800_000_000)
EVENT = {"id": "evt", "type": "tool_call_progress", "timestamp": NOW, "session_id": "ses", "weight": 1.5}
SESSION = {"id": "ses", "agent_id": "a", "status": "archived", "created_at": NOW, "updated_at": NOW, "folder": "f"}
RUN = {"id": "run", "session_id": "ses", "status": "waiting", "started_at": NOW, "parts": [1]}


def test_what_a_later_version_stores_is_kept_and_read_beside_the_rest(any_tree):
    tree = any_tree
    for method, arguments in [
        ("save_session", {"session": SESSION}),
        ("save_run", {"run": RUN}),
        ("append_event", {"event": EVENT}),
    ]:
        assert ask(tree, method, arguments) == [None, None]
    with tree.connect() as store:
        mine = store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses"))
        store.save_session(asm.Session.new(agent_id="a", id="ses_mine"))
        theirs, again = store.get_events("ses")
        assert again == mine
        assert (theirs.id, theirs.type, theirs.sequence_number) == ("evt", "tool_call_progress", 1)
        assert {item.status for item in store.list_sessions()} == {"archived", "pending"}
        assert store.get_run("run").status == store.list_runs("ses")[0].status == "waiting"
        # What was read can be given back as it is; what is new must be known.
        store.save_run(store.get_run("run").changed(provider="p"))
        assert (store.get_run("run").status, store.get_run("run").provider) == ("waiting", "p")
        store.flush({"session": store.get_session("ses"), "run": store.get_run("run"), "events": [theirs]})
        for refused in (
            lambda: store.get_events("ses", type="tool_call_progress"),
            lambda: store.list_sessions(status="archived"),
        ):
            with pytest.raises(asm.StateError):
                refused()
    assert [item["id"] for item in ask(tree, "get_events", {"session_id": "ses", "type": ["tool_call_progress"]})[1]] == ["evt"]
    assert [item["id"] for item in ask(tree, "list_sessions", {"status": ["archived"]})[1]] == ["ses"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "No Type"},
        {"type": 5},
        {"id": "x" * 1025},
        {"run_id": "a\0"},
        {"data": [1]},
        {"session_id": ""},
        {"data": {"a": b"x"}},
    ],
    ids=repr,
)
def test_what_no_version_sends_is_not_stored(lasting_memory_tree, wrong):
    error, _ = ask(lasting_memory_tree, "append_event", {"event": EVENT | wrong})
    assert error["code"] in ("validation_error", "invalid_event_type")
    with lasting_memory_tree.connect() as store:
        assert store.get_latest_sequence("ses") == 0


def test_a_parameter_of_a_later_version_is_refused(lasting_memory_tree):
    error, _ = ask(lasting_memory_tree, "get_events", {"session_id": "ses", "colour": "blue"})
    assert error["code"] == "validation_error"
    assert "colour" in error["message"]
