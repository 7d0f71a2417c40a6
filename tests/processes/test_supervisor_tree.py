"""A supervised tree, as a program of its own: its start, its stop, and what its children find."""

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

from supervisor_harness import Program, Tree, ask, wait_gone

METHODS = ("forkserver", "spawn", "fork")


@pytest.mark.parametrize("method", METHODS)
def test_children_start_in_order_and_stop_in_reverse(tmp_path, method):
    journal = tmp_path / "journal"
    specs = [{"name": name, "target": "serve", "kwargs": {"journal": str(journal)}} for name in "abc"]
    with Tree(tmp_path, *specs, start_method=method) as tree:
        tree.up()
        tree.signal(signal.SIGTERM)
        end = tree.exit()
        assert (end["exit"], end["reason"]) == ("stopped", "stopped by SIGTERM")
        up = [(name, state) for name in "abc" for state in ("starting", "ready")]
        down = [(name, state) for name in "cba" for state in ("stopping", "stopped")]
        assert tree.states() == up + down
    assert journal.read_text().split("\n")[:-1] == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_finds_the_same_whatever_started_it(tmp_path, method):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "tell_surroundings", "listen": str(tmp_path / "b.sock"), "kwargs": {"x": [1, None]}},
        {"name": "c", "target": "serve", "listen": str(tmp_path / "c.sock")},
    ]
    with Tree(tmp_path, *specs, start_method=method, environment={"SUPERVISOR_TEST": "one"}) as tree:
        found = tree.wait_for(ready=...)["info"][1]
        assert found["environment"] == "one"
        assert (found["sigint"], found["sigterm"], found["blocked"], found["wakeup"]) == (True, True, [], -1)
        assert found["kwargs"] == '{"x": [1, null]}'
        # Of the parent's descriptors it has its lifeline and its socket: no other sockets, locks, pidfds, events.
        leaked = [file for file in found["files"].values() if file.startswith(("socket:", "anon_inode:")) or ".lock" in file]
        assert leaked == []
        if method != "fork":
            assert found["main"] is None
        tree.signal(signal.SIGTERM)
        end = tree.exit()
        assert len(end["files_after"]) == len(end["files_before"])


def test_sockets_are_private_and_go_with_the_tree(tmp_path):
    path = tmp_path / "a.sock"
    with Tree(tmp_path, {"name": "a", "target": "serve", "listen": str(path)}) as tree:
        pids = tree.up()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "a.sock.lock").stat().st_mode) == 0o600
        assert ask(path) == pids["a"]
        tree.signal(signal.SIGINT)
        assert tree.exit()["reason"] == "stopped by SIGINT"
    assert list(tmp_path.glob("a.sock*")) == []


@pytest.mark.parametrize(
    ("spec", "reason", "error"),
    [
        ({"target": "exit_early", "kwargs": {"status": 3}}, "exited with status 3 before it was ready", None),
        ({"target": "exit_early", "kwargs": {"status": 0}}, "exited with status 0 before it was ready", None),
        ({"target": "exit_early", "kwargs": {"status": "so it is"}}, "could not start: so it is", "exited"),
        ({"target": "report_failure"}, "could not start: there is no disk", "no_disk"),
        (
            {"target": "report_failure", "kwargs": {"stay": True}, "stop_timeout": 0.2},
            "could not start: there is no disk",
            "no_disk",
        ),
        ({"target": "raise_error"}, "could not start: LookupError: no such thing", "exception"),
        ({"target": "raise_error", "kwargs": {"x": 1}}, "unexpected keyword argument 'x'", "exception"),
        ({"target": "never_ready", "start_timeout": 0.5}, "was not ready within 0.5 s", None),
    ],
)
def test_a_child_that_does_not_come_up_takes_the_others_down(tmp_path, spec, reason, error):
    specs = [
        {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")},
        {"name": "b", "target": "serve"},
        {"name": "c", **spec},
        {"name": "d", "target": "serve", "listen": str(tmp_path / "d.sock")},
    ]
    with Tree(tmp_path, *specs) as tree:
        end = tree.exit()
        assert (end["exit"], end["child"]) == ("start_failed", "c")
        assert end["reason"].startswith("c ")
        assert reason in end["reason"]
        assert (end["error"] or {}).get("code") == error
        states = tree.states()
        assert ("d", "starting") not in states
        assert states[-5:] == [("c", "failed"), ("b", "stopping"), ("b", "stopped"), ("a", "stopping"), ("a", "stopped")]
    assert list(tmp_path.glob("*.sock*")) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_child_killed_before_it_is_ready(tmp_path, method):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Tree(tmp_path, {"name": "a", "target": "never_ready", "kwargs": {"fifo": str(fifo)}}, start_method=method) as tree:
        os.kill(int(fifo.read_text()), signal.SIGKILL)
        assert tree.exit()["reason"] == "a was killed by SIGKILL before it was ready"


@pytest.mark.parametrize("method", METHODS)
def test_sigterm_during_the_start(tmp_path, method):
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "never_ready"}, {"name": "c", "target": "serve"}]
    with Tree(tmp_path, *specs, start_method=method) as tree:
        tree.wait_for(child="b", state="starting")
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"
        assert tree.states()[3:] == [("b", "stopping"), ("b", "stopped"), ("a", "stopping"), ("a", "stopped")]


