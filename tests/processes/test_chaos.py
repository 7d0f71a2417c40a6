"""A campaign of chaos: clients append, flush, put and read while everything that can be killed is killed.

Short in the default run. With ``--campaign`` it is long; ``--seed`` repeats what depends on chance, ``--kills`` and
``--duration`` (seconds) bound it. At the end it says what was acknowledged, and what became of it.
"""

import functools
import time
from typing import NamedTuple

import psutil
import pytest
from chaos_campaign import Campaign
from chaos_monkey import ARTIFACTS, COMPOSITE, CONFIG, FORK_SERVER, KILL, SESSIONS, SUPERVISOR

PATIENCE = 30.0

MAX_GROWTH = 32 * 1024 * 1024
"""By how many resident bytes a process may grow. Not of its share: that grows when those end with whom it shared pages."""

MAX_FILES = 8
"""How many descriptors more it may have then. Of what clients had open, nothing may be left."""


class Scale(NamedTuple):
    """How much of everything."""

    kills: int
    clients: int
    allowance: float
    """By how many seconds a call may take longer than its timeout, for want of a processor."""
    seconds_to_end: float
    """How long the processes of a killed supervisor may be there."""


SHORT = Scale(kills=12, clients=4, allowance=PATIENCE / 3, seconds_to_end=PATIENCE)
LONG = Scale(kills=1000, clients=4, allowance=1.0, seconds_to_end=3.0)


@pytest.fixture
def scale(request, campaign):
    scale = LONG if campaign else SHORT
    return scale._replace(kills=request.config.getoption("--kills") or scale.kills)


def measure(status):
    """How many descriptors and how much memory the supervisor and the composite have."""
    pids = {SUPERVISOR: status.pid} | {child.name: child.pid for child in status.children if child.name == COMPOSITE}
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    return {name: (process.num_fds(), process.memory_info().rss) for name, process in processes.items()}


def check_growth(when, before, after, *, files):
    """Nobody has grown too much; those in ``files`` have no more descriptors than before."""
    for name in before:
        more_files, more_bytes = (now - then for now, then in zip(after[name], before[name], strict=True))
        print(f"{when} {name} has grown by {more_files} descriptors and {more_bytes / 1024**2:.1f} MiB")
        assert more_bytes < MAX_GROWTH, name
        assert name not in files or more_files < MAX_FILES, name


def test_nothing_acknowledged_is_lost_whatever_dies(trees, tmp_path, runtime_dir, seed, chance, scale, request):
    began = time.monotonic()
    until = began + (request.config.getoption("--duration") or float("inf"))
    start = functools.partial(trees, CONFIG)
    with Campaign(start, tmp_path, runtime_dir, chance, seconds_to_end=scale.seconds_to_end) as campaign:
        monkey = campaign.monkey
        at_rest = measure(monkey.wait_ready())
        campaign.start_clients(scale.clients)
        while monkey.blows.total() < scale.kills * 0.8 and time.monotonic() < until:
            monkey.strike()

        # From here on the supervisor and the composite live, and must not grow.
        before = measure(monkey.wait_ready())
        while monkey.blows.total() < scale.kills and time.monotonic() < until:
            monkey.hit((chance.choice([SESSIONS, ARTIFACTS, FORK_SERVER]), KILL))
            monkey.wait_ready()
        after = measure(monkey.wait_ready())
        campaign.end_clients()
        in_the_end = measure(monkey.wait_ready())
        campaign.reckon(scale.allowance)
        print(campaign.report)
        check_growth("while others were killed", before, after, files={SUPERVISOR})
        check_growth("from rest to rest", at_rest, in_the_end, files={SUPERVISOR, COMPOSITE})
        print(f"{time.monotonic() - began:.0f} s, seed {seed}")
        assert not any(campaign.findings.values())
