"""Stores that misbehave on purpose. Each is one of ours with one thing wrong."""

import os
import threading
from decimal import Decimal

from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.core.errors import Error


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
