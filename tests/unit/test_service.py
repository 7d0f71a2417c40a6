"""The unit for systemd."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "configs" / "asm-supervise.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_it():
    ran = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_it_runs_the_programs_and_not_a_shell():
    lines = UNIT.read_text().splitlines()
    assert "ExecStart=/usr/bin/env asm-supervise /etc/asm/tree.toml" in lines
    assert "ExecReload=/usr/bin/env asmctl reload" in lines
