"""Whatever is asked of a tree and whatever dies, in whatever order: it becomes what it is described as.

The supervisor is the real one. Its processes are not: a process here is what this test says of it, and so is the time.
"""

from types import SimpleNamespace
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from asm_supervisor import ChildSpec, Supervisor
from asm_supervisor.link import Ending, Link
from asm_supervisor.spec import STRATEGIES
from asm_supervisor.states import DOWN, UP, State

NAMES = "abcd"


def target(lifeline, version):
    """Is never called."""


described = st.lists(
    st.builds(
        lambda name, restart, version, stop_timeout: ChildSpec(
            name=name, target=target, kwargs={"version": version}, restart=restart, stop_timeout=stop_timeout
        ),
        st.sampled_from(NAMES),
        st.sampled_from(["permanent", "permanent", "transient", "temporary"]),
        st.integers(0, 2),
        st.sampled_from([5.0, 10.0]),
    ),
    unique_by=lambda spec: spec.name,
    max_size=len(NAMES),
)
strategy = st.sampled_from(list(STRATEGIES))
any_of_them = st.integers(0, 10)


class Process(Link):
    """Does what the test says."""

    everyone: ClassVar[list] = []
    eof = False
    broken = None
    deadline = None

    def __init__(self, spec, _launcher, _listening, _restarts, *, recovers):
        self.spec = spec
        self.everyone.append(self)
        self.pid = len(self.everyone)
        self.said = []
        self.is_up = self.is_told_to_stop = False
        self.end = None

    def files(self):
        return []

    def step(self, _now):
        said, self.said = self.said, []
        return said

    def ending(self, _now):
        return self.end

    def terminate(self):
        self.is_told_to_stop = True

    def kill(self):
        self.end = Ending("was killed by SIGKILL", -9)

    def close(self):
        self.everyone.remove(self)

    def say(self, word):
        self.said.append((word, {"message": "no database"}))
        self.is_up = True


class Tree(RuleBasedStateMachine):
    """A tree, and everything that may happen to it."""

    now: ClassVar[float]

    @initialize(specs=described, strategy=strategy)
    def start(self, specs, strategy):
        Tree.now = 1000.0
        Process.everyone.clear()
        self.told = []
        notifier = SimpleNamespace(
            interval=None,
            status=lambda _: None,
            ready=lambda: self.told.append("ready"),
            reloading=lambda: self.told.append("reloading"),
            stopping=lambda: self.told.append("stopping"),
        )
        self.specs = specs
        self.strategy = strategy
        self.stopped = False
        self.tree = Supervisor(specs, name="tree", strategy=strategy, max_restarts=1000, notifier=notifier)
        self.turn()

    def turn(self):
        over = self.tree._turn(SimpleNamespace(take=list), self.now)
        self.stopped |= self.tree._exit is not None
        return over

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name):
        try:
            self.tree.restart(name)
        except KeyError:
            assert name not in [spec.name for spec in self.specs]
        except RuntimeError:
            assert self.stopped
        self.turn()

    @rule(specs=described, strategy=strategy)
    def reload(self, specs, strategy):
        try:
            self.tree.reload(specs, strategy=strategy)
        except RuntimeError:
            assert self.stopped
        else:
            self.specs, self.strategy = specs, strategy
        self.turn()

    @precondition(lambda _: Process.everyone)
    @rule(index=any_of_them, word=st.sampled_from(["ready", "waiting"]))
    def say(self, index, word):
        Process.everyone[index % len(Process.everyone)].say(word)
        self.turn()

    @precondition(lambda _: Process.everyone)
    @rule(index=any_of_them, status=st.sampled_from([0, 1, -9]))
    def die(self, index, status):
        Process.everyone[index % len(Process.everyone)].end = Ending(f"ended with {status}", status)
        self.turn()

    @precondition(lambda _: any(process.is_told_to_stop for process in Process.everyone))
    @rule(index=any_of_them)
    def obey(self, index):
        told = [process for process in Process.everyone if process.is_told_to_stop]
        told[index % len(told)].end = Ending("exited with status 0", 0)
        self.turn()

    @rule(seconds=st.sampled_from([0.1, 3.0]))
    def wait(self, seconds):
        Tree.now += seconds
        self.turn()

    @rule()
    @precondition(lambda self: not self.stopped)
    def stop_seldom(self):
        if self.now > 1010.0:
            self.tree.stop("enough")
            self.turn()

    @invariant()
    def nobody_is_there_twice(self):
        names = [process.spec.name for process in Process.everyone]
        assert len(names) == len(set(names))

    def settle(self):
        """Let everybody do what is wanted of them, until nothing is to happen any more."""
        for _ in range(100):
            for process in Process.everyone:
                if process.is_told_to_stop:
                    process.end = Ending("exited with status 0", 0)
                elif not process.is_up:
                    process.say("ready")
            Tree.now += 3.0
            self.turn()
        assert self.turn() == self.stopped

    def teardown(self):
        self.settle()
        children = self.tree.children
        if not self.stopped:
            assert [child.name for child in children] == [spec.name for spec in self.specs]
            for child, spec in zip(children, self.specs, strict=True):
                assert child.state in UP or (child.state is State.ENDED and spec.restart != "permanent")
            up = {spec.name: spec for spec, child in zip(self.specs, children, strict=True) if child.state in UP}
            assert {process.spec.name for process in Process.everyone} == set(up)
            assert all(process.spec.makes_the_same(up[process.spec.name]) for process in Process.everyone)
            assert self.told[-1] == "ready"
            self.tree.stop("that is all")
            self.settle()
        assert all(child.state in DOWN for child in self.tree.children)
        assert Process.everyone == []
        self.tree._inbox.close()


def test_a_tree_becomes_what_it_is_described_as(monkeypatch):
    monkeypatch.setattr("asm_supervisor.driven.Link", Process)
    for module in ("driven", "group", "supervisor"):
        monkeypatch.setattr(f"asm_supervisor.{module}.time", SimpleNamespace(monotonic=lambda: Tree.now))
    run_state_machine_as_test(
        Tree,
        settings=settings(
            max_examples=200, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )
