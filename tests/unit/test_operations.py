"""``asm.implements``: what a class needs to be a store, and that its arguments are checked once."""

import functools

import pytest

import asm
from asm.adapters import FileArtifactStore, InMemorySessionStore
from asm.core import checks
from asm.core.errors import Error
from asm.operations import OPERATIONS, implements, unchecked
from asm.ports import ArtifactStore, SessionStore


@pytest.fixture
def checked(monkeypatch):
    """The calls whose arguments were checked, by operation."""
    seen = []
    bind = type(OPERATIONS["put"]).bind

    def counting(operation, args, kwargs):
        seen.append(operation.name)
        return bind(operation, args, kwargs)

    monkeypatch.setattr(type(OPERATIONS["put"]), "bind", counting)
    return seen


def test_what_is_inherited_from_a_store_of_ours_counts_and_is_checked_once(checked):
    @implements(SessionStore)
    class Audited(InMemorySessionStore):
        pass

    with Audited() as store:
        store.save_session(asm.Session.new(agent_id="a"))
        assert len(store.list_sessions(agent_id="a")) == 1
        with pytest.raises(Error):
            store.list_sessions(limit=0)
    assert checked == ["save_session", "list_sessions", "list_sessions"]
    assert Audited.save_session is InMemorySessionStore.save_session


def test_what_a_mixin_has_counts_and_is_checked(checked):
    class Counting:
        def get_latest_sequence(self, session_id):
            return 7

    @implements(SessionStore)
    class Store(Counting, InMemorySessionStore):
        pass

    with Store() as store:
        assert store.get_latest_sequence("ses") == 7
        with pytest.raises(Error):
            store.get_latest_sequence("")
        assert unchecked(store, "get_latest_sequence")("") == 7
    assert checked == ["get_latest_sequence"] * 2


def test_an_override_is_checked_in_place_of_what_it_overrides(checked):
    @implements(SessionStore)
    class Doubling(InMemorySessionStore):
        def get_latest_sequence(self, session_id):
            return 2 * unchecked(super(), "get_latest_sequence")(session_id)

        @functools.wraps(InMemorySessionStore.get_events)  # which copies what the other one has on it
        def get_events(self, session_id, **filters):
            return [session_id]

        get_events.__signature__ = OPERATIONS["get_events"].signature

    with Doubling() as store:
        store.append_event(asm.Event.new(type="message_sent", session_id="ses"))
        del checked[:]
        assert store.get_latest_sequence("ses") == 2
        assert store.get_events("ses") == unchecked(store, "get_events")("ses") == ["ses"]
        with pytest.raises(Error):
            store.get_latest_sequence("")
    assert checked == ["get_latest_sequence", "get_events", "get_latest_sequence"]


def test_an_override_that_is_not_decorated_is_what_a_worker_calls():
    class Doubling(InMemorySessionStore):
        def get_latest_sequence(self, session_id):
            return 2 * super().get_latest_sequence(session_id)

    with Doubling() as store:
        store.append_event(asm.Event.new(type="message_sent", session_id="ses"))
        assert unchecked(store, "get_latest_sequence")("ses") == 2


@pytest.mark.parametrize("bases", [(), (ArtifactStore,), (FileArtifactStore,)], ids=str)
def test_what_is_nowhere_is_lacking(bases):
    """Also when the class derives from the contract, which says what there is and does nothing."""
    made = type("Store", bases, {})
    if FileArtifactStore in bases:
        assert implements(ArtifactStore)(made) is made
        with pytest.raises(TypeError, match="Store lacks the operation save_session"):
            implements(SessionStore)(made)
    else:
        with pytest.raises(TypeError, match="Store lacks the operation put"):
            implements(ArtifactStore)(made)


def test_other_parameters_are_none_of_the_contract():
    with pytest.raises(TypeError, match=r"Store\.get_run must have the parameters"):
        implements(SessionStore)(type("Store", (InMemorySessionStore,), {"get_run": lambda self, name: (self, name)}))


def test_what_is_no_value_of_ours_is_refused_in_good_english():
    with InMemorySessionStore() as store:
        for call, message in [
            (store.append_event, "event must be an Event, not dict"),
            (store.save_run, "run must be a Run, not dict"),
            (store.save_session, "session must be a Session, not dict"),
        ]:
            with pytest.raises(Error, match=message):
                call({})
    assert checks.kind(asm.Event.new(type="run_started", session_id="s")) == "asm.core.values.Event"


def test_what_a_later_version_filters_by_is_a_word():
    operation = OPERATIONS["get_events"]
    assert operation.receive({"session_id": "s", "type": ("tool_call_progress",)})["type"] == ("tool_call_progress",)
    for call in (lambda given: operation.bind((), given), operation.receive):
        for bad in ({"type": "No Word"}, {"colour": "blue"}, {"limit": 0}):
            with pytest.raises(Error):
                call({"session_id": "s"} | bad)
    with pytest.raises(Error, match="with a dot in it"):
        operation.bind(("s",), {"type": "tool_call_progress"})
