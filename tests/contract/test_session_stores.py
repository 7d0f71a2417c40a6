from asm.testing import SessionStoreContract


class TestSessionStores(SessionStoreContract):
    """The suite, on every session store."""
