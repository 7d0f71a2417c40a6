import io
from datetime import UTC, datetime

import pytest

import asm
from asm.client.calling import outgoing
from asm.client.conversation import Call
from asm.core.policies import RetentionPolicy
from asm.core.results import Page, SessionStats, Usage
from asm.operations import OPERATIONS
from asm.wire import messages
from asm.wire.calls import decode_arguments, decode_result, encode_arguments, encode_result, pack_rows, whole
from asm.wire.conversation import Broken
from asm.wire.messages import decode

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SESSION = asm.Session.new(agent_id="a", metadata={"deep": [{"er": [None, True, 1.5, "ü", -(2**63)]}]}, tags=["x"])
RUN = asm.Run.new(session_id=SESSION.id, input={"prompt": "hi"}, cost_usd=0.1, ended_at=WHEN)
EVENT = asm.Event.new(type="message_sent", session_id=SESSION.id, run_id=RUN.id, data={"content": ""})
INFO = asm.ArtifactInfo(key="k", byte_size=0, checksum_sha256="0" * 64, updated_at=WHEN)
RESULT = {"session": SESSION, "run": RUN, "events": [EVENT], "provider_metadata": {"model": "m"}}

ARGUMENTS = [
    ("save_session", {"session": SESSION}),
    ("get_session", {"session_id": "s"}),
    ("list_sessions", {"status": ("active", "paused"), "agent_id": "a", "limit": 5, "offset": 1}),
    ("save_run", {"run": RUN}),
    ("append_events", {"events": [EVENT, EVENT.sequenced(3)]}),
    ("flush", {"result": RESULT}),
    ("get_events", {"session_id": "s", "since": WHEN, "type": ("message_sent",), "after": 0, "wait_timeout_ms": 10}),
    ("put", {"key": "ключ", "data": b"\x00\xff"}),
    ("list", {"prefix": "p", "after": None}),
    ("save_session", {"session": SESSION, "replacing": SESSION}),
    ("save_run", {"run": RUN, "replacing": RUN}),
    ("append_events", {"events": [EVENT], "expect": {"s": 0, "t": 7}}),
    ("flush", {"result": {"events": []}, "expect": {}}),
    ("get_events", {"session_id": "s", "until": WHEN, "correlation_id": "c", "last": 3}),
    ("delete_events", {"session_id": "s", "through": 3, "type": ("message_sent", "myapp.thought")}),
    ("search_sessions", {"tags": ("a", "b"), "metadata": {"a": [1]}, "order": "created_at", "cursor": "c"}),
    ("search_runs", {"min_tokens": 3, "order": "-tokens"}),
    ("search_events", {"session_ids": ("a", "b"), "run_ids": ("r",), "text": "Hi"}),
    ("count_events", {"since": WHEN}),
    ("get_usage", {"group_by": ("model", "day")}),
    ("import_session", {"data": b"{}"}),
    ("expired", {"policy": RetentionPolicy(max_age_days=3, exempt_statuses=["failed"]), "limit": 5}),
    ("expired", {"policy": RetentionPolicy(max_completed_age_days=None, hard_delete_after_days=None), "limit": 5}),
]
RESULTS = [
    ("save_session", None),
    ("get_session", SESSION),
    ("list_sessions", [SESSION]),
    ("list_runs", [RUN, RUN]),
    ("get_active_run", RUN),
    ("get_active_run", None),
    ("get_events", []),
    ("get_latest_sequence", 7),
    ("get", b""),
    ("stat", INFO),
    ("list", [INFO]),
    ("delete_events", 3),
    ("delete_prefix", 3),
    ("search_sessions", Page([SESSION], "c")),
    ("search_runs", Page([RUN])),
    ("search_events", Page([])),
    ("count_events", 3),
    ("get_session_stats", SessionStats(event_count=3, providers_used=["p"], status_counts={"failed": 1}, first_event_at=WHEN)),
    ("get_usage", [Usage(group={"model": None}, run_count=1, token_totals={"a": {"b": 1}}, cost_usd=0.1)]),
    ("import_session", "s"),
    ("health_check", ["a gap"]),
    ("compact", 4096),
    ("expired", [SESSION]),
]


def over_the_wire(value):
    return decode(messages.result(1, value))[3]


@pytest.mark.parametrize(("name", "arguments"), ARGUMENTS)
def test_arguments_arrive_as_they_were_sent(name, arguments):
    operation = OPERATIONS[name]
    bound = operation.bind((), arguments)
    assert decode_arguments(operation, over_the_wire(encode_arguments(operation, bound))) == bound


@pytest.mark.parametrize(("name", "result"), RESULTS)
def test_results_arrive_as_they_were_sent(name, result):
    operation = OPERATIONS[name]
    sent = {"result": {"session": SESSION}} if name == "flush" else {}
    assert decode_result(operation, over_the_wire(encode_result(operation, result)), sent) == result


OTHER = asm.Event.new(type="message_sent", session_id=SESSION.id)
STORED_BEFORE = asm.Event.new(id=EVENT.id, type="message_sent", session_id=SESSION.id, data={"content": "before"}).sequenced(3)
AN_EQUAL = asm.Event.from_map(EVENT.to_map()).sequenced(4)


