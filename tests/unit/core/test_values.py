import copy
import dataclasses
import json
import pickle
import re
import uuid
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.core.errors import Error
from asm.core.frozen import FrozenList, FrozenMap
from asm.core.values import ArtifactInfo, Event, EventType, Run, RunStatus, Session, SessionStatus

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NAME = TEXT.filter(bool)
TIME = st.datetimes(timezones=st.just(UTC))
JSON_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
JSON_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | JSON_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JSON_TEXT, inner, max_size=3),
    max_leaves=10,
)
MAP = st.dictionaries(JSON_TEXT, JSON_VALUE, max_size=4)
COUNT = st.integers(0, 2**63 - 1)

SESSIONS = st.builds(
    Session.new,
    agent_id=NAME,
    id=st.none() | NAME,
    status=st.sampled_from(SessionStatus),
    parent_session_id=st.none() | TEXT,
    metadata=MAP,
    context=MAP,
    tags=st.lists(TEXT, max_size=3),
    created_at=TIME,
    updated_at=TIME,
    deleted_at=st.none() | TIME,
)
RUNS = st.builds(
    Run.new,
    session_id=NAME,
    status=st.sampled_from(RunStatus),
    input=st.none() | MAP,
    output=st.none() | MAP,
    error=st.none() | MAP,
    metadata=MAP,
    turn_count=COUNT,
    token_usage=MAP,
    cost_usd=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    started_at=TIME,
    ended_at=st.none() | TIME,
    provider=st.none() | TEXT,
    provider_metadata=MAP,
)
EVENTS = st.builds(
    Event.new,
    type=st.sampled_from(EventType),
    session_id=NAME,
    timestamp=TIME,
    run_id=st.none() | TEXT,
    data=MAP,
    metadata=MAP,
    sequence_number=st.none() | st.integers(1, 2**63 - 1),
    schema_version=st.integers(1, 2**63 - 1),
    provider=st.none() | TEXT,
    correlation_id=st.none() | TEXT,
)
INFOS = st.builds(ArtifactInfo, key=NAME, byte_size=COUNT, checksum_sha256=NAME, updated_at=TIME)
VALUES = SESSIONS | RUNS | EVENTS | INFOS


def a_session(**fields):
    return Session.new(agent_id="agent", **fields)


def a_run(**fields):
    return Run.new(session_id="ses", **fields)


def an_event(**fields):
    return Event.new(**{"type": "run_started", "session_id": "ses"} | fields)


NAMES = [
    (a_session, "id"),
    (Session.new, "agent_id"),
    (a_session, "parent_session_id"),
    (a_run, "id"),
    (Run.new, "session_id"),
    (a_run, "provider"),
    (an_event, "id"),
    (an_event, "session_id"),
    (an_event, "run_id"),
    (an_event, "provider"),
    (an_event, "correlation_id"),
]
"""What has a limit that every index can hold."""

NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001  # what it means is nobody's guess
MAKERS = [a_session, a_run, an_event]


# -- The way to maps and back ---------------------------------------------------------------------------------------


@given(VALUES)
def test_maps_round_trip(value):
    plain = value.to_map()
    text = json.dumps(plain, allow_nan=False)
    again = type(value).from_map(json.loads(text))
    assert again == value
    assert json.dumps(again.to_map(), sort_keys=True) == json.dumps(plain, sort_keys=True)
    assert hash(again) == hash(value)


@given(VALUES)
def test_fields_round_trip(value):
    assert type(value).from_fields(value.to_fields()) == value
    assert list(value.to_fields()) == list(value.to_map()) == [item.name for item in dataclasses.fields(value)]


@given(VALUES)
def test_pickles_and_copies_are_equal_and_frozen(value):
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value
        assert again.to_map() == value.to_map()
        for item in again.to_fields().values():
            assert not isinstance(item, dict) or type(item) is FrozenMap


