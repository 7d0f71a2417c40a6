"""One fixture, ``store``, for every way to have a store of either contract.

A variant is a context manager that makes an empty store, given a directory and the trees that run for the whole session.
To add one, write the function and name it in ``VARIANTS``; the whole suite of its contract runs on it.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import asm
from asm import CompositeSessionStore, FileArtifactStore, InMemorySessionStore, SqlSessionStore

PATIENCE = 30
STORES = Path(__file__).parent / "stores"
PROGRAM = Path(sys.executable).with_name("asm-supervise")


class Trees:
    """Real trees, each started when it is first asked for, and emptied between tests."""

    CONFIG = """
        [supervisor]
        name = "contract"
        [[backend]]
        name = "sessions"
        {sessions}
        [[backend]]
        name = "artifacts"
        store = "file"
        root = "artifacts"
        [composite]
        name = "Store"
        session_store = "sessions"
        artifact_store = "artifacts"
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen, asm.Client, Path]] = {}

    def handle(self, sessions: str) -> tuple[asm.Client, Path]:
        """Return a handle of the tree with this session store, and its working directory."""
        if sessions not in self._running:
            directory = Path(tempfile.mkdtemp(prefix="asm-"))
            (directory / "tree.toml").write_text(self.CONFIG.format(sessions=sessions))
            environment = {**os.environ, "ASM_RUNTIME_DIR": str(directory / "run"), "PYTHONPATH": str(STORES)}
            with open(directory / "log", "wb") as log:
                process = subprocess.Popen(
                    [PROGRAM, "tree.toml"], cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
                )
            assert "ready" in process.stdout.readline(), (directory / "log").read_text()
            self._running[sessions] = (process, asm.connect("Store", runtime_dir=directory / "run"), directory)
        return self._running[sessions][1:]

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
def files(directory, _trees) -> Iterator[FileArtifactStore]:
    with FileArtifactStore(root=directory / "artifacts") as store:
        yield store


@contextmanager
def inside(directory, session_store) -> Iterator[asm.Client]:
    """A composite of the test's own, which runs both stores itself."""
    with tempfile.TemporaryDirectory(prefix="asm-") as runtime_dir:
        artifact_store = (FileArtifactStore, {"root": str(directory / "artifacts")})
        with CompositeSessionStore.start_link(
            session_store=session_store, artifact_store=artifact_store, runtime_dir=runtime_dir
        ) as store:
            yield store


def memory_inside(directory, _trees):
    return inside(directory, (InMemorySessionStore, {}))


def sqlite_inside(directory, _trees):
    return inside(directory, (SqlSessionStore, {"url": f"sqlite:///{directory}/sessions.db"}))


MEMORY = 'store = "emptied:Emptied"'


@contextmanager
def memory_tree(_directory, trees) -> Iterator[asm.Client]:
    handle, _ = trees.handle(MEMORY)
    yield handle
    handle.delete_session("everything")


@contextmanager
def sqlite_tree(_directory, trees) -> Iterator[asm.Client]:
    handle, directory = trees.handle('store = "sql"\nurl = "sqlite:///sessions.db"')
    yield handle
    with contextlib.closing(sqlite3.connect(directory / "sessions.db", timeout=PATIENCE)) as database, database:
        for table in ("asm_sessions", "asm_runs", "asm_events", "asm_session_sequences"):
            database.execute(f"DELETE FROM {table}")


@contextmanager
def files_tree(_directory, trees) -> Iterator[asm.Client]:
    handle, _ = trees.handle(MEMORY)
    yield handle
    for info in handle.list():
        handle.delete(info.key)


VARIANTS = {
    "session": {
        "memory": memory,
        "sqlite": sqlite,
        "memory inside": memory_inside,
        "sqlite inside": sqlite_inside,
        "memory tree": memory_tree,
        "sqlite tree": sqlite_tree,
    },
    "artifact": {"files": files, "files inside": memory_inside, "files tree": files_tree},
}


def pytest_generate_tests(metafunc):
    if "store" in metafunc.fixturenames:
        metafunc.parametrize("store", list(VARIANTS[metafunc.cls.contract]), indirect=True)


@pytest.fixture(scope="session")
def trees():
    running = Trees()
    yield running
    running.close()


@pytest.fixture
def store(request, tmp_path, trees):
    with VARIANTS[request.cls.contract][request.param](tmp_path, trees) as made:
        yield made
