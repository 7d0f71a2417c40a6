"""What a client makes of a server, one of the tests' own, that refuses it, breaks the protocol, or is too busy to take it."""

import asyncio
import contextlib
import os
import socket
import struct
import threading

import msgpack
import pytest
from scripted import Gone, Wire

import asm
import asm.aio
from asm.core.errors import Error
from asm.wire import messages
from asm.wire.frames import frame

PATIENCE = 30.0


def blocking(runtime_dir, timeout=PATIENCE):
    with asm.connect("S", runtime_dir=runtime_dir, timeout=timeout) as store:
        return store.get_latest_sequence("ses_1")


def with_asyncio(runtime_dir, timeout=PATIENCE):
    async def call():
        async with asm.aio.connect("S", runtime_dir=runtime_dir, timeout=timeout) as store:
            return await store.get_latest_sequence("ses_1")

    return asyncio.run(call())


both = pytest.mark.parametrize("ask", [blocking, with_asyncio])


@pytest.fixture
def listener(runtime_dir):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(runtime_dir / "S.sock"))
        listening.listen(1)
        listening.settimeout(PATIENCE)
        yield listening


@contextlib.contextmanager
def serving(listener, serve):
    """Serve connections in a thread. There may be several: who loses one before its call makes another."""

    over = threading.Event()

    def run():
        while True:
            connection, _address = listener.accept()
            with connection:
                if over.is_set():
                    return
                connection.settimeout(PATIENCE)
                serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(listener.getsockname())
        thread.join(PATIENCE)
    assert not thread.is_alive()


REFUSAL = frame(messages.refusal(Error("storage_error", "full", details={"reason": "overloaded"})))


@both
@pytest.mark.parametrize("after", ["the request", "nothing"])
def test_who_is_refused_is_told_why(runtime_dir, listener, ask, after):
    def serve(connection):
        if after == "the request":
            connection.recv(65536)
        connection.sendall(REFUSAL)

    with serving(listener, serve), pytest.raises(asm.StorageError) as caught:
        ask(runtime_dir)
    assert (caught.value.message, caught.value.details, caught.value.retryable) == ("full", {"reason": "overloaded"}, True)


@both
@pytest.mark.parametrize(
    "answer",
    [
        frame(b"\x94\x01\xce\x00\x00\x00\x01\xc0\xc1"),
        frame(b"\x94\x01\x01\xc0"),
        frame(b"\xc1"),
        struct.pack("!i", 0),
        frame(msgpack.packb([2, "refused", [5]])),
        frame(msgpack.packb([2, "refused", []])),
    ],
    ids=["no value", "an end too early", "no message", "no frame", "a refusal without an error", "a refusal without anything"],
)
def test_an_answer_that_cannot_be_decoded_fails_the_call_at_once(runtime_dir, listener, ask, answer):
    def serve(connection):
        connection.recv(65536)
        connection.sendall(answer)
        connection.recv(1)  # until the client lets go, which it must without having been left alone

    with serving(listener, serve), pytest.raises(asm.StorageError) as caught:
        ask(runtime_dir)
    assert caught.value.code == "storage_connection_failed"


def answer_calls(connection):
    """Answer each call with 7, until the connection ends."""
    with contextlib.suppress(Gone):
        wire = Wire(connection)
        while True:
            wire.answer(wire.request()[1], 7)


@both
def test_a_client_waits_for_room_in_the_queue(runtime_dir, listener, ask):
    path = os.fspath(runtime_dir / "S.sock")
    with contextlib.ExitStack() as stack:
        while True:  # until no more fit
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            try:
                waiting.connect(path)
            except BlockingIOError:
                break
        asked = threading.Event()

        def accept_all():
            asked.wait(PATIENCE)
            while True:
                connection, _address = listener.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    answered = connection.recv(1, socket.MSG_PEEK) != b""
                    answer_calls(connection)
                if answered:
                    return

        thread = threading.Thread(target=accept_all)
        thread.start()
        with pytest.raises(asm.StorageError, match="cannot be connected to"):
            ask(runtime_dir, timeout=0.1)
        asked.set()
        stack.close()
        assert ask(runtime_dir) == 7
        thread.join(PATIENCE)
        assert not thread.is_alive()
