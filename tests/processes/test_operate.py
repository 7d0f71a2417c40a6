"""What an operator sees of a tree, and what one can do with it."""

import concurrent.futures
import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import time

import psutil
import pytest

import asm
from asm.client import control
from asm.status import TreeStatus

PATIENCE = 30.0

CONFIG = """
[supervisor]
name = "dev"
{supervisor}

[[backend]]
name = "dev.sessions"
store = "memory"

[[backend]]
name = "dev.artifacts"
{artifacts}

[composite]
name = "MyApp.Store"
session_store = "dev.sessions"
artifact_store = "dev.artifacts"
{composite}
"""

FILES = 'store = "file"\nroot = "artifacts"'

INSIDE = '{store = "file", root = "inside"}'

DOWN = {"backoff", "failed"}

NAMES = ["dev.sessions", "dev.artifacts", "MyApp.Store"]


def config(*, supervisor="", artifacts=FILES, composite=""):
    return CONFIG.format(supervisor=supervisor, artifacts=artifacts, composite=composite)


def pids(tree):
    return {child.name: child.pid for child in tree.status().children}


def kill(tree, name):
    """Kill a child; return its status once the supervisor knows."""
    before = tree.child_status(name)
    psutil.Process(before.pid).kill()
    return tree.wait_child(name, lambda child: child.state in DOWN or child.pid not in {None, before.pid})


def refusal(call, *arguments):
    with pytest.raises(asm.StorageError) as caught:
        call(*arguments)
    return caught.value


def reason(call, *arguments):
    return refusal(call, *arguments).details["reason"]


def wait_until(is_so):
    """Repeat a call as a client would until it does not fail any more for what passes."""
    while True:
        try:
            return is_so()
        except asm.StorageError as error:
            if error.details.get("reason") not in {"backend_exited", "backend_restarting", "backend_failed"}:
                raise
        time.sleep(0.01)


# -- status


def test_the_status_of_a_tree_that_is_ready(memory_tree):
    status = memory_tree.status()
    assert (status.name, status.state, status.pid) == ("dev", "ready", memory_tree.process.pid)
    assert [(child.name, child.state) for child in status.children] == [(name, "ready") for name in NAMES]
    for child in status.children:
        assert child.pid == memory_tree.child(child.name).pid
        assert child.memory_bytes > 1_000_000
        assert (child.restarts, child.history, child.reason) == (0, (), "")
    plain, as_json, everyone = (memory_tree.ctl("status", *more) for more in (["dev"], ["dev", "--json"], ["--json"]))
    assert (plain.returncode, as_json.returncode, everyone.returncode) == (0, 0, 0)
    assert all(f"{child.name} " in plain.stdout and str(child.pid) in plain.stdout for child in status.children)
    assert TreeStatus.from_map(json.loads(as_json.stdout)).children[0].pid == status.children[0].pid
    assert [each["name"] for each in json.loads(everyone.stdout)] == ["dev"]


def test_calls_failures_and_calls_in_flight_are_counted(trees):
    tree = trees(config().replace('"memory"', '"misbehaving:Raising"')).wait_ready()
    with tree.connect() as store, tree.connect("dev.artifacts") as artifacts, tree.connect("dev.sessions") as sessions:
        for _ in range(5):
            store.get_latest_sequence("ses_1")
        for handle in (store, store, artifacts):  # that nothing is there is an answer
            with pytest.raises(asm.ResourceError):
                handle.get("a")
        for handle in (store, store, sessions):
            with pytest.raises(asm.Error, match="ZeroDivisionError"):
                handle.get_session("ses_1")
        counted = {"dev.sessions": (8, 3), "dev.artifacts": (3, 0), "MyApp.Store": (9, 2)}
        for name, (calls, errors) in counted.items():
            tree.wait_child(name, lambda child, seen=(calls, errors): (child.calls, child.errors) == seen)
    with tree.connect() as store, concurrent.futures.ThreadPoolExecutor() as pool:
        poll = pool.submit(store.get_events, "ses_1", wait_timeout_ms=60_000)
        for name in ("dev.sessions", "MyApp.Store"):
            tree.wait_child(name, lambda child: child.in_flight == 1)
        store.append_event(asm.Event.new(type="message_sent", session_id="ses_1"))
        assert len(poll.result(PATIENCE)) == 1
        tree.wait_child("dev.sessions", lambda child: child.in_flight == 0)


