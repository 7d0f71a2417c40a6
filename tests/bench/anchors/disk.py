"""What the disk does by itself: a plain file written with fsync, the same file read."""

import os
import time

PIECE = 1024 * 1024


def write(path, data):
    """Write a file in pieces, with fsync; return the seconds."""
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        view = memoryview(data)
        for start in range(0, len(view), PIECE):
            file.write(view[start : start + PIECE])
        os.fsync(file.fileno())
    return time.perf_counter() - began


def read(path):
    """Read a whole file into memory; return the seconds."""
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        content = file.readall()
    seconds = time.perf_counter() - began
    assert len(content) == path.stat().st_size
    return seconds
