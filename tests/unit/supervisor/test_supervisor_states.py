"""The states of a child, and the order in which children start and stop."""

import pytest

from asm_supervisor.policy import next_to_start, next_to_stop
from asm_supervisor.states import DOWN, TRANSITIONS, IllegalTransition, State, check_transition


def test_every_state_can_be_left_and_reached():
    assert set(TRANSITIONS) == set(State)
    assert {state for following in TRANSITIONS.values() for state in following} == set(State)


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_only_what_the_table_has_is_legal(old, new):
    if new in TRANSITIONS[old]:
        check_transition("a", old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"the child 'a' is {old}, and cannot become {new}"):
            check_transition("a", old, new)


def test_a_process_is_started_only_when_there_is_none():
    assert {state for state, following in TRANSITIONS.items() if State.STARTING in following} == DOWN | {State.BACKOFF}


@pytest.mark.parametrize(
    ("states", "index"),
    [
        ("", None),
        ("stopped stopped", 0),
        ("starting stopped", None),
        ("ready stopped stopped", 1),
        ("waiting stopped stopped", 1),
        ("backoff stopped", None),
        ("stopping stopped", None),
        ("ready ready", None),
    ],
)
def test_the_next_child_is_started_when_all_before_it_are_ready(states, index):
    assert next_to_start([State(state) for state in states.split()]) == index


@pytest.mark.parametrize(
    ("states", "index"),
    [
        ("", None),
        ("ready ready", 1),
        ("ready stopping", 1),
        ("ready stopped stopped", 0),
        ("starting failed", 0),
        ("stopped failed", None),
    ],
)
def test_the_last_one_that_is_there_is_stopped(states, index):
    assert next_to_stop([State(state) for state in states.split()]) == index
