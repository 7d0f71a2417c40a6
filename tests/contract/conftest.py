"""One fixture, ``store``, for every way to have a store of either contract.

A variant is a context manager that makes an empty store, given a directory and the trees that run for the whole session.
To add one, write the function and name it in ``VARIANTS``; the whole suite of its contract runs on it.
"""

import asyncio
import contextlib
import io
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import asm
import asm.aio
from asm import FileArtifactStore, InMemorySessionStore, S3ArtifactStore, SqlSessionStore
from asm.adapters.sql.tables import METADATA

PATIENCE = 30
STORES = Path(__file__).parent / "stores"
PROGRAM = Path(sys.executable).with_name("asm-supervise")


README = Path(__file__).parents[2] / "README.md"
SHELF = re.search(r"^```python\n(# shelf.py\n.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)[1]
"""The store of somebody else's: the example of the README."""

MEMORY = 'store = "emptied:Emptied"'
SQLITE = 'store = "sql"\nurl = "sqlite:///sessions.db"'
FILES = 'store = "file"\nroot = "artifacts"'


class Trees:
    """Real trees, each started when it is first asked for, and emptied between tests."""

    WORKERS = """
        [supervisor]
        name = "contract"
        [[backend]]
        name = "sessions"
        {sessions}
        [[backend]]
        name = "artifacts"
        {artifacts}
        [composite]
        name = "Store"
        session_store = "sessions"
        artifact_store = "artifacts"
    """

    INSIDE = """
        [supervisor]
        name = "contract"
        [composite]
        name = "Store"
        session_store = {{ {sessions} }}
        artifact_store = {{ {artifacts} }}
    """
    """The composite runs both stores itself."""

    def __init__(self, s3_server, request) -> None:
        self.s3_server = s3_server
        self._request = request
        self._running: dict[tuple[str, ...], tuple[subprocess.Popen, asm.Client, Path]] = {}

    def handle(self, sessions: str = MEMORY, artifacts: str = FILES, *, inside: bool = False) -> tuple[asm.Client, Path]:
        """Return a handle of the tree with these stores, and its working directory."""
        config, separator = (self.INSIDE, ", ") if inside else (self.WORKERS, "\n")
        kind = (config, sessions, artifacts)
        if kind not in self._running:
            directory = Path(tempfile.mkdtemp(prefix="asm-"))
            stores = {"sessions": sessions.replace("\n", separator), "artifacts": artifacts.replace("\n", separator)}
            (directory / "tree.toml").write_text(config.format(**stores))
            (directory / "shelf.py").write_text(SHELF)
            environment = {**os.environ, "ASM_RUNTIME_DIR": str(directory / "run"), "PYTHONPATH": f"{STORES}:{directory}"}
            with open(directory / "log", "wb") as log:
                process = subprocess.Popen(
                    [PROGRAM, "tree.toml"], cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
                )
            assert "ready" in process.stdout.readline(), (directory / "log").read_text()
            handle = asm.connect("Store", runtime_dir=directory / "run")
            self._running[kind] = (process, handle, directory)
        return self._running[kind][1:]

    @contextmanager
    def empty_postgres(self) -> Iterator[str]:
        """The URL of a database with empty tables, on a server that is started when it is first asked for."""
        url = self._request.getfixturevalue("postgres_tables")
        yield url
        self._request.getfixturevalue("postgres").empty(url)

    def close(self) -> None:
        for process, handle, directory in self._running.values():
            handle.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            process.stdout.close()
            shutil.rmtree(directory)


@contextmanager
def memory(_directory, _trees) -> Iterator[InMemorySessionStore]:
    with InMemorySessionStore() as store:
        yield store


@contextmanager
def sqlite(directory, _trees) -> Iterator[SqlSessionStore]:
    with SqlSessionStore(url=f"sqlite:///{directory}/sessions.db") as store:
        yield store


@contextmanager
def postgres(_directory, trees) -> Iterator[SqlSessionStore]:
    with trees.empty_postgres() as url, SqlSessionStore(url=url) as store:
        yield store


@contextmanager
def files(directory, _trees) -> Iterator[FileArtifactStore]:
    with FileArtifactStore(root=directory / "artifacts") as store:
        yield store


@contextmanager
def s3(_directory, trees) -> Iterator[S3ArtifactStore]:
    server = trees.s3_server
    with S3ArtifactStore(bucket=server.new_bucket(), endpoint_url=server.url, prefix="tests") as store:
        yield store


@contextmanager
def memory_tree(_directory, trees) -> Iterator[asm.Client]:
    handle, _ = trees.handle()
    yield handle
    handle.delete_session("everything")


@contextmanager
def sqlite_tree(_directory, trees, *, inside=False) -> Iterator[asm.Client]:
    handle, directory = trees.handle(SQLITE, inside=inside)
    yield handle
    with contextlib.closing(sqlite3.connect(directory / "sessions.db", timeout=PATIENCE)) as database, database:
        for table in METADATA.tables:
            database.execute(f"DELETE FROM {table}")


@contextmanager
def artifacts_tree(trees, artifacts, *, inside=False) -> Iterator[asm.Client]:
    handle, _ = trees.handle(artifacts=artifacts, inside=inside)
    yield handle
    for info in handle.list():
        handle.delete(info.key)


def sqlite_inside(directory, trees):
    return sqlite_tree(directory, trees, inside=True)


def files_inside(_directory, trees):
    return artifacts_tree(trees, FILES, inside=True)


def files_tree(_directory, trees):
    return artifacts_tree(trees, FILES)


class Awaited(io.RawIOBase):
    """What ``open`` returns with asyncio, as a file.

    :param wait: runs a coroutine to its end.
    """

    def __init__(self, reader, wait):
        self._reader, self._wait = reader, wait

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        data = self._wait(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset, whence=io.SEEK_SET):
        return self._wait(self._reader.seek(offset, whence))

    def tell(self):
        return self._wait(self._reader.tell())

    def close(self):
        if not self.closed:
            self._wait(self._reader.aclose())
        super().close()


class Opening:
    """A handle whose ``open`` is that of an asyncio handle."""

    def __init__(self, handle, reading, loop):
        self._handle, self._reading, self._loop = handle, reading, loop

    def __getattr__(self, name):
        return getattr(self._handle, name)

    def open(self, key):
        return io.BufferedReader(Awaited(self._wait(self._reading.open(key)), self._wait))

    def _wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)


