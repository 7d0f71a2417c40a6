"""How appends that others make to a PostgreSQL database are learnt of: one thread that listens, whatever the number of waiters.

::

    another store ──► pg_notify in its transaction ──► commit ──► server ──► our connection ──► announce the session
                                                                                  │ lost
    whoever waits queries again ◄── announce any session ◄── LISTEN ◄── connect ◄─┘ (with growing pauses)

The thread sleeps in one ``poll`` of the connection and on a pipe through which :meth:`Listener.close` wakes it. What is
told while no connection listens is told to nobody, so after every connect any session may have new events. What this
store's own writer committed was announced already, and is skipped.

Whether it hears anything it finds out by calling itself, the way that writers do: behind a pooler that gives every transaction
another connection to the server, ``LISTEN`` succeeds and nothing ever comes. Until such a call is heard, whoever waits looks
again every :data:`POLL` seconds. The call is repeated at long intervals, because a connection may die without a word, too.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from typing import Any, Final

from sqlalchemy import Connection, func
from sqlalchemy import select as query

from asm.adapters.appends import Appends
from asm.adapters.sql.engine import Database
from asm.adapters.sql.groups import CHANNEL
from asm.core.errors import Error

__all__ = ["Listener"]

_log: Final = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.05
"""Seconds until the second attempt to connect."""

LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts when the server stays away."""

POLL: Final = 1.0
"""Seconds after which whoever waits looks again while nothing is heard."""

PATIENCE: Final = 3.0
"""Seconds until a call to oneself has to be heard."""

INTERVAL: Final = 60.0
"""Seconds between two calls to oneself."""


class Listener:
    """Listens to the appends of all stores on a PostgreSQL database.

    :param database: what to listen to.
    :param appends: told of the sessions.
    """

    def __init__(self, database: Database, appends: Appends) -> None:
        self._database = database
        self._appends = appends
        self.listening = threading.Event()
        """Set when it has been heard that it listens, or found out that it does not."""
        self._troubled = False
        """Whether nothing is heard, and that was said."""
        self._calls = 0
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
                with self._database.listen() as connection:
                    pause = self._listen(connection)
            except Exception as error:  # noqa: BLE001  # whatever it is, the thread must go on listening
                made = self._database.error(error, writing=False, name=self._database.listen_name)
                self._say("appends of others are not heard of until the database is back: %s", made)
                pause = min(max(FIRST_PAUSE, pause * 2), LONGEST_PAUSE)
                self._have_them_look()

    def _listen(self, connection: Connection) -> float:
        """Announce what the server tells, until the store is closed, or nothing is heard; return how long to pause then.

        :raises Exception: when the connection breaks.
        """
        connection.exec_driver_sql(f"LISTEN {CHANNEL}")
        self._appends.announce(None)
        libpq: Any = connection.connection.dbapi_connection.pgconn  # type: ignore[union-attr]
        heard = False
        while self._hears(libpq):
            if self._troubled:
                _log.info("appends of others are heard of again")
            heard, self._troubled = True, False
            self.listening.set()
            if self._take(libpq, time.monotonic() + INTERVAL):
                return 0.0
        if heard or self._is_closed_within(0.0):
            return 0.0  # it has died: the next one may live
        connection.exec_driver_sql(f"UNLISTEN {CHANNEL}")  # another's connection that listens now is to be left as it was
        self._say(
            "appends of others are not heard of at %s: a pooler that shares connections between transactions (PgBouncer, …)"
            " stands before the server, or it is another database than that of the url. Whoever waits looks again every second"
            " instead; give the store a listen_url that leads to the server itself",
            self._database.listen_name,
        )
        self.listening.set()
        until = time.monotonic() + INTERVAL
        while time.monotonic() < until and not self._is_closed_within(POLL):
            self._have_them_look()
        return 0.0

    def _hears(self, libpq: Any) -> bool:
        """Call oneself, and tell whether that is heard. False when the store is closed, too."""
        self._calls += 1
        call = f"{self._database.sender}#{self._calls}"
        try:
            self._database.read(lambda connection: connection.execute(query(func.pg_notify(CHANNEL, call))).all())
        except Error as error:
            if error.details.get("reason") == "overloaded":  # who reads keeps the database busy: it lives
                return True
            raise
        until = time.monotonic() + PATIENCE
        while (now := time.monotonic()) < until:
            if self._take(libpq, min(until, now + POLL), call):
                return not self._is_closed_within(0.0)
            if not self.listening.is_set():
                self._have_them_look()
        return False

    def _take(self, libpq: Any, until: float, call: str | None = None) -> bool:
        """Announce what is told until a moment; tell whether the store is closed, or the call was heard.

        :raises Exception: when the connection breaks.
        """
        while (left := until - time.monotonic()) > 0:
            if self._is_closed_within(left, libpq.socket):
                return True
            libpq.consume_input()
            told = [notify.extra.decode() for notify in iter(libpq.notifies, None)]
            for text in told:
                sender, _, session_id = text.partition(" ")
                if session_id and sender != self._database.sender:
                    self._appends.announce([session_id])
            if call in told:
                return True
        return False

    def _have_them_look(self) -> None:
        """Have whoever waits look again, if there is something to look at."""
        try:
            self._database.ping()
        except Error:
            return
        self._appends.announce(None)

    def _say(self, *words: Any) -> None:
        """Log what keeps us from hearing: as a warning once, until something is heard."""
        log = _log.debug if self._troubled else _log.warning
        self._troubled = True
        log(*words)

    def _is_closed_within(self, seconds: float, *others: int) -> bool:
        """Wait for the store to be closed, for the time to be up, or for one of the other files; tell whether it is closed."""
        poll = select.poll()
        for file in (self._woken, *others):
            poll.register(file, select.POLLIN)
        ready = [file for file, _ in poll.poll(seconds * 1000)]
        return self._woken in ready
