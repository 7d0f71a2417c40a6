"""Stores that installed packages offer under a name of their own."""

import pytest

import asm
from asm.registry import contract_of, load, resolve
from asm.tree import preload

MODULE = """
from asm.adapters import InMemorySessionStore

class Mine(InMemorySessionStore):
    pass
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with an entry point, as pip would leave it."""
    (tmp_path / "my_package.py").write_text(MODULE)
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[asm.session_stores]\nmine = my_package:Mine\nlost = my_package:Lost\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_a_store_is_found_by_the_name_of_its_entry_point(installed):
    assert resolve("mine") == "my_package:Mine"
    assert load("mine").__name__ == "Mine"
    assert contract_of(load("mine")) == "session"
    assert "my_package" in preload(["mine", "memory"])


def test_an_entry_point_to_nothing(installed):
    with pytest.raises(asm.ValidationError, match="Lost"):
        load("lost")


def test_our_own_names_come_first(installed):
    assert resolve("memory") == "asm.adapters.memory:InMemorySessionStore"
    assert resolve("package.module:Class") == "package.module:Class"


def test_a_name_that_nobody_has():
    with pytest.raises(asm.ValidationError, match="memory, sql, file, s3"):
        load("nobody")
