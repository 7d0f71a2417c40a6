"""Processes that change one value at the same time, on one host or on two, lose nothing of what each did."""

import subprocess
import sys
from pathlib import Path

import pytest
from configurations import configuration

import asm
from asm.adapters.sql.schema import migrate

PROGRAM = Path(__file__).parent / "programs" / "increments.py"


@pytest.fixture
def scale(campaign):
    """How many processes there are on each host, and how often each counts."""
    return (8, 100) if campaign else (3, 10)


def count_everywhere(trees, scale):
    """Count in processes on each of the hosts at once; return how far one host counts then."""
    processes, times = scale
    run = asm.Run.new(session_id="ses")
    with trees[0].connect() as store:
        store.save_run(run)
    commands = [[sys.executable, PROGRAM, tree.runtime_dir, run.id, str(times)] for tree in trees for _ in range(processes)]
    counting = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in counting:
        _, complaints = process.communicate(timeout=600)
        assert process.returncode == 0, complaints
    with trees[-1].connect() as store:
        return store.get_run(run.id).turn_count, len(commands) * times


def test_on_one_host(any_tree, scale):
    counted, expected = count_everywhere([any_tree], scale)
    assert counted == expected


def test_on_two_hosts_with_one_database(trees, postgres, tmp_path, scale):
    with postgres.database() as url:
        migrate(url)
        config = configuration(f'store = "sql"\nurl = "{url}"')
        left = trees(config).wait_ready()
        right = trees(config, runtime_dir=tmp_path / "r").wait_ready()
        counted, expected = count_everywhere([left, right], scale)
        assert counted == expected
        for tree in (left, right):
            assert tree.stop() == 0
