import copy
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.core.errors import (
    CODES,
    ConcurrencyError,
    Error,
    ExecutionError,
    ProviderError,
    ResourceError,
    StateError,
    StorageError,
    ToolError,
    ValidationError,
)

CATEGORIES = {
    "validation": (ValidationError, 4),
    "state": (StateError, 10),
    "resource": (ResourceError, 6),
    "provider": (ProviderError, 6),
    "storage": (StorageError, 6),
    "runtime": (ExecutionError, 5),
    "concurrency": (ConcurrencyError, 5),
    "tool": (ToolError, 4),
}

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DETAILS = st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT))


@pytest.mark.parametrize("code", CODES)
def test_a_code_makes_an_error_of_its_category(code):
    error = Error(code, "what happened")
    kind, _ = CATEGORIES[error.category]
    assert type(error) is kind is CODES[code]
    assert type(kind(code, "x")) is kind
    assert error.code == code
    assert str(error) == f"[{code}] what happened"


def test_the_categories_have_all_codes():
    assert {kind.category: (kind, len(kind.codes)) for kind in Error.__subclasses__()} == CATEGORIES
    assert len(CODES) == 46


def test_an_unknown_code_is_a_mistake_of_the_programmer():
    with pytest.raises(ValueError, match="no error code of Error"):
        Error("no_such_code", "x")
    with pytest.raises(ValueError, match="no error code of StorageError"):
        StorageError("not_found", "x")


def test_only_these_are_retryable():
    codes = {code for code in CODES if Error(code, "x").retryable}
    assert codes == {
        "provider_timeout",
        "provider_rate_limited",
        "provider_unavailable",
        "storage_connection_failed",
        "timeout",
    }
    reasons = ["backend_exited", "backend_restarting", "overloaded"]
    assert all(Error("storage_error", "x", details={"reason": reason}).retryable for reason in reasons)
    assert not Error("storage_error", "x", details={"reason": "database_locked"}).retryable
    assert not Error("storage_write_failed", "x", details={"reason": "overloaded"}).retryable


def test_defaults():
    before = datetime.now(UTC)
    error = Error("session_not_found")
    assert error.message == "session not found"
    assert (error.details, error.provider_error, error.context) == ({}, None, {})
    assert before <= error.timestamp <= datetime.now(UTC)


@given(
    st.sampled_from(sorted(CODES)),
    TEXT.filter(bool),
    DETAILS,
    st.none() | DETAILS,
    DETAILS,
    st.datetimes(timezones=st.just(UTC)),
)
def test_maps_round_trip(code, message, details, provider_error, context, timestamp):
    error = Error(code, message, details=details, provider_error=provider_error, context=context, timestamp=timestamp)
    again = Error.from_map(json.loads(json.dumps(error.to_map())))
    assert type(again) is type(error)
    assert again.to_map() == error.to_map()
    assert again.timestamp == timestamp


def test_a_timestamp_may_be_a_time_already():
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    error = Error.from_map({"code": "timeout", "message": "x", "timestamp": moment})
    assert error.timestamp == moment
    assert error.timestamp.tzinfo is UTC


def test_pickles_and_copies():
    error = Error("storage_error", "x", details={"reason": "backend_exited"}, context={"operation": "put"})
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is StorageError
        assert again.to_map() == error.to_map()
        assert again.retryable


def test_a_code_of_a_newer_version_is_kept_in_the_details():
    error = Error.from_map({"code": "brand_new", "message": "x", "details": {"a": 1}})
    assert (error.code, error.message, error.details) == ("unknown_error", "x", {"a": 1, "code": "brand_new"})


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        "text",
        {},
        {"code": "not_found"},
        {"message": "x"},
        {"code": "not_found", "message": "x", "details": 5},
        {"code": "not_found", "message": "x", "context": "text"},
        {"code": "not_found", "message": "x", "timestamp": "yesterday"},
        {"code": "not_found", "message": "x", "timestamp": 5},
    ],
    ids=str,
)
def test_what_is_no_map_of_an_error_is_refused(bad):
    with pytest.raises(ValidationError, match="no map of an error"):
        Error.from_map(bad)


def test_an_error_does_not_share_its_details():
    details = {"a": 1}
    error = Error("not_found", "x", details=details)
    details["a"] = 2
    assert error.details == {"a": 1}


def test_it_is_caught_by_its_category_and_by_its_root():
    with pytest.raises(ResourceError):
        raise Error("run_not_found", "x")
    with pytest.raises(Error):
        raise StorageError("storage_error", "x")
