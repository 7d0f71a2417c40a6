"""How a tree starts and stops."""

import asyncio
import concurrent.futures
import json
import os
import signal
import stat
import subprocess
import sys

import psutil
import pytest

import asm

PATIENCE = 30.0

MISBEHAVING = """
[supervisor]
name = "odd"

[[backend]]
name = "first"
store = "memory"

[[backend]]
name = "second"
{second}

[composite]
name = "Odd.Store"
session_store = "first"
artifact_store = "second"
"""


def log(tree):
    """The records of the log."""
    return [json.loads(line) for line in tree.stderr if line.startswith("{")]


def order(tree, event):
    return [record["child"] for record in log(tree) if record["event"] == event]


def test_backends_start_in_the_declared_order_and_the_composite_last(tree):
    assert tree.stop() == 0
    assert order(tree, "serving") == ["dev.sessions", "dev.artifacts", "MyApp.Store"]


def test_a_tree_stops_in_reverse_order_with_exit_code_0(tree):
    left = tree.processes()
    assert tree.stop() == 0
    assert order(tree, "stopped") == ["MyApp.Store", "dev.artifacts", "dev.sessions"]
    assert [process for process in left if process.is_running()] == []
    assert list(tree.runtime_dir.iterdir()) == []


def test_sigint_stops_it_too(tree):
    tree.signal(signal.SIGINT)
    assert tree.wait() == 0


def test_every_line_of_the_log_is_json_and_names_its_child(tree):
    tree.stop()
    assert tree.stderr
    for line in tree.stderr:
        assert {"child", "event", "level", "timestamp"} <= json.loads(line).keys()


def test_the_ready_line_names_what_can_be_connected_to(tree):
    (line,) = [line for line in tree.stdout if "ready" in line]
    for name in ("MyApp.Store", "dev.sessions", "dev.artifacts"):
        assert name in line


def test_processes_are_titled_by_name(tree):
    titles = {process.cmdline()[0] for process in tree.processes() if process.cmdline()}
    assert {"asm: dev.sessions", "asm: dev.artifacts", "asm: MyApp.Store"} <= titles
    assert psutil.Process(tree.process.pid).cmdline()[0].startswith("asm: dev")


def test_names_are_open_to_the_user_alone(tree):
    assert stat.S_IMODE(tree.runtime_dir.stat().st_mode) == 0o700
    for path in tree.runtime_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ('store = "misbehaving:Failing"', "the disk is on fire"),
        ('store = "misbehaving:Exiting"', "3"),
        ('store = "misbehaving:NeverUp"\nstart_timeout = 0.5', "0.5"),
    ],
)
def test_if_one_does_not_come_up_those_that_did_are_stopped(trees, second, reason):
    config = MISBEHAVING.format(second=second).replace(
        'artifact_store = "second"', 'artifact_store = {store = "file", root = "r"}'
    )
    config = config.replace('session_store = "first"', 'session_store = "second"')
    tree = trees(config)
    assert tree.wait() == 69
    assert order(tree, "serving") == order(tree, "stopped") == ["first"]
    assert not any("ready: " in line for line in tree.stdout)
    said = [line for line in tree.stderr if not line.startswith("{")]
    assert any("second" in line and reason in line for line in said), said
    assert list(tree.runtime_dir.iterdir()) == []


def test_sigterm_during_the_start_stops_what_had_started(trees):
    second = 'store = "misbehaving:NeverUp"\nstop_timeout = 600.0'  # a stop that waits for its constructor takes too long
    config = MISBEHAVING.format(second=second).replace(
        'artifact_store = "second"', 'artifact_store = {store = "file", root = "r"}'
    )
    tree = trees(config.replace('session_store = "first"', 'session_store = "second"')).wait_for('"serving"')
    left = tree.processes()
    assert tree.stop() == 0
    assert [process for process in left if process.is_running()] == []
    assert list(tree.runtime_dir.iterdir()) == []


