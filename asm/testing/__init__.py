"""The contract suite: what every store must do, as tests that its author runs from pytest.

Derive a class from the suite of your store, and give it a fixture that makes an empty one::

    import pytest
    from asm.testing import suite_of


    class TestMyStore(suite_of(MyStore)):
        @pytest.fixture
        def store(self, tmp_path):
            with MyStore(path=tmp_path) as store:
                yield store

What it has to keep is what your class has: the contract of a session store or of an artifact store, and for a session store
the queries and the maintenance whose operations it has. Each contract is a class of its own, too.

Every test gets a store of its own. The suite uses nothing but the operations of the contract, so it runs on a store
behind a handle, in another process, as it does on the store itself.
"""

import pkgutil

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from asm.testing.contracts import (  # noqa: E402  # what it loads is rewritten first
    ArtifactStoreContract,
    MaintenanceContract,
    SessionQueriesContract,
    SessionStoreContract,
    suite_of,
)

__all__ = ["ArtifactStoreContract", "MaintenanceContract", "SessionQueriesContract", "SessionStoreContract", "suite_of"]
