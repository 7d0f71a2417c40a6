"""The contract suite: what every store must do, as tests that its author runs from pytest.

Derive a class from the contract that your store keeps, and give it a fixture that makes an empty store::

    import pytest
    from asm.testing import SessionStoreContract


    class TestMyStore(SessionStoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            with MyStore(path=tmp_path) as store:
                yield store

Every test gets a store of its own. The suite uses nothing but the operations of the contract, so it runs on a store
behind a handle, in another process, as it does on the store itself.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "appending",
            "artifacts",
            "flushing",
            "keys",
            "listing",
            "prefixes",
            "reading",
            "runs",
            "samples",
            "seeking",
            "sessions",
            "streams",
            "waiting",
        )
    )
)

from asm.testing.contracts import ArtifactStoreContract, SessionStoreContract  # noqa: E402  # what it loads is rewritten first

__all__ = ["ArtifactStoreContract", "SessionStoreContract"]
