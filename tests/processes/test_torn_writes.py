"""Processes that are killed in the middle of a write, at each of its steps: what they wrote is there whole, or not at all.

A write is made again and again. The first time its process is killed at the first step (``stores/killing.py``), the second
time at the second, until it comes to its end: so no step is left out, whatever the write consists of. What SQLite does
within one statement is met in another way: the kernel kills the process at a byte of a file, which is half-way through a page.
"""

import functools
import shutil
import signal
from pathlib import Path

import pytest
import writes
from kills import Forks, killed_at_every_byte, killed_at_every_step, nothing_is_left, settle
from sqlalchemy import make_url

import asm
from asm.adapters import FileArtifactStore, S3ArtifactStore, SqlSessionStore
from asm.adapters.sql import schema
from asm.core.errors import Error
from asm.testing.samples import event

MIB = 1024 * 1024
MOST_STEPS = 30
"""More than a write to a database has."""

PAGE = 4096 + 24
"""What a page of SQLite takes in its log."""


@pytest.fixture(scope="module")
def forks(aws):
    with Forks() as made:
        yield made


@pytest.fixture
def fuse(tmp_path):
    """The file that says at which step a process dies."""
    return tmp_path / "fuse"


# -- Artifacts ------------------------------------------------------------------------------------------------------------


def whole(store, key):
    """The data of an artifact, if there is one, told by every operation alike."""
    infos = {info.key: info for info in store.list()}
    if key not in infos:
        with pytest.raises(Error) as caught:
            store.get(key)
        assert caught.value.code == "not_found"
        return None
    data = store.get(key)
    assert store.stat(key) == infos[key]
    assert infos[key].byte_size == len(data)
    return data


@pytest.mark.parametrize("size", [10, 2 * MIB])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_put_to_files(forks, fuse, tmp_path, old, size):
    def attempt(number):
        root, new = tmp_path / str(number), writes.content(number, size)
        with FileArtifactStore(root=root) as store:
            store.put("other", b"other")
            if old is not None:
                store.put("key", old)
        options = {"root": str(root), "fuse": str(fuse)}
        ended = forks.call("put", store="Files", options=options, key="key", number=number, size=size)
        with FileArtifactStore(root=root) as store:
            assert list((root / "tmp").iterdir()) == []
            found = whole(store, "key")
            assert found in (old, new)
            assert whole(store, "other") == b"other"
        return ended, "old" if found == old else "new"

    killed_at_every_step(fuse, attempt)


def test_a_delete_of_a_file(forks, fuse, tmp_path):
    def attempt(number):
        root = tmp_path / str(number)
        with FileArtifactStore(root=root) as store:
            store.put("key", b"old")
        ended = forks.call("delete", store="Files", options={"root": str(root), "fuse": str(fuse)}, key="key")
        with FileArtifactStore(root=root) as store:
            found = whole(store, "key")
        return ended, "new" if found is None else "old"

    killed_at_every_step(fuse, attempt)


@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_a_put_to_a_bucket(forks, fuse, s3_server, size):
    """No upload is left over, nor the record of one, once the next store was started."""
    client, place = s3_server.client, {"bucket": s3_server.new_bucket(), "endpoint_url": s3_server.url}
    with S3ArtifactStore(**place) as first:

        def attempt(number):
            first.put("key", b"old")
            new = writes.content(number, size)
            options = {**place, "fuse": str(fuse)}
            ended = forks.call("put", store="S3", options=options, key="key", number=number, size=size)
            with S3ArtifactStore(**place) as store:
                assert client.list_multipart_uploads(Bucket=place["bucket"]).get("Uploads", []) == []
                assert client.list_objects_v2(Bucket=place["bucket"])["KeyCount"] == 1
                found = whole(store, "key")
            assert found in (b"old", new)
            return ended, "old" if found == b"old" else "new"

        killed_at_every_step(fuse, attempt)


# -- Sessions -------------------------------------------------------------------------------------------------------------


def look_at_session(store, operation, own):
    """See that a write is there or not, that it can be repeated, and that others go on where it ended."""
    before, after = writes.states(operation, own)
    found = writes.state(store, own)
    assert found in (before, after)
    getattr(store, operation)(**writes.WRITES[operation](own))
    assert writes.state(store, own) == after
    for name, events in zip((own, f"{own} 2"), after[-2:], strict=True):
        last = events[-1].sequence_number if events else 0
        assert store.append_event_with_sequence(event(name)).sequence_number == last + 1
    return "old" if found == before else "new"


@pytest.fixture(scope="module")
def own_database(postgres):
    """The URL of a database that no store of another test has open: see :func:`settle`."""
    with postgres.database() as made:
        schema.migrate(made)
        yield made


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """A database with empty tables."""
    if request.param == "postgres":
        made = request.getfixturevalue("own_database")
        request.getfixturevalue("postgres").empty(made)
        return made
    made = f"sqlite:///{tmp_path}/database/sessions.db"
    schema.migrate(made)
    return made


