"""Large artifacts, through the composite to files."""

import os
import time

from anchors import disk
from table import Row, at_least, at_most
from trees import MEMORY, tree

MIB = 1024**2

PLAIN_WRITE = "plain write with fsync"
PLAIN_READ = "plain read"


def large_rows(size):
    """Return the rows of :func:`large`."""
    what = f"{size.artifact // MIB:,} MiB"
    return [
        Row(f"put of {what}", "s", "put", PLAIN_WRITE, at_most(2, relative=True)),
        Row(f"get of {what}", "MiB/s", "get", PLAIN_READ, at_least(400)),
    ]


def large(bench):
    """Measure putting and getting a large artifact, and the same with a plain file on the same disk."""
    data = make(bench.size.artifact)
    with tree(bench, MEMORY) as running, running.connect() as store:
        plain = running.directory / "plain"
        for _ in range(bench.rounds):
            os.sync()
            written = disk.write(plain, data)
            read = disk.read(plain)
            plain.unlink()
            put, got = put_and_get(store, data)
            mib = len(data) / MIB
            yield {"put": put, PLAIN_WRITE: written, "get": mib / got, PLAIN_READ: mib / read}


def make(size):
    """Make so many bytes."""
    return (os.urandom(min(size, MIB)) * (size // MIB + 1))[:size]


def put_and_get(store, data):
    """Return the seconds that each took."""
    os.sync()
    began = time.perf_counter()
    store.put("large", data)
    put = time.perf_counter() - began
    began = time.perf_counter()
    got = store.get("large")
    seconds = time.perf_counter() - began
    assert got == data
    store.delete("large")
    return put, seconds