def test_on_a_terminal_the_status_is_a_table(memory_tree):
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(memory_tree.runtime_dir), "TERM": "xterm", "COLUMNS": "160"}
    asmctl = memory_tree.ctl("--version").args[0]
    with subprocess.Popen([asmctl, "status"], env=environment, stdout=other_end) as process:
        os.close(other_end)
        said = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal ends
            while data := os.read(terminal, 65536):
                said += data
        os.close(terminal)
        assert process.wait(PATIENCE) == 0
    assert b"\x1b[" in said
    for text in ("dev: ready", *NAMES):
        assert text in said.decode()


def test_while_a_child_waits_for_its_restart_and_the_composite_is_restarted_meanwhile(trees):
    slow = "[supervisor.backoff]\nfirst = 600\ncap = 600\njitter = 0\nstable = 600"
    tree = trees(config(supervisor=slow)).wait_ready()
    kill(tree, "dev.artifacts")
    tree.wait_state("dev.artifacts", "ready")
    child = kill(tree, "dev.artifacts")
    assert (child.state, child.pid, child.uptime_seconds, child.memory_bytes) == ("backoff", None, None, None)
    assert (child.restarts, child.reason) == (2, "was killed by SIGKILL")
    assert [restart.reason for restart in child.history] == ["was killed by SIGKILL"] * 2
    assert child.history[0].at < child.history[1].at
    shown = tree.ctl("status")
    assert shown.returncode == 1
    assert "dev: degraded" in shown.stdout
    assert "dev.artifacts was killed by SIGKILL" in shown.stdout

    kill(tree, "MyApp.Store")
    tree.wait_state("MyApp.Store", "ready")
    with tree.connect() as store:
        assert store.get_latest_sequence("ses_1") == 0
        assert reason(store.get, "key") == "backend_restarting"
        assert tree.ctl("restart", "dev.artifacts").returncode == 0
        wait_until(lambda: store.put("key", b"back"))
    tree.wait_state("dev.artifacts", "ready")
    assert tree.ctl("status").returncode == 0


def test_while_a_tree_starts(trees):
    starting = config(artifacts='store = "misbehaving:NeverUp"').replace('_store = "dev.artifacts"', f"_store = {INSIDE}")
    tree = trees(starting).wait_for('"serving"')
    tree.wait_state("dev.artifacts", "starting")
    assert [child.state for child in tree.status().children] == ["ready", "starting", "stopped"]
    assert tree.ctl("status").returncode == 1
    refused = tree.ctl("reload")
    assert (refused.returncode, refused.stderr) == (1, "dev is still starting; reload it when it is ready\n")
    assert tree.ctl("stop").returncode == 0
    assert tree.wait() == 0


def test_a_backend_that_failed_degrades_the_tree_and_may_be_restarted(trees):
    tree = trees(config(supervisor="max_restarts = 1")).wait_ready()
    with tree.connect() as store:
        kill(tree, "dev.artifacts")
        tree.wait_state("dev.artifacts", "ready")
        child = kill(tree, "dev.artifacts")
        assert (child.state, child.restarts) == ("failed", 1)
        assert 0 < child.due_in_seconds <= 30
        shown = tree.ctl("status")
        assert shown.returncode == 1
        assert "dev.artifacts was killed by SIGKILL; the next try is in " in shown.stdout
        while (error := refusal(store.get, "key")).details["reason"] != "backend_failed":
            assert error.retryable
        assert (error.code, error.retryable) == ("storage_error", False)
        assert (error.details["backend"], error.details["operation"]) == ("dev.artifacts", "get")
        assert store.get_latest_sequence("ses_1") == 0

        kill(tree, "MyApp.Store")
        tree.wait_state("MyApp.Store", "ready")
        assert wait_until(lambda: store.get_latest_sequence("ses_1")) == 0
        assert reason(store.get, "key") == "backend_failed"

        assert tree.ctl("restart", "dev.artifacts").returncode == 0
        wait_until(lambda: store.put("key", b"back"))
        assert store.get("key") == b"back"


