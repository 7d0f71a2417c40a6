"""Databases and disks in trouble under a tree at work: clients are told what it is, no worker dies, and it passes by itself.

In the end every event that was acknowledged is there once, at its place (``programs/load.py``). Short in the default run;
with ``--campaign`` there are :data:`LONG` rounds of everything, and ``--seed`` repeats one.
"""

import asyncio
import contextlib
import itertools
import resource
import shutil
import subprocess
import sys
import time

import psutil
import pytest
from configurations import SQLITE, configuration
from load import PATIENCE, Load, until

import asm
from asm.adapters import FileArtifactStore, SqlSessionStore
from asm.adapters.sql.schema import migrate

LONG = 25


@pytest.fixture
def rounds(campaign):
    return range(LONG if campaign else 1)


def pids(tree):
    return [tree.child(name).pid for name in ("dev.sessions", "dev.artifacts", "MyApp.Store")]


# -- PostgreSQL -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(postgres):
    """A server of this test's own."""
    made = type(postgres)()
    yield made
    made.close()


def is_away(error):
    return error.code == "storage_connection_failed" and error.retryable


def test_postgres_stops_and_starts_under_load(trees, server, rounds):
    """With all connections cut, and with a crash. Who follows the log misses nothing."""
    tree = trees(configuration(f'store = "sql"\nurl = "{server.url()}"\nmigrate = "auto"')).wait_ready()
    before = pids(tree)

    async def follow(store, seen):
        while True:
            try:
                seen += await store.get_events("ses", after=len(seen), limit=500, wait_timeout_ms=5000)
            except asm.Error as error:
                assert is_away(error), error
                await asyncio.sleep(0.01)

    async def scenario():
        async with Load(tree) as load, tree.aconnect(timeout=PATIENCE) as reader:
            seen = []
            follower = asyncio.create_task(follow(reader, seen))
            for _ in rounds:
                for mode in ("fast", "immediate"):
                    await load.all_go_on(load.events)
                    await asyncio.to_thread(server._run, "pg_ctl", "stop", f"--mode={mode}")
                    await load.all_are_told(load.events, is_away)
                    await load.all_go_on(load.artifacts)
                    await asyncio.to_thread(server.start)
                    await load.all_go_on(load.events)
            last = await load.store.get_latest_sequence("ses")
            await until(lambda: follower.done() or len(seen) >= last)
            follower.cancel()
            assert seen == (await load.log())[: len(seen)]
            told = [error for writer in load.events for error in writer.told]
            assert [error for error in told if not is_away(error)] == []
            assert [error for writer in load.artifacts for error in writer.told] == []

    asyncio.run(scenario())
    assert pids(tree) == before
    assert tree.stop() == 0


def has_no_store(error):
    """How a caller is told that a worker was killed, or waits for its store. It passes."""
    reasons = {"backend_exited", "backend_restarting", "backend_waiting"}
    return error.code == "storage_error" and error.retryable and error.details.get("reason") in reasons


def is_down(error):
    """How a caller is told that a database is away, or that a worker was killed. All of it passes."""
    return is_away(error) or has_no_store(error)


def test_workers_die_while_postgres_is_away_and_nobody_has_to_come(trees, server, campaign):
    """Whoever is started meanwhile waits for the database, and serves when it is back."""
    tree = trees(configuration(f'store = "sql"\nurl = "{server.url()}"\nmigrate = "auto"')).wait_ready()
    rounds = 12 if campaign else 1

    async def scenario():
        async with Load(tree) as load:
            everybody = [*load.events, *load.artifacts]
            await load.all_go_on(everybody)
            await asyncio.to_thread(server.stop)
            for _ in range(rounds):
                for name in ("dev.sessions", "dev.artifacts"):
                    tree.child(name).kill()
                await load.all_are_told(load.events, lambda error: error.details.get("reason") == "backend_waiting")
                await load.all_go_on(load.artifacts)
                if campaign:
                    await asyncio.sleep(60 / rounds)
            assert (await asyncio.to_thread(tree.ctl, "status")).returncode == 1
            await asyncio.to_thread(server.start)
            back_at = time.monotonic()
            await load.all_go_on(everybody)
            waited = time.monotonic() - back_at
            print(f"{rounds} times every worker was killed; all calls succeed {waited:.1f} s after the database was back")
            assert not campaign or waited < 10
            told = [len(writer.told) for writer in everybody]
            await load.all_go_on(everybody)
            assert [len(writer.told) for writer in everybody] == told
            assert [error for writer in everybody for error in writer.told if not is_down(error)] == []

    asyncio.run(scenario())
    tree.wait_status(lambda status: status.state == "ready")
    assert tree.stop() == 0


