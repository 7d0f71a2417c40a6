"""The duty of a process to which the kernel gives orphans, as PID 1 of a container: it takes note of their ends.

When a process dies, its children become those of the next subreaper above, or of PID 1. One that ended stays in the process
table until its parent has asked for its exit status (wait(2)): so somebody has to ask.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Container
from pathlib import Path
from typing import Final

__all__ = ["adopts_orphans", "reap"]

PR_GET_CHILD_SUBREAPER: Final = 37
"""prctl(2)"""


def adopts_orphans() -> bool:
    """Tell whether this process is PID 1 or a subreaper."""
    if os.getpid() == 1:
        return True
    with contextlib.suppress(OSError, AttributeError):
        flag = ctypes.c_int(0)
        return ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(flag), 0, 0, 0) == 0 and bool(flag.value)
    return False


def reap(known: Container[int]) -> list[int]:
    """Reap every child of this process that has ended, except those that somebody else here waits for.

    :param known: the pids of those.
    :return: the pids of those that were reaped.
    """
    reaped = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in known and _is_zombie_of_ours(entry):
            with contextlib.suppress(ChildProcessError):
                reaped.append(os.waitpid(int(entry.name), os.WNOHANG)[0])
    return [pid for pid in reaped if pid]


def _is_zombie_of_ours(entry: Path) -> bool:
    with contextlib.suppress(OSError, IndexError, ValueError):
        # The second field is the program's name in brackets, which may hold anything; then come the state and the parent.
        state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
        return state == b"Z" and int(parent) == os.getpid()
    return False