def gated(trees, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    second = f'store = "misbehaving:Gated"\nroot = "artifacts"\ngate = "{gate}"'
    return trees(MISBEHAVING.format(second=second)).wait_ready(), gate


def test_sigterm_during_a_call_lets_it_finish(trees, tmp_path):
    tree, gate = gated(trees, tmp_path)
    with tree.connect("Odd.Store") as store, concurrent.futures.ThreadPoolExecutor() as pool:
        putting = pool.submit(store.put, "key", b"whole")
        with open(gate, "w"):  # from here on the put is under way
            tree.signal(signal.SIGTERM)
            tree.wait_for("stopping")
        putting.result(PATIENCE)
    assert tree.wait() == 0
    again = trees(MISBEHAVING.format(second='store = "file"\nroot = "artifacts"')).wait_ready()
    with again.connect("Odd.Store") as store:
        assert store.get("key") == b"whole"


@pytest.mark.parametrize("name", ["MyApp.Store", "dev.sessions"])
def test_a_long_poll_does_not_hold_up_the_stop(memory_tree, name):
    async def scenario():
        async with memory_tree.aconnect(name) as store:
            waiting = asyncio.create_task(store.get_events("ses_1", wait_timeout_ms=600_000))
            assert await store.get_latest_sequence("ses_1") == 0
            memory_tree.signal(signal.SIGTERM)
            with pytest.raises(asm.StorageError) as caught:
                await waiting
            return caught.value.details["reason"]

    assert asyncio.run(scenario()) == "shutting_down"
    assert memory_tree.wait() == 0


def test_a_slow_call_holds_up_no_other(trees, tmp_path):
    tree, gate = gated(trees, tmp_path)
    with tree.connect("Odd.Store") as store, concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(store.put, "slow", b"")
        with open(gate, "w"):
            assert store.get_latest_sequence("ses_1") == 0
            assert store.list() == []
            assert not slow.done()
        slow.result(PATIENCE)


def test_a_second_signal_kills(trees, tmp_path):
    tree, gate = gated(trees, tmp_path)
    with tree.connect("Odd.Store") as store, concurrent.futures.ThreadPoolExecutor() as pool:
        putting = pool.submit(store.put, "key", b"never")
        with open(gate, "w"):
            left = tree.processes()
            tree.signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                tree.process.wait(0.2)  # it waits for the put; and signals that come right after each other count as one
            tree.signal(signal.SIGTERM)
            assert tree.wait() == 128 + signal.SIGTERM
        assert putting.exception(PATIENCE) is not None
    assert psutil.wait_procs(left, PATIENCE)[1] == []


def test_signals_that_come_when_the_tree_has_ended_change_nothing(tree):
    tree.signal(signal.SIGINT)
    tree.wait_for("dev: stopped by SIGINT")
    while tree.process.poll() is None:
        tree.signal(signal.SIGTERM)
    assert tree.wait() == 0


def test_two_trees_side_by_side(trees, runtime_dir, tmp_path):
    other = tmp_path / "other"
    config = MISBEHAVING.format(second='store = "file"\nroot = "{}"')
    left = trees(config.replace("{}", "left")).wait_ready()
    right = trees(config.replace("{}", "right"), runtime_dir=other).wait_ready()
    with left.connect("Odd.Store") as one, right.connect("Odd.Store") as two:
        one.put("key", b"left")
        two.put("key", b"right")
        assert (one.get("key"), two.get("key")) == (b"left", b"right")
    assert (left.stop(), right.stop()) == (0, 0)


def test_a_name_in_use_says_by_which_process(trees, tree):
    second = trees(
        '[supervisor]\nname="x"\n[composite]\nname="MyApp.Store"\nsession_store={store="memory"}\nartifact_store={store="file",root="r"}'
    )
    assert second.wait() == 69
    assert any(f"{tree.process.pid}" in line and "MyApp.Store" in line for line in second.stderr)
    with tree.connect() as store:
        assert store.get_latest_sequence("x") == 0


def test_both_stores_may_run_inside_the_composite(trees):
    config = """
        [supervisor]
        name = "inside"
        [[composite]]
        name = "Inside"
        session_store = { store = "sql", url = "sqlite:///inside.db" }
        artifact_store = { store = "file", root = "inside" }
    """
    tree = trees(config).wait_ready()
    with tree.connect("Inside") as store:
        event = store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses_1"))
        store.put("key", b"inside")
        tree.child("Inside").kill()
        while True:
            try:
                assert store.get_events("ses_1") == [event]
                break
            except asm.Error as error:
                assert error.retryable
        assert store.get("key") == b"inside"


def test_several_composites_may_share_a_backend(trees):
    config = MISBEHAVING.format(second='store = "file"\nroot = "r"').replace("[composite]", "[[composite]]")
    config += '[[composite]]\nname = "Other"\nsession_store = {store = "memory"}\nartifact_store = "second"\n'
    tree = trees(config).wait_ready()
    with tree.connect("Odd.Store") as one, tree.connect("Other") as two:
        one.put("key", b"shared")
        assert two.get("key") == b"shared"
        one.append_event(asm.Event.new(type="message_sent", session_id="ses_1"))
        assert two.get_latest_sequence("ses_1") == 0


def test_a_store_that_raises_anything_is_answered_and_lives_on(trees):
    config = MISBEHAVING.format(second='store = "misbehaving:Raising"').replace(
        'session_store = "first"', 'session_store = "second"'
    )
    config = config.replace('artifact_store = "second"', 'artifact_store = {store = "file", root = "r"}')
    tree = trees(config).wait_ready()
    pid = tree.child("second").pid
    with tree.connect("Odd.Store") as store:
        with pytest.raises(asm.Error) as caught:
            store.get_session("ses_1")
        assert caught.value.code == "internal_error"
        assert caught.value.details["exception"] == "ZeroDivisionError"
        assert "for ses_1" in caught.value.details["text"]
        assert store.get_latest_sequence("ses_1") == 0
    assert tree.child("second").pid == pid


def test_no_child_reruns_the_main_script(tmp_path, runtime_dir):
    """A script without the usual guard may start stores; its children do not run it again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import asm\n"
        "print('once')\n"
        f"with asm.InMemorySessionStore.start_link(name='s', runtime_dir={str(runtime_dir)!r}) as store:\n"
        "    print(store.get_latest_sequence('ses_1'))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout.split() == ["once", "0"]
    assert list(runtime_dir.iterdir()) == []
