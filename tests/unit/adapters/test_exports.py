"""Exports: one form for each session, and nothing is taken that is no export."""

import io
import itertools
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.adapters import exports
from asm.adapters.exports import Export, export_lines, file_of
from asm.core.errors import Error
from asm.core.values import Event, Run, Session
from asm.testing.samples import JSON, LONGEST_IDS, MOMENTS, at, event, run, session

SESSION = session(id="ses", tags=["é", ""], metadata=JSON["floats"], deleted_at=at(5), created_at=at(0))
RUNS = [
    run(id=f"run {number}", started_at=time, output=content, cost_usd=0.1, token_usage={"n": 1.0})
    for number, (time, content) in enumerate(zip(MOMENTS, itertools.cycle(JSON.values()), strict=False))
]
EVENTS = [
    event(id=f"evt {number}", timestamp=at(-number), data=content).sequenced(2 * number)
    for number, content in enumerate(JSON.values(), start=1)
]
LAST = 2 * len(EVENTS) + 1


def exported(saved=SESSION, runs=RUNS, events=EVENTS, session_id="ses", last=LAST):
    return b"".join(export_lines(session_id, last, saved, runs, events))


def read(data):
    export = Export(data)
    values = list(export)
    return export.session_id, export.last_sequence, values


def refused(data, line):
    with pytest.raises(Error) as caught:
        read(data)
    assert (caught.value.code, caught.value.details["line"]) == ("invalid_format", line), caught.value
    return caught.value.message


def again(data):
    """What is exported when what was exported is read."""
    session_id, last, values = read(data)
    saved = next((value for value in values if isinstance(value, Session)), None)
    kinds = ([value for value in values if isinstance(value, kind)] for kind in (Run, Event))
    return b"".join(export_lines(session_id, last, saved, *kinds))


def test_all_comes_back_as_it_was():
    data = exported()
    assert read(data) == ("ses", LAST, [SESSION, *RUNS, *EVENTS])
    assert again(data) == data
    header = {"format": "asm-session", "version": 1, "session_id": "ses", "last_sequence": LAST}
    assert json.loads(data.split(b"\n")[0]) == header
    assert data.endswith(b'{"end":{"runs":%d,"events":%d}}\n' % (len(RUNS), len(EVENTS)))


@pytest.mark.parametrize("session_id", LONGEST_IDS)
def test_a_session_need_not_be_saved(session_id):
    data = exported(None, [], [], session_id, 3)
    assert read(data) == (session_id, 3, [])
    assert again(data) == data


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text("aé\n\0", max_size=2), inside, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text("bé\u2028", max_size=2), VALUES, max_size=3))
def test_whatever_a_map_holds_it_is_one_line(content):
    data = exported(session(id="ses", context=content), [], [])
    assert len(data.split(b"\n")) == 4
    assert again(data) == data


@given(st.lists(st.integers(1, 500)))
def test_it_may_come_in_any_pieces(sizes):
    file = io.BytesIO(exported())
    pieces = [file.read(size) for size in sizes]
    assert list(Export([*pieces, file.read()])) == [SESSION, *RUNS, *EVENTS]


def test_it_is_a_file():
    with file_of(export_lines("ses", LAST, SESSION, RUNS, EVENTS)) as file:
        assert read(file) == read(exported())
        assert file.read() == b""
    file = file_of(iter([b"ab", b"", b"then"]))
    assert (file.read(1), file.read(5), file.read()) == (b"a", b"bthen", b"")


