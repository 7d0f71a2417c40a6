"""What the fork server imports first: it watches the parent while the fork server imports the rest.

A fork server ends when its parent is gone, but notices it only once it serves. Until then, on a busy machine for seconds, it
would be a process that nobody owns. So a thread looks after that meanwhile. It is gone before the first fork, which
:mod:`supervisor.preloaded` sees to, because a thread and ``fork`` do not go together.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Final

__all__ = ["finish"]


def finish() -> None:
    """Stop watching. What forks from now on has one thread."""
    os.eventfd_write(_finished, 1)
    _watcher.join()
    os.close(_finished)


def _watch() -> None:
    parent = os.pidfd_open(os.getppid())
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.register(_finished, select.POLLIN)
    if parent in {fd for fd, _ in poll.poll()}:
        os._exit(0)
    os.close(parent)


_finished: Final = os.eventfd(0, os.EFD_CLOEXEC)
_watcher: Final = threading.Thread(target=_watch, name="preloading", daemon=True)
_watcher.start()
