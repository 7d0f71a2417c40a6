"""Answers in pieces that nobody waits for any more, and how pieces are cut."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.processes.loops import Loop, run
from asm.processes.streams import Download, cut, read_pieces
from asm.wire.streams import PIECE

PATIENCE = 30.0


class Gated(io.BytesIO):
    """A file that is read when a test lets it."""

    def __init__(self, data):
        super().__init__(data)
        self.is_read, self.gate = threading.Event(), threading.Event()

    def read(self, size=-1):
        self.is_read.set()
        assert self.gate.wait(PATIENCE)
        return super().read(size)


class Call:
    """A call whose other side takes everything."""

    is_over = False
    holds = 0
    work = None
    peer = property(lambda self: self)

    def writable(self, _go_on):
        return True

    def let_go(self):
        self.holds -= 1

    def cancel(self):
        self.is_over = True
        self.work.cancel(self)


@pytest.mark.parametrize("size", [4, PIECE + 1], ids=["to its end", "in part"])
def test_a_file_that_is_read_while_the_process_ends_is_closed(size):
    async def scenario():
        told = []
        Loop.running().set_exception_handler(lambda _loop, context: told.append(context))
        file, threads, call = Gated(bytes(size)), ThreadPoolExecutor(1), Call()
        Download(call, read_pieces(lambda: (b"", file)), threads, lambda error: error, lambda: None)
        assert file.is_read.wait(PATIENCE)
        call.cancel()
        assert call.holds == 1
        file.gate.set()
        threads.shutdown(wait=True)
        await asyncio.sleep(0)  # the loop takes what the thread has posted
        assert file.closed
        assert (call.holds, told) == (0, [])

    run(scenario())


@given(st.lists(st.integers(0, 3 * PIECE), max_size=6))
def test_bytes_are_cut_into_pieces_of_which_the_last_is_smaller(sizes):
    parts = [bytes([index]) * size for index, size in enumerate(sizes)]
    *pieces, last = cut(parts)
    assert {len(piece) for piece in pieces} <= {PIECE}
    assert len(last) < PIECE
    assert b"".join([*pieces, last]) == b"".join(parts)
    head, file = b"".join(parts[:1]), io.BytesIO(b"".join(parts[1:]))
    if len(head) < PIECE:
        assert list(read_pieces(lambda: (head, file))) == [*pieces, last]
