"""The check of everything before anything starts."""

import functools
import math
import signal
import threading
from pathlib import Path

import pytest

from asm_supervisor import ChildSpec, SpecError, Supervisor
from asm_supervisor.spec import check_specs, target_name
from asm_supervisor.states import check_transition as target  # any function that can be imported


def spec(**fields):
    return ChildSpec(**{"name": "a", "target": target, **fields})


def in_main():
    """Look like a function of the main script."""


in_main.__module__ = "__main__"


def test_a_child_needs_a_name_and_a_target_only():
    checked = check_specs([spec()])
    assert checked == (spec(),)
    assert target_name(checked[0].target) == "asm_supervisor.states:check_transition"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": ".a"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a\n"}, "name"),
        ({"name": "ä"}, "name"),
        ({"name": 3}, "name"),
        ({"target": None}, "target"),
        ({"target": lambda _lifeline: None}, "target"),
        ({"target": functools.partial(target, 1)}, "target"),
        ({"target": in_main}, "target"),
        ({"target": Path.exists}, "target"),
        ({"kwargs": [1]}, "kwargs"),
        ({"kwargs": {1: 2}}, "kwargs"),
        ({"settings": {"x": object()}}, "settings"),
        ({"settings": [1]}, "settings"),
        ({"settings": {"x": "x" * 70_000}}, "settings"),
        ({"retry_after": -1}, "retry_after"),
        ({"retry_after": None}, "retry_after"),
        ({"start_timeout": 0}, "start_timeout"),
        ({"start_timeout": -1}, "start_timeout"),
        ({"start_timeout": True}, "start_timeout"),
        ({"start_timeout": "3"}, "start_timeout"),
        ({"stop_timeout": math.inf}, "stop_timeout"),
        ({"stop_timeout": math.nan}, "stop_timeout"),
        ({"listen": 3}, "listen"),
        ({"listen": Path("/" + "x" * 107)}, "listen"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field(fields, field):
    with pytest.raises(SpecError) as caught:
        check_specs([spec(**fields)])
    assert caught.value.field == field
    assert caught.value.child == str(fields.get("name", "a"))
    assert f": {field} " in str(caught.value)


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "0", "dev.sessions"])
def test_names_that_are_allowed(name):
    check_specs([spec(name=name, listen=Path("/" + "x" * 106))])


def test_names_and_paths_are_unique():
    with pytest.raises(SpecError, match="the child 'a': name is there twice"):
        check_specs([spec(), spec()])
    with pytest.raises(SpecError, match="the child 'b': listen needs /x/a, which 'a' needs, too"):
        check_specs([spec(listen=Path("/x/a")), spec(name="b", listen=Path("/x/a"))])
    with pytest.raises(SpecError, match=r"the child 'b': listen needs /x/a.lock, which 'a' needs, too"):
        check_specs([spec(listen=Path("/x/a")), spec(name="b", listen=Path("/x/a.lock"))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "the supervisor: name must be"),
        ({"strategy": "one_for_some"}, "the supervisor: strategy is 'one_for_some'; there is: one_for_one"),
        ({"max_restarts": -1}, "the supervisor: max_restarts must be"),
        ({"max_restarts": 1.5}, "the supervisor: max_restarts must be"),
        ({"max_seconds": 0}, "the supervisor: max_seconds must be"),
        ({"start_method": "thread"}, "the supervisor: start_method is 'thread'; there is: forkserver, spawn, fork"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        Supervisor([spec()], **{"name": "tree", **settings})


def test_a_supervisor_runs_in_the_main_thread_and_once():
    tree = Supervisor([], name="tree")
    errors = []

    def run():
        try:
            tree.run()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in errors[0]
    on_ready = Supervisor([], name="tree", on_ready=lambda _: signal.raise_signal(signal.SIGTERM))
    assert on_ready.run().kind == "stopped"
    with pytest.raises(RuntimeError, match="runs once"):
        on_ready.run()


def test_a_specification_cannot_be_changed():
    with pytest.raises(AttributeError):
        spec().name = "b"


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"kwargs": {"x": 1}}, False),
        ({"target": check_specs}, False),
        ({"heartbeat_timeout": 2.0}, False),
        ({"heartbeat_timeout": 20.0}, True),  # it is to beat once a second in both cases
        ({"settings": {"x": 1}}, True),
        ({"restart": "temporary", "on_failure": "degrade", "retry_after": 0, "start_timeout": 1, "stop_timeout": 1}, True),
    ],
)
def test_a_change_needs_another_process_or_it_does_not(change, same):
    before = spec(heartbeat_timeout=10.0)
    assert before.makes_the_same(spec(**{"heartbeat_timeout": 10.0, **change})) is same