def test_sigterm_before_anything_was_started(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "serve"}, {"name": "b", "target": "serve"}) as tree:
        tree.wait_for(child="a", state="starting")  # the fork server is not even there yet
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"
        assert ("b", "starting") not in tree.states()


def test_a_second_signal_kills_who_does_not_stop(tmp_path):
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "block", "stop_timeout": 1000}]
    with Tree(tmp_path, *specs) as tree:
        pids = tree.up()
        tree.signal(signal.SIGTERM)
        tree.wait_for(child="b", state="stopping")
        assert wait_gone({pids["b"]}, timeout=0.3) == {pids["b"]}
        tree.signal(signal.SIGTERM)
        end = tree.exit()
        assert end["exit"] == "stopped"
        assert "a second SIGTERM" in next(event["reason"] for event in tree.events if event.get("state") == "stopped")


def test_two_signals_at_once_are_one_request(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "serve"}) as tree:
        tree.up()
        tree.signal(signal.SIGINT)
        tree.signal(signal.SIGTERM)
        tree.exit()
        assert tree.events[-2]["reason"] == "exited with status 0"


def test_a_child_that_does_not_stop_is_killed_in_time(tmp_path):
    specs = [{"name": "a", "target": "serve"}, {"name": "b", "target": "block", "stop_timeout": 0.3}]
    with Tree(tmp_path, *specs) as tree:
        tree.up()
        tree.signal(signal.SIGTERM)
        tree.exit()
        reasons = {event["child"]: event["reason"] for event in tree.events if event.get("state") == "stopped"}
        assert reasons == {"b": "did not stop within 0.3 s", "a": "exited with status 0"}


def test_a_thread_that_is_stuck_keeps_no_child(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "stuck_thread"}) as tree:
        tree.up()
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_what_a_child_sends_is_told_and_a_full_pipe_does_not_stop_it(tmp_path):
    with Tree(tmp_path, {"name": "a", "target": "count_messages", "kwargs": {"number": 5000}}) as tree:
        tree.wait_for(ready=...)
        sent = tree.wait_for(message="sent")["body"]["value"]
        arrived = [event["body"]["value"] for event in tree.events if event.get("message") == "count"]
        assert len(arrived) == sent
        assert arrived == sorted(arrived)
        tree.signal(signal.SIGTERM)
        tree.exit()


def test_a_name_in_use_says_by_whom(tmp_path):
    spec = {"name": "a", "target": "serve", "listen": str(tmp_path / "a.sock")}
    with Tree(tmp_path, spec) as first:
        pids = first.up()
        with Tree(tmp_path, {"name": "other", "target": "serve", "listen": str(tmp_path / "b.sock")}, spec) as second:
            end = second.exit()
            assert (end["exit"], end["child"]) == ("start_failed", "a")
            assert f"in use by process {first.pid}" in end["reason"]
            assert second.states() == []
        assert ask(tmp_path / "a.sock") == pids["a"]
        assert not list(tmp_path.glob("b.sock*"))
        first.signal(signal.SIGTERM)
        first.exit()


def test_what_is_no_socket_of_ours_is_not_removed(tmp_path):
    path = tmp_path / "a.sock"
    path.write_text("precious")
    with Tree(tmp_path, {"name": "a", "target": "serve", "listen": str(path)}) as tree:
        assert "not a socket" in tree.exit()["reason"]
    assert path.read_text() == "precious"
    assert not (tmp_path / "a.sock.lock").exists()


def test_a_stale_socket_is_cleaned_up(tmp_path):
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Tree(tmp_path, {"name": "a", "target": "serve", "listen": str(path)}) as tree:
        pids = tree.up()
        assert ask(path) == pids["a"]


def test_a_supervisor_without_children_waits_for_its_end(tmp_path):
    with Tree(tmp_path) as tree:
        assert tree.up() == {}
        tree.signal(signal.SIGTERM)
        assert tree.exit()["exit"] == "stopped"


def test_a_defect_of_the_supervisor_leaves_nothing_behind(tmp_path):
    program = f"""
import os, sys
from pathlib import Path
import supervisor_targets
from asm_supervisor import ChildSpec, Supervisor
from asm_supervisor.group import Group
def defect(*_what, **_more):
    raise ZeroDivisionError
Group.take_ending = defect
tree = Supervisor(
    [ChildSpec(name="a", target=supervisor_targets.block, listen=Path({str(tmp_path)!r}) / "a.sock"),
     ChildSpec(name="b", target=supervisor_targets.exit_early, kwargs={{"status": 1}})],
    name="tree",
)
try:
    tree.run()
except ZeroDivisionError:
    print('{{"caught": true}}', flush=True)
sys.stdin.read()
"""
    with Program(tmp_path, "-c", program) as run:
        run.wait_for(caught=True)
        assert not wait_gone(run.children())
        assert list(tmp_path.glob("a.sock*")) == []
        assert run.finish() == 0
