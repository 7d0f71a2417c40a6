"""Nobody reads what a tree says: it works, restarts what dies, and stops all the same."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from configurations import configuration
from supervisor_harness import PATIENCE, session, wait_gone
from terminals import Terminal, ended
from warm import PROGRAM

import asm
from asm.client import control

CHATTY = configuration('store = "chatty:ChattySessionStore"')
STORES = os.pathsep.join([str(Path(__file__).parent / "stores"), *filter(None, [os.environ.get("PYTHONPATH")])])
CALLS = 200
"""Each says 30,000 bytes and more: 64 KiB fit into a pipe, 4 KiB into a terminal."""


def work(runtime_dir):
    """Call the store that talks, and have it restarted in between."""
    with asm.connect("MyApp.Store", runtime_dir=runtime_dir, timeout=PATIENCE) as store:
        for _ in range(CALLS):
            assert store.get_latest_sequence("ses_1") == 0
    with control.attach("dev", runtime_dir=runtime_dir) as tree:
        before = pids(tree)
        tree.restart("dev.sessions")  # of which the supervisor and two workers say something
        while "dev.sessions" not in (now := pids(tree)) or now["dev.sessions"] == before["dev.sessions"]:
            time.sleep(0.01)


def pids(tree):
    return {child.name: child.pid for child in tree.status().children if child.state == "ready"}


@pytest.mark.parametrize("end", ["SIGTERM", "reader comes back"])
def test_nobody_reads_the_pipe(tmp_path, runtime_dir, end):
    (tmp_path / "tree.toml").write_text(CHATTY)
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(runtime_dir), "PYTHONPATH": STORES}
    reader, writer = os.pipe()
    with ended(
        subprocess.Popen([PROGRAM, "tree.toml"], cwd=tmp_path, env=environment, stdout=writer, stderr=writer)
    ) as process:
        os.close(writer)
        said = b""
        while b"ready: " not in said:
            said += os.read(reader, 65536)
        work(runtime_dir)
        if end == "SIGTERM":
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        else:
            lost = b"lines of the log were lost, because nobody read them"
            with asm.connect("MyApp.Store", runtime_dir=runtime_dir) as store:
                for _ in range(CALLS):
                    store.get_latest_sequence("ses_1")
            while lost not in said:
                said += os.read(reader, 65536)
            reading = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 65536), b"")])
            reading.start()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            reading.join()
    os.close(reader)


def test_a_terminal_is_told_to_show_nothing(tmp_path, runtime_dir):
    with Terminal(tmp_path, runtime_dir, PROGRAM, "tree.toml", config=CHATTY, PYTHONPATH=STORES) as terminal:
        terminal.wait_for("ready: ")
        everybody = session(terminal.pid)
        terminal.write("\x13")  # Ctrl-S
        work(runtime_dir)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == 0
        assert not wait_gone(everybody)


def test_nobody_reads_what_linked_stores_say(tmp_path, runtime_dir):
    program = f"""
import sys
import asm
from chatty import ChattySessionStore
with ChattySessionStore.start_link(timeout={PATIENCE}) as store:
    for _ in range({CALLS}):
        store.get_latest_sequence("ses_1")
print("done", flush=True)
"""
    environment = {**os.environ, "ASM_RUNTIME_DIR": str(runtime_dir), "PYTHONPATH": STORES}
    command = [sys.executable, "-c", program]
    reader, writer = os.pipe()
    with ended(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=writer)) as process:
        os.close(writer)
        assert b"done" in process.stdout.read()
        assert process.wait(PATIENCE) == 0
    os.close(reader)
