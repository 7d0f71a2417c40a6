"""What happens when the fork server dies between the fork and its word of it, and when a pid has become a stranger's."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "programs"))

import supervisor_targets as targets
from supervisor_harness import PATIENCE, wait_gone

from asm_supervisor import ChildSpec
from asm_supervisor.launch import Launcher
from asm_supervisor.link import Link, wait


class Forgetful(Launcher):
    """Starts a process, and does not hear of it: the fork server was killed just then."""

    def start(self, name, function, arguments):
        process = super().start(name, function, arguments)
        self.interrupt()
        self.kept = process  # only so that its descriptors are closed in the end
        raise ChildProcessError("the fork server ended")


class Confused(Launcher):
    """Says that a process was started with the pid of a stranger; the real one is gone already, and was reaped."""

    def __init__(self, stranger):
        super().__init__()
        self.stranger = stranger

    def start(self, name, function, arguments):
        return Reaped(self.stranger)


class Reaped:
    exitcode = 3

    def __init__(self, pid):
        self.pid = pid
        self.sentinel, writer = os.pipe()
        os.close(writer)

    def close(self):
        os.close(self.sentinel)


@pytest.fixture
def forgetful():
    launcher = Forgetful()
    yield launcher
    launcher.stop_helpers()


def follow(link, until):
    """Drive a link until ``until`` returns something for the messages and the ending so far; return that."""
    deadline = time.monotonic() + PATIENCE
    messages = []
    while time.monotonic() < deadline:
        now = time.monotonic()
        messages += link.step(now)
        found = until(messages, link.ending(now))
        if found:
            return found
        wait(link.files(), (link.deadline or deadline) - now)
    raise AssertionError(f"it did not happen; {messages}")


def test_a_process_that_nobody_told_us_of_is_found_and_never_doubled(forgetful):
    link = Link(ChildSpec(name="a", target=targets.serve), forgetful, None)
    ((message, info),) = follow(link, lambda messages, _: messages)
    assert message == "ready"
    assert link.pid == info["pid"]
    assert link.ending(time.monotonic()) is None  # the next one must not be started
    link.kill()
    ending = follow(link, lambda _, ending: ending)
    assert ending.reason == "ended, and its exit status is not known"
    assert not wait_gone({info["pid"]}, timeout=0)
    link.close()


def test_a_process_that_nobody_told_us_of_can_be_stopped_before_it_says_a_word(forgetful):
    link = Link(ChildSpec(name="a", target=targets.serve), forgetful, None)
    link.terminate()
    assert follow(link, lambda _, ending: ending)
    link.close()


def test_a_stranger_with_the_pid_of_a_dead_child_is_left_alone():
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        link = Link(ChildSpec(name="a", target=targets.serve), Confused(stranger.pid), None)
        link.kill()
        ending = follow(link, lambda _, ending: ending)
        assert (ending.reason, ending.status) == ("exited with status 3", 3)
        link.terminate()
        assert wait_gone({stranger.pid}, timeout=0.2) == {stranger.pid}
        stranger.kill()
        assert stranger.wait() == -signal.SIGKILL
        link.close()


def test_a_child_that_was_reaped_before_its_pid_was_heard_of():
    with subprocess.Popen(["true"]) as done:
        pid = done.pid
        done.wait()
    link = Link(ChildSpec(name="a", target=targets.serve), Confused(pid), None)
    assert follow(link, lambda _, ending: ending).status == 3
    link.close()


def test_a_child_that_closed_its_lifeline_before_anybody_looked_can_be_killed():
    launcher = Launcher()
    link = Link(ChildSpec(name="a", target=targets.become_another), launcher, None)
    poll = select.poll()
    poll.register(link._lifeline, 0)
    assert poll.poll(PATIENCE * 1000)  # it is another program now, and nobody has looked at its pid yet
    (message,) = follow(link, lambda messages, _: messages)
    assert message == ("ready", {})
    link.kill()
    assert follow(link, lambda _, ending: ending).reason == "was killed by SIGKILL"
    link.close()
    launcher.stop_helpers()


def test_the_fork_server_that_a_launcher_found_is_not_its_own_to_stop():
    first, second = Launcher(), Launcher()
    link = Link(ChildSpec(name="a", target=targets.serve), first, None)
    follow(link, lambda messages, _: messages)
    other = Link(ChildSpec(name="b", target=targets.serve), second, None)
    follow(other, lambda messages, _: messages)
    second.stop_helpers()
    third = Link(ChildSpec(name="c", target=targets.serve), first, None)
    follow(third, lambda messages, _: messages)
    for each in (link, other, third):
        each.terminate()
        assert follow(each, lambda _, ending: ending).reason == "exited with status 0"  # the fork server told it
        each.close()
    first.stop_helpers()
