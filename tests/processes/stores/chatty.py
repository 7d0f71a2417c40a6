"""A store that says much, in every way in which Python programs say something, and none of them in a thread."""

import logging
import sys
import warnings

from asm.adapters import InMemorySessionStore


class ChattySessionStore(InMemorySessionStore):
    blocking = False

    def get_latest_sequence(self, session_id):
        logging.getLogger("chatty").warning("x" * 10_000)
        print("y" * 10_000)
        print("z" * 10_000, file=sys.stderr, flush=True)
        warnings.warn("w" * 100, stacklevel=1)
        return super().get_latest_sequence(session_id)
