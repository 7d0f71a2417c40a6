import threading

import pytest

from asm.adapters.appends import Appends, flushed_run, numbered, require_expected, require_unchanged
from asm.core.errors import Error
from asm.core.values import Event, Run, Session


def an_event(session_id="ses", **fields):
    return Event.new(type="run_started", session_id=session_id, **fields)


class Reserving:
    """Sessions and how far each has counted."""

    def __init__(self, **last):
        self.last = last
        self.asked = []

    def __call__(self, needs):
        self.asked += needs.items()
        firsts = {session_id: self.last.get(session_id, 0) + 1 for session_id in needs}
        self.last |= {session_id: first + needs[session_id] - 1 for session_id, first in firsts.items()}
        return firsts


# -- numbered -------------------------------------------------------------------------------------------------------


def test_new_events_are_numbered_in_their_order():
    events = [an_event("b"), an_event("a"), an_event("b")]
    reserve = Reserving(b=4)
    new = numbered(events, {}, reserve)
    assert list(new.values()) == [events[0].sequenced(5), events[1].sequenced(1), events[2].sequenced(6)]
    assert list(new) == [event.id for event in events]


def test_each_session_is_asked_once_and_in_the_order_of_ids():
    reserve = Reserving()
    numbered([an_event("b"), an_event("c"), an_event("a"), an_event("b")], {}, reserve)
    assert reserve.asked == [("a", 1), ("b", 2), ("c", 1)]


def test_what_is_stored_or_came_before_is_not_new():
    stored, first = an_event("a"), an_event("b")
    reserve = Reserving()
    given = [stored, first, an_event("b", id=first.id, data={"a": 1}), an_event("a", id=stored.id, data={"a": 1})]
    assert list(numbered(given, {stored.id: stored}, reserve).values()) == [first.sequenced(1)]
    assert reserve.asked == [("b", 1)]


def test_what_belongs_to_another_session_takes_no_numbers():
    stored, first = an_event("a"), an_event("b")
    for known, given in [
        ({}, [first, an_event("c", id=first.id)]),
        ({stored.id: stored}, [first, an_event("c", id=stored.id)]),
    ]:
        reserve = Reserving()
        with pytest.raises(Error) as caught:
            numbered(given, known, reserve)
        assert caught.value.code == "session_mismatch"
        assert reserve.asked == []


def test_nothing_new_reserves_nothing():
    reserve = Reserving()
    assert numbered([], {}, reserve) == {}
    assert reserve.asked == []


# -- flushed_run ----------------------------------------------------------------------------------------------------


def test_what_a_flush_brings_is_merged_into_its_run():
    session = Session.new(agent_id="agent")
    run = Run.new(session_id=session.id, provider_metadata={"model": "old", "kept": 1})
    result = {"session": session, "run": run, "events": [], "provider_metadata": {"model": "new"}}
    assert flushed_run(result).provider_metadata == {"model": "new", "kept": 1}
    del result["provider_metadata"]
    assert flushed_run(result) == run
    assert flushed_run({"session": session}) is None


# -- conflicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("session", Session.new(agent_id="agent")), ("run", Run.new(session_id="ses"))],
    ids=["session", "run"],
)
def test_only_what_is_unchanged_is_replaced(kind, expected):
    require_unchanged(expected, type(expected).from_map(expected.to_map()))
    other = expected.changed(metadata={"a": 1})
    for stored, current in [(other, other.to_map()), (None, None)]:
        with pytest.raises(Error) as caught:
            require_unchanged(expected, stored)
        assert caught.value.code == "conflict"
        assert caught.value.details == {f"{kind}_id": expected.id, "current": current}


def test_sessions_must_stand_where_they_are_expected_to():
    latest = {"a": 3}.get
    require_expected(None, lambda _: pytest.fail("nothing is expected"))
    require_expected({"b": 0, "a": 3}, lambda name: latest(name, 0))
    with pytest.raises(Error) as caught:
        require_expected({"c": 1, "a": 4}, lambda name: latest(name, 0))
    assert caught.value.code == "conflict"
    assert caught.value.details == {"session_id": "a", "expected": 4, "actual": 3}


# -- announce and subscribe -----------------------------------------------------------------------------------------


def test_subscribers_are_told_each_session_once():
    appends, told = Appends(), []
    appends.subscribe(told.append)
    appends.announce(["b", "a", "b"])
    assert told == ["b", "a"]
    appends.announce([])
    assert told == ["b", "a"]


