"""Cursors: opaque, exact, and good for their own search only."""

import json
import re
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm.adapters import cursors
from asm.adapters.cursors import cursor_at, position_of
from asm.core.errors import Error
from asm.core.values import SessionStatus
from asm.testing.samples import LONGEST_IDS, MOMENTS, at

SEARCH = "search_sessions"
FILTERS = {"status": (SessionStatus.ACTIVE, "paused"), "tags": ("b", "a"), "created_after": at(1), "metadata": {"é": [1.0]}}
PLACE = (at(2), "ses")


def position(cursor, operation=SEARCH, kinds=(datetime, str), **filters):
    return position_of(operation, {**filters, "cursor": cursor}, *kinds)


def refused(*args, **kwargs):
    with pytest.raises(Error) as caught:
        position(*args, **kwargs)
    assert caught.value.code == "invalid_cursor"
    return caught.value.message


@given(
    st.datetimes(timezones=st.just(UTC)) | st.sampled_from(MOMENTS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(LONGEST_IDS),
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_position_comes_back_exactly(time, name, number):
    cursor = cursor_at("search_runs", {}, (time, name, number))
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    found = position(cursor, "search_runs", (datetime, str, (int, float)))
    assert (found, str(found[2])) == ((time, name, number), str(number))


def test_no_cursor_has_no_position():
    assert position(None) is None
    assert position_of(SEARCH, {}, datetime, str) is None


def test_the_same_search_may_be_asked_otherwise():
    cursor = cursor_at(SEARCH, {**FILTERS, "limit": 5, "cursor": "another"}, PLACE)
    others = {"status": ("paused", "active"), "tags": ("a", "b"), "order": "-updated_at", "agent_id": None, "limit": 7}
    assert position(cursor, **{**FILTERS, **others}) == PLACE


@pytest.mark.parametrize(
    "change",
    [{"order": "updated_at"}, {"status": ("active",)}, {"agent_id": "a"}, {"include_deleted": True}, {"metadata": {"é": [1]}}],
)
def test_a_cursor_of_a_search_with_other_filters_is_refused(change):
    assert "other filters" in refused(cursor_at(SEARCH, FILTERS, PLACE), **{**FILTERS, **change})


def test_a_cursor_of_another_search_is_refused():
    assert "belongs to search_sessions" in refused(cursor_at(SEARCH, {}, PLACE), "search_events")


def test_a_cursor_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(cursors, "VERSION", cursors.VERSION + 1)
    newer = cursor_at(SEARCH, {}, PLACE)
    monkeypatch.undo()
    assert "another version" in refused(newer)


def test_what_is_cut_or_altered_is_refused():
    cursor = cursor_at(SEARCH, {}, PLACE)
    for end in range(len(cursor)):
        refused(cursor[:end])
        for letter in string.ascii_letters[::7] + "-_=\n é":
            if letter != cursor[end]:
                refused(cursor[:end] + letter + cursor[end + 1 :])
    for other in (cursor + "A", cursor + "=", cursor + "====", " " + cursor, "\N{SNOWMAN}", "0" * 10_000, "W1tb" * 4000):
        refused(other)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        7,
        [1],
        [[], []],
        *([1, SEARCH, None, place] for place in ([], 7, [["2026"]], [[], "a"], [[7], "a"], [["no time"], "a"], ["a", "a"])),
        [1, SEARCH, None, [["0001-01-01T00:00:00+05:00"], "a"]],
    ],
    ids=json.dumps,
)
def test_a_forged_one_is_refused(content):
    if isinstance(content, list) and len(content) == 4:
        content[2] = cursors._digest(SEARCH, {})
    refused(cursors._text(content))
