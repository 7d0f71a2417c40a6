"""The examples of the document that the project began with, in Python, over real trees, by registered name."""

import tempfile

import pytest

import asm
from asm import CompositeSessionStore, FileArtifactStore, InMemorySessionStore, SqlSessionStore


def use_as_the_seed_does(store):
    """Session operations, run operations, event operations, artifact operations."""
    session = asm.Session.new(agent_id="my-agent")
    store.save_session(session)
    fetched = store.get_session(session.id)
    assert fetched == session
    store.save_session(session.update_status("active"))
    assert [item.id for item in store.list_sessions(status="active", limit=10)] == [session.id]

    run = asm.Run.new(session_id=session.id, status="running")
    store.save_run(run)
    active = store.get_active_run(session.id)
    assert active == run

    event = asm.Event.new(type="message_received", session_id=session.id, run_id=run.id, data={"content": "Hello!"})
    sequenced = store.append_event_with_sequence(event)
    assert sequenced.sequence_number == 1
    assert store.get_events(session.id, after=0, limit=50) == [sequenced]

    patch = b"--- a/file\n+++ b/file\n\x00\xff"
    store.put(f"patch-{run.id}", patch)
    assert store.get(f"patch-{run.id}") == patch
    store.delete(f"patch-{run.id}")
    with pytest.raises(asm.Error) as caught:
        store.get(f"patch-{run.id}")
    assert caught.value.code == "not_found"


def test_usage_by_registered_name(any_tree):
    with any_tree.connect() as store:
        use_as_the_seed_does(store)


def test_artifacts_directly_and_sessions_by_the_composite(any_tree):
    """Bypass the composite for artifacts, and still use it for sessions."""
    with any_tree.connect() as store, any_tree.connect("dev.artifacts") as artifacts:
        artifacts.put("patch", b"direct")
        assert store.get("patch") == b"direct"
        store.save_session(asm.Session.new(agent_id="my-agent"))


def test_a_module_backed_session_store_with_a_name(tmp_path, runtime_dir):
    artifacts = FileArtifactStore.start_link(root=str(tmp_path / "artifacts"), runtime_dir=runtime_dir)
    with (
        artifacts,
        CompositeSessionStore.start_link(
            session_store=(SqlSessionStore, {"url": f"sqlite:///{tmp_path}/app.db"}),
            artifact_store=artifacts,
            name="MyApp.Store",
            runtime_dir=runtime_dir,
        ),
        asm.connect("MyApp.Store", runtime_dir=runtime_dir) as store,
    ):
        use_as_the_seed_does(store)


def test_sqlite_and_files_for_development(tmp_path, runtime_dir):
    with (
        SqlSessionStore.start_link(url=f"sqlite:///{tmp_path}/dev.db", runtime_dir=runtime_dir) as session_store,
        FileArtifactStore.start_link(root=str(tmp_path / "dev_artifacts"), runtime_dir=runtime_dir) as files,
        CompositeSessionStore.start_link(session_store=session_store, artifact_store=files, runtime_dir=runtime_dir) as store,
    ):
        use_as_the_seed_does(store)


def test_memory_and_files_for_tests(runtime_dir):
    with (
        tempfile.TemporaryDirectory() as root,
        InMemorySessionStore.start_link(runtime_dir=runtime_dir) as memory,
        FileArtifactStore.start_link(root=root, runtime_dir=runtime_dir) as files,
        CompositeSessionStore.start_link(session_store=memory, artifact_store=files, runtime_dir=runtime_dir) as store,
    ):
        use_as_the_seed_does(store)


def test_an_error_of_a_store_passes_through_unchanged(any_tree):
    with any_tree.connect() as store, any_tree.connect("dev.sessions") as direct:
        errors = []
        for handle in (store, direct):
            with pytest.raises(asm.ResourceError) as caught:
                handle.get_session("ses_none")
            errors.append((caught.value.code, caught.value.message, caught.value.details))
        assert errors[0] == errors[1]


def test_the_artifact_store_must_run_before_the_composite(runtime_dir):
    with InMemorySessionStore.start_link(runtime_dir=runtime_dir) as memory:
        with pytest.raises(asm.Error) as caught:
            CompositeSessionStore.start_link(session_store=memory, artifact_store="not.started", runtime_dir=runtime_dir)
        assert caught.value.code == "storage_connection_failed"
        assert "not.started" in caught.value.message
