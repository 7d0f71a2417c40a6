import os

import multiprocess
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.wire.frames import FrameError, Splitter, frame


def test_a_frame_is_what_multiprocess_writes():
    near, far = multiprocess.Pipe()
    with near, far:
        near.send_bytes(b"body")
        assert os.read(far.fileno(), 100) == frame(b"body")


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(1, 50)))
def test_however_the_stream_is_cut_the_same_bodies_come_out(bodies, cuts):
    stream, splitter, found = b"".join(map(frame, bodies)), Splitter(), []
    while stream:
        size = cuts.pop() if cuts else len(stream)
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == bodies


@pytest.mark.parametrize("header", ["00000000", "ffffffff", "80000000", "00000401", "7fffffff"])
def test_a_size_out_of_bounds_is_refused_before_the_body_arrives(header):
    with pytest.raises(FrameError):
        Splitter(limit=1024).feed(bytes.fromhex(header))


def test_the_largest_frame_that_is_allowed():
    assert Splitter(limit=1024).feed(frame(bytes(1024))) == [bytes(1024)]


def test_frames_before_a_bad_one_in_the_same_piece_are_not_trusted_either():
    with pytest.raises(FrameError):
        Splitter().feed(frame(b"good") + bytes(4))