def test_a_composite_that_failed_ends_the_tree(trees):
    tree = trees(config(supervisor="max_restarts = 0")).wait_ready()
    tree.child("MyApp.Store").kill()
    assert tree.wait() == 70
    assert any("more than 0 restarts" in line for line in tree.stderr)


def test_a_composite_that_failed_may_be_let_go(trees):
    tree = trees(config(supervisor="max_restarts = 0", composite='on_failure = "degrade"\nretry_after = 0')).wait_ready()
    child = kill(tree, "MyApp.Store")
    assert (child.state, child.due_in_seconds) == ("failed", None)
    with tree.connect("dev.sessions") as store:
        assert store.get_latest_sequence("ses_1") == 0


def test_a_store_inside_a_restarted_composite_must_come_up(trees, tmp_path):
    inside = config(supervisor="max_restarts = 1").replace('_store = "dev.artifacts"', f"_store = {INSIDE}")
    tree = trees(inside).wait_ready()
    (tmp_path / "inside").rename(tmp_path / "gone")
    (tmp_path / "inside").write_text("no directory")
    tree.child("MyApp.Store").kill()
    assert tree.wait() == 70
    assert any("could not start" in line for line in tree.stderr)


def test_with_one_for_all_the_others_are_restarted_too(trees):
    tree = trees(config(supervisor='strategy = "one_for_all"')).wait_ready()
    before = pids(tree)
    kill(tree, "dev.sessions")
    for name in NAMES:
        child = tree.wait_child(name, lambda child: child.state == "ready" and child.pid != before[child.name])
        crashed = name == "dev.sessions"
        assert (child.restarts, [restart.kind for restart in child.history]) == (crashed, ["crash" if crashed else "needed"])
    with tree.connect() as store:
        wait_until(lambda: store.put("key", b""))


# -- heartbeats


def test_a_worker_that_hangs_is_killed_and_restarted(trees):
    tree = trees(config(artifacts=f"{FILES}\nheartbeat_timeout = 1")).wait_ready()
    worker = tree.child("dev.artifacts")
    worker.suspend()
    child = tree.wait_child("dev.artifacts", lambda child: child.state == "ready" and child.pid != worker.pid)
    assert child.reason == "made no progress for 1 s"
    with tree.connect() as store:
        wait_until(lambda: store.put("key", b""))


