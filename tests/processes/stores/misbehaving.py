"""Stores that misbehave on purpose. Each is one of ours with one thing wrong."""

import os
import threading
from decimal import Decimal
from pathlib import Path

from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.core.errors import Error
from asm.core.values import Event


class Failing(InMemorySessionStore):
    """Does not come up, with an error that is not asm's."""

    def __init__(self):
        raise RuntimeError("the disk is on fire")


class Exiting(InMemorySessionStore):
    """Exits instead of coming up."""

    def __init__(self):
        os._exit(3)


class NeverUp(InMemorySessionStore):
    """Never comes up."""

    def __init__(self):
        threading.Event().wait()


class Gated(FileArtifactStore):
    """Begins a ``put`` when a test opens the gate, a FIFO, for writing, and goes on when the test closes it."""

    def __init__(self, *, root: str, gate: str):
        super().__init__(root=root)
        self._gate = gate

    def put(self, key, data):
        with open(self._gate) as gate:
            gate.read()
        super().put(key, data)


class Remote(InMemorySessionStore):
    """Has a service that is there as long as a file is. What the file says is wrong with it, must be corrected."""

    def __init__(self, *, service: str):
        self._service = service
        self.ping()
        if wrong := Path(service).read_text():
            raise Error("storage_connection_failed", wrong, details={"reason": "credentials"})
        super().__init__()

    def ping(self):
        if not os.path.exists(self._service):
            raise Error("storage_connection_failed", "the service is out", details={"reason": "connection", "away": True})

    def get_latest_sequence(self, session_id):
        self.ping()
        return super().get_latest_sequence(session_id)


class Full(InMemorySessionStore):
    """Has no room for sessions as long as a file is there, and nobody whom one could ask."""

    def __init__(self, *, full: str):
        super().__init__()
        self._full = full

    def save_session(self, session):
        if os.path.exists(self._full):
            raise Error("storage_write_failed", "there is no room", details={"reason": "disk_full"})
        super().save_session(session)


class Raising(InMemorySessionStore):
    """Raises what is no asm.Error."""

    def get_session(self, session_id):
        raise ZeroDivisionError(f"for {session_id}")


class Unsendable(InMemorySessionStore):
    """Returns and raises what no message can carry."""

    def get_latest_sequence(self, session_id):
        return 1j

    def get_session(self, session_id):
        raise Error("storage_error", "odd", details={1: Decimal(2), "odd": {1}, "text": "\udcff"})


class Hanging(FileArtifactStore):
    """Does not come back from a ``put`` as long as a file is there, as on a network drive that is away."""

    def __init__(self, *, root: str, away: str):
        super().__init__(root=root)
        self._away = away

    @classmethod
    def preflight(cls, **options):
        """Anything may be given."""

    def put(self, key, data):
        while os.path.exists(self._away):
            threading.Event().wait(0.01)
        super().put(key, data)


class Endless(InMemorySessionStore):
    """Has a long session, whose events it makes as they are asked for: ``ses_512`` has so many MiB."""

    blocking = True

    def rows(self, operation, arguments):
        size = str(arguments.get("session_id", "")).removeprefix("ses_")
        if operation != "get_events" or not size.isdecimal():
            return None
        event = Event.new(type="message_sent", session_id=arguments["session_id"], data={"text": "x" * 1000})
        return map(event.sequenced, range(1, int(size) * 1024 + 1))
