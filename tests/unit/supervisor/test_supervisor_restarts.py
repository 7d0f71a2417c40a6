"""Backoff and restart intensity."""

import math

import pytest

from asm_supervisor.restarts import Backoff, Restart, add_restart, describe


def test_the_first_restart_comes_at_once_and_the_others_later_up_to_the_cap():
    backoff = Backoff(first=0.5, factor=2, cap=3, jitter=0)
    assert [backoff.delay(streak, 0.9) for streak in range(1, 7)] == [0, 0.5, 1, 2, 3, 3]


def test_a_delay_of_ten_thousand_restarts_is_the_cap():
    assert Backoff(cap=2, jitter=0).delay(10_000, 0) == 2


def test_jitter_only_shortens():
    backoff = Backoff(first=1, factor=1, cap=1, jitter=0.25)
    assert backoff.delay(2, 0) == 1
    assert backoff.delay(2, 0.999) == pytest.approx(0.75, abs=0.001)


@pytest.mark.parametrize(("before", "up_for", "after"), [(0, None, 1), (3, None, 4), (3, 9.9, 4), (3, 10, 1), (3, 11, 1)])
def test_a_streak_ends_when_the_child_was_stable(before, up_for, after):
    assert Backoff(stable=10).streak(before, up_for) == after


@pytest.mark.parametrize(
    "wrong",
    [{"first": -1}, {"factor": 0.5}, {"cap": math.nan}, {"cap": math.inf}, {"jitter": 1.1}, {"stable": -1}, {"first": "1"}],
)
def test_a_backoff_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=f"backoff: {next(iter(wrong))} must be"):
        Backoff(**wrong)


def times(history):
    return [restart.at for restart in history]


def test_intensity_counts_within_a_sliding_window():
    history = []
    for at, expected in [(0, False), (4, False), (9, False), (10.5, False), (11, True)]:
        history, too_many = add_restart(history, Restart(at, "a", "died"), max_restarts=3, max_seconds=10)
        assert too_many is expected
    assert times(history) == [4, 9, 10.5, 11]


def test_the_window_includes_its_edge():
    history, too_many = add_restart([Restart(0, "a", "died")], Restart(10, "a", "died"), max_restarts=1, max_seconds=10)
    assert too_many
    assert times(history) == [0, 10]


def test_no_restart_may_be_allowed_at_all():
    assert add_restart([], Restart(5, "a", "died"), max_restarts=0, max_seconds=1)[1]


def test_who_died_of_what():
    history = [Restart(0, "a", "fell"), Restart(1, "b", "slept"), Restart(2, "a", "fell")]
    assert describe(history) == "a fell (2 times); b slept"


def test_with_the_defaults_a_child_that_never_comes_up_again_exceeds_the_intensity():
    backoff, history, now, streak, too_many = Backoff(), [], 0.0, 0, False
    while not too_many:
        history, too_many = add_restart(history, Restart(now, "a", "died"), max_restarts=10, max_seconds=30)
        streak = backoff.streak(streak, None)
        now += backoff.delay(streak, 0.0)
        assert now < 60
    assert now < 20