def test_none_stands_for_any_session():
    appends, told = Appends(), []
    appends.subscribe(told.append)
    appends.announce(None)
    assert told == [None]


def test_who_unsubscribed_is_told_no_more():
    appends, first, second = Appends(), [], []
    unsubscribe = appends.subscribe(first.append)
    appends.subscribe(second.append)
    unsubscribe()
    unsubscribe()
    appends.announce(["a"])
    assert (first, second) == ([], ["a"])


def test_one_callback_can_subscribe_twice():
    appends, told = Appends(), []
    unsubscribe = appends.subscribe(told.append)
    appends.subscribe(told.append)
    appends.announce(["a"])
    unsubscribe()
    appends.announce(["b"])
    assert told == ["a", "a", "b"]


def test_a_subscriber_that_fails_harms_nobody(caplog):
    appends, told = Appends(), []
    appends.subscribe(lambda _: 1 / 0)
    appends.subscribe(told.append)
    appends.announce(["a", "b"])
    assert told == ["a", "b"]
    assert caplog.text.count("ZeroDivisionError: ") == 2


def test_a_subscriber_may_subscribe_and_unsubscribe_when_it_is_told():
    appends, told = Appends(), []

    def once(session_id):
        told.append(session_id)
        unsubscribe()
        appends.subscribe(told.append)

    unsubscribe = appends.subscribe(once)
    appends.announce(["a"])
    appends.announce(["b"])
    assert told == ["a", "b"]


# -- wait -----------------------------------------------------------------------------------------------------------


class Query:
    """Answers one after the other, and does something at each."""

    def __init__(self, *answers, doing=lambda _: None):
        self.answers = list(answers)
        self.doing = doing
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.doing(self.calls)
        return self.answers.pop(0)


@pytest.mark.parametrize("timeout", [None, 0])
def test_who_does_not_wait_looks_once(timeout):
    query = Query([])
    assert Appends().wait("ses", query, timeout) == []
    assert query.calls == 1


def test_what_is_there_is_returned_at_once():
    query = Query(["event"])
    assert Appends().wait("ses", query, 100_000) == ["event"]
    assert query.calls == 1


def test_an_append_during_the_first_look_is_not_lost():
    appends = Appends()
    query = Query([], ["event"], doing=lambda call: call == 1 and appends.announce(["ses"]))
    assert appends.wait("ses", query, 100_000) == ["event"]
    assert query.calls == 2


def test_it_looks_again_after_each_append_until_there_is_something():
    appends = Appends()
    query = Query([], [], [], ["event"], doing=lambda call: call < 4 and appends.announce(["ses"]))
    assert appends.wait("ses", query, 100_000) == ["event"]


def test_an_append_to_any_session_counts():
    appends = Appends()
    query = Query([], ["event"], doing=lambda call: call == 1 and appends.announce(None))
    assert appends.wait("ses", query, 100_000) == ["event"]


def test_an_append_to_another_session_does_not():
    appends = Appends()
    query = Query([], [], doing=lambda call: call == 1 and appends.announce(["other"]))
    assert appends.wait("ses", query, 50) == []
    assert query.calls == 2  # at the beginning, and when the time was up


def test_when_the_time_is_up_it_looks_once_more():
    query = Query([], ["event"])
    assert Appends().wait("ses", query, 1000) == ["event"]  # long enough that it is not up before the first look


def test_another_thread_wakes_it():
    appends, looking, found = Appends(), threading.Event(), []
    query = Query([], ["event"], doing=lambda _: looking.set())
    thread = threading.Thread(target=lambda: found.extend(appends.wait("ses", query, 100_000)))
    thread.start()
    assert looking.wait(60)
    appends.announce(["ses"])
    thread.join(60)
    assert found == ["event"]


def test_waits_longer_than_a_clock_can_count_are_possible():
    appends = Appends()
    query = Query([], ["event"], doing=lambda call: call == 1 and appends.announce(["ses"]))
    assert appends.wait("ses", query, 2**63 - 1) == ["event"]


def test_nothing_is_left_behind():
    appends = Appends()
    appends.wait("ses", Query(["event"]), 100)
    with pytest.raises(ZeroDivisionError):
        appends.wait("ses", lambda: 1 / 0, 100)
    assert appends._waiting == {}
