import enum
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.core import checks
from asm.core.errors import Error
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.values import RunStatus

GREATEST = 2**63 - 1
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  # what it means is nobody's guess


def refusal(check, value, where="place"):
    with pytest.raises(Error) as caught:
        check(value, where)
    return caught.value


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (checks.text, "", ""),
        (checks.text, "ключ \n", "ключ \n"),
        (checks.identifier, "x", "x"),
        (checks.artifact_key, "../x", "../x"),
        (checks.artifact_key, "x" * 1024, "x" * 1024),
        (checks.artifact_key, "🙂" * 256, "🙂" * 256),
        (checks.count, 0, 0),
        (checks.count, GREATEST, GREATEST),
        (checks.limit, 1, 1),
        (checks.limit, GREATEST, GREATEST),
        (checks.amount, 1, 1.0),
        (checks.amount, -0.5, -0.5),
        (checks.tags, None, []),
        (checks.tags, ("a", "b"), ["a", "b"]),
        (checks.json_map_or_empty, None, {}),
        (checks.optional(checks.limit), None, None),
        (checks.optional(checks.limit), 5, 5),
        (checks.member(RunStatus, "invalid_status"), "running", RunStatus.RUNNING),
        (checks.members(RunStatus, "invalid_status"), None, None),
        (checks.members(RunStatus, "invalid_status"), "running", (RunStatus.RUNNING,)),
        (checks.members(RunStatus, "invalid_status"), ["failed", "running", "failed"], (RunStatus.FAILED, RunStatus.RUNNING)),
        (checks.members(RunStatus, "invalid_status"), [], ()),
    ],
)
def test_what_is_accepted(check, value, expected):
    found = check(value, "place")
    assert found == expected
    assert type(found) is type(expected) or isinstance(found, FrozenList | FrozenMap)


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        *((checks.text, bad) for bad in (None, 5, b"x", "a\0", "\ud800", ["x"])),
        *((checks.identifier, bad) for bad in (None, "", 5, "a\0")),
        *((checks.artifact_key, bad) for bad in (None, "", "x" * 1025, "🙂" * 257, "ж" * 513, "a\0", b"x")),
        *((checks.count, bad) for bad in (-1, True, False, 1.0, "1", None, GREATEST + 1)),
        *((checks.limit, bad) for bad in (0, -1, True, 1.0, "1", None, GREATEST + 1)),
        *((checks.amount, bad) for bad in ("1", None, True, float("nan"), float("inf"), float("-inf"), 1j)),
        *((checks.tags, bad) for bad in ("text", {"a"}, {"a": 1}, [1], [None], ["a\0"], 5)),
        *((checks.utc_time, bad) for bad in (None, "2026-01-01T00:00:00Z", 0, NAIVE, NAIVE.date())),
        *((checks.json_map, bad) for bad in (None, [], "text", 5, [("a", 1)])),
        *(
            (checks.json_map, {"a": bad})
            for bad in (..., b"x", (1,), {1}, float("nan"), float("inf"), 2**63, -(2**63) - 1, "\ud800")
        ),
        *((checks.json_map, bad) for bad in ({1: 2}, {None: 1}, {"a": {b"x": 1}}, {"\ud800": 1}, {"a": [[{1: 1}]]})),
    ],
    ids=lambda item: getattr(item, "__name__", None) or repr(item)[:40],
)
def test_what_is_refused(check, bad):
    error = refusal(check, bad)
    assert error.code == "validation_error"
    assert error.details["field"].startswith("place")
    assert error.message.startswith("place")


def test_a_wrong_member_has_the_code_of_its_kind_and_names_what_is_known():
    error = refusal(checks.member(RunStatus, "invalid_status"), "flying")
    assert error.code == "invalid_status"
    assert error.details["value"] == "flying"
    assert all(str(status) in error.message for status in RunStatus)
    assert refusal(checks.members(RunStatus, "invalid_status"), ["running", 5]).code == "invalid_status"


def test_a_refusal_shows_long_values_shortened():
    assert len(refusal(checks.limit, "x" * 10_000).message) < 300


def test_a_time_in_another_zone_becomes_utc():
    moment = datetime(2026, 7, 1, 12, 0, 0, 1, tzinfo=ZoneInfo("UTC"))
    for zone in (UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=14))):
        found = checks.utc_time(moment.astimezone(zone), "place")
        assert found == moment
        assert found.tzinfo is UTC
    assert checks.utc_time(moment, "place").tzinfo is UTC


@pytest.mark.parametrize(
    "moment",
    [datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))],
)
def test_a_time_that_utc_cannot_hold_is_refused(moment):
    assert "out of range" in refusal(checks.utc_time, moment).message


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"in": value}
    return value


def test_maps_nest_to_a_limit():
    assert checks.json_map(nested(checks.MAX_JSON_DEPTH), "place") == nested(checks.MAX_JSON_DEPTH)
    assert "nests deeper" in refusal(checks.json_map, nested(checks.MAX_JSON_DEPTH + 1)).message


def test_a_map_that_holds_itself_is_refused():
    value = {}
    value["itself"] = [value]
    assert "nests deeper" in refusal(checks.json_map, value).message


def test_a_refused_map_says_where():
    error = refusal(checks.json_map, {"a": [{"b": object()}]}, "Event.data")
    assert error.details["field"] == "Event.data.a[0].b"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), GREATEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), JSON))
def test_a_json_map_is_kept_as_it_is_and_frozen_to_its_leaves(value):
    found = checks.json_map(value, "place")
    assert found == value

    def frozen(item):
        if isinstance(item, dict):
            return type(item) is FrozenMap and all(map(frozen, item.values()))
        if isinstance(item, list):
            return type(item) is FrozenList and all(map(frozen, item))
        return True

    assert frozen(found)
    assert checks.json_map(found, "place") is found


def test_members_of_enums_are_what_they_stand_for():
    class Number(enum.IntEnum):
        ONE = 1

    class Text(str, enum.Enum):  # noqa: UP042  # its str() is not what it stands for
        A = "a"

    assert checks.limit(Number.ONE, "x") == 1
    assert type(checks.limit(Number.ONE, "x")) is int
    assert checks.identifier(Text.A, "x") == "a"
    frozen = checks.json_map({Text.A: [Number.ONE, Text.A]}, "x")
    assert frozen == {"a": [1, "a"]}
    assert [type(item) for item in (*frozen, *frozen["a"])] == [str, int, str]


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_no_amount_is_beyond_a_float(value):
    with pytest.raises(Error):
        checks.amount(value, "x")
