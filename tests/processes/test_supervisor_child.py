"""A process linked to this one, without a supervisor."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

import supervisor_targets as targets
from supervisor_harness import Program, ask, environment, session, wait_gone

from asm_supervisor import Child, ChildSpec, NameInUse, SpecError, StartFailed, State
from asm_supervisor.launch import Launcher
from asm_supervisor.pipe import MAX_MESSAGE
from asm_supervisor.states import Wanted

METHODS = ("forkserver", "spawn", "fork")


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


@pytest.fixture
def launcher(method):
    launcher = Launcher(method)
    yield launcher
    launcher.stop_helpers()


@pytest.fixture
def forkserver():
    launcher = Launcher("forkserver")
    yield launcher
    launcher.stop_helpers()


def test_a_child_comes_up_and_goes(tmp_path, launcher):
    path = tmp_path / "a.sock"
    changes = []
    child = Child(
        ChildSpec(name="a", target=targets.serve, listen=path),
        launcher=launcher,
        on_change=lambda now: changes.append(now.state),
    )
    for _ in range(2):
        assert not child.alive
        child.start()
        child.wait_ready()
        assert child.alive
        assert ask(path) == child.pid
        assert child.snapshot.info == {"pid": child.pid}
        pid = child.pid
        child.stop()
        assert not child.alive
        assert not wait_gone({pid})
        assert child.reason == "exited with status 0"
        assert list(tmp_path.iterdir()) == []
        child.stop()
    assert changes == [State.STARTING, State.READY, State.STOPPING, State.STOPPED] * 2


@pytest.mark.parametrize(
    ("spec", "message", "code"),
    [
        ({"target": targets.report_failure}, "a could not start: there is no disk", "no_disk"),
        ({"target": targets.exit_early, "kwargs": {"status": 3}}, "a exited with status 3 before it was ready", None),
        ({"target": targets.never_ready, "start_timeout": 0.5}, "a was not ready within 0.5 s", None),
    ],
)
def test_a_child_that_does_not_come_up_leaves_nothing(tmp_path, forkserver, spec, message, code):
    child = Child(ChildSpec(name="a", listen=tmp_path / "a.sock", **spec), launcher=forkserver)
    child.start()
    with pytest.raises(StartFailed) as caught:
        child.wait_ready()
    assert str(caught.value) == message
    assert (caught.value.error or {}).get("code") == code
    assert (child.pid, child.state) == (None, State.FAILED)
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_cannot_be_pickled(launcher, method):
    child = Child(ChildSpec(name="a", target=targets.tell_surroundings, kwargs={"x": (n for n in ())}), launcher=launcher)
    child.start()
    if method == "fork":
        child.wait_ready()
        child.stop()
    else:
        with pytest.raises(StartFailed, match="a could not be started: TypeError: cannot pickle 'generator'"):
            child.wait_ready()


def test_arguments_that_cannot_be_unpickled_are_reported_by_the_child(forkserver):
    child = Child(ChildSpec(name="a", target=targets.serve, kwargs={"x": targets.Unloadable()}), launcher=forkserver)
    child.start()
    with pytest.raises(StartFailed) as caught:
        child.wait_ready()
    assert caught.value.error == {"code": "exception", "type": "BufferError", "message": "BufferError: not here"}


def test_a_child_gets_the_environment_of_its_own_start(forkserver, monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("SUPERVISOR_TEST", value)
        child = Child(ChildSpec(name="a", target=targets.tell_surroundings), launcher=forkserver)
        child.start()
        child.wait_ready()
        assert child.snapshot.info["environment"] == value
        child.stop()


def test_a_dead_child_is_noticed_and_connections_are_refused(tmp_path, launcher):
    path = tmp_path / "a.sock"
    child = Child(ChildSpec(name="a", target=targets.serve, listen=path), launcher=launcher)
    child.start()
    child.wait_ready()
    pid = child.pid
    os.kill(pid, signal.SIGKILL)
    assert not wait_gone({pid})
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(path))
    while child.alive:  # until the exit status has come
        wait_gone({pid})
    assert (child.state, child.reason) == (State.FAILED, "was killed by SIGKILL")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken(tmp_path, forkserver):
    spec = ChildSpec(name="a", target=targets.serve, listen=tmp_path / "a.sock")
    first, second = Child(spec, launcher=forkserver), Child(spec, launcher=forkserver)
    first.start()
    with pytest.raises(NameInUse) as caught:
        second.start()
    assert caught.value.pid == os.getpid()
    with pytest.raises(RuntimeError, match="is running"):
        first.start()
    first.stop()
    second.start()
    second.wait_ready()
    second.stop()


def test_an_error_too_long_for_a_message_arrives_shortened(forkserver):
    child = Child(ChildSpec(name="a", target=targets.fail_at_length, kwargs={"size": MAX_MESSAGE}), launcher=forkserver)
    child.start()
    with pytest.raises(StartFailed) as caught:
        child.wait_ready()
    assert caught.value.error == {"code": "long", "message": "x" * 10_000}


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also when the tests are run in the background by a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_wait_leaves_nothing(tmp_path, forkserver):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pids = []

    def interrupt():
        pids.append(int(fifo.read_text()))
        os.kill(os.getpid(), signal.SIGINT)

    child = Child(ChildSpec(name="a", target=targets.never_ready, kwargs={"fifo": str(fifo)}), launcher=forkserver)
    child.start()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        child.wait_ready()
    thread.join()
    assert not child.alive
    assert not wait_gone(pids)


def test_a_system_without_resources(monkeypatch, forkserver):
    def refuse(*_args, **_options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("asm_supervisor.driven.Link", refuse)
    child = Child(ChildSpec(name="a", target=targets.serve), launcher=forkserver)
    child.start()
    with pytest.raises(StartFailed, match=r"a could not be started: .*Too many open files"):
        child.wait_ready()


def test_a_process_that_survives_sigkill_does_not_keep_a_stop_for_ever(monkeypatch, forkserver, caplog):
    child = Child(ChildSpec(name="a", target=targets.block, stop_timeout=0.1), launcher=forkserver)
    child.start()
    child.wait_ready()
    pid = child.pid
    with monkeypatch.context() as patch:
        patch.setattr("asm_supervisor.attempt.KILL_PATIENCE", 0.1)
        patch.setattr("asm_supervisor.link.Link.kill", lambda _: None)  # as if it were stuck in the kernel
        child.stop()
    assert (child.state, child.alive) == (State.STOPPED, False)
    assert "is there in spite of SIGKILL" in caplog.text
    assert not wait_gone({pid})  # its lifeline was let go


def test_a_child_that_is_being_killed_can_be_stopped(forkserver):
    changes = []

    def stop(now):
        changes.append(now.state)
        if now.state is State.STOPPING:
            child.want(Wanted.LEAVE)
            child.dismiss(time.monotonic())

    spec = ChildSpec(name="a", target=targets.never_ready, start_timeout=0.3)
    child = Child(spec, launcher=forkserver, on_change=stop)
    child.start()
    with pytest.raises(StartFailed, match=r"was not ready within 0.3 s"):
        child.wait_ready()
    assert changes == [State.STARTING, State.STOPPING, State.STOPPED]


def test_a_specification_is_checked_when_the_child_is_made():
    with pytest.raises(SpecError, match="'a': start_timeout must be"):
        Child(ChildSpec(name="a", target=targets.serve, start_timeout=0))
    with pytest.raises(SpecError, match="start_method is 'threads'; there is: forkserver, spawn, fork"):
        Child(ChildSpec(name="a", target=targets.serve), start_method="threads")


# -- Programs that end ----------------------------------------------------------------------------------------------

PROGRAM = """
import json, os, sys, time
from pathlib import Path
import supervisor_targets as targets
from asm_supervisor import Child, ChildSpec