def test_no_more_than_a_line_is_in_memory():
    text = "x" * 100_000
    events = (event(id=str(number), data={"text": text}).sequenced(number) for number in range(1, 1001))
    tracemalloc.start()
    try:
        seen = sum(1 for _ in Export(file_of(export_lines("ses", 1000, None, [], events))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 1000
    assert peak < 16 * 1024 * 1024


def test_one_that_was_cut_is_refused_wherever_that_was():
    data = exported(runs=RUNS[:1], events=EVENTS[:1])
    for size in range(len(data) - 1):  # without the last newline it is whole
        with pytest.raises(Error) as caught:
            read(data[:size])
        assert caught.value.code == "invalid_format"
        assert caught.value.details["line"] == data[: size + 1].count(b"\n") + 1
    assert read(data[:-1]) == read(data)


LINES = exported(runs=RUNS[:2], events=EVENTS[:2]).splitlines(keepends=True)


def changed(line, **fields):
    """A line whose value has other fields."""
    ((kind, value),) = json.loads(line).items()
    return json.dumps({kind: value | fields}).encode() + b"\n"


def with_header(**fields):
    return [json.dumps(json.loads(LINES[0]) | fields).encode() + b"\n", *LINES[1:]]


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ([], 1, "is no export"),
        ([b"PK\3\4\xff"], 1, "is no JSON"),
        ([b"[]\n"], 1, "is no map"),
        ([b"{}\n"], 1, "give what export_session returned"),
        (with_header(version=2), 1, "upgrade asm"),
        (with_header(version="1"), 1, "has no version"),
        (with_header(version=True), 1, "has no version"),
        (with_header(session_id=""), 1, "is no header"),
        (with_header(last_sequence=-1), 1, "is no header"),
        (with_header(last_sequence=3), 6, "beyond 3"),
        (with_header(session_id="other"), 2, "belongs to the session 'ses'"),
        ([*LINES[:3], b"\n", *LINES[3:]], 4, "is no JSON"),
        ([*LINES[:2], b'{"run":\n', *LINES[3:]], 3, "is no JSON"),
        ([*LINES[:2], b'{"run":NaN}\n'], 3, "JSON has no NaN"),
        ([*LINES[:2], b"[" * 100_000 + b"\n"], 3, "is no JSON"),
        ([*LINES[:2], b'{"thing":{}}\n'], 3, "is none of"),
        ([*LINES[:2], b'{"run":[]}\n'], 3, "must be a map"),
        ([*LINES[:2], b'{"run":{},"event":{}}\n'], 3, "is none of"),
        ([*LINES[:2], changed(LINES[2], session_id="other")], 3, "belongs to the session 'other'"),
        ([*LINES[:2], changed(LINES[2], started_at="yesterday")], 3, "ISO 8601"),
        ([*LINES[:2], changed(LINES[2], turn_count=-1)], 3, "Run.turn_count"),
        ([*LINES[:2], changed(LINES[2], output={"a": 10**30})], 3, "64 bits"),
        ([*LINES[:2], LINES[2].replace(b'"cost_usd":0.1', b'"cost_usd":1e999')], 3, "Run.cost_usd"),
        ([*LINES[:2], changed(LINES[2], metadata={"a": "\ud800"})], 3, "surrogate"),
        ([*LINES[:4], changed(LINES[4], sequence_number=None)], 5, "without a sequence_number"),
        ([*LINES[:4], changed(LINES[4], id="x" * 1025)], 5, "1,024 bytes"),
        ([LINES[0], LINES[1], LINES[1]], 3, "not in its order"),
        ([*LINES[:2], LINES[3], LINES[2]], 4, "not in its order"),
        ([*LINES[:2], LINES[4], LINES[2]], 4, "not in its order"),
        ([*LINES[:4], LINES[5], LINES[4]], 6, "not in its order"),
        ([*LINES[:4], LINES[4], LINES[4]], 6, "not in its order"),
        ([*LINES[:3], *LINES[4:]], 6, "counts"),
        ([*LINES[:4], LINES[5], LINES[6]], 6, "counts"),
        ([*LINES, b"\n"], 8, "behind the end"),
        ([*LINES, *LINES], 8, "behind the end"),
    ],
    ids=itertools.count(),
)
def test_a_broken_one_is_refused_with_its_line(lines, line, says):
    assert says in refused(b"".join(lines), line)


def test_a_line_without_an_end_is_not_gathered_for_ever(monkeypatch):
    monkeypatch.setattr(exports, "MAX_LINE", 3 * 1024 * 1024)
    endless = itertools.repeat(b"x" * 1024 * 1024)
    assert "more than" in refused(endless, 1)


def test_what_a_later_version_knows_passes():
    line = changed(LINES[4], type="of_a_later_version", colour="blue")
    (*_, found) = read(b"".join([*LINES[:4], line, *LINES[5:]]))[2][:-1]
    assert found.type == "of_a_later_version"


def test_what_json_has_no_form_for_is_not_exported():
    held = Session.read({**SESSION.to_fields(), "metadata": {"a": float("nan")}})
    with pytest.raises(Error) as caught:
        exported(held)
    assert caught.value.code == "storage_read_failed"
