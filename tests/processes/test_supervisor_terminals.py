"""Signals that come to a whole session, and what whoever started the program has done to signals: blocked or ignored them."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import Program, Tree, environment, session, wait_gone

from asm_supervisor.signals import Signals

METHODS = ("forkserver", "spawn", "fork")
SPECS = ({"name": "a", "target": "serve"}, {"name": "b", "target": "serve"})


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


# -- SIGHUP -------------------------------------------------------------------------------------------------------------


def test_a_hangup_of_the_whole_session_ends_nobody(tmp_path, method):
    with Tree(tmp_path, *SPECS, start_method=method) as tree:
        pids = tree.up()
        everybody = session(tree.pid)
        os.killpg(tree.pid, signal.SIGHUP)
        tree.wait_for(hangup=True)
        assert wait_gone(everybody, timeout=0.2) == everybody
        # Also those whom it finds at their start.
        for _ in range(5):
            os.kill(pids["b"], signal.SIGKILL)
            tree.wait_for(child="b", state="starting")
            os.killpg(tree.pid, signal.SIGHUP)
            pids["b"] = tree.wait_for(child="b", state="ready")["pid"]
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert [name for name, state in tree.states() if state == "starting"] == ["a", "b", *"bbbbb"]


def test_a_hangup_that_finds_a_tree_at_its_start_ends_nobody(tmp_path, method):
    with Tree(tmp_path, *SPECS, start_method=method) as tree:
        tree.wait_for(child="a", state="starting")
        for _ in range(100):
            os.killpg(tree.pid, signal.SIGHUP)
            time.sleep(0.002)
        tree.up()
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert [name for name, state in tree.states() if state == "starting"] == ["a", "b"]


def test_without_anybody_to_tell_a_hangup_stops_the_tree(tmp_path):
    program = """
import json, supervisor_targets
from asm_supervisor import ChildSpec, Supervisor
tree = Supervisor(
    [ChildSpec(name="a", target=supervisor_targets.serve)],
    name="tree",
    on_ready=lambda children: print(json.dumps({"pid": children[0].pid}), flush=True),
)
print(json.dumps({"reason": tree.run().reason}), flush=True)
"""
    with Program(tmp_path, "-c", program) as run:
        run.wait_for(pid=...)
        run.signal(signal.SIGHUP)
        run.wait_for(reason="stopped by SIGHUP")


# -- What a program inherits --------------------------------------------------------------------------------------------

BEFORE = {
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "ignored": "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)]",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("before", BEFORE)
def test_whoever_starts_a_tree_has_done_something_to_signals(tmp_path, method, before, number):
    (tmp_path / "sitecustomize.py").write_text(f"import signal; {BEFORE[before]}")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    specs = {"name": "a", "target": "end_when_told", "kwargs": {"journal": None}}, {"name": "b", "target": "tell_surroundings"}
    with Tree(tmp_path, *specs, start_method=method, variables={"PYTHONPATH": path}) as tree:
        ready = tree.wait_for(ready=...)
        found = ready["info"][1]
        assert (found["sigint"], found["sighup"]) == (True, True)
        assert (found["sigterm"], found["sigchld"], found["blocked"]) == (True, True, [])
        os.kill(ready["ready"]["a"], signal.SIGKILL)
        assert tree.wait_for(child="a", state="backoff")["reason"] == "was killed by SIGKILL"
        tree.wait_for(child="a", state="ready")
        tree.signal(number)
        assert tree.exit()["reason"] == f"stopped by {number.name}"


def test_a_program_that_ignores_the_ends_of_its_children_has_a_linked_one(tmp_path):
    program = """
import json, signal, supervisor_targets
from asm_supervisor import Child, ChildSpec
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
child = Child(ChildSpec(name="a", target=supervisor_targets.serve))
child.start()
child.wait_ready()
child.stop()
print(json.dumps({"reason": child.reason, "ignored": signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN}), flush=True)
"""
    with Program(tmp_path, "-c", program) as run:
        assert run.wait_for(reason=...) == {"reason": "exited with status 0", "ignored": True}


def test_after_the_run_a_signal_is_blocked_again():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with Signals(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.take() == [signal.SIGUSR1]
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
