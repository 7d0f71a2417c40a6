"""What is known of how a store is."""

import pytest

import asm
from asm.processes.health import FORGETTING, Health

AWAY = asm.Error("storage_connection_failed", "away", details={"away": True})
FULL = asm.Error("storage_write_failed", "full", details={"reason": "disk_full"})


def test_nothing_is_known_at_first():
    assert Health().trouble(0.0) is None


def test_what_the_store_says_of_itself_counts_until_it_says_otherwise():
    health = Health()
    assert [health.heard(AWAY), health.heard(AWAY), health.trouble(0.0)] == [True, False, AWAY]
    assert [health.heard(None), health.heard(None), health.trouble(0.0)] == [True, False, None]


def test_an_operation_that_failed_counts_until_it_goes_well_or_is_forgotten():
    health = Health()
    assert health.failed("put", FULL, 10.0)
    health.heard(None)
    health.succeeded("get")
    assert health.trouble(11.0) is FULL
    assert health.trouble(10.0 + FORGETTING) is None
    health.failed("put", FULL, 20.0)
    health.succeeded("put")
    assert health.trouble(20.0) is None


def test_what_could_not_be_reached_is_there_again_when_the_store_says_that_it_is_well():
    health = Health()
    health.failed("get_events", AWAY, 1.0)
    assert health.trouble(1.0) is AWAY
    health.heard(None)
    assert health.trouble(1.0) is None


@pytest.mark.parametrize(
    "answer",
    [
        asm.Error("not_found", "no"),
        asm.Error("validation_error", "no"),
        asm.Error("timeout", "late"),
        asm.Error("storage_error", "busy", details={"reason": "overloaded"}),
        asm.Error("storage_read_failed", "torn", details={"reason": "damaged"}),
    ],
)
def test_an_answer_says_nothing_of_the_store(answer):
    health = Health()
    assert not health.failed("get", answer, 0.0)
    assert health.trouble(0.0) is None
