"""What our stores have in common."""

import sys
import threading
import types

import pytest

from asm.adapters import FileArtifactStore, InMemorySessionStore, SqlSessionStore
from asm.core.errors import Error
from asm.operations import OPERATIONS
from asm.testing.samples import event


@pytest.fixture(params=["memory", "sql", "file"])
def kind_and_options(request, tmp_path):
    return {
        "memory": (InMemorySessionStore, {}),
        "sql": (SqlSessionStore, {"url": f"sqlite:///{tmp_path}/new/sessions.db"}),
        "file": (FileArtifactStore, {"root": str(tmp_path / "new" / "artifacts")}),
    }[request.param]


def test_preflight_accepts_what_works_and_makes_nothing(kind_and_options, tmp_path):
    kind, options = kind_and_options
    kind.preflight(**options)
    assert list(tmp_path.iterdir()) == []
    kind(**options).close()


def test_preflight_and_the_constructor_refuse_unknown_options(kind_and_options):
    kind, options = kind_and_options
    with pytest.raises(Error, match=f"colour is no option of {kind.__name__}") as caught:
        kind.preflight(**options, colour="blue")
    assert caught.value.code == "validation_error"
    assert caught.value.details["field"] == "colour"


def test_preflight_names_a_missing_option(kind_and_options):
    kind, options = kind_and_options
    for name in options:
        with pytest.raises(Error, match=f"{name} is required by {kind.__name__}") as caught:
            kind.preflight(**{key: value for key, value in options.items() if key != name})
        assert caught.value.details["field"] == name


def test_a_closed_store_refuses_every_call(kind_and_options):
    kind, options = kind_and_options
    arguments = {
        "session": None,
        "session_id": "ses",
        "run_id": "run",
        "event": event(),
        "events": [event()],
        "key": "key",
        "data": b"data",
        "through": 1,
    }
    with kind(**options) as store:
        pass
    store.close()
    for operation in OPERATIONS.values():
        required = operation.required
        if hasattr(store, operation.name) and all(arguments.get(name) for name in required):
            given = {*required, *({"through"} & operation.parameters.keys())}
            with pytest.raises(Error, match="is closed") as caught:
                getattr(store, operation.name)(**{name: arguments[name] for name in given})
            assert caught.value.code == "storage_error"
            assert caught.value.details["reason"] == "closed"


@pytest.mark.parametrize("kind", [InMemorySessionStore, SqlSessionStore])
def test_closing_ends_the_calls_that_wait(kind, tmp_path):
    store = kind() if kind is InMemorySessionStore else kind(url=f"sqlite:///{tmp_path}/sessions.db")
    waiting, raised = threading.Event(), []
    look = store.appends.wait

    def wait(session_id, query, timeout):
        def noticed():
            found = query()
            waiting.set()
            return found

        return look(session_id, noticed, timeout)

    store.appends.wait = wait

    def poll():
        try:
            store.get_events("ses", wait_timeout_ms=100_000)
        except Error as error:
            raised.append(error.details["reason"])

    thread = threading.Thread(target=poll)
    thread.start()
    assert waiting.wait(60)
    store.close()
    thread.join(60)
    assert raised == ["closed"]


def test_only_the_memory_store_never_blocks():
    assert [kind.blocking for kind in (InMemorySessionStore, SqlSessionStore, FileArtifactStore)] == [False, True, True]


def test_start_link_hands_the_class_and_its_options_on(monkeypatch):
    calls = []

    def start_link(*args, **kwargs):
        calls.append((args, kwargs))
        return "handle"

    linked = types.ModuleType("asm.linked")
    linked.start_link = start_link
    monkeypatch.setitem(sys.modules, "asm.linked", linked)
    assert FileArtifactStore.start_link(root="somewhere", name="files", runtime_dir="/run/x", timeout=1.5) == "handle"
    assert InMemorySessionStore.start_link() == "handle"
    assert calls == [
        ((FileArtifactStore, {"root": "somewhere"}), {"name": "files", "runtime_dir": "/run/x", "timeout": 1.5}),
        ((InMemorySessionStore, {}), {"name": None, "runtime_dir": None, "timeout": 5.0}),
    ]
