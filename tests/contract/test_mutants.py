"""The suite notices a broken promise: each store of ``stores/mutants.py`` breaks one, and fails a test that is about it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STORES = Path(__file__).parent / "stores"


def load(name):
    spec = importlib.util.spec_from_file_location(name, STORES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROMISES = {mutant.__name__: mutant.promise for mutant in load("mutants").MUTANTS}


@pytest.fixture(scope="module")
def noticed(tmp_path_factory):
    """The first test that each store failed, by its name."""
    directory = tmp_path_factory.mktemp("mutants")
    environment = {**os.environ, "PYTHONPATH": str(STORES), "NOTICED": str(directory / "noticed.json")}
    options = ["-q", "-p", "mutant_suites", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", "--timeout=60"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        str(STORES / "mutant_suites.py"),
        f"--rootdir={directory}",
        f"--confcutdir={STORES}",
    ]
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return json.loads((directory / "noticed.json").read_text())


@pytest.mark.parametrize("name", PROMISES, ids=lambda name: f"{PROMISES[name]} ({name})")
def test_a_broken_promise_is_noticed(noticed, name):
    assert f"Test{name}" in noticed


@pytest.mark.parametrize("name", ["InMemorySessionStore", "FileArtifactStore"])
def test_the_unchanged_store_passes(noticed, name):
    assert f"Test{name}" not in noticed