# -- A locked file --------------------------------------------------------------------------------------------------------

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
connection.execute(f"BEGIN {sys.argv[2]}")
connection.execute("DELETE FROM asm_events")
print("locked", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
sys.stdin.readline()
"""


@contextlib.contextmanager
def locked(path, how):
    """Have another program lock a database."""
    command = [sys.executable, "-c", LOCK, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def is_locked(error):
    return (error.code, error.details.get("reason")) == ("storage_error", "database_locked")


def test_another_program_locks_the_file_under_load(trees, tmp_path, rounds):
    """For longer than a client waits. It gives the lock back, or is killed."""
    tree = trees(configuration(f"{SQLITE}\nbusy_timeout = 0.1")).wait_ready()
    before = pids(tree)

    async def scenario():
        async with Load(tree) as load:
            for _, how in itertools.product(rounds, ("IMMEDIATE", "EXCLUSIVE")):
                await load.all_go_on(load.events)
                with locked(tmp_path / "var" / "asm.db", how) as other:
                    await load.all_are_told(load.events, is_locked)
                    await load.check()  # who reads needs no lock
                    await load.all_go_on(load.artifacts)
                    if how == "IMMEDIATE":
                        other.stdin.write("unlock\n")
                        other.stdin.flush()
                        await load.all_go_on(load.events)
                await load.all_go_on(load.events)
            assert [error for writer in load.events for error in writer.told if not is_locked(error)] == []

    asyncio.run(scenario())
    assert pids(tree) == before


def test_a_lock_that_is_given_back_in_time_is_noticed_by_nobody(trees, tmp_path):
    tree = trees(configuration(f"{SQLITE}\nbusy_timeout = {PATIENCE}")).wait_ready()

    async def scenario():
        async with tree.aconnect("dev.sessions", timeout=PATIENCE) as store:
            with locked(tmp_path / "var" / "asm.db", "IMMEDIATE"):
                session = asm.Session.new(agent_id="a")
                event = asm.Event.new(type="message_sent", session_id=session.id)
                waiting = [store.append_event_with_sequence(event), store.save_session(session)]
                waiting = [asyncio.create_task(call) for call in waiting]
                # The worker takes the frames of a connection in order: when this is answered, it has the others.
                assert await store.get_latest_sequence(session.id) == 0
                assert not any(task.done() for task in waiting)
            stored, _ = await asyncio.gather(*waiting)
            assert await store.get_events(session.id) == [stored]
            assert await store.get_session(session.id) == session

    asyncio.run(scenario())


# -- A full disk ----------------------------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of its own, which is full when a file takes all that is left."""

    def __init__(self, path):
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, _tree):
        with contextlib.suppress(OSError), open(self._ballast, "wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass

    def empty(self, _tree):
        self._ballast.unlink()


class SmallFiles:
    """The bound that the kernel sets to the files of a process: where no disk can be had that is small."""

    def __init__(self, path):
        self.path = path

    def fill(self, tree):
        size = (self.path / "asm.db-wal").stat().st_size
        self._bound(tree, size, 10_000)

    def empty(self, tree):
        self._bound(tree, resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def _bound(self, tree, sessions, artifacts):
        for name, size in (("dev.sessions", sessions), ("dev.artifacts", artifacts)):
            tree.child(name).rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(params=["small disk", "small files"])
def disk(request, tmp_path, rounds):
    """The directory that a tree keeps its data in."""
    path = tmp_path / "var"
    path.mkdir()
    if request.param == "small disk" and is_mounted(path, 16 * len(rounds)):
        yield SmallDisk(path)
        subprocess.run(["umount", "--lazy", path], check=True)
    else:
        yield SmallFiles(path)


def is_mounted(path, size):
    """Whether a disk of so many megabytes could be had."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", path]
    return bool(shutil.which("mount")) and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def is_full(error):
    return error.code == "storage_write_failed" and not error.retryable


def test_the_disk_is_full_under_load(disk, trees, rounds):
    tree = trees(configuration()).wait_ready()
    before = pids(tree)

    async def scenario():
        async with Load(tree, event_size=5_000) as load:
            everybody = [*load.events, *load.artifacts]
            for _ in rounds:
                await load.all_go_on(everybody)
                disk.fill(tree)
                await load.all_are_told(everybody, is_full)
                await load.check()
                disk.empty(tree)
                await load.all_go_on(everybody)
            assert [error for writer in everybody for error in writer.told if not is_full(error)] == []

    asyncio.run(scenario())
    assert pids(tree) == before
    assert list((disk.path / "artifacts" / "tmp").iterdir()) == []
    assert tree.stop() == 0


# -- A volume that is away ------------------------------------------------------------------------------------------------


def is_volume_away(error):
    away = error.code in ("storage_read_failed", "storage_write_failed") and error.details.get("away") is True
    return away or has_no_store(error)


def nothing(_root):
    pass


def an_empty_mount_point(root):
    root.mkdir()


@pytest.mark.parametrize("left", [nothing, an_empty_mount_point])
def test_the_volume_of_the_artifacts_is_away_under_load(trees, tmp_path, rounds, left):
    """Nothing is made in its place, though the worker is killed meanwhile; and when it is back, all is there and goes on."""
    tree = trees(configuration(supervisor="max_restarts = 1000")).wait_ready()  # so many kills are no reason to give up
    root, away = tmp_path / "var" / "artifacts", tmp_path / "away"
    others = [tree.child(name).pid for name in ("dev.sessions", "MyApp.Store")]

    async def scenario():
        async with Load(tree) as load:
            await load.store.put("kept", b"kept")
            for _ in rounds:
                await load.all_go_on(load.artifacts)
                root.rename(away)
                left(root)
                await load.all_are_told(load.artifacts, is_volume_away)
                for call in (load.store.get, load.store.stat, load.store.delete):
                    with pytest.raises(asm.StorageError) as caught:
                        await call("kept")
                    assert is_volume_away(caught.value)
                await asyncio.to_thread(tree.wait_state, "dev.artifacts", "waiting")
                tree.child("dev.artifacts").kill()
                await asyncio.to_thread(
                    tree.wait_child, "dev.artifacts", lambda child: (child.state, child.restarts > 0) == ("waiting", True)
                )
                await load.all_are_told(load.artifacts, lambda error: error.details.get("reason") == "backend_waiting")
                await load.all_go_on(load.events)
                assert not root.exists() or list(root.iterdir()) == []
                if root.exists():
                    root.rmdir()
                away.rename(root)
                await load.all_go_on(load.artifacts)
                assert await load.store.get("kept") == b"kept"
            told = [error for writer in load.artifacts for error in writer.told]
            assert [error for error in told if not is_volume_away(error)] == []
            assert [error for writer in load.events for error in writer.told] == []

    asyncio.run(scenario())
    assert [tree.child(name).pid for name in ("dev.sessions", "MyApp.Store")] == others
    assert tree.stop() == 0


def test_a_tree_whose_volume_is_away_starts_and_waits_for_it(trees, tmp_path):
    root, away = tmp_path / "var" / "artifacts", tmp_path / "away"
    with FileArtifactStore(root=root) as store:
        store.put("kept", b"kept")
    root.rename(away)
    tree = trees(configuration()).wait_ready()
    shown = tree.child_status("dev.artifacts")
    assert shown.state == "waiting"
    with tree.connect() as store, pytest.raises(asm.StorageError) as caught:
        store.get("kept")
    assert caught.value.details["reason"] == "backend_waiting"
    assert f"the root {root} is away" in caught.value.details["cause"]
    away.rename(root)
    tree.wait_state("dev.artifacts", "ready")
    with tree.connect() as store:
        assert store.get("kept") == b"kept"


def test_a_directory_with_other_things_in_it_keeps_a_tree_from_starting(trees, tmp_path):
    (tmp_path / "var" / "artifacts" / "tmp").mkdir(parents=True)
    foreign = tmp_path / "var" / "artifacts" / "tmp" / "0123456789abcdef-0"
    foreign.write_bytes(b"foreign")
    for arguments in ([], ["--check"]):
        tree = trees(configuration(), *arguments)
        assert tree.wait() == 78
        assert any("is not empty and holds no store of ours" in line for line in tree.stderr)
    assert [path for path in (tmp_path / "var").rglob("*") if path.is_file()] == [foreign]


# -- A damaged file -------------------------------------------------------------------------------------------------------


def event(session_id="ses", **data):
    return asm.Event.new(type="message_sent", session_id=session_id, data=data)


def test_a_file_that_may_only_be_read(trees, tmp_path):
    """Its header says that it takes a newer SQLite to write to it; that keeps out root, too."""

    def allow(version):
        with open(tmp_path / "var" / "asm.db", "r+b") as file:
            file.seek(18)
            file.write(bytes([version]))

    (tmp_path / "var").mkdir()
    with SqlSessionStore(url=f"sqlite:///{tmp_path}/var/asm.db") as store:
        stored = store.append_event_with_sequence(event())
    allow(3)
    tree = trees(configuration()).wait_ready()
    before = pids(tree)
    with tree.connect() as store:
        for write in (lambda: store.append_event(event()), lambda: store.save_session(asm.Session.new(agent_id="a"))):
            with pytest.raises(asm.StorageError) as caught:
                write()
            assert (caught.value.code, caught.value.details["reason"]) == ("storage_write_failed", "read_only")
        assert store.get_events("ses") == [stored]
        assert store.list_sessions() == []
    assert pids(tree) == before


def flipped(chance, page):
    """A page of which every hundredth byte or so has a bit flipped."""
    return bytes(byte ^ (1 << chance.randrange(8)) if chance.random() < 0.01 else byte for byte in page)


def headless(_chance, page):
    """A page that does not begin as one does."""
    return b"\xff" * 8 + page[8:]


@pytest.mark.parametrize("damaged", [headless, flipped])
def test_a_file_that_is_damaged_in_the_middle(trees, tmp_path, chance, rounds, damaged):
    """Whoever meets the damage is told, and no worker dies of it."""
    path, saved = tmp_path / "var" / "asm.db", tmp_path / "saved.db"
    migrate(f"sqlite:///{saved}")
    schema = saved.stat().st_size // 4096  # so many pages tell what tables there are; without these, nothing starts
    with SqlSessionStore(url=f"sqlite:///{saved}") as store:
        names = [f"ses {number}" for number in range(30)]
        for name in names:
            store.save_session(asm.Session.new(id=name, agent_id="a"))
            store.append_events([event(name, number=number, text="x" * 400) for number in range(10)])
        logs = {name: store.get_events(name) for name in names}
    path.parent.mkdir()
    for _ in rounds:
        pages = [saved.read_bytes()[start : start + 4096] for start in range(0, saved.stat().st_size, 4096)]
        for number in chance.sample(range(schema, len(pages)), (len(pages) - schema) // 3):
            pages[number] = damaged(chance, pages[number])
        path.write_bytes(b"".join(pages))
        tree = trees(configuration()).wait_ready()
        before, told = pids(tree), set()
        with tree.connect(timeout=PATIENCE) as store:
            for name in names:
                calls = [lambda: store.get_events(name), lambda: store.get_session(name), store.list_sessions]  # noqa: B023
                calls += [lambda: store.append_event(event(name)), lambda: store.delete_session(name)]  # noqa: B023
                for number, call in enumerate(calls):
                    try:
                        found = call()
                    except asm.Error as error:
                        told.add(error.code)
                    else:
                        assert number > 0 or damaged is flipped or found == logs[name]
        assert {"storage_read_failed"} <= told <= {"storage_read_failed", "storage_write_failed", "session_not_found"}
        assert pids(tree) == before
        assert tree.stop() == 0
