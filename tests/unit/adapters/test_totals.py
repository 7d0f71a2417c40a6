"""What runs used, added up."""

import itertools

import pytest

from asm.adapters.totals import token_totals, tokens
from asm.core import checks


def test_usage_is_added_up_number_by_number():
    usages = [
        {"input": 1, "details": {"cached": 1, "deep": {"x": 0.5}}, "model": "gpt", "list": [1]},
        {"input": 2, "output": 1.5, "details": {"cached": 2, "deep": {"x": 1}}, "flag": True, "empty": {}, "none": None},
        {},
    ]
    assert token_totals(usages) == {"input": 3, "output": 1.5, "details": {"cached": 3, "deep": {"x": 1.5}}}
    assert token_totals([]) == {}


def test_the_order_of_runs_makes_no_difference():
    usages = [{"a": 1}, {"a": {"b": 2}}, {"a": {}}, {"a": "text"}, {"a": 4}, {"a": {"b": {"c": 1}}}]
    assert {str(token_totals(order)) for order in itertools.permutations(usages)} == {"{'a': {'b': {'c': 1}}}"}


def test_sums_can_be_sent():
    assert token_totals([{"a": checks.MOST}, {"a": 1}]) == {"a": 2.0**63}
    assert token_totals([{"a": 1.7e308}] * 2)["a"] < float("inf")


@pytest.mark.parametrize(
    ("usage", "count"),
    [
        ({}, 0),
        ({"total_tokens": 7, "input_tokens": 1}, 7),
        ({"total_tokens": None, "input_tokens": 1, "output_tokens": 2}, 3),
        ({"total_tokens": "7", "output_tokens": 2}, 2),
        ({"input_tokens": True}, 0),
        ({"total_tokens": 1.5}, 1.5),
    ],
)
def test_the_tokens_of_a_run(usage, count):
    assert tokens(usage) == count
