"""How appends that others make to a PostgreSQL database are learnt of: one thread that listens, whatever the number of waiters.

::

    another store ──► pg_notify in its transaction ──► commit ──► server ──► our connection ──► announce the session
                                                                                  │ lost
    whoever waits queries again ◄── announce any session ◄── LISTEN ◄── connect ◄─┘ (with growing pauses)

The thread sleeps in one ``poll`` of the connection and on a pipe through which :meth:`Listener.close` wakes it. What is
told while no connection listens is told to nobody, so after every connect any session may have new events. What this
store's own writer committed was announced already, and is skipped.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import Any, Final

from asm.adapters.appends import Appends
from asm.adapters.sql.engine import Database
from asm.adapters.sql.writes import CHANNEL

__all__ = ["Listener"]

_log: Final = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.05
"""Seconds until the second attempt to connect."""

LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts when the server stays away."""


class Listener:
    """Listens to the appends of all stores on a PostgreSQL database.

    :param database: what to listen to.
    :param appends: told of the sessions.
    """

    def __init__(self, database: Database, appends: Appends) -> None:
        self._database = database
        self._appends = appends
        self.listening = threading.Event()
        """Set when it has listened for the first time; whoever waits before that is woken then."""
        self._woken, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, name="asm-sql-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.write(self._wake, b".")  # to close it would tell nothing, if a fork of this process has it open, too
        self._thread.join()
        os.close(self._wake)
        os.close(self._woken)

    # -- The thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._is_closed_within(pause):
            try:
                with self._database.connect() as connection:
                    connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                    pause = 0.0
                    self._appends.announce(None)
                    self.listening.set()
                    self._listen(connection.connection.dbapi_connection)
                    return
            except Exception as error:  # noqa: BLE001  # whatever it is, the thread must go on listening
                log = _log.debug if pause else _log.warning  # once for each time that the server goes away
                log(
                    "appends of others are not heard of until the database is back: %s",
                    self._database.error(error, writing=False),
                )
                pause = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)

    def _listen(self, connection: Any) -> None:
        """Announce what the server tells, until the store is closed. Returns then, and raises when the connection breaks."""
        libpq = connection.pgconn
        while not self._is_closed_within(None, libpq.socket):
            libpq.consume_input()
            for notify in iter(libpq.notifies, None):
                if notify.be_pid != self._database.writer_pid:
                    self._appends.announce([notify.extra.decode()] if notify.extra else None)

    def _is_closed_within(self, seconds: float | None, *others: int) -> bool:
        """Wait for the store to be closed, for the time to be up, or for one of the other files; tell whether it is closed."""
        poll = select.poll()
        for file in (self._woken, *others):
            poll.register(file, select.POLLIN)
        ready = [file for file, _ in poll.poll(None if seconds is None else seconds * 1000)]
        return self._woken in ready
