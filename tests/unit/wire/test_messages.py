from datetime import UTC, datetime, timedelta

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asm
from asm.wire import messages
from asm.wire.calls import decode_params
from asm.wire.conversation import read_head
from asm.wire.messages import (
    CANCEL,
    NOTIFICATION,
    REQUEST,
    RESPONSE,
    MessageError,
    decode,
    decode_response,
    error_code,
    read_meta,
    request_head,
    response_head,
)

MSGIDS = st.integers(0, 2**32 - 1)
TIMES = st.datetimes(timezones=st.just(UTC))


@given(MSGIDS, st.text(min_size=1, max_size=60))
def test_the_head_of_a_request(msgid, method):
    body = messages.request(msgid, method, {"a": 1}, {"timeout_ms": 5})
    head = read_head(body)
    assert head[:3] == (REQUEST, msgid, method.encode())
    assert decode_params(body, head) == ({"timeout_ms": 5}, {"a": 1})
    assert read_meta(body, head) == {"timeout_ms": 5}


@given(MSGIDS, st.text(min_size=1, max_size=60))
def test_other_encoders_choose_the_shortest_integers(msgid, method):
    body = msgpack.packb([0, msgid, method, [{}, {}]])
    head = read_head(body)
    assert head[:3] == (REQUEST, msgid, method.encode())
    assert decode_params(body, head) == ({}, {})


@given(MSGIDS, MSGIDS)
def test_a_relay_puts_its_own_msgid_in_front_and_the_rest_stays(theirs, ours):
    for body in (
        messages.request(theirs, "artifact.get", {"key": "k"}, {}),
        msgpack.packb([0, theirs, "artifact.get", [{}, {"key": "k"}]]),
    ):
        passed_on = request_head(ours) + body[read_head(body).method_at :]
        assert decode(passed_on) == [0, ours, "artifact.get", [{}, {"key": "k"}]]
    for body in (messages.result(ours, b"data"), msgpack.packb([1, ours, None, b"data"])):
        passed_back = response_head(theirs) + body[read_head(body).params_at :]
        assert decode_response(passed_back) == (theirs, b"data")


def test_the_head_of_a_notification():
    head = read_head(messages.notification(CANCEL, [7]))
    assert head[:3] == (NOTIFICATION, 0, CANCEL)


@given(TIMES)
def test_times_keep_their_microseconds(time):
    assert decode(messages.result(1, time)) == [1, 1, None, time]


def test_times_before_1970():
    for time in (datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)):
        assert decode_response(messages.result(1, time)) == (1, time)


def test_an_error_crosses_unchanged():
    error = asm.Error(
        "storage_error",
        "gone",
        details={"reason": "backend_exited", "n": 1},
        provider_error={"status": 500},
        context={"operation": "put"},
        timestamp=datetime(2026, 1, 2, tzinfo=UTC) + timedelta(microseconds=7),
    )
    body = messages.error(3, error)
    assert read_head(body).kind == RESPONSE
    with pytest.raises(asm.StorageError) as caught:
        decode_response(body)
    assert caught.value.to_map() == error.to_map()


def test_details_that_cannot_be_sent_are_shown_rather_than_lost():
    with pytest.raises(asm.Error) as caught:
        decode_response(messages.error(1, asm.Error("internal_error", "x", details={"odd": {1, 2}})))
    assert caught.value.details == {"odd": "{1, 2}"}


def test_an_error_that_a_newer_version_has():
    body = msgpack.packb([1, 1, {"code": "brand_new", "message": "hm", "details": {"a": 1}}, None])
    with pytest.raises(asm.Error) as caught:
        decode_response(body)
    assert caught.value.code == "unknown_error"
    assert caught.value.details == {"a": 1, "code": "brand_new"}


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(body):
    try:
        head = read_head(body)
        decode_params(body, head)
    except MessageError:
        pass


@given(st.data())
def test_a_mutated_request_is_read_or_refused(data):
    body = bytearray(messages.request(5, "session.append_event", {"event": {"id": "e", "data": {"x": [1, 2.5, None]}}}, {}))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        head = read_head(bytes(body))
        decode_params(bytes(body), head)
    except MessageError:
        pass


def test_the_code_of_an_error_is_read_without_decoding_the_rest():
    failed = messages.error(7, asm.Error("not_found", "there is none", details={"code": "another", "key": "x" * 1000}))
    assert error_code(failed, read_head(failed).params_at) == "not_found"
    went_well = messages.result(7, {"code": "not_found"})
    assert error_code(went_well, read_head(went_well).params_at) is None


@pytest.mark.parametrize("error", [b"", b"\x80", b"\x93", b"\x82\xa4cod", b"\x81\xa7message\xa1x", b"\x81\xc1\xc0"])
def test_an_error_that_says_no_code_has_none_that_is_known(error):
    assert error_code(error, 0) == ""
