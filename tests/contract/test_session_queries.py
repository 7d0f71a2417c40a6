from asm.testing import SessionQueriesContract


class TestSessionQueries(SessionQueriesContract):
    """The suite, on every session store that answers queries."""
