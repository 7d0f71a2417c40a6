"""``asm-supervise`` on a terminal that goes away, and started by those who leave it less than a program expects to have."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from configurations import MEMORY, configuration
from supervisor_harness import PATIENCE, session, wait_gone
from terminals import ASMCTL, Terminal, ended
from warm import PROGRAM

BLOCKED = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"


def nothing_is_left(runtime_dir):
    """Whether the tree has stopped in order: one that is killed leaves its names."""
    return list(runtime_dir.iterdir()) == []


def test_the_terminal_goes(tmp_path, runtime_dir):
    with Terminal(tmp_path, runtime_dir, PROGRAM, "tree.toml") as terminal:
        terminal.wait_for("ready: ")
        everybody = session(terminal.pid)
        terminal.close()
        assert terminal.wait() == 0
        assert not wait_gone(everybody)
        assert nothing_is_left(runtime_dir)


@pytest.mark.parametrize("how", ["", " &"], ids=["foreground", "background"])
def test_the_terminal_of_the_shell_goes(tmp_path, runtime_dir, how):
    with Terminal(tmp_path, runtime_dir, "/bin/bash", "--norc", "-i") as terminal:
        terminal.write(f"{PROGRAM} tree.toml{how}\n")
        terminal.wait_for("ready: ")
        everybody = session(terminal.pid)
        assert len(everybody) >= 5
        terminal.close()
        assert not wait_gone(everybody - {terminal.pid})
        assert nothing_is_left(runtime_dir)


def test_a_shell_hangs_up_its_jobs_before_the_terminal_goes(tmp_path, runtime_dir):
    script = f"set -m; {PROGRAM} tree.toml & read line; kill -HUP $!; sleep 0.3"
    with Terminal(tmp_path, runtime_dir, "/bin/bash", "-c", script) as terminal:
        terminal.wait_for("ready: ")
        everybody = session(terminal.pid)
        terminal.write("\n")
        terminal.wait_for("reloaded")  # it was taken for a wish, because the terminal was there
        assert not wait_gone(everybody - {terminal.pid})
        assert nothing_is_left(runtime_dir)


def test_a_hangup_that_a_person_sends_is_a_reload(tmp_path, runtime_dir):
    with Terminal(tmp_path, runtime_dir, PROGRAM, "tree.toml") as terminal:
        terminal.wait_for("ready: ")
        _, children = terminal.pids()
        os.killpg(terminal.pid, signal.SIGHUP)  # to its children, too
        terminal.wait_for("reloaded")
        assert wait_gone(children, timeout=1.5) == children
        assert terminal.ctl("status").returncode == 0
        terminal.write("\x03")
        assert terminal.wait() == 0


def test_nohup_is_respected(tmp_path, runtime_dir):
    with Terminal(tmp_path, runtime_dir, "/bin/bash", "--norc", "-i") as terminal:
        terminal.write(f"nohup {PROGRAM} tree.toml >output 2>&1 &\n")
        deadline = time.monotonic() + PATIENCE
        while terminal.ctl("status").returncode != 0:
            assert time.monotonic() < deadline
        supervisor, children = terminal.pids()
        terminal.close()
        terminal.wait()
        os.kill(supervisor, signal.SIGHUP)
        assert wait_gone(children | {supervisor}, timeout=1.5) == children | {supervisor}
        assert terminal.ctl("reload").returncode == 0
        assert terminal.ctl("stop").returncode == 0
        assert not wait_gone(children | {supervisor})


# -- What a program inherits --------------------------------------------------------------------------------------------


def test_signals_are_blocked_by_whoever_starts_it(trees, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    tree = trees(configuration(MEMORY), env={"PYTHONPATH": path}).wait_ready()
    assert tree.stop() == 0


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"], ids=["stderr", "all"])
def test_standard_files_are_closed(tmp_path, runtime_dir, closed):
    (tmp_path / "tree.toml").write_text(configuration(MEMORY))
    command = ["/bin/sh", "-c", f"exec {PROGRAM} tree.toml {closed}"]
    env = {**os.environ, "ASM_RUNTIME_DIR": str(runtime_dir)}
    with ended(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)) as process:
        status = [ASMCTL, "status", "--json", "--runtime-dir", runtime_dir]
        deadline = time.monotonic() + PATIENCE
        while (shown := subprocess.run(status, capture_output=True, text=True)).returncode != 0:
            assert process.poll() is None
            assert time.monotonic() < deadline
        (tree,) = json.loads(shown.stdout)
        for pid in (process.pid, *(child["pid"] for child in tree["children"])):
            files = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
            assert not any(file.startswith(("socket:", "anon_inode:")) for file in files), files
            assert files[2] == os.devnull
        process.terminate()
        assert process.wait(PATIENCE) == 0


SLOW_IMPORT = """
import sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            open("importing", "w").close()
            time.sleep(600)
sys.meta_path.insert(0, Finder())
"""
"""Before anything else of the program there is a package that takes very long to import."""


def test_pid_1_hears_sigterm_while_it_still_imports(tmp_path):
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("a process of one's own number 1 is not allowed here")
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    with ended(subprocess.Popen([*unshare, PROGRAM, "tree.toml"], cwd=tmp_path, env=env)) as process:
        while not (tmp_path / "importing").exists():
            assert process.poll() is None
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM
