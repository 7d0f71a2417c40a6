"""The supervisor is killed again and again while clients are at work, and each time the next one finds everything in order.

Short in the default run, long with ``--campaign``; ``--seed`` repeats what depends on chance.
"""

import contextlib
import functools
import os
import signal
import socket
import threading
import time

import psutil
from chaos_campaign import Campaign
from chaos_monkey import CONFIG, KILL, SUPERVISOR, is_stopped, lives
from supervisor_harness import Tree, wait_gone

import asm

PATIENCE = 30.0

KILLS = {True: 50, False: 3}
"""How often the supervisor is killed, in a campaign and in the default run."""

SECONDS_TO_END = {True: 3.0, False: PATIENCE}
"""How long its processes may be there then."""

ALLOWANCE = {True: 1.0, False: PATIENCE / 3}
"""By how many seconds a call may take longer than its timeout, for want of a processor."""


def test_the_next_supervisor_finds_all_data_and_nobody_in_its_way(trees, tmp_path, runtime_dir, chance, campaign):
    start = functools.partial(trees, CONFIG)
    with Campaign(start, tmp_path, runtime_dir, chance, seconds_to_end=SECONDS_TO_END[campaign]) as run:
        run.monkey.wait_ready()
        run.start_clients(2)
        for number in range(KILLS[campaign]):
            run.monkey.hit((SUPERVISOR, KILL))
            if number % 2:  # else the next one comes while they are still there
                run.watch.wait_ended()
            run.monkey.wait_ready()
            run.wait_answered()
        run.end_clients()
        run.reckon(ALLOWANCE[campaign])
        print(run.report)
        assert not any(run.findings.values())


def test_nobody_is_started_beside_one_who_was_stopped_while_he_finished(trees):
    tree = trees(CONFIG).wait_ready()
    worker = tree.child("dev.artifacts")
    ended = threading.Event()

    def data():
        yield bytes(300_000)
        yield bytes(300_000)
        ended.wait(PATIENCE)

    def put():
        with contextlib.suppress(asm.Error), tree.connect("dev.artifacts") as store:
            store.put("key", data())

    putting = threading.Thread(target=put)
    putting.start()
    try:
        tree.wait_child("dev.artifacts", lambda child: child.in_flight == 1)
        tree.process.kill()
        while not is_refused(tree.runtime_dir / "dev.artifacts.sock"):
            time.sleep(0.001)
        worker.suspend()  # nobody has its name any more, but it waits for the rest of the data
        while not is_stopped(worker):
            assert lives(worker)
        trees(CONFIG).wait_ready()
        assert not lives(worker)
    finally:
        ended.set()
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
        putting.join()


def test_a_supervisor_killed_right_after_it_started_the_fork_server_leaves_nobody(tmp_path):
    fifo = tmp_path / "fifo"  # nobody reads it: the import does not come to an end
    os.mkfifo(fifo)
    settings = {"preload": ["supervisor_slow_import"], "variables": {"SLOW_IMPORT_FIFO": str(fifo)}}
    with Tree(tmp_path, {"name": "a", "target": "serve"}, start_method="forkserver", **settings) as tree:
        while not any("forkserver import main" in command(pid) for pid in tree.children()):
            assert tree.process.poll() is None
        everybody = tree.children()
        tree.signal(signal.SIGKILL)
        assert wait_gone(everybody, timeout=3) == set()


def command(pid):
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())
    return ""


def is_refused(path):
    """Whether nobody listens on a socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
    return False
