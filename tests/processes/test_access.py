"""Who may connect: the kernel is asked, at every accept, and no permission of a file is relied on."""

import ast
import asyncio
import contextlib
import json
import os
import pickle
import socket
import stat
import struct
from pathlib import Path

import msgpack
import pytest
from multiprocess.connection import Client

import asm
import asm.aio
import asm_supervisor
from asm.wire.frames import frame

PATIENCE = 30.0

STRANGER, FRIEND = 65534, 65533
GROUP = 4242

CONFIG = """
[supervisor]
name = "dev"
{}
[[backend]]
name = "dev.sessions"
store = "memory"
[composite]
name = "MyApp.Store"
session_store = "dev.sessions"
artifact_store = {{ store = "file", root = "artifacts" }}
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child of a test starts no thread

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user; run these tests as root")


@contextlib.contextmanager
def identity(uid, gid=STRANGER, groups=()):
    """Be another user, for a moment and as far as the kernel looks."""
    before = os.getgroups(), os.getegid()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[0])


def as_user(function, uid, gid=STRANGER, groups=()):
    """Return what a function returns, or the error that it raises as a map, in a process of another user."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            with identity(uid, gid, groups):
                try:
                    outcome = function()
                except asm.Error as error:
                    outcome = error.to_map()
        except BaseException as error:  # noqa: BLE001  # the parent is told
            outcome = repr(error)
        os.write(writing, json.dumps(outcome).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as told:
        outcome = json.loads(told.read())
    os.waitpid(pid, 0)
    return outcome


def ask(tree, name="MyApp.Store"):
    """Return a function that makes a call, with the blocking client."""

    def call():
        with tree.connect(name, timeout=PATIENCE) as store:
            return store.get_latest_sequence("ses_1")

    return call


def ask_async(tree, name="MyApp.Store"):
    async def call():
        async with tree.aconnect(name, timeout=PATIENCE) as store:
            return await store.get_latest_sequence("ses_1")

    return lambda: asyncio.run(call())


def lift_every_permission(tree):
    for path in (tree.runtime_dir, *tree.runtime_dir.iterdir()):
        path.chmod(0o777)


@needs_root
@pytest.mark.parametrize("client", [ask, ask_async])
def test_with_every_permission_lifted_another_user_is_refused(trees, client):
    tree = trees(CONFIG.format("")).wait_ready()
    with tree.connect() as ours:
        lift_every_permission(tree)
        for name in ("MyApp.Store", "dev.sessions"):
            refused = as_user(client(tree, name), STRANGER)
            assert (refused["code"], refused["details"]) == (
                "storage_connection_failed",
                {"reason": "not_allowed", "name": name},
            )
            assert client(tree, name)() == 0
        assert ours.get_latest_sequence("ses_1") == 0


@needs_root
def test_who_is_refused_is_told_why_and_nothing_that_it_sends_is_read(trees):
    tree = trees(CONFIG.format("")).wait_ready()
    lift_every_permission(tree)

    def knock():
        answer = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(os.fspath(tree.runtime_dir / "MyApp.Store.sock"))
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(frame(msgpack.packb([0, 1, "artifact.put", [{}, {"key": "theirs", "data": b"x"}]])))
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    answer += piece
        return answer.hex()

    answer = bytes.fromhex(as_user(knock, STRANGER))
    (size,) = struct.unpack("!i", answer[:4])
    kind, method, (error,) = msgpack.unpackb(answer[4:], timestamp=3)
    assert (len(answer), kind, method, error["details"]["reason"]) == (4 + size, 2, "refused", "not_allowed")
    with tree.connect() as store:
        assert store.list() == []


@needs_root
def test_the_files_alone_keep_another_user_out(trees):
    tree = trees(CONFIG.format("")).wait_ready()
    refused = as_user(ask(tree), STRANGER)
    assert refused["code"] == "storage_connection_failed"
    assert "Permission denied" in refused["message"]


@needs_root
def test_users_and_groups_that_are_allowed(trees):
    tree = trees(CONFIG.format(f"allow_users = [{FRIEND}]\nallow_groups = [{GROUP}]")).wait_ready()
    assert stat.S_IMODE(tree.runtime_dir.stat().st_mode) == 0o711
    for name in ("MyApp.Store", "dev.sessions"):
        assert stat.S_IMODE((tree.runtime_dir / f"{name}.sock").stat().st_mode) == 0o666
        for client in (ask, ask_async):
            call = client(tree, name)
            assert as_user(call, FRIEND) == 0
            assert as_user(call, STRANGER, gid=GROUP) == 0
            assert as_user(call, STRANGER, groups=[1, GROUP, 2]) == 0
            assert as_user(call, STRANGER, groups=[1, 2])["details"]["reason"] == "not_allowed"
            assert call() == 0
    refused = as_user(lambda: os.listdir(tree.runtime_dir), FRIEND)
    assert "PermissionError" in refused


@needs_root
def test_a_user_by_name(trees):
    tree = trees(CONFIG.format('allow_users = ["nobody"]')).wait_ready()
    assert as_user(ask(tree), 65534) == 0


@pytest.mark.parametrize(
    "keys",
    [
        'allow_users = ["no-such-user"]',
        'allow_groups = ["no-such-group"]',
        "allow_users = [-1]",
        "allow_users = [true]",
        "[limits]\nno_such_limit = 1",
        "[limits]\nconnections = 0",
        '[limits]\nconnections = "many"',
        "[limits]\nmax_frame_bytes = 1000",
    ],
)
def test_who_and_what_does_not_exist_is_refused_before_anything_starts(trees, keys):
    tree = trees(CONFIG.format(keys))
    assert tree.wait() == 78
    word = keys.split("\n")[-1].split(" = ")[0]
    assert any(word in line for line in tree.stderr)
    assert list(tree.runtime_dir.iterdir()) == []


@needs_root
@pytest.mark.parametrize("client", [ask, ask_async])
def test_a_client_sends_nothing_to_the_socket_of_another_user(trees, monkeypatch, client):
    """Neither by the files, nor when these look right, because they were exchanged after they had been looked at."""
    tree = trees(CONFIG.format("")).wait_ready()
    path = tree.runtime_dir / "MyApp.Store.sock"
    path.unlink()
    tree.runtime_dir.chmod(0o777)
    with socket.socket(socket.AF_UNIX) as theirs, identity(STRANGER):
        theirs.bind(os.fspath(path))
        theirs.listen()
        theirs.setblocking(False)
        with identity_of_root():
            call = client(tree)
            for _ in range(2):
                with pytest.raises(asm.StorageError, match="belongs to the user 65534"):
                    call()
                with contextlib.suppress(BlockingIOError):
                    connection, _address = theirs.accept()
                    with connection:
                        connection.settimeout(PATIENCE)
                        assert connection.recv(1) == b""
                os.chown(path, 0, 0)
            monkeypatch.setenv("ASM_TRUST_USERS", "no-such-user")
            with pytest.raises(asm.ValidationError, match="no-such-user"):
                call()


@contextlib.contextmanager
def identity_of_root():
    """Be root again within :func:`identity`."""
    uid, gid = os.geteuid(), os.getegid()
    os.seteuid(0)
    os.setegid(0)
    try:
        yield
    finally:
        os.setegid(gid)
        os.seteuid(uid)


@needs_root
def test_a_client_that_trusts_a_user_connects_to_his_stores(runtime_dir, monkeypatch):
    os.chown(runtime_dir, FRIEND, FRIEND)
    with identity(FRIEND, FRIEND), socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(os.fspath(runtime_dir / "Theirs.sock"))
        theirs.listen()
        with identity_of_root():
            with pytest.raises(asm.StorageError, match="ASM_TRUST_USERS"):
                asm.connect("Theirs", runtime_dir=runtime_dir)
            monkeypatch.setenv("ASM_TRUST_USERS", f"root, {FRIEND}")
            asm.connect("Theirs", runtime_dir=runtime_dir).close()


@needs_root
def test_a_composite_connects_to_no_store_of_another_user(trees, runtime_dir, tmp_path):
    with socket.socket(socket.AF_UNIX) as theirs:
        runtime_dir.chmod(0o777)
        with identity(STRANGER):
            theirs.bind(os.fspath(runtime_dir / "Theirs.sock"))
            theirs.listen()
        runtime_dir.chmod(0o700)
        os.chown(runtime_dir / "Theirs.sock", 0, 0)
        config = '[supervisor]\nname = "t"\n[composite]\nname = "C"\nsession_store = "Theirs"\n'
        tree = trees(config + 'artifact_store = { store = "file", root = "r" }\n')
        assert tree.wait() == 69
        assert any(f"belongs to the user {STRANGER}" in line for line in tree.stderr)


def test_a_symbolic_link_in_the_runtime_directory_is_refused(trees, runtime_dir, tmp_path):
    for name in ("MyApp.Store.sock", "dev.sessions.sock.lock", "any"):
        (runtime_dir / name).symlink_to(tmp_path / "elsewhere")
        tree = trees(CONFIG.format(""))
        assert tree.wait() == 69
        assert any("a symbolic link" in line for line in tree.stderr)
        (runtime_dir / name).unlink()
    assert not (tmp_path / "elsewhere").exists()


@needs_root
def test_a_file_of_another_user_in_the_runtime_directory_is_refused(trees, runtime_dir):
    (runtime_dir / "MyApp.Store.sock").touch()
    os.chown(runtime_dir / "MyApp.Store.sock", STRANGER, STRANGER)
    tree = trees(CONFIG.format(""))
    assert tree.wait() == 69
    assert any(f"belongs to the user {STRANGER}" in line for line in tree.stderr)


class Planted:
    """What a pickle could do to whoever loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.sessions", "dev"])
def test_a_pickle_is_never_loaded(trees, tmp_path, name):
    tree = trees(CONFIG.format("")).wait_ready()
    planted = Planted(str(tmp_path / "planted"))
    pickle.loads(pickle.dumps(planted))
    (tmp_path / "planted").unlink()  # so it would have worked
    path = os.fspath(tree.runtime_dir / f"{name}.sock")
    with Client(path, family="AF_UNIX") as connection:
        connection.send(planted)
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.recv_bytes()
    with Client(path, family="AF_UNIX") as connection:
        connection.send_bytes(msgpack.packb([0, 1, "hello", [{}, {}]]))
        assert msgpack.unpackb(connection.recv_bytes())[2] is None
    assert not (tmp_path / "planted").exists()


STARTERS = ("launch.py", "forkserver.py")
"""Where a child reads what its parent wrote, by a pipe that it inherited."""


def test_nothing_that_loads_pickles_is_reachable_from_a_socket():
    """No module of the servers and clients knows how, and the library that starts processes reads no pickle from a pipe."""
    for package in (asm, asm_supervisor):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    assert node.func.attr != "recv" or node.args, f"{path}: Connection.recv() unpickles"
                    if node.func.attr == "loads" and path.name not in STARTERS:
                        assert ast.unparse(node.func.value) in ("tomllib", "json"), path
                for name in names:
                    root = name.split(".")[0]
                    assert root not in ("pickle", "dill", "marshal", "shelve", "multiprocessing"), f"{path} imports {name}"
                    assert root != "multiprocess" or package is asm_supervisor, f"{path} imports {name}"
                    is_pipe = name == "multiprocess.connection.Connection" and path.name in STARTERS
                    assert is_pipe or not name.startswith("multiprocess.connection"), f"{path} imports {name}"