@contextmanager
def files_tree_with_asyncio(directory, trees) -> Iterator[Opening]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with files_tree(directory, trees) as handle:
            reading = asm.aio.connect(handle.name, runtime_dir=Path(handle.path).parent)
            yield Opening(handle, reading, loop)
            asyncio.run_coroutine_threadsafe(reading.aclose(), loop).result(PATIENCE)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


def custom_tree(_directory, trees):
    return artifacts_tree(trees, 'store = "shelf:Shelf"')


ONE_OF_EACH = {"memory": memory, "sqlite": sqlite, "postgres": postgres, "sqlite tree": sqlite_tree}
"""Every database, and one of the ways through processes: what is on that way is the same for every operation."""

VARIANTS = {
    "query": ONE_OF_EACH,
    "maintenance": ONE_OF_EACH,
    "session": {
        "memory": memory,
        "sqlite": sqlite,
        "postgres": postgres,
        "sqlite inside": sqlite_inside,
        "memory tree": memory_tree,
        "sqlite tree": sqlite_tree,
    },
    "artifact": {
        "files": files,
        "s3": s3,
        "files inside": files_inside,
        "files tree": files_tree,
        "custom tree": custom_tree,
    },
    "artifact with asyncio": {"files tree": files_tree_with_asyncio},
}


def pytest_generate_tests(metafunc):
    if "store" in metafunc.fixturenames:
        metafunc.parametrize("store", list(VARIANTS[metafunc.cls.contract]), indirect=True)


@pytest.fixture(scope="session")
def trees(s3_server, request):
    running = Trees(s3_server, request)
    yield running
    running.close()


@pytest.fixture
def store(request, tmp_path, trees):
    with VARIANTS[request.cls.contract][request.param](tmp_path, trees) as made:
        yield made
