"""The memory store with a way to empty it, so that one tree serves all tests."""

from asm.adapters import InMemorySessionStore

EVERYTHING = "everything"


class Emptied(InMemorySessionStore):
    """Deleting the session ``everything`` deletes everything."""

    def delete_session(self, session_id):
        if session_id == EVERYTHING:
            self._contents = InMemorySessionStore()._contents
        else:
            super().delete_session(session_id)
