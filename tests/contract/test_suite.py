"""The suite itself: that it can be used as its documentation says, and that all of it runs."""

import inspect
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from asm.adapters import InMemorySessionStore
from asm.operations import OPERATIONS
from asm.testing import ArtifactStoreContract, MaintenanceContract, SessionQueriesContract, SessionStoreContract, suite_of

CONTRACTS = [SessionStoreContract, ArtifactStoreContract, SessionQueriesContract, MaintenanceContract]


@pytest.mark.parametrize("contract", [*CONTRACTS, suite_of(InMemorySessionStore)])
def test_no_test_hides_another(contract):
    names = Counter(name for group in contract.__mro__ for name in vars(group) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_operation_is_covered(contract):
    modules = {inspect.getmodule(group) for group in contract.__mro__ if group is not object}
    source = "".join(map(inspect.getsource, modules))
    wanted = [operation.name for operation in OPERATIONS.values() if operation.contract == contract.contract]
    assert [name for name in wanted if f"store.{name}(" not in source and f'"{name}"' not in source] == []


def run_suite(directory, store, *arguments):
    (directory / "test_own.py").write_text(
        textwrap.dedent("""
        import pytest
        from asm.testing import suite_of
        from asm.adapters import InMemorySessionStore

        class Broken(InMemorySessionStore):
            def get_latest_sequence(self, session_id):
                return super().get_latest_sequence(session_id) + 1

        class TestMyStore(suite_of(%s)):
            @pytest.fixture
            def store(self):
                with %s() as store:
                    yield store
        """)
        % (store, store)
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)
    return done.returncode, done.stdout


def test_an_author_runs_it_in_a_few_lines(tmp_path):
    code, output = run_suite(tmp_path, "InMemorySessionStore")
    assert code == 0, output
    assert " passed" in output


def test_a_store_that_breaks_the_contract_fails_and_sees_why(tmp_path):
    code, output = run_suite(tmp_path, "Broken", "-k", "sequence")
    assert code == 1, output
    assert "test_sequences_count_from_one" in output
    assert "assert 4 == 3" in output  # the suite's own assertions show values, as those of a test file do