def test_a_map_is_plain_and_belongs_to_the_caller():
    value = a_session(metadata={"list": [{"deep": 1}]}, tags=["a"], created_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC))
    plain = value.to_map()
    assert type(plain["metadata"]) is dict
    assert type(plain["metadata"]["list"]) is list
    assert type(plain["metadata"]["list"][0]) is dict
    assert type(plain["status"]) is str
    assert plain["created_at"] == "2026-01-02T03:04:05.000006+00:00"
    plain["metadata"]["list"][0]["deep"] = 2
    assert value.metadata == {"list": [{"deep": 1}]}


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02 03:04:05+00:00", "2026-01-01T20:04:05-07:00"])
def test_times_are_read_in_any_iso_form(text):
    plain = a_session().to_map() | {"created_at": text}
    assert Session.from_map(plain).created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("make", MAKERS)
def test_a_map_must_be_of_the_value(make):
    value = make()
    kind, plain = type(value), value.to_map()
    required = next(name for name in ("agent_id", "session_id") if name in plain)
    for bad in (
        None,
        [],
        "text",
        {},
        plain | {"colour": "blue"},
        plain | {7: "blue"},
        {name: item for name, item in plain.items() if name != "id"},
        plain | {required: None},
        plain | {required: ""},
        plain | {"metadata": "text"},
    ):
        with pytest.raises(Error) as caught:
            kind.from_map(bad)
        assert caught.value.code == "validation_error", bad


@pytest.mark.parametrize("bad", ["yesterday", "", "2026-01-02T03:04:05", "2026-13-01T00:00:00Z", 5, None])
def test_a_map_must_hold_times(bad):
    with pytest.raises(Error) as caught:
        Event.from_map(an_event().to_map() | {"timestamp": bad})
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == "Event.timestamp"


def test_a_map_that_lacks_fields_says_which():
    with pytest.raises(Error) as caught:
        Event.from_map({"id": "evt"})
    assert caught.value.details["missing"] == ["type", "timestamp", "session_id"]


# -- new ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "prefix"), [(a_session, "ses"), (a_run, "run"), (an_event, "evt")])
def test_an_id_is_made_or_kept(make, prefix):
    assert re.fullmatch(prefix + "_[0-9a-f]{32}", make().id)
    assert make().id != make().id
    assert make(id="mine").id == "mine"


def test_an_id_begins_with_the_time(monkeypatch):
    """So what is made together stands together in an index."""
    for milliseconds in (1_700_000_000_000, 1_700_000_000_001):
        monkeypatch.setattr("time.time_ns", lambda now=milliseconds: now * 1_000_000 + 999_999)
        made = uuid.UUID(an_event().id.removeprefix("evt_"))
        assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, milliseconds)


def test_defaults():
    session, run, event = a_session(), a_run(), an_event()
    assert session.status is SessionStatus.PENDING
    assert (session.parent_session_id, session.metadata, session.context, session.tags, session.deleted_at) == (
        None,
        {},
        {},
        [],
        None,
    )
    assert session.created_at == session.updated_at
    assert session.created_at.tzinfo is UTC
    assert run.status is RunStatus.PENDING
    assert (run.input, run.output, run.error, run.turn_count, run.token_usage, run.cost_usd) == (None, None, None, 0, {}, None)
    assert (run.ended_at, run.provider, run.provider_metadata) == (None, None, {})
    assert event.type is EventType.RUN_STARTED
    assert (event.run_id, event.data, event.sequence_number, event.schema_version) == (None, {}, None, 1)


