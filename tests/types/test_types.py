"""Type checkers know what users may write: each line of ``uses.py`` that says ``wrong`` is refused, and no other is."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from asm.core.kinds import AnyEventType, AnyRunStatus, AnySessionStatus, EventType, RunStatus, SessionStatus

USES = Path(__file__).with_name("uses.py")
WRONG = {number for number, line in enumerate(USES.read_text().splitlines(), 1) if line.endswith("# wrong")}


def mypy(directory):
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", f"--cache-dir={directory}", str(USES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    assert done.returncode == 1, done.stdout + done.stderr
    return {int(line): said for line, said in re.findall(r"uses\.py:(\d+): error: (.*)", done.stdout)}


def pyright(directory):
    (directory / "pyrightconfig.json").write_text(json.dumps({"include": [str(USES)], "typeCheckingMode": "standard"}))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--project",
        str(directory),
        "--pythonpath",
        sys.executable,
        "--outputjson",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [item for item in json.loads(done.stdout)["generalDiagnostics"] if item["severity"] == "error"]
    return {item["range"]["start"]["line"] + 1: item["message"] for item in found}


@pytest.mark.parametrize("checker", [mypy, pyright], ids=["mypy", "pyright"])
def test_a_type_checker_tells_right_from_wrong(checker, tmp_path):
    found = checker(tmp_path)
    assert {line: said for line, said in found.items() if line not in WRONG} == {}
    assert sorted(WRONG - found.keys()) == []
    assert len(WRONG) > 50


@pytest.mark.parametrize(
    ("given", "kinds"), [(AnySessionStatus, SessionStatus), (AnyRunStatus, RunStatus), (AnyEventType, EventType)]
)
def test_the_words_that_a_type_checker_knows_are_those_that_there_are(given, kinds):
    (words,) = filter(None, map(get_args, get_args(given)))
    assert list(words) == list(kinds)
