import collections
import dataclasses
import decimal
import enum
import pathlib
import uuid
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.core import checks
from asm.core.errors import Error
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.values import Event, RunStatus

GREATEST = 2**63 - 1
STATUS = checks.member(RunStatus, "invalid_status")
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
        (checks.name, "", ""),
        (checks.name, "x" * 1024, "x" * 1024),
        (checks.identifier, "x", "x"),
        (checks.identifier, "../x", "../x"),
        (checks.identifier, "x" * 1024, "x" * 1024),
        (checks.identifier, "🙂" * 256, "🙂" * 256),
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
        (STATUS, "running", RunStatus.RUNNING),
        (checks.members(STATUS), None, None),
        (checks.members(STATUS), "running", (RunStatus.RUNNING,)),
        (checks.members(STATUS), ["failed", "running", "failed"], (RunStatus.FAILED, RunStatus.RUNNING)),
        (checks.members(STATUS), [], ()),
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
        *((checks.identifier, bad) for bad in (None, "", 5, "x" * 1025, "🙂" * 257, "ж" * 513, "a\0", b"x")),
        *((checks.name, bad) for bad in (None, 5, "x" * 1025, "ж" * 513, "a\0", "\ud800")),
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
    error = refusal(STATUS, "flying")
    assert error.code == "invalid_status"
    assert error.details["value"] == "flying"
    assert all(str(status) in error.message for status in RunStatus)
    assert refusal(checks.members(STATUS), ["running", 5]).code == "invalid_status"


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
    assert refusal(checks.json_map, {"a": [0, {1: "b"}]}, "Event.data").details["field"] == "Event.data.a[1]"
    error = refusal(checks.json_map, {"long " * 1000: [float("nan")]}, "Event.data")
    assert error.details["field"].startswith("Event.data.long long")
    assert len(error.message) < 400


class Key(str):
    """A key of which is noted when it becomes part of a place."""

    shown = 0
    __slots__ = ()

    def __format__(self, form):
        Key.shown += 1
        return str.__format__(self, form)


def test_the_place_of_a_value_is_looked_for_only_when_it_is_refused():
    deep = 1.0
    for level in range(60):
        deep = {Key(f"level {level} " * 100): deep, "beside": [1, 2.5, "text", None, True]}
    assert checks.json_map(deep, "place") == deep
    assert Key.shown == 0


def test_a_map_has_at_most_a_million_values():
    largest = {"list": [None] * (checks.MAX_VALUES - 3)}
    assert checks.json_map(largest, "place") == largest
    for value in ({"list": [None] * (checks.MAX_VALUES - 2)}, {"deep": [{str(key): {} for key in range(500_000)}]}):
        error = refusal(checks.json_map, value)
        assert error.details["field"] == "place"
        assert error.details["limit"] == 1_000_000 < error.details["values"]
        assert "1,000,000" in error.message
        assert "split it" in error.message


class Stranger:
    """Something of a library that the code does not know."""

    def __init__(self, of="", **can):
        module, _, name = of.rpartition(".")
        self.__class__ = type(name, (Stranger,), {"__module__": module, **can})


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int = 1


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024  # those of others are made so
METHOD = staticmethod(lambda *_: None)

WAYS = [
    (Stranger("numpy.bool", tolist=METHOD, item=METHOD, ndim=0), "numpy.bool", ".item()"),
    (Stranger("numpy.int64", tolist=METHOD, item=METHOD, ndim=0), "numpy.int64", ".item()"),
    (Stranger("numpy.ndarray", tolist=METHOD, item=METHOD, ndim=2), "numpy.ndarray", ".tolist()"),
    (Stranger("pandas.core.series.Series", tolist=METHOD, item=METHOD), "pandas.core.series.Series", ".tolist()"),
    (Stranger("app.models.Answer", model_dump=METHOD), "app.models.Answer", '.model_dump(mode="json")'),
    (Stranger("app.Unknown"), "app.Unknown", ""),
    (datetime(2026, 1, 1, tzinfo=UTC), "datetime.datetime", ".isoformat()"),
    (datetime(2026, 1, 1, tzinfo=UTC).date(), "datetime.date", ".isoformat()"),
    (timedelta(1), "datetime.timedelta", ".total_seconds()"),
    (decimal.Decimal(1), "decimal.Decimal", "float(…)"),
    (uuid.UUID(int=1), "uuid.UUID", "str(…)"),
    (pathlib.PurePosixPath("a"), f"{pathlib.PurePosixPath.__module__}.PurePosixPath", "str(…)"),
    (ValueError("x"), "ValueError", "str(…)"),
    (b"x", "bytes", "base64.b64encode(…)"),
    ((1, 2), "tuple", "list(…)"),
    ({1}, "set", "list(…)"),
    (collections.deque([1]), "collections.deque", "list(…)"),
    ((item for item in "x"), "generator", "list(…)"),
    (Colour.RED, f"{__name__}.Colour", ".value"),
    (Point(), f"{__name__}.Point", "dataclasses.asdict(…)"),
    (Pair(1, 2), f"{__name__}.Pair", "._asdict()"),
    (Event.new(type="run_started", session_id="ses"), "asm.core.values.Event", ".to_map()"),
    (Event, "type", ""),
    (object(), "object", ""),
]


@pytest.mark.parametrize(("value", "kind", "way"), WAYS, ids=[kind for _, kind, _ in WAYS])
def test_what_is_no_json_is_named_with_its_module_and_the_way_out(value, kind, way):
    message = refusal(checks.json_map, {"a": value}).message
    assert message.startswith("place.a must be a JSON value (map, list, string, number, bool or None), not " + kind)
    assert message.endswith(kind) if not way else f"{kind}; give " in message
    assert way in message


@pytest.mark.parametrize(
    ("check", "value", "way"),
    [
        (checks.json_map, {"a": float("nan")}, "None, or str(…)"),
        (checks.json_map, {uuid.UUID(int=1): 1}, "str(…)"),
        (checks.json_map, Point(), "dataclasses.asdict(…)"),
        (checks.identifier, uuid.UUID(int=1), "str(…)"),
        (checks.utc_time, "2026-01-01", "datetime.fromisoformat(…)"),
        (checks.utc_time, 1.5, "datetime.fromtimestamp(…, timezone.utc)"),
    ],
)
def test_the_way_out_of_other_refusals(check, value, way):
    assert way in refusal(check, value).message


def test_articles():
    assert [checks.a(name) for name in ("Event", "Run", "Session")] == ["an Event", "a Run", "a Session"]


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
