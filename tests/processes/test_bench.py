"""The benchmarks can be run. What they measure is told by a run of ``tests/bench`` that is not so small."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

BENCH = Path(__file__).parent.parent / "bench"

ROWS = {
    "one-client": 3,
    "many-clients": 1,
    "async-client": 2,
    "durable-single": 7,
    "durable-batches": 2,
    "much": 10,
    "usage": 1,
    "polls": 2,
    "expecting": 2,
    "whole": 2,
    "artifacts": 2,
    "listed": 2,
    "restart": 3,
    "import": 1,
    "idle": 4,
}
"""How many rows of the table each case fills."""


def bench(path, *arguments):
    command = [sys.executable, BENCH, *arguments, "--size", "tiny", "--rounds", "1", "--json", path]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_every_case_fills_its_rows(tmp_path):
    path = tmp_path / "new" / "bench.json"
    done = bench(path, "--growth", "events")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    assert (report["size"], report["rounds"], report["failed"]) == ("tiny", 1, {})
    assert Counter(row["case"] for row in report["results"]) == ROWS
    for row in report["results"]:
        assert len(row["ours"]) == 1, row
        assert row["what"] in done.stdout
        assert bool(row["anchor_figures"]) == (row["anchor"] is not None and row["anchor_missing"] is None), row
        assert row["met"] is not None or row["goal"] is None or row["anchor_missing"] in done.stdout, row
    assert list(report["growth"]) == ["events"]
    assert all(table["lines"] for table in report["growth"].values())


def test_a_case_that_fails_is_told_and_the_others_are_measured(tmp_path):
    path = tmp_path / "bench.json"
    done = bench(path, "durable-single", "import", "--peers-python", tmp_path / "no-python")
    assert done.returncode == 1
    report = json.loads(path.read_text())
    assert list(report["failed"]) == ["durable-single"]
    assert [row["case"] for row in report["results"]] == ["import"]
    assert "FAILED: durable-single: " in done.stdout


def test_what_is_no_case_is_refused(tmp_path):
    done = bench(tmp_path / "bench.json", "import", "no-such-case")
    assert done.returncode == 2
    assert "there is no case no-such-case" in done.stderr
