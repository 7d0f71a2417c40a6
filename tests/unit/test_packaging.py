"""What an installation brings along, and that it leaves others alone."""

import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed_files(tmp_path_factory):
    """The names of all files of the wheel."""
    target = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", target]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_two_import_packages_are_installed(installed_files):
    roots = {name.partition("/")[0] for name in installed_files if not name.partition("/")[0].endswith(".dist-info")}
    assert roots == {"asm", "asm_supervisor"}
    assert {"asm/py.typed", "asm_supervisor/py.typed", "asm/client/async_store.pyi"} <= set(installed_files)


def test_the_project_supervisor_has_no_file_in_common_with_ours(installed_files):
    """It may be installed beside ours, before it or after it."""
    theirs = {str(path) for path in importlib.metadata.files("supervisor")}
    assert "supervisor/supervisord.py" in theirs
    assert theirs & set(installed_files) == set()


def test_both_work_in_one_environment():
    code = "import asm, asm_supervisor, supervisor.supervisord; print(asm_supervisor.Supervisor.__module__)"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("asm_supervisor.supervisor\n", "")
    for program in ("supervisorctl", "supervisord", "asm-supervise", "asmctl"):
        argument = "--help" if program == "supervisorctl" else "--version"  # the one that it has
        ran = subprocess.run([Path(sys.executable).with_name(program), argument], capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, (program, ran)
