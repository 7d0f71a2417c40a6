"""What a fork server says when it ends."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("error", "is_told"), [("EOFError", False), ("ValueError", True)])
def test_a_parent_that_is_gone_is_nothing_to_complain_about(error, is_told):
    program = f"import asm_supervisor.preloading, asm_supervisor.preloaded; raise {error}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert (error in done.stderr) == bool(done.stderr) == is_told
