"""What the fork server imports first: it watches the parent while the fork server imports the rest.

A fork server ends when its parent is gone, but notices it only once it serves. Until then, on a busy machine for seconds, it
would be a process that nobody owns. So a thread looks after that meanwhile. It is gone before the first fork, which
:mod:`asm_supervisor.preloaded` sees to, because a thread and ``fork`` do not go together.

A parent that is killed before this module is imported is not the parent any more. Who it was, the socket tells that the fork
server has from it: its credentials are those of the process that listened on it (unix(7)).
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import sys
import threading
from typing import Final

__all__ = ["finish"]

COMMAND: Final = re.compile(r"main\((\d+), ")
"""How multiprocess starts a fork server: the first argument is the socket's descriptor."""


def finish() -> None:
    """Stop watching. What forks from now on has one thread."""
    os.eventfd_write(_finished, 1)
    _watcher.join()
    os.close(_finished)


def _watch() -> None:
    try:
        parent = os.pidfd_open(os.getppid())
    except ProcessLookupError:
        os._exit(0)
    if os.getppid() != _starter():  # the parent is another one by now: ours was killed
        os._exit(0)
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.register(_finished, select.POLLIN)
    if parent in {fd for fd, _ in poll.poll()}:
        os._exit(0)
    os.close(parent)


def _starter() -> int:
    """Return the pid of the process that started this one; as long as it lives it is the parent."""
    found = COMMAND.search(sys.orig_argv[-1])
    if found is None:  # another version of multiprocess: hope that there was no change
        return os.getppid()
    with socket.socket(fileno=os.dup(int(found[1]))) as listening:
        pid, _uid, _gid = struct.unpack("3i", listening.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


_finished: Final = os.eventfd(0, os.EFD_CLOEXEC)
_watcher: Final = threading.Thread(target=_watch, name="preloading", daemon=True)
_watcher.start()