directory, method = Path(sys.argv[1]), sys.argv[2]

def link(name, target=targets.serve):
    child = Child(ChildSpec(name=name, target=target, listen=directory / f"{name}.sock"), start_method=method)
    child.start()
    child.wait_ready()
    return child

def say(**event):
    print(json.dumps(event), flush=True)
"""


def run(tmp_path, method, code):
    return Program(tmp_path, "-c", PROGRAM + code, str(tmp_path), method)


def test_a_child_dies_with_its_parent(tmp_path, method):
    with run(tmp_path, method, "say(pid=link('a').pid); sys.stdin.read()") as program:
        program.wait_for(pid=...)
        everybody = session(program.pid)
        program.signal(signal.SIGKILL)
        assert not wait_gone(everybody, timeout=3)


FORKS = {
    "os.fork": "fork = os.fork() or time.sleep(1000)",
    "multiprocess": """
import multiprocess
process = multiprocess.get_context("fork").Process(target=time.sleep, args=(1000,))
process.start()
fork = process.pid
""",
}


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_of_the_parent_hides_its_death_from_nobody(tmp_path, method, fork):
    code = f"child = link('a')\n{FORKS[fork]}\nsay(fork=fork)\nsys.stdin.read()"
    with run(tmp_path, method, code) as program:
        fork = program.wait_for(fork=...)["fork"]
        # A resource tracker serves forks, too.
        trackers = {pid for pid in session(program.pid) if "resource_tracker" in Path(f"/proc/{pid}/cmdline").read_text()}
        others = session(program.pid) - trackers - {fork}
        program.signal(signal.SIGKILL)
        # The fork lives; the child, and a fork server, do not.
        assert not wait_gone(others, timeout=3)
        assert wait_gone({fork}, timeout=0) == {fork}
        # It holds no name, either.
        with run(tmp_path, method, "say(pid=link('a').pid)") as second:
            second.wait_for(pid=...)
            assert second.finish() == 0


def test_a_fork_leaves_the_child_of_its_parent_alone(tmp_path, method):
    code = """
child = link("a")
if os.fork() == 0:
    say(alive=child.alive)
    child.stop()
    try:
        child.start()
    except RuntimeError as error:
        say(error=str(error))
    other = link("b")  # a fork may have children of its own
    say(other=other.alive)
    sys.exit()  # runs what was registered for the exit
os.wait()
say(alive_in_parent=child.alive)
sys.stdin.read()
"""
    with run(tmp_path, method, code) as program:
        assert program.wait_for(alive=...)["alive"] is False
        assert "belongs to process" in program.wait_for(error=...)["error"]
        assert program.wait_for(other=...)["other"] is True
        assert program.wait_for(alive_in_parent=...)["alive_in_parent"] is True
        ask(tmp_path / "a.sock")
        assert program.finish() == 0
        assert program.stderr.read_text() == ""


def test_a_program_that_ends_stops_its_children(tmp_path, method):
    with run(tmp_path, method, "say(a=link('a').pid, b=link('b').pid)") as program:
        event = program.wait_for(a=...)
        assert program.finish() == 0
        assert not wait_gone({event["a"], event["b"]}, timeout=0)
        assert list(tmp_path.glob("*.sock*")) == []
        assert program.stderr.read_text() == ""


def test_the_library_imports_nothing_but_multiprocess_and_msgpack():
    code = (
        "import sys; old = set(sys.modules); import asm_supervisor; print(*{m.split('.')[0] for m in set(sys.modules) - old})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign - {"cython_runtime"} == {"asm_supervisor", "multiprocess", "dill", "msgpack"}
