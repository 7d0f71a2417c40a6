"""What is around a supervised tree is taken away from it while it runs, or is not there from the start."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import Program, Tree, ask, environment

METHODS = ("forkserver", "spawn", "fork")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def kill_and_wait(tree, name, pid):
    """Kill a child, and wait until the next one is ready; return its pid."""
    os.kill(pid, signal.SIGKILL)
    assert tree.wait_for(child=name, state="backoff")["reason"] == "was killed by SIGKILL"
    return tree.wait_for(child=name, state=...)["pid"] or tree.wait_for(child=name, state="ready")["pid"]


def test_the_temporary_directory_is_swept(tmp_path, method):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method=method, variables={"TMPDIR": str(temporary)}) as tree:
        pid = tree.up()["a"]
        assert list(temporary.iterdir()) == []
        temporary.rmdir()
        kill_and_wait(tree, "a", pid)
        if method == "forkserver":  # also the fork server itself
            os.kill(tree.fork_server(), signal.SIGKILL)
            os.kill(tree.events[-1]["pid"], signal.SIGKILL)
            tree.wait_for(child="a", state="backoff")
            tree.wait_for(child="a", state="ready")
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_the_working_directory_is_deleted(tmp_path, method):
    release = tmp_path / "release"
    release.mkdir()
    spec = {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")}
    with Tree(tmp_path, spec, start_method=method, cwd=release) as tree:
        pid = tree.up()["a"]
        release.rmdir()
        second = kill_and_wait(tree, "a", pid)
        assert ask(tmp_path / "a.sock") == second
        if method == "forkserver":
            os.kill(tree.fork_server(), signal.SIGKILL)
            os.kill(second, signal.SIGKILL)
            tree.wait_for(child="a", state="backoff")
            tree.wait_for(child="a", state="ready")
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_a_temporary_directory_whose_path_is_too_long_for_a_socket(tmp_path, method):
    temporary = tmp_path / ("t" * 97)
    temporary.mkdir()
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method=method, variables={"TMPDIR": str(temporary)}) as tree:
        tree.up()
        tree.signal(signal.SIGTERM)
        tree.exit()


NO_TEMPORARY_DIRECTORY = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"


def test_there_is_no_temporary_directory(tmp_path, method):
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_DIRECTORY)
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method=method, variables={"PYTHONPATH": path}) as tree:
        if method == "spawn":  # a new interpreter has to import what asks for one
            assert "a could not be started: FileNotFoundError: [Errno 2] No usable temporary directory" in tree.exit()["reason"]
        else:
            kill_and_wait(tree, "a", tree.up()["a"])
            tree.signal(signal.SIGTERM)
            tree.exit()


PROGRAM = """
import json, os, sys
from pathlib import Path
import supervisor_targets as targets
from asm_supervisor import Child, ChildSpec

method, sockets = sys.argv[1], Path(sys.argv[2])

def link(name, target=targets.serve, **kwargs):
    child = Child(ChildSpec(name=name, target=target, kwargs=kwargs, listen=sockets / f"{name}.sock"), start_method=method)
    child.start()
    child.wait_ready()
    return child

def say(**event):
    print(json.dumps(event), flush=True)
"""


def run(tmp_path, method, code, **how):
    return Program(tmp_path, "-c", PROGRAM + code, method, str(tmp_path), **how)


def test_a_program_with_linked_children_loses_both_directories(tmp_path, method):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = """
link("a")
say(up=True)
sys.stdin.readline()
say(pid=link("b").pid)
sys.stdin.readline()
"""
    with run(tmp_path, method, code, cwd=gone, TMPDIR=str(gone)) as program:
        program.wait_for(up=True)
        shutil.rmtree(gone)
        program.ask(go="on")
        pid = program.wait_for(pid=...)["pid"]
        assert ask(tmp_path / "b.sock") == pid
        assert program.finish() == 0


def test_a_child_begins_where_its_parent_is_at_that_moment(tmp_path, method):
    code = """
for name in ("one", "two"):
    directory = sockets / name
    directory.mkdir()
    os.chdir(directory)
    info = link(name, targets.tell_surroundings).snapshot.info
    say(directory=info["directory"], argv=info["argv"] == sys.argv)
"""
    with run(tmp_path, method, code) as program:
        for name in ("one", "two"):
            assert program.wait_for(directory=...) == {"directory": str(tmp_path / name), "argv": True}


def test_a_connection_may_come_with_the_arguments(tmp_path, method):
    code = """
import multiprocess
ours, theirs = multiprocess.Pipe()
child = link("a", targets.say_through, connection=theirs)
theirs.close()
say(same=int(ours.recv_bytes()) == child.pid)
child.stop()
try:
    ours.recv_bytes()
except EOFError:  # nobody else has it
    say(end=True)
"""
    with run(tmp_path, method, code) as program:
        assert program.wait_for(same=...)["same"] is True
        program.wait_for(end=True)


def test_there_is_no_room_for_one_more_process(tmp_path):
    settings = {"start_method": "forkserver", "preload": ["supervisor_no_forks"]}
    with Tree(tmp_path, {"name": "a", "target": "serve"}, **settings) as tree:
        end = tree.exit()
        assert end["reason"] == ("a could not be started: BlockingIOError: [Errno 11] Resource temporarily unavailable")


def test_a_module_that_cannot_be_imported_keeps_nobody_who_does_not_need_it(tmp_path):
    (tmp_path / "supervisor_broken_import.py").write_text("raise ZeroDivisionError")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    settings = {"preload": ["supervisor_broken_import", "supervisor_no_such_module"], "variables": {"PYTHONPATH": path}}
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method="forkserver", **settings) as tree:
        tree.up()
        tree.signal(signal.SIGTERM)
        tree.exit()
