"""Decisions: what the end of a process means, and how a tree is in words."""

import pytest

from asm_supervisor.policy import in_words, what_follows
from asm_supervisor.states import State, Wanted


@pytest.mark.parametrize(
    ("wanted", "restart", "status", "has_come_up", "follows"),
    [
        ("LEAVE", "permanent", 1, True, "stopped"),
        ("LEAVE", "permanent", 1, False, "stopped"),
        ("RESTART", "temporary", 0, True, "restart"),  # whoever asks for it gets it
        ("RESTART", "permanent", 1, False, "restart"),
        ("END", "temporary", 0, True, "ended"),
        ("RUN", "permanent", 0, False, "no start"),
        ("RUN", "transient", 0, False, "no start"),
        ("RUN", "permanent", 0, True, "death"),
        ("RUN", "transient", 0, True, "ended"),
        ("RUN", "transient", None, True, "death"),
        ("RUN", "transient", 1, True, "death"),
        ("RUN", "temporary", 1, True, "ended"),
    ],
)
def test_what_follows_the_end_of_a_process(wanted, restart, status, has_come_up, follows):
    assert what_follows(Wanted[wanted], restart, status, has_come_up=has_come_up) == follows


def test_a_tree_in_words():
    assert in_words([("a", State.READY)], [("a", "")]) == "1 of 1 ready"
    states = [("a", State.READY), ("b", State.WAITING)]
    assert in_words(states, [("a", "has lost its name: x")]) == "1 of 2 ready: b waiting, a has lost its name: x"