def test_a_call_that_takes_long_is_no_hang(trees, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    gated = f'store = "misbehaving:Gated"\nroot = "artifacts"\ngate = "{gate}"\nheartbeat_timeout = 2'
    tree = trees(config(artifacts=gated)).wait_ready()
    worker = tree.child("dev.artifacts")
    with tree.connect(timeout=PATIENCE) as store, concurrent.futures.ThreadPoolExecutor() as pool:
        putting = pool.submit(store.put, "key", b"late")
        with open(gate, "w"):  # from here on the put is under way
            began = tree.child_status("dev.artifacts").uptime_seconds
            tree.wait_child("dev.artifacts", lambda child: child.pid != worker.pid or child.uptime_seconds > began + 3)
        putting.result(PATIENCE)
        assert store.get("key") == b"late"
    assert tree.child_status("dev.artifacts").restarts == 0


# -- restart, reload, stop


def test_a_restart_concerns_one_child(memory_tree):
    before = pids(memory_tree)
    done = memory_tree.ctl("restart", "dev.artifacts", "--tree", "dev")
    assert (done.returncode, done.stdout) == (0, "dev.artifacts: is being restarted\n")
    memory_tree.wait_child("dev.artifacts", lambda child: child.state == "ready" and child.pid != before["dev.artifacts"])
    after = pids(memory_tree)
    assert {name for name in NAMES if after[name] != before[name]} == {"dev.artifacts"}
    child = memory_tree.child_status("dev.artifacts")
    assert (child.restarts, [restart.kind for restart in child.history]) == (0, ["asked"])  # it did not crash


def reload(tree, how):
    """Have a tree read its configuration again; by a signal, nobody is told how that went."""
    if how == "asmctl":
        return tree.ctl("reload")
    tree.signal(signal.SIGHUP)
    return None


@pytest.mark.parametrize("how", ["asmctl", "SIGHUP"])
def test_a_reload_touches_only_what_changed(trees, tmp_path, how):
    tree = trees(config()).wait_ready()
    before = pids(tree)
    third = '\n[[backend]]\nname = "dev.third"\nstore = "file"\nroot = "third"\n'
    (tmp_path / "tree0.toml").write_text(config(artifacts=f"{FILES}\nheartbeat_timeout = 3\n{third}"))
    done = reload(tree, how)
    if done:
        assert (done.returncode, done.stdout) == (0, "dev: reloaded; added: dev.third; changed: dev.artifacts\n")
    tree.wait_for("dev: reloaded")
    tree.wait_state("dev.third", "ready")
    tree.wait_child("dev.artifacts", lambda child: child.state == "ready" and child.pid != before["dev.artifacts"])
    after = pids(tree)
    assert [after[name] == before[name] for name in NAMES] == [True, False, True]

    (tmp_path / "tree0.toml").write_text(config(artifacts=f"{FILES}\nheartbeat_timeout = 3"))
    assert tree.ctl("reload").stdout == "dev: reloaded; removed: dev.third\n"
    tree.wait_status(lambda status: len(status.children) == 3)
    assert pids(tree) == {name: after[name] for name in NAMES}
    assert not (tree.runtime_dir / "dev.third.sock").exists()


def test_a_reload_restarts_nobody_for_what_is_told_or_concerns_the_supervisor(trees, tmp_path):
    tree = trees(config(supervisor='log_level = "ERROR"')).wait_ready()
    before = pids(tree)
    event = asm.Event.new(type="message_sent", session_id="ses_1")
    with tree.connect() as store:
        store.append_event(event)
        life = 'restart = "transient"\non_failure = "shutdown"\nretry_after = 5\nstart_timeout = 5\nstop_timeout = 5'
        policy = 'strategy = "one_for_all"\nmax_restarts = 5\nmax_seconds = 5\nbackoff = {first = 1}\nlog_level = "INFO"'
        changed = config(supervisor=policy, artifacts=f"{FILES}\n{life}\nheartbeat_timeout = 20")
        (tmp_path / "tree0.toml").write_text(changed)
        assert tree.ctl("reload").stdout == f"dev: reloaded; adjusted: {', '.join(NAMES)}\n"
        assert [stored.id for stored in store.get_events("ses_1")] == [event.id]  # what memory holds
    status = tree.status()
    assert {child.name: child.pid for child in status.children} == before
    assert tree.stop() == 0
    records = [json.loads(line) for line in tree.stderr]
    assert not any(record["event"] == "serving" for record in records)
    assert {record["child"] for record in records if record["event"] == "stopped"} == set(NAMES)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (config(artifacts=FILES.replace("root", "rooot")), "backend[1].rooot: rooot is no option of FileArtifactStore"),
        (config().replace('name = "dev"', 'name = "prod"'), "supervisor.name: cannot change while the tree runs"),
        (config(supervisor="allow_users = [12345]"), "supervisor.allow_users: cannot change while the tree runs"),
        ("[supervisor", "is no TOML"),
    ],
)
def test_a_bad_configuration_changes_nothing_and_says_so(trees, tmp_path, bad, said):
    tree = trees(config()).wait_ready()
    before = pids(tree)
    (tmp_path / "tree0.toml").write_text(bad)
    done = tree.ctl("reload")
    assert done.returncode == 78
    assert all(line.startswith(f"{tmp_path}/tree0.toml: ") for line in done.stderr.splitlines())
    assert said in done.stderr
    tree.signal(signal.SIGHUP)
    tree.wait_status(lambda _: sum("nothing was changed" in line for line in list(tree.stderr)) == 2)
    records = [json.loads(line) for line in tree.stderr if "nothing was changed" in line]
    assert all(record["level"] == "error" and said in record["event"] for record in records)
    assert pids(tree) == before
    assert tree.status().state == "ready"


def test_stop_waits_until_nothing_is_left(memory_tree):
    left = [psutil.Process(pid) for pid in pids(memory_tree).values()]
    done = memory_tree.ctl("stop", "dev")
    assert (done.returncode, done.stdout, done.stderr) == (0, "dev: stopped\n", "")
    assert not any(process.is_running() for process in left)
    assert list(memory_tree.runtime_dir.iterdir()) == []
    assert memory_tree.wait() == 0
    for arguments in (["status"], ["status", "dev"], ["stop"], ["reload", "dev"], ["restart", "dev.sessions"]):
        gone = memory_tree.ctl(*arguments)
        assert (gone.returncode, gone.stdout, len(gone.stderr.splitlines())) == (3, "", 1), gone


