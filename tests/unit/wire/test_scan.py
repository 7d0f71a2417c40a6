"""What is refused before it is decoded, and that nothing else is."""

import contextlib
import struct

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asm.wire import messages
from asm.wire.calls import decode_params
from asm.wire.conversation import read_head
from asm.wire.frames import Splitter, frame
from asm.wire.messages import MessageError, decode_checked, read_msgid, read_refusal
from asm.wire.scan import MAX_VALUES, check, values_in
from asm.wire.streams import read_stream, streamed

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=300))
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner), max_leaves=60)


def size_of(value):
    """How many values there are in one."""
    if isinstance(value, dict):
        return 1 + sum(1 + size_of(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(map(size_of, value))
    return 1


@given(VALUES)
@settings(max_examples=50)
def test_every_value_passes_and_its_values_are_counted(value):
    packed = msgpack.packb(value)
    check(packed, 0)
    size = size_of(value)
    assert values_in(packed, 0) == values_in(packed, 0, size) == values_in(packed, 0, size + 5) == size
    if size > 1:
        assert values_in(packed, 0, size - 1) == size
    assert values_in(b"before" + packed, 6) == size


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65535, 65536])
@pytest.mark.parametrize("kind", [bytes, str, list, dict, msgpack.ExtType])
def test_every_encoding_of_a_length(kind, length):
    value = {
        bytes: bytes(length),
        str: "x" * length,
        list: [None] * length,
        dict: {str(number): None for number in range(length)},
        msgpack.ExtType: msgpack.ExtType(5, bytes(length)),
    }[kind]
    assert values_in(msgpack.packb([value, 1.5, 2**40]), 0) == 3 + size_of(value)
    assert decode_checked(msgpack.packb(value), 0) == value


HUGE = {
    "an array": b"\xdd\xff\xff\xff\xff",
    "a map": b"\xdf\xff\xff\xff\xff",
    "an array of many": b"\xdc\xff\xff" + bytes(1000),
    "arrays in arrays": b"\xdc\xff\xff" * 1000,
    "maps in maps": b"\xde\xff\xff\xa0" * 1000,
    "a text": b"\xdb\xff\xff\xff\xff",
    "bytes": b"\xc6\xff\xff\xff\xff",
    "nesting": b"\x91" * 100_000 + b"\xc0",
    "empty maps": b"\xdd" + struct.pack("!I", 2 * MAX_VALUES) + b"\x80" * 2 * MAX_VALUES,
    "empty arrays in arrays": b"\x93" + (b"\xdd" + struct.pack("!I", MAX_VALUES // 2) + b"\x90" * (MAX_VALUES // 2)) * 3,
}


@pytest.mark.parametrize("what", HUGE)
def test_what_announces_or_holds_too_much_is_refused(what):
    with pytest.raises(MessageError):
        decode_checked(HUGE[what], 0)


def test_what_is_large_and_harmless_passes():
    for value in (bytes(range(256)) * 60_000, [1.5] * (MAX_VALUES - 1), ["x" * 1000] * 10_000):
        assert decode_checked(msgpack.packb(value), 0) == value


def understand(body):
    """Take a message apart as a server does; what cannot be understood is a MessageError, and nothing else."""
    head = read_head(body)
    if head.kind == 0:
        decode_params(body, head)
    elif head.kind == 2:
        for read in (read_refusal, read_msgid):
            with contextlib.suppress(MessageError):
                read(body, head.params_at)
        _msgid, rest_at = streamed(body, head.params_at)
        read_stream(body, rest_at)


REQUESTS = st.builds(
    lambda msgid, method, arguments: messages.request(msgid, method, arguments, {"timeout_ms": 5000, "stream": True}),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["get_session", "append_events", "put", "x" * 200]),
    st.dictionaries(st.text(max_size=20), VALUES, max_size=5),
)


@st.composite
def mutated(draw):
    """A request of which some bytes are others, are missing, or are there twice."""
    body = bytearray(draw(REQUESTS))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(body) - 1, 0)))
        change = draw(st.sampled_from(["set", "cut", "double"]))
        if change == "set" and body:
            body[place] = draw(st.integers(0, 255))
        elif change == "cut":
            del body[place : place + draw(st.integers(1, 8))]
        else:
            body[place:place] = body[place : place + draw(st.integers(1, 8))]
    return bytes(body)


@given(mutated() | st.binary(min_size=1, max_size=200))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_are_a_message_or_an_error_of_ours(body):
    with contextlib.suppress(MessageError):
        understand(body)


@given(st.binary(max_size=400), st.integers(1, 50))
@settings(max_examples=100)
def test_any_bytes_are_frames_or_trouble(stream, step):
    splitter = Splitter(1024)
    for start in range(0, len(stream), step):
        splitter.feed(stream[start : start + step])
        assert splitter.held <= 1024
    assert stream.startswith(b"".join(map(frame, filter(None, splitter.arrived))))
