"""The unit for systemd."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
UNIT = CONFIGS / "asm-supervise.service"
PRODUCTION = CONFIGS / "production.toml"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_accepts_it():
    ran = subprocess.run(["systemd-analyze", "verify", UNIT], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_it_runs_the_programs_and_not_a_shell():
    lines = UNIT.read_text().splitlines()
    assert "ExecStart=/usr/bin/env asm-supervise /etc/asm/tree.toml" in lines
    assert "ExecReload=/usr/bin/env asmctl reload ${ASM_TREE}" in lines


def test_it_never_gives_up_comes_after_what_it_needs_and_names_its_tree():
    lines = UNIT.read_text().splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=on-failure", "After=network-online.target postgresql.service"} <= set(lines)
    assert not any(line.startswith("StartLimitBurst") for line in lines)
    (named,) = [line.partition("ASM_TREE=")[2] for line in lines if line.startswith("Environment=ASM_TREE=")]
    assert tomllib.loads(PRODUCTION.read_text())["supervisor"]["name"] == named
