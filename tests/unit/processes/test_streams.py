"""Downloads that nobody waits for any more."""

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from asm.operations import OPERATIONS
from asm.processes.calls import Call
from asm.processes.loops import Loop, run
from asm.processes.streams import Download
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


@pytest.mark.parametrize("size", [4, PIECE + 1], ids=["to its end", "in part"])
def test_a_file_that_is_read_while_the_process_ends_is_closed(size):
    async def scenario():
        told = []
        Loop.running().set_exception_handler(lambda _loop, context: told.append(context))
        file, threads = Gated(bytes(size)), ThreadPoolExecutor(1)
        call = Call(OPERATIONS["get"], {"key": "key"}, lambda *_: None, None)
        Download(call, lambda: file, lambda _: None, lambda _: True, threads, lambda error: error)
        assert file.is_read.wait(PATIENCE)
        call.cancel()
        file.gate.set()
        threads.shutdown(wait=True)
        await asyncio.sleep(0)  # the loop takes what the thread has posted
        assert file.closed
        assert told == []

    run(scenario())
