"""A client is light: what ``import asm`` loads, and what it does not."""

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

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


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of an environment with asm and msgpack, and none of the extras."""
    directory = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(directory, symlinks=True)
    (packages,) = directory.glob("lib/python*/site-packages")
    for name in ("asm", "asm_supervisor", "msgpack"):
        (packages / name).symlink_to(Path(importlib.util.find_spec(name).origin).parent)
    return directory / "bin" / "python"


def run_bare(python, code):
    return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("function", "program"), [("supervise", "asm-supervise"), ("control", "asmctl")])
def test_a_command_line_without_the_extra_says_what_to_install(bare, function, program):
    ran = run_bare(bare, f"from asm.cli import {function}; {function}()")
    assert ran.returncode == 69
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"{program} needs the package '")
    assert line.endswith("""', which is not installed; to install: pip install "asm-store[server]\"""")


START_LINK = """
import asm
try:
    STATEMENT
except asm.Error as error:
    print(error.code, error.details["install"])
"""


@pytest.mark.parametrize(
    "statement",
    [
        "asm.InMemorySessionStore.start_link()",
        "asm.FileArtifactStore.start_link(root='artifacts')",
        "asm.CompositeSessionStore.start_link(session_store='a', artifact_store='b')",
        "from asm import CompositeSessionStore",
    ],
)
def test_start_link_without_the_extra_says_what_to_install(bare, statement):
    ran = run_bare(bare, START_LINK.replace("STATEMENT", statement))
    assert ran.stdout == 'dependency_not_available pip install "asm-store[server]"\n', ran.stderr


def test_a_client_and_a_store_in_the_process_need_no_extra(bare, tmp_path):
    ran = run_bare(bare, f"import asm; asm.connect; asm.FileArtifactStore(root={str(tmp_path)!r}).put('a', b'b')")
    assert ran.returncode == 0, ran.stderr
