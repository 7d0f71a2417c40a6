"""What a forked process does with the connections to SQLite files that it inherits: it closes them, before anything else.

SQLite remembers which locks its process holds on a file. A fork has the memory and not the locks, so what it opens on a file
of which it inherited a connection is locked by nothing. When the parent closes the file it takes itself for the last that has
it open, and removes the log to which the fork is writing: what was acknowledged there is gone. See
https://sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork".

Closing is safe while nothing is under way: it gives back locks that the fork does not have. In the middle of something it is
not, and then SQLite cannot be used at all: locks of its own, in memory, may be held by threads that the fork does not have.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any, Final

from sqlalchemy import Engine, event

from asm.core.errors import Error

__all__ = ["forget", "watch"]

_OPEN: Final[dict[int, sqlite3.Connection]] = {}
"""The connections of this process, by their ids."""

_USED: Final[set[int]] = set()
"""Those that are in use."""

_unusable = False


def watch(engine: Engine) -> None:
    """Take account of the connections of an engine.

    :raises Error: ``storage_error`` with the reason ``forked`` in a process that was forked while a connection was in use.
    """
    if _unusable:
        raise Error(
            "storage_error",
            "SQLite was at work when this process was forked, and cannot be used in it; fork while nothing uses a store, or "
            'start the process anew ("spawn", "forkserver")',
            details={"reason": "forked"},
        )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        _OPEN[id(connection)] = connection
        _USED.add(id(connection))

    @event.listens_for(engine, "checkout")
    def checked_out(connection: sqlite3.Connection, _record: Any, _proxy: Any) -> None:
        _USED.add(id(connection))

    @event.listens_for(engine, "checkin")
    def checked_in(connection: sqlite3.Connection | None, _record: Any) -> None:
        _USED.discard(id(connection))

    @event.listens_for(engine, "close")
    def closed(connection: sqlite3.Connection, _record: Any) -> None:
        forget(connection)


def forget(connection: sqlite3.Connection) -> None:
    """Take no account any more of a connection that is closed."""
    _USED.discard(id(connection))
    _OPEN.pop(id(connection), None)


def _forked() -> None:
    global _unusable  # noqa: PLW0603  # it is so for the rest of the process
    inherited = list(_OPEN.values())
    _unusable = _unusable or bool(_USED)
    _OPEN.clear()
    _USED.clear()
    for connection in inherited:
        if _unusable:
            _keep(connection)
        else:
            connection.close()


def _keep(connection: sqlite3.Connection) -> None:
    """Have a connection never be closed, not even when the process ends."""
    import ctypes  # noqa: PLC0415  # seldom needed

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


os.register_at_fork(after_in_child=_forked)