@pytest.mark.parametrize(
    "make",
    [
        Session.new,
        lambda: Session.new("agent"),
        lambda: Session.new(agent_id=None),
        lambda: Session.new(agent_id=""),
        lambda: Session.new(agent_id=5),
        lambda: a_session(colour="blue"),
        lambda: a_session(id=""),
        lambda: a_session(id="a\0b"),
        lambda: a_session(id="\ud800"),
        lambda: a_session(tags="text"),
        lambda: a_session(tags=[1]),
        lambda: a_session(tags={"a"}),
        lambda: a_session(metadata=[]),
        lambda: a_session(metadata={1: 2}),
        lambda: a_session(created_at="2026-01-01T00:00:00Z"),
        lambda: a_session(created_at=NAIVE),
        lambda: a_session(created_at=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
        lambda: a_session(parent_session_id=5),
        *(lambda make=make, name=name: make(**{name: "x" * 1025}) for make, name in NAMES),
        *(lambda make=make, name=name: make(**{name: "a\0"}) for make, name in NAMES),
        lambda: Session.new(agent_id="ж" * 513),
        lambda: a_session(unknown=1),
        Run.new,
        lambda: Run.new(session_id=""),
        lambda: a_run(input="text"),
        lambda: a_run(turn_count=-1),
        lambda: a_run(turn_count=True),
        lambda: a_run(turn_count=2**63),
        lambda: a_run(cost_usd="1"),
        lambda: a_run(cost_usd=float("nan")),
        lambda: a_run(cost_usd=float("inf")),
        lambda: a_run(cost_usd=True),
        Event.new,
        lambda: Event.new(type="run_started"),
        lambda: Event.new(session_id="ses"),
        lambda: an_event(sequence_number=0),
        lambda: an_event(schema_version=0),
        lambda: an_event(data={"a": object()}),
        lambda: ArtifactInfo(key="", byte_size=0, checksum_sha256="x", updated_at=datetime.now(UTC)),
        lambda: ArtifactInfo(key="x" * 1025, byte_size=0, checksum_sha256="x", updated_at=datetime.now(UTC)),
        lambda: ArtifactInfo(key="x", byte_size=-1, checksum_sha256="x", updated_at=datetime.now(UTC)),
    ],
)
def test_what_is_not_valid_is_refused(make):
    with pytest.raises(Error) as caught:
        make()
    assert caught.value.code == "validation_error"


@pytest.mark.parametrize(
    "make", [lambda: a_session(status="running"), lambda: a_run(status="active"), lambda: a_run(status=None)]
)
def test_an_unknown_status_has_its_code(make):
    with pytest.raises(Error) as caught:
        make()
    assert caught.value.code == "invalid_status"


def test_an_unknown_type_has_its_code():
    with pytest.raises(Error) as caught:
        an_event(type="run_exploded")
    assert caught.value.code == "invalid_event_type"
    assert caught.value.details["value"] == "run_exploded"


OWN_TYPES = ["myapp.thought", "openai.item", "a.b.c_1.2", f"a.{'b' * 126}"]
NO_TYPES = ["", "thought", "Myapp.thought", "myapp.", ".thought", "1.a", "a b.c", "a.b\n", "a.ключ", f"a.{'b' * 127}", 5, None]


@pytest.mark.parametrize("type_", OWN_TYPES)
def test_a_type_of_ones_own_has_a_dot_and_stays_text(type_):
    event = an_event(type=type_)
    assert event.type == type_
    assert type(event.type) is str
    assert Event.from_map(event.to_map()) == Event.receive(event.to_fields()) == Event.read(event.to_fields()) == event


@pytest.mark.parametrize("type_", NO_TYPES)
def test_a_type_that_is_none_is_told_the_way_out(type_):
    with pytest.raises(Error) as caught:
        an_event(type=type_)
    assert caught.value.code == "invalid_event_type"
    assert "'myapp.thought'" in caught.value.message


def test_a_time_becomes_utc():
    given = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    kept = an_event(timestamp=given).timestamp
    assert kept == given
    assert kept.tzinfo is UTC


# -- What another version stored or sent --------------------------------------------------------------------------------


NEWER = [
    (a_session, {"status": "archived", "folder": "a"}),
    (a_run, {"status": "waiting", "parts": [1]}),
    (an_event, {"type": "tool_call_progress", "weight": 1.5}),
]


@pytest.mark.parametrize(("make", "news"), NEWER)
def test_what_a_later_version_knows_is_refused_where_it_is_made_and_passes_where_it_is_read(make, news):
    value = make()
    kind, fields = type(value), value.to_fields() | news
    name, word = next(iter(news.items()))
    with pytest.raises(Error):
        make(**{name: word})
    for strict in (kind.from_fields, lambda given: kind.from_map(value.to_map() | given)):
        for part in news:
            with pytest.raises(Error):
                strict(value.to_fields() | {part: news[part]} if strict == kind.from_fields else {part: news[part]})
    for take in (kind.receive, kind.read):
        taken = take(fields)
        assert getattr(taken, name) == word
        assert type(getattr(taken, name)) is str
        assert taken.to_fields() == value.to_fields() | {name: word}


def test_what_is_known_is_a_member_wherever_it_comes_from():
    for make, kind, name in [(a_session, SessionStatus, "status"), (a_run, RunStatus, "status"), (an_event, EventType, "type")]:
        for member in kind:
            value = make(**{name: member})
            fields = value.to_fields() | {name: str(member)}
            for take in (type(value).from_fields, type(value).receive, type(value).read):
                assert getattr(take(fields), name) is member


STORED = [
    (a_session(), {"id": "x" * 3000, "agent_id": "", "status": "", "tags": [1, None]}),
    (a_session(), {"metadata": None, "context": {"deep": [{"nan": float("inf")}]}}),
    (a_run(), {"turn_count": -1, "cost_usd": float("inf"), "provider": "a\0"}),
    (an_event(), {"type": "Not A Type", "schema_version": 0, "sequence_number": 0, "run_id": "ж" * 3000}),
]


@pytest.mark.parametrize(("value", "odd"), STORED)
def test_what_is_stored_is_read_whatever_a_caller_may_give(value, odd):
    read = type(value).read(value.to_fields() | odd).to_fields()
    expected = odd | {name: {} for name, item in odd.items() if item is None and name == "metadata"}
    assert {name: read[name] for name in odd} == expected


def test_what_could_not_be_sent_on_is_shown():
    stored = {"large": 2**70, "text": "a\ud800", "in": [{"a list": [2**64, 1]}], "\ud800": -(2**63)}
    read = Event.read(an_event().to_fields() | {"data": stored})
    assert read.data == {"large": str(2**70), "text": "a?", "in": [{"a list": [str(2**64), 1]}], "?": -(2**63)}
    assert type(read.data["in"][0]) is FrozenMap
    assert type(read.data["in"][0]["a list"]) is FrozenList


@pytest.mark.parametrize(
    "wrong",
    [{"id": None}, {"id": 5}, {"type": 5}, {"timestamp": "2026"}, {"timestamp": None}, {"data": []}, {"sequence_number": "1"}],
    ids=repr,
)
def test_what_is_no_value_at_all_is_refused_wherever_it_comes_from(wrong):
    for take in (Event.from_fields, Event.receive, Event.read):
        with pytest.raises(Error):
            take(an_event().to_fields() | wrong)
    for take in (Event.from_fields, Event.receive, Event.read):
        for bad in (None, [], 5):
            with pytest.raises(Error):
                take(bad)


@pytest.mark.parametrize(
    "bad",
    [{"id": "x" * 1025}, {"run_id": "a\0"}, {"type": "No Type"}, {"data": {"a": float("nan")}}, {"schema_version": 0}],
    ids=repr,
)
def test_what_another_process_wants_stored_keeps_the_limits(bad):
    with pytest.raises(Error):
        Event.receive(an_event().to_fields() | bad)


def test_what_was_read_can_be_changed_without_a_second_look_at_the_rest():
    session = Session.read(a_session().to_fields() | {"status": "archived", "id": "x" * 3000})
    assert session.changed(tags=["a"]).status == "archived"
    assert session.changed(tags=["a"]).updated_at > session.updated_at
    assert session.changed(updated_at=session.created_at) == session
    assert session.update_status("active").status is SessionStatus.ACTIVE
    run = Run.read(a_run().to_fields() | {"status": "waiting"})
    assert run.increment_turn().changed(provider="p").status == "waiting"
    for bad in ({"status": "flying"}, {"tags": "a"}, {"unknown": 1}):
        with pytest.raises(Error):
            session.changed(**bad)


# -- Immutability ---------------------------------------------------------------------------------------------------


def test_a_value_cannot_be_changed():
    value = a_session(metadata={"a": {"b": [1]}}, tags=["a"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.status = "active"
    for change in (
        lambda: value.metadata.update(a=1),
        value.metadata["a"].clear,
        lambda: value.metadata["a"]["b"].append(2),
        lambda: value.tags.append("b"),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert value.metadata == {"a": {"b": [1]}}


def test_a_value_does_not_share_what_it_was_made_from():
    metadata, tags = {"a": {"b": [1]}}, ["a"]
    value = a_session(metadata=metadata, tags=tags)
    metadata["a"]["b"].append(2)
    tags.append("b")
    assert value.metadata == {"a": {"b": [1]}}
    assert value.tags == ["a"]


def test_values_are_equal_by_all_their_fields():
    value = an_event()
    assert value == an_event(id=value.id, timestamp=value.timestamp)
    assert value != value.sequenced(1)
    assert len({value, value.sequenced(1), an_event()}) == 3


# -- Changes return new values --------------------------------------------------------------------------------------


def test_session_update_status():
    before = a_session(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    after = before.update_status("active")
    assert (before.status, after.status) == (SessionStatus.PENDING, SessionStatus.ACTIVE)
    assert after.updated_at > before.updated_at
    assert dataclasses.replace(after, status="pending", updated_at=before.updated_at) == before
    with pytest.raises(Error) as caught:
        before.update_status("running")
    assert caught.value.code == "invalid_status"


@pytest.mark.parametrize("status", list(RunStatus))
def test_run_update_status_ends_a_run_when_the_status_does(status):
    before = a_run()
    after = before.update_status(str(status))
    assert after.status is status
    assert (after.ended_at is not None) == status.terminal
    assert dataclasses.replace(after, status="pending", ended_at=None) == before


def test_terminal_statuses():
    assert {status for status in RunStatus if status.terminal} == {"completed", "failed", "cancelled", "timeout"}


def test_run_set_output_and_error():
    before = a_run()
    done, failed = before.set_output({"answer": 42}), before.set_error({"reason": "no"})
    assert (done.status, done.output) == ("completed", {"answer": 42})
    assert (failed.status, failed.error) == ("failed", {"reason": "no"})
    assert None not in (done.ended_at, failed.ended_at)
    assert before.output is before.error is before.ended_at is None
    for change in (before.set_output, before.set_error):
        for bad in (None, "text", {"a": object()}):
            with pytest.raises(Error) as caught:
                change(bad)
            assert caught.value.code == "validation_error"


def test_run_increment_turn():
    assert a_run().increment_turn().increment_turn().turn_count == 2


def test_run_update_token_usage_adds_numbers():
    run = a_run(token_usage={"input": 10, "kept": 1}).update_token_usage({"input": 5, "output": 0.5})
    assert run.token_usage == {"input": 15, "kept": 1, "output": 0.5}
    details = {"input_tokens": 7, "input_tokens_details": {"cached_tokens": 5, "audio": None}, "reasoning": None}
    run = a_run(token_usage={"input_tokens_details": {"cached_tokens": 1, "text": 2}, "reasoning": 3})
    assert run.update_token_usage(details).update_token_usage(details).token_usage == {
        "input_tokens": 14,
        "input_tokens_details": {"cached_tokens": 11, "text": 2},
        "reasoning": 3,
    }


@pytest.mark.parametrize(
    ("before", "usage", "field"),
    [
        ({}, {"a": "1"}, "usage.a"),
        ({"a": "1"}, {"a": 1}, "Run.token_usage.a"),
        ({}, {"a": True}, "usage.a"),
        ({}, {"a": {"b": [1]}}, "usage.a.b"),
        ({"a": 1}, {"a": {"b": 1}}, "Run.token_usage.a"),
        ({"a": {"b": 1}}, {"a": 1}, "Run.token_usage.a"),
        ({"a": {"b": "1"}}, {"a": {"b": 1}}, "Run.token_usage.a.b"),
        ({}, None, "usage"),
        ({"a": 2**63 - 1}, {"a": 1}, "Run.token_usage.a"),
    ],
)
def test_run_update_token_usage_refuses_what_is_no_number(before, usage, field):
    run = a_run(token_usage=before)
    with pytest.raises(Error) as caught:
        run.update_token_usage(usage)
    assert (caught.value.code, caught.value.details["field"]) == ("validation_error", field)
    assert run.token_usage == before


def test_event_sequenced():
    event = an_event()
    assert event.sequenced(3).sequence_number == 3
    assert event.sequence_number is None
    with pytest.raises(Error):
        event.sequenced(0)


def test_tags_are_a_frozen_list():
    assert type(a_session(tags=("a", "b")).tags) is FrozenList