def test_what_cannot_be_done_is_one_line_and_an_exit_code(memory_tree, trees, runtime_dir):
    second = config().replace("dev", "two").replace("MyApp", "Two")
    trees(second.replace('"artifacts"', '"other"'), runtime_dir=runtime_dir).wait_ready()
    refused = {
        ("restart", "nobody", "--tree", "dev"): (1, "dev has no child 'nobody'; it has: dev.sessions, dev.artifacts, MyApp"),
        ("status", "MyApp.Store"): (1, "MyApp.Store is a store, and no tree; trees that run: dev, two"),
        ("stop",): (2, "several trees are running: dev, two; say which one is meant"),
        ("status", "../dev"): (1, "'../dev' is no name"),
    }
    for arguments, (code, said) in refused.items():
        done = memory_tree.ctl(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done
        assert said in done.stderr
    both = memory_tree.ctl("status")
    assert both.returncode == 0
    assert "dev: ready" in both.stdout
    assert "two: ready" in both.stdout


def test_two_trees_cannot_have_one_name(memory_tree, trees):
    second = trees(config().replace('"dev.', '"other.').replace("MyApp", "Other"))
    assert second.wait() == 69
    assert any(f"in use by process {memory_tree.process.pid}" in line for line in second.stderr)
    assert memory_tree.status().state == "ready"


# -- the name of the supervisor


def test_a_supervisor_that_does_not_answer(memory_tree):
    with control.attach("dev", runtime_dir=memory_tree.runtime_dir, timeout=0.2) as supervisor:
        process = psutil.Process(memory_tree.process.pid)
        process.suspend()
        with pytest.raises(asm.Error) as caught:
            supervisor.status()
        assert control.trees(memory_tree.runtime_dir) == ["dev"]
        process.resume()
    assert caught.value.code == "timeout"
    worker = memory_tree.child("dev.sessions")
    worker.suspend()
    assert control.trees(memory_tree.runtime_dir) == ["dev"]
    worker.resume()


def test_rubbish_costs_its_sender_the_connection(lasting_memory_tree):
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x01\xc1", b"\x7f\x01\x00\x01", b"\x00\x00"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(lasting_memory_tree.runtime_dir / "dev.sock"))
            connection.sendall(rubbish)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert lasting_memory_tree.status().state == "ready"


def test_what_is_no_operation_is_answered(lasting_memory_tree):
    wrong = [
        ("artifact.get", {"key": "key"}, "capability_not_supported"),
        ("explode", {}, "invalid_operation"),
        ("control.status", {"name": "dev"}, "validation_error"),
        ("control.restart", {}, "validation_error"),
        ("control.restart", {"name": 5}, "validation_error"),
    ]
    with control.attach("dev", runtime_dir=lasting_memory_tree.runtime_dir) as supervisor:
        for method, arguments, code in wrong:
            with pytest.raises(asm.Error) as caught:
                supervisor._connection.call(method, arguments)
            assert caught.value.code == code
        assert supervisor.status().state == "ready"


def test_the_service_manager_is_told(trees, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)

        def told(*, until):
            """The messages up to this one, without the status."""
            messages = []
            while until not in messages:
                message = manager.recv(4096).decode().partition("\n")[0]
                if not message.startswith("STATUS="):
                    messages.append(message)
            return messages

        tree = trees(config(), env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000000"})
        assert "READY=1" in told(until="READY=1")
        (tmp_path / "tree0.toml").write_text("[supervisor")
        assert tree.ctl("reload").returncode == 78
        assert told(until="RELOADING=1") + told(until="READY=1") == ["RELOADING=1", "READY=1"]
        (tmp_path / "tree0.toml").write_text(config(artifacts=f"{FILES}\nheartbeat_timeout = 3"))
        assert tree.ctl("reload").returncode == 0
        assert told(until="READY=1")[0] == "RELOADING=1"
        tree.signal(signal.SIGTERM)
        told(until="STOPPING=1")
        assert tree.wait() == 0
