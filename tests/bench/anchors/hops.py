"""What two hops cost by themselves: in C, and through blocking pipes in Python with MessagePack at both ends."""

import contextlib
import multiprocessing
import shutil
import subprocess

import msgpack
from anchors.outside import HERE, NotInstalledError
from measuring import median_of

SIZE = 200
"""Bytes of a message, about what an appended event has."""

_FORK = multiprocessing.get_context("fork")


def compiled(directory):
    """Compile the C program, and return a function that measures so many round trips: their median, in microseconds."""
    if shutil.which("cc") is None:
        raise NotInstalledError("apt-get install gcc libc6-dev")
    program = directory / "hops"
    subprocess.run(["cc", "-O2", "-o", program, HERE / "hops.c"], check=True)
    return lambda count: float(subprocess.run([program, str(count), str(SIZE)], check=True, capture_output=True).stdout)


@contextlib.contextmanager
def pipes(message):
    """Start a relay and an echo; the value is a function that measures so many round trips of a message."""
    near, relay_near = _FORK.Pipe()
    relay_far, far = _FORK.Pipe()
    processes = [
        _FORK.Process(target=_echo, args=(far,), daemon=True),
        _FORK.Process(target=_relay, args=(relay_near, relay_far), daemon=True),
    ]
    for process in processes:
        process.start()

    def call():
        near.send_bytes(msgpack.packb([0, 1, "append", message]))
        msgpack.unpackb(near.recv_bytes())

    try:
        yield lambda count: median_of(call, count)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in (near, relay_near, relay_far, far):
            end.close()


def _echo(pipe):
    while True:
        _kind, msgid, _method, message = msgpack.unpackb(pipe.recv_bytes())
        pipe.send_bytes(msgpack.packb([1, msgid, None, message]))


def _relay(near, far):
    while True:
        far.send_bytes(near.recv_bytes())
        near.send_bytes(far.recv_bytes())
