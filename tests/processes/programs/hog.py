"""A process that takes what it can get of a name, and holds it until its input ends.

hog.py SOCKET CONNECTIONS UPLOADS
"""

import contextlib
import socket
import sys

import msgpack

from asm.wire.frames import frame


def main(path, connections, uploads):
    with contextlib.ExitStack() as stack:
        for _ in range(int(connections)):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(path)
            for msgid in range(int(uploads)):
                request = [0, msgid, "artifact.put", [{"stream": True}, {"key": f"hog{msgid}", "data": None}]]
                connection.sendall(frame(msgpack.packb(request)))
        print("there", flush=True)
        sys.stdin.read()


main(*sys.argv[1:])
