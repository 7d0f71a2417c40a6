"""Version 2 of the protocol is a promise: a copy of its vectors, never made anew, is still understood and still written.

Who adds to the protocol adds vectors to the page, and may add them to the copy. What stands there does not change: a client in
another language, or of an earlier version, says it and expects it so.
"""

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import pytest

import asm
from asm.client.conversation import Call, Conversation
from asm.core.results import Page
from asm.operations import METHODS, OPERATIONS
from asm.wire.calls import Rows, decode_arguments, decode_params, decode_result
from asm.wire.conversation import read_head
from asm.wire.frames import HEADER
from asm.wire.messages import PROTOCOL, REQUEST, read_meta
from asm.wire.streams import read_opened

COPY = Path(__file__).with_name("vectors_of_version_2.txt")
TOOL = Path(__file__).parents[2] / "tools" / "protocol_vectors.py"
FROZEN = [tuple(vector.split("\n")) for vector in COPY.read_text().strip().split("\n\n")]
FRAMES = [bytes.fromhex(frame) for _said, frame in FROZEN]
EVENT = asm.Event.new(
    id="evt_1",
    type="message_received",
    session_id="ses_1",
    timestamp=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    data={"content": "Hi"},
)


def test_what_version_2_writes_is_still_written():
    spec = importlib.util.spec_from_file_location("protocol_vectors", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = [data.hex() for data in tool.vectors()]
    assert PROTOCOL == 2
    assert [frame for _said, frame in FROZEN if frame not in written] == []
    assert [tool.meaning(frame) for frame in FRAMES] == [said for said, _frame in FROZEN]


def test_what_version_2_asks_is_still_understood():
    asked = {}
    for frame in FRAMES:
        body = frame[HEADER.size :]
        head = read_head(body)
        if head.kind == REQUEST and head.method in METHODS:
            operation = METHODS[head.method]
            meta, arguments = decode_params(body, head)
            assert read_meta(body, head) == meta
            if operation.data_parameter is None or not meta.get("stream"):  # else its data follows
                asked[head.msgid] = (operation.name, decode_arguments(operation, arguments), meta)
    assert asked[1] == ("get_session", {"session_id": "ses_1"}, {"timeout_ms": 5000})
    assert asked[2] == ("append_event_with_sequence", {"event": EVENT}, {})
    assert asked[3][1] == {"key": "patch-1", "data": b"\x00\xff"}
    assert asked[6][2] == {"numbers": True}
    assert asked[7][2].keys() == {"stream", "traceparent"}
    assert asked[8][:2] == ("search_events", OPERATIONS["search_events"].bind((), {"session_ids": ["ses_1"]}))
    assert asked[11][2] == {"stream": True, "info": True}
    assert asked[10][2] == {"stream": True, "offset": 3, "version": "5e5e"}


def answered(msgid, **kinds):
    """The call with this id, as it stands after all that the vectors say, and the pieces of its result."""
    conversation = Conversation(None)
    call = Call(**kinds)
    call.msgid, conversation._msgid = msgid, 100  # the other calls were answered before
    conversation.calls[msgid] = call
    for frame in FRAMES:
        body = frame[HEADER.size :]
        head = read_head(body)
        if head.kind != REQUEST and (head.msgid == msgid or head.method == b"chunk"):
            conversation.receive(frame)
    assert conversation.lost is None
    return call


@pytest.mark.parametrize(
    ("msgid", "name", "sent", "result"),
    [
        (2, "append_event_with_sequence", {"event": EVENT}, EVENT.sequenced(1)),
        (6, "append_event_with_sequence", {"event": EVENT}, EVENT.sequenced(1)),
        (3, "put", {}, None),
        (9, "search_events", {}, Page([], None)),
    ],
)
def test_what_version_2_answers_is_still_understood(msgid, name, sent, result):
    assert decode_result(OPERATIONS[name], answered(msgid).outcome(), sent) == result


@pytest.mark.parametrize(
    ("msgid", "name", "result"),
    [
        (7, "get_events", [EVENT.sequenced(1), EVENT.sequenced(2)]),
        (8, "search_events", Page([EVENT.sequenced(1), EVENT.sequenced(2)], "next")),
    ],
)
def test_rows_that_version_2_sends_in_pieces_are_still_understood(msgid, name, result):
    call, rows = answered(msgid, pieces=True), Rows(OPERATIONS[name], {})
    for piece in [*call.pieces, call.last_piece()]:
        rows.feed(piece)
    assert rows.end() == result


def test_what_version_2_says_of_errors_streams_and_itself_is_still_understood():
    with pytest.raises(asm.ResourceError) as caught:
        answered(1).outcome()
    assert caught.value.details == {"session_id": "ses_1"}
    assert answered(4).outcome()["protocol"] == 2
    assert read_opened(answered(11, pieces=True).last_piece()) == (5, "5e5e", b"piece")
    assert answered(10, pieces=True).last_piece() == b"ce"
    conversation = Conversation(None)
    conversation.receive(next(frame for frame in FRAMES if b"refused" in frame))
    with pytest.raises(asm.StorageError, match="full"):
        raise conversation.lost
