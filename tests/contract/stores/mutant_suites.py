"""The tests that are to notice each mutant, for a run of their own: ``pytest -p mutant_suites mutant_suites.py``.

A mutant that was noticed is run no further. At the end there is a file of the first test that each failed.
"""

import json
import os
from pathlib import Path

import mutants
import pytest

import asm.testing.waiting
from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.testing import suite_of

asm.testing.waiting.LONG = 2000  # milliseconds: a mutant that does not wake is to be noticed soon

noticed = {}


def pytest_runtest_setup(item):
    if item.cls.__name__ in noticed:
        pytest.skip("was noticed already")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.failed:
        noticed.setdefault(item.cls.__name__, item.name)
    return report


def pytest_sessionfinish():
    Path(os.environ["NOTICED"]).write_text(json.dumps(noticed))


def suite(name, store_class, *groups):
    class Suite(*groups):
        @pytest.fixture
        def store(self, tmp_path):
            with store_class(root=tmp_path / "root") if issubclass(store_class, FileArtifactStore) else store_class() as store:
                yield store

    Suite.__name__ = Suite.__qualname__ = name
    return Suite


for mutant in mutants.MUTANTS:
    globals()[f"Test{mutant.__name__}"] = suite(f"Test{mutant.__name__}", mutant, *mutant.noticed_by)
for unchanged in (InMemorySessionStore, FileArtifactStore):
    globals()[f"Test{unchanged.__name__}"] = suite(f"Test{unchanged.__name__}", unchanged, suite_of(unchanged))