@pytest.mark.parametrize(
    ("stored", "on_the_wire"),
    [
        (EVENT.sequenced(7), 7),
        (STORED_BEFORE, STORED_BEFORE.held_fields()),
        (AN_EQUAL, AN_EQUAL.held_fields()),  # 1, 1.0 and True are equal, too
    ],
)
@pytest.mark.parametrize("numbers", [True, False])
def test_an_event_that_was_stored_as_it_was_sent_comes_back_as_its_number_if_that_is_asked_for(stored, on_the_wire, numbers):
    one, several = OPERATIONS["append_event_with_sequence"], OPERATIONS["append_events"]
    sent = {"event": EVENT}
    encoded = encode_result(one, stored, sent if numbers else None)
    assert encoded == (on_the_wire if numbers else stored.held_fields())
    assert decode_result(one, over_the_wire(encoded), sent) == stored
    events = [OTHER, EVENT]
    for operation, sent in ((several, {"events": events}), (OPERATIONS["flush"], {"result": {"events": events}})):
        encoded = encode_result(operation, [OTHER.sequenced(1), stored], sent if numbers else None)
        assert encoded[1] == (on_the_wire if numbers else stored.held_fields())
        assert decode_result(operation, over_the_wire(encoded), sent) == [OTHER.sequenced(1), stored]


@pytest.mark.parametrize("received", [None, "7", 0, True, [1], [{}, {}]])
def test_what_is_no_result_of_an_append_is_refused(received):
    for name, sent in (("append_event_with_sequence", {"event": EVENT}), ("append_events", {"events": [EVENT]})):
        if (name, received) != ("append_events", [1]):
            with pytest.raises(asm.Error):
                decode_result(OPERATIONS[name], received, sent)


def test_open_arrives_as_a_file():
    operation = OPERATIONS["open"]
    with decode_result(operation, over_the_wire(encode_result(operation, io.BytesIO(b"data"))), {}) as file:
        assert file.read() == b"data"


@pytest.mark.parametrize(
    "data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), io.BytesIO(b"abc"), [b"a", b"bc"], iter([b"abc"])]
)
def test_data_of_every_kind(data):
    assert encode_arguments(OPERATIONS["put"], {"key": "k", "data": data})["data"] == b"abc"


def test_data_that_yields_no_bytes():
    for data in (io.StringIO("abc"), ["abc"], [1]):
        with pytest.raises(asm.ValidationError):
            encode_arguments(OPERATIONS["put"], {"key": "k", "data": data})


def test_every_operation_has_been_sent_and_answered_here():
    tested = {name for name, _ in [*ARGUMENTS, *RESULTS]} | {"open", "export_session", "append_event_with_sequence"}
    left = set(OPERATIONS) - tested
    plain = {"delete_session", "get_run", "append_event", "delete"}
    assert left == plain
    assert all(OPERATIONS[name].parameters.keys() <= {"session_id", "run_id", "event", "key"} for name in plain)


def test_a_source_may_use_one_buffer_for_all_that_it_yields():
    def source():
        buffer = bytearray(3)
        for text in (b"abc", b"def", b"ghi"):
            buffer[:] = text
            yield buffer

    call = outgoing(OPERATIONS["put"], {"key": "k", "data": source()}, 5.0)
    *pieces, size = (piece if isinstance(piece, int) else bytes(piece) for piece in call.pieces)
    assert (b"".join(pieces), size) == (b"abcdefghi", 9)


def answered(result, received):
    call = Call(pieces=True)
    call.receiving.arrived(received)
    call.respond(messages.result(1, result))
    return call


@pytest.mark.parametrize(("received", "total"), [(256, 259), (0, 256), (512, 259)])
def test_a_download_of_which_a_part_is_missing(received, total):
    assert answered([b"end", 259], 256).last_piece() == b"end"
    with pytest.raises(asm.StorageError, match="bytes arrived") as caught:
        answered([b"", total], received).last_piece()
    assert caught.value.code == "storage_read_failed"
    assert caught.value.details == {"bytes_sent": total, "bytes_received": received}


@pytest.mark.parametrize("result", [b"end", None, [b"end"], ["end", 3], [b"end", "3"], [b"end", 3, 3]])
def test_a_response_to_a_download_that_is_none(result):
    with pytest.raises(Broken):
        answered(result, 0).last_piece()


@pytest.mark.parametrize(("name", "result"), [item for item in RESULTS if OPERATIONS[item[0]].returns_rows])
def test_rows_that_are_encoded_one_by_one_are_the_same_as_the_whole(name, result):
    operation = OPERATIONS[name]
    rows = list(pack_rows(operation, result))
    assert decode(whole(operation, rows)) == over_the_wire(encode_result(operation, result))
    made_one_by_one = iter([*result.items, Page([], result.cursor)] if isinstance(result, Page) else result)
    assert list(pack_rows(operation, made_one_by_one)) == rows
