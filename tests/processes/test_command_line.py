"""``asm-supervise``: what it says of a configuration, and how it exits."""

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from warm import PROGRAM

import asm

ROOT = Path(__file__).parents[2]

GOOD = """
[supervisor]
name = "t"
[[backend]]
name = "s"
store = "memory"
[[backend]]
name = "a"
store = "file"
root = "artifacts"
[composite]
name = "C"
session_store = "s"
artifact_store = "a"
"""


def run(*arguments, cwd, **env):
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(cwd / "run"), **env}
    return subprocess.run([PROGRAM, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def run_warm(warm, *arguments, cwd):
    """As :func:`run`, for many runs that end soon."""
    started = warm.start(*arguments, cwd=cwd, env={**os.environ, "ASM_RUNTIME_DIR": str(cwd / "run")})
    with started.stdout, started.stderr:
        return subprocess.CompletedProcess(arguments, started.wait(60), started.stdout.read(), started.stderr.read())


def test_version(tmp_path):
    ran = run("--version", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (0, f"asm-supervise {asm.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--no-such-option", "x.toml"), ("a.toml", "b.toml")])
def test_usage(tmp_path, arguments):
    ran = run(*arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert "Usage" in ran.stderr


def test_check_starts_nothing_and_leaves_nothing(tmp_path):
    (tmp_path / "c.toml").write_text(GOOD)
    ran = run("c.toml", "--check", cwd=tmp_path)
    assert ran.returncode == 0
    assert "s, a, C" in ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


@pytest.mark.parametrize("name", ["dev.toml", "test.toml"])
def test_the_configurations_that_come_with_it_are_good(tmp_path, name):
    assert run(ROOT / "configs" / name, "--check", cwd=tmp_path).returncode == 0


BAD = {
    "no TOML": ("[supervisor", ["is no TOML"]),
    "nothing in it": ("", ["supervisor: is missing", "composite: is missing"]),
    "unknown table": (GOOD + "[backends]\n", ["backends: is no key"]),
    "unknown key": (
        GOOD.replace('name = "t"', 'name = "t"\nmax_restart = 1'),
        ["supervisor.max_restart: is no key", "max_restarts"],
    ),
    "wrong type": (GOOD.replace('name = "t"', 'name = "t"\nmax_restarts = "10"'), ["supervisor.max_restarts:", "integer"]),
    "unknown strategy": (GOOD.replace('name = "t"', 'name = "t"\nstrategy = "all"'), ["supervisor.strategy:", "one_for_one"]),
    "name of the tree twice": (
        GOOD.replace('name = "C"', 'name = "t"'),
        ["composite[0].name: 't' is the name of supervisor already; choose another"],
    ),
    "no name": (GOOD.replace('name = "s"\n', ""), ["backend[0].name: is missing"]),
    "bad name": (GOOD.replace('name = "s"', 'name = "../s"'), ["backend[0].name:", "'../s' is no name"]),
    "long name": (GOOD.replace('name = "C"', f'name = "{"C" * 120}"'), ["composite[0].name:", "too long", "ASM_RUNTIME_DIR"]),
    "name twice": (GOOD.replace('name = "a"', 'name = "s"'), ["backend[1].name: 's' is the name of backend[0] already"]),
    "unknown store": (GOOD.replace('"memory"', '"mongo"'), ["backend[0].store:", "'mongo'", "memory, sql, file"]),
    "no such class": (GOOD.replace('"memory"', '"os:Path"'), ["backend[0].store:", "no class 'Path'"]),
    "no store": (GOOD.replace('"memory"', '"pathlib:Path"'), ["backend[0].store:", "is no store"]),
    "unknown option": (
        GOOD.replace('root = "artifacts"', 'root = "r"\nroots = "x"'),
        ["backend[1].roots: roots is no option of FileArtifactStore; it takes: root, create"],
    ),
    "missing option": (GOOD.replace('root = "artifacts"\n', ""), ["backend[1].root: root is required by FileArtifactStore"]),
    "option of a wrong type": (
        GOOD.replace('root = "artifacts"', "root = 5"),
        ["backend[1].root: root must be a path, not int"],
    ),
    "root below a file": (GOOD.replace('root = "artifacts"', 'root = "c.toml/artifacts"'), ["backend[1].root:"]),
    "no URL": (GOOD.replace('store = "memory"', 'store = "sql"\nurl = "var/asm.db"'), ["backend[0].url:"]),
    "memory URL": (GOOD.replace('store = "memory"', 'store = "sql"\nurl = "sqlite://"'), ["backend[0].url:", "memory"]),
    "unknown driver": (GOOD.replace('store = "memory"', 'store = "sql"\nurl = "nosuch://x/y"'), ["backend[0].url:", "nosuch"]),
    "reference to nothing": (
        GOOD.replace('artifact_store = "a"', 'artifact_store = "b"'),
        ["composite[0].artifact_store: 'b'", "s, a"],
    ),
    "reference to the wrong kind": (GOOD.replace('artifact_store = "a"', 'artifact_store = "s"'), ["'s' is no artifact store"]),
    "wrong kind inside": (
        GOOD.replace('artifact_store = "a"', 'artifact_store = {store = "memory"}'),
        ["is no artifact store"],
    ),
    "unset variable": (GOOD.replace('"artifacts"', '"${NO_SUCH}/x"'), ["backend[1].root:", "NO_SUCH is not set"]),
}


@pytest.mark.parametrize(("config", "said"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_a_bad_configuration(tmp_path, warm, config, said, check):
    (tmp_path / "c.toml").write_text(config)
    ran = run_warm(warm, "c.toml", *(["--check"] if check else []), cwd=tmp_path)
    assert ran.returncode == 78, ran.stderr
    for text in said:
        assert text in ran.stderr
    assert all(line.startswith("c.toml: ") for line in ran.stderr.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_a_store_with_annotations_for_type_checkers_only(tmp_path):
    (tmp_path / "hinted.py").write_text(
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\nfrom asm.adapters import InMemorySessionStore\n"
        "if TYPE_CHECKING:\n    from pathlib import Path\n"
        "class Hinted(InMemorySessionStore):\n    def __init__(self, *, where: Path):\n        super().__init__()\n"
    )
    hinted = GOOD.replace('store = "memory"', 'store = "hinted:Hinted"\nwhere = "x"')
    (tmp_path / "c.toml").write_text(hinted)
    assert run("c.toml", "--check", cwd=tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0
    (tmp_path / "c.toml").write_text(hinted.replace("where =", "were ="))
    ran = run("c.toml", "--check", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert ran.returncode == 78
    assert "backend[0].were" in ran.stderr


def test_a_reference_from_the_environment_is_not_shown(tmp_path):
    (tmp_path / "c.toml").write_text(GOOD.replace('session_store = "s"', 'session_store = "${SECRET}"'))
    ran = run("c.toml", cwd=tmp_path, SECRET="postgresql://me:hidden@host/x")
    assert ran.returncode == 78
    assert "composite[0].session_store" in ran.stderr
    assert "hidden" not in ran.stderr


def test_a_missing_configuration(tmp_path):
    ran = run("none.toml", cwd=tmp_path)
    assert ran.returncode == 78
    assert ran.stderr == "none.toml: cannot be read: No such file or directory\n"


def test_all_problems_are_told_at_once(tmp_path):
    (tmp_path / "c.toml").write_text(GOOD.replace('name = "a"', 'name = "s"').replace('"memory"', '"mongo"'))
    assert len(run("c.toml", cwd=tmp_path).stderr.splitlines()) >= 2


def test_variables_come_from_the_environment(tmp_path):
    (tmp_path / "c.toml").write_text(GOOD.replace('"artifacts"', '"${WHERE}/${WHAT:-artifacts}"'))
    assert run("c.toml", "--check", cwd=tmp_path, WHERE="x").returncode == 0


NO_TEMPORARY_DIRECTORY = """
import os, tempfile
os.geteuid = lambda: 1000
tempfile._candidate_tempdir_list = lambda: [os.environ["TMPDIR"]]
"""
"""For a user who is not root, and who can write to none of the usual places."""


@pytest.mark.parametrize("arguments", [["--check"], []])
def test_without_a_temporary_directory_it_says_what_to_do(tmp_path, arguments):
    (tmp_path / "c.toml").write_text(GOOD)
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_DIRECTORY)
    where = {"TMPDIR": str(tmp_path / "none"), "ASM_RUNTIME_DIR": "", "XDG_RUNTIME_DIR": "", "PYTHONPATH": str(tmp_path)}
    ran = run("c.toml", *arguments, cwd=tmp_path, **where)
    assert ran.returncode == 78
    (line,) = ran.stderr.splitlines()
    assert "supervisor.runtime_dir: there is no runtime directory: No usable temporary directory found" in line
    assert "set ASM_RUNTIME_DIR" in line


def test_on_a_terminal_it_shows_the_children_before_it_is_ready(tmp_path):
    (tmp_path / "c.toml").write_text(GOOD)
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(tmp_path / "run"), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([PROGRAM, "c.toml"], cwd=tmp_path, env=environment, stdout=other_end, stderr=other_end)
    os.close(other_end)
    said = ""
    try:
        while "ready:" not in said:
            said += os.read(terminal, 65536).decode()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        os.close(terminal)
    table = said[: said.index("ready:")]
    assert table.index(" s ") < table.index(" a ") < table.index(" C ")
    for text in ("worker: memory", "worker: file", "composite: s + a", "ready"):
        assert text in table