@pytest.mark.parametrize("operation", writes.WRITES)
def test_a_write_to_a_database(forks, fuse, url, operation):
    with SqlSessionStore(url=url) as store:
        for number in range(1, MOST_STEPS):
            store.flush(writes.result(f"ses {number}", "old"))

    def attempt(number):
        own = f"ses {number}"
        ended = forks.call("write", options={"url": url, "fuse": str(fuse)}, operation=operation, own=own)
        settle(url)
        with SqlSessionStore(url=url) as store:
            found = look_at_session(store, operation, own)
        if url.startswith("sqlite"):
            nothing_is_left(Path(make_url(url).database))
        return ended, found

    killed_at_every_step(fuse, attempt)


@pytest.fixture
def stride(campaign):
    """How many bytes of a file lie between two kills."""
    return 97 if campaign else 5 * PAGE // 2


@pytest.mark.parametrize("operation", writes.WRITES)
def test_a_write_to_sqlite_that_ends_in_the_middle_of_a_page(forks, tmp_path, operation, stride):
    """Of the log, before the commit is whole; and of the database, when the log is copied into it."""
    template = tmp_path / "template.db"
    with SqlSessionStore(url=f"sqlite:///{template}") as store:
        store.flush(writes.result("ses", "old"))

    def attempt(most):
        path = tmp_path / "database" / "sessions.db"
        path.parent.mkdir()
        shutil.copy(template, path)
        url = f"sqlite:///{path}"
        ended = forks.call("write_until_full", options={"url": url}, operation=operation, own="ses", most=most)
        with SqlSessionStore(url=url) as store:
            found = look_at_session(store, operation, "ses")
        nothing_is_left(path)
        shutil.rmtree(path.parent)
        return ended, found

    killed_at_every_byte(stride, attempt)


# -- In a tree ------------------------------------------------------------------------------------------------------------

TREE = """
[supervisor]
name = "dev"
max_restarts = 1000

[supervisor.backoff]
stable = 0

[[backend]]
name = "dev.sessions"
store = "killing:Sql"
url = "sqlite:///var/asm.db"
fuse = "sessions.fuse"

[[backend]]
name = "dev.artifacts"
store = "killing:Files"
root = "var/artifacts"
fuse = "artifacts.fuse"

[composite]
name = "MyApp.Store"
session_store = "dev.sessions"
artifact_store = "dev.artifacts"
"""


@pytest.fixture
def some_steps(campaign):
    """How many steps lie between two kills: what becomes of each is shown above."""
    return 1 if campaign else 7


@pytest.fixture
def tree(trees):
    made = trees(TREE).wait_ready()
    yield made
    assert made.stop() == 0


def eventually(call):
    """Repeat a call for as long as the worker is away."""
    while True:
        try:
            return call()
        except asm.StorageError as error:
            assert error.details["reason"] in ("backend_exited", "backend_restarting")


def outcome(call, backend, operation):
    """Make a call; return how its process ended. Whoever made it is told at once when it dies."""
    try:
        call()
    except asm.StorageError as error:
        assert error.retryable
        assert error.details == {"reason": "backend_exited", "backend": backend, "operation": operation}
        return -signal.SIGKILL
    return 0


def test_a_worker_that_is_killed_in_a_write_to_a_database(tree, tmp_path, some_steps):
    others, fuse = [tree.child(name).pid for name in ("MyApp.Store", "dev.artifacts")], tmp_path / "sessions.fuse"
    with tree.connect() as store:

        def attempt(operation, number):
            own, pid, write = f"{operation} {number}", tree.child("dev.sessions").pid, getattr(store, operation)
            fuse.rename(tmp_path / "later")
            store.flush(writes.result(own, "old"))
            (tmp_path / "later").rename(fuse)
            ended = outcome(lambda: write(**writes.WRITES[operation](own)), "dev.sessions", operation)
            eventually(store.list_sessions)
            found = look_at_session(store, operation, own)
            assert (tree.child("dev.sessions").pid == pid) == (ended == 0)
            return ended, found

        for operation in writes.WRITES:
            killed_at_every_step(fuse, functools.partial(attempt, operation), some_steps)
    assert [tree.child(name).pid for name in ("MyApp.Store", "dev.artifacts")] == others


def test_a_worker_that_is_killed_in_a_put_to_files(tree, tmp_path, some_steps):
    others = [tree.child(name).pid for name in ("MyApp.Store", "dev.sessions")]
    with tree.connect() as store:

        def attempt(number):
            key, new = f"key {number}", writes.content(number, 2 * MIB)
            ended = outcome(lambda: store.put(key, writes.pieces(new)), "dev.artifacts", "put")
            found = eventually(lambda: whole(store, key))
            assert found in (None, new)
            assert list((tmp_path / "var" / "artifacts" / "tmp").iterdir()) == []
            return ended, "old" if found is None else "new"

        killed_at_every_step(tmp_path / "artifacts.fuse", attempt, some_steps)
    assert [tree.child(name).pid for name in ("MyApp.Store", "dev.sessions")] == others
