"""The memory store with a way to empty it, so that one tree serves all tests."""

from asm.adapters import InMemorySessionStore

EVERYTHING = "everything"


class Emptied(InMemorySessionStore):
    """Deleting the session ``everything`` deletes everything."""

    def delete_session(self, session_id):
        if session_id == EVERYTHING:
            fresh = InMemorySessionStore()
            for name in ("_sessions", "_runs", "_events", "_logs"):
                setattr(self, name, getattr(fresh, name))
        else:
            super().delete_session(session_id)
