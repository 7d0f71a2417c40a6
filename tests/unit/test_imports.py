"""A client is light: what ``import asm`` loads, and what it does not."""

import subprocess
import sys

import pytest

OUTSIDE = """
import sys
before = set(sys.modules)
import asm
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
outside = loaded - set(sys.stdlib_module_names)
print(*sorted(name for name in outside if "cython" not in name))  # msgpack's own, which is compiled with Cython
print(*sorted(name for name in ("asyncio", "multiprocess", "sqlalchemy", "pydantic", "asm_supervisor") if name in sys.modules))
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["asm", "asm.client.control"])
def test_a_client_loads_msgpack_and_nothing_else_from_outside_and_no_asyncio(module):
    outside, unwanted = run(OUTSIDE.replace("import asm", f"import {module}")).split("\n")[:2]
    assert outside == "asm msgpack"
    assert unwanted == ""


def test_asyncio_comes_with_asm_aio():
    assert run("import asm, sys; asm.aio.connect; print('asyncio' in sys.modules)") == "True\n"


def test_everything_that_is_announced_is_there():
    assert run("import asm; print(all(hasattr(asm, name) for name in asm.__all__))") == "True\n"
