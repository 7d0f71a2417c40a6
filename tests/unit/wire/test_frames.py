import os

import multiprocess
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.wire.frames import Splitter, frame


def test_a_frame_is_what_multiprocess_writes():
    near, far = multiprocess.Pipe()
    with near, far:
        near.send_bytes(b"body")
        assert os.read(far.fileno(), 100) == frame(b"body")


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(1, 50)))
def test_however_the_stream_is_cut_the_same_bodies_come_out(bodies, cuts):
    stream, splitter = b"".join(map(frame, bodies)), Splitter()
    while stream:
        size = cuts.pop() if cuts else len(stream)
        splitter.feed(stream[:size])
        stream = stream[size:]
    assert list(splitter.arrived) == bodies


@pytest.mark.parametrize("header", ["00000000", "ffffffff", "80000000", "00000401", "7fffffff"])
def test_a_size_out_of_bounds_is_refused_before_the_body_arrives(header):
    splitter = Splitter(limit=1024)
    splitter.feed(bytes.fromhex(header))
    assert (list(splitter.arrived), splitter.held) == ([b""], 0)
    assert "1 to 1024 are allowed" in splitter.trouble


def test_the_largest_frame_that_is_allowed():
    splitter = Splitter(limit=1024)
    splitter.feed(frame(bytes(1024)))
    assert (list(splitter.arrived), splitter.trouble) == ([bytes(1024)], "")


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_what_came_before_a_bad_frame_counts_and_nothing_behind_it(cut):
    splitter, stream = Splitter(), frame(b"good") + bytes(4) + frame(b"late")
    for at in range(0, len(stream), cut):
        splitter.feed(stream[at : at + cut])
    assert list(splitter.arrived) == [b"good", b""]
