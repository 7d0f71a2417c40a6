"""Which sessions a policy leaves alone, and what it has due for the others."""

from datetime import UTC, datetime, timedelta

import pytest

from asm.core.errors import Error
from asm.core.policies import RetentionPolicy
from asm.core.values import Session, SessionStatus

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def a_session(*, days=0, deleted=None, **fields):
    """One that was changed so many days ago, and deleted so many days ago."""
    deleted_at = None if deleted is None else NOW - timedelta(days=deleted)
    return Session.new(agent_id="agent", created_at=NOW - timedelta(days=days), deleted_at=deleted_at, **fields)


@pytest.mark.parametrize(
    ("policy", "session", "due"),
    [
        ({}, {"status": "completed", "days": 90}, "soft_delete"),
        ({}, {"status": "completed", "days": 89.99}, None),
        ({}, {"status": "failed", "days": 91}, "soft_delete"),
        ({}, {"status": "cancelled", "days": 91}, "soft_delete"),
        ({}, {"status": "pending", "days": 9999}, None),
        ({"max_age_days": 5}, {"status": "pending", "days": 5}, "soft_delete"),
        ({"max_age_days": 5}, {"status": "active", "days": 6}, None),
        ({"max_age_days": 5, "exempt_statuses": []}, {"status": "active", "days": 6}, "soft_delete"),
        ({"max_age_days": 5}, {"status": "completed", "days": 6}, None),
        ({"max_completed_age_days": None}, {"status": "completed", "days": 9999}, None),
        ({"max_completed_age_days": 0}, {"status": "completed"}, "soft_delete"),
        ({"max_completed_age_days": 2**63 - 1}, {"status": "completed", "days": 9999}, None),
        ({"max_completed_age_days": 1_000_000}, {"status": "completed", "days": 9999}, None),
        ({}, {"status": "completed", "days": 91, "tags": ["x", "pinned"]}, None),
        ({"exempt_tags": []}, {"status": "completed", "days": 91, "tags": ["pinned"]}, "soft_delete"),
        ({}, {"status": "completed", "days": 200, "deleted": 30}, "hard_delete"),
        ({}, {"status": "completed", "days": 200, "deleted": 29.9}, None),
        ({"hard_delete_after_days": None}, {"status": "completed", "days": 200, "deleted": 150}, None),
        ({}, {"status": "pending", "deleted": 31}, "hard_delete"),
        ({}, {"status": "paused", "deleted": 31}, None),
        ({}, {"status": "completed", "deleted": 31, "tags": ["pinned"]}, None),
    ],
    ids=str,
)
def test_what_is_due(policy, session, due):
    assert RetentionPolicy(**policy).due(a_session(**session), NOW) == due


@pytest.mark.parametrize("name", ["max_completed_age_days", "max_age_days", "hard_delete_after_days"])
@pytest.mark.parametrize("age", [-1, 0.5, "7", True, 2**63])
def test_an_age_is_a_whole_number_of_days(name, age):
    with pytest.raises(Error) as caught:
        RetentionPolicy(**{name: age})
    assert (caught.value.code, caught.value.details["field"]) == ("validation_error", f"RetentionPolicy.{name}")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"max_events_per_session": 0}, "validation_error"),
        ({"batch_size": 0}, "validation_error"),
        ({"archive": 1}, "validation_error"),
        ({"exempt_tags": "pinned"}, "validation_error"),
        ({"exempt_statuses": ["done"]}, "invalid_status"),
        ({"exempt_statuses": "active"}, "validation_error"),
    ],
    ids=str,
)
def test_what_can_be_no_policy_is_refused(fields, code):
    with pytest.raises(Error) as caught:
        RetentionPolicy(**fields)
    assert caught.value.code == code


def test_exemptions_are_statuses():
    assert list(RetentionPolicy().exempt_statuses) == [SessionStatus.ACTIVE, SessionStatus.PAUSED]
    assert RetentionPolicy.from_map(RetentionPolicy(exempt_statuses=("failed",)).to_map()).exempt_statuses == ["failed"]
