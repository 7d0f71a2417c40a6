"""How far an append walks through our files, as tests/tools/walk.py counts it."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "walk.py"

FILES = 11
CHANGES = 34
"""The most that a reader should have to open, and how often to change between them."""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("walk_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_append_is_a_short_walk(tool, capsys):
    walk = tool.take()
    tool.show(walk, everything=False)
    shown = capsys.readouterr().out
    assert [process for process, _thread in walk.threads] == ["client", "Walk.Store", "walk.sessions", "walk.sessions"]
    assert len(walk.files()) <= FILES, shown
    assert walk.changes() <= CHANGES, shown
