"""Connections that say whatever a test likes."""

import contextlib
import os
import socket
import struct

import msgpack

PATIENCE = 30.0


@contextlib.contextmanager
def connected(tree, name="MyApp.Store"):
    """A connection to a name of a tree."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(os.fspath(tree.runtime_dir / f"{name}.sock"))
        yield connection


def receive(connection):
    """Return the next message; None at the end of the connection."""
    with contextlib.suppress(ConnectionResetError):
        if len(header := exactly(connection, 4)) == 4:
            (size,) = struct.unpack("!i", header)
            if len(body := exactly(connection, size)) == size:
                return msgpack.unpackb(body, timestamp=3)
    return None


def exactly(connection, size):
    """Return so many bytes, and nothing of the next message; fewer at the end of the connection."""
    data = bytearray()
    while len(data) < size and (piece := connection.recv(size - len(data))):
        data += piece
    return bytes(data)
