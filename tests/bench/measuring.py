"""How it is measured: how much of everything, what a run has, medians, and processes that are let go together."""

import collections
import contextlib
import itertools
import multiprocessing
import statistics
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from anchors.outside import NotInstalledError

import asm

PATIENCE = 120.0
"""Seconds after which a measurement gives up on an event."""

CONTENT = "x" * 80

_FORK = multiprocessing.get_context("fork")


class Size(NamedTuple):
    """How much of everything."""

    calls: int
    """Calls of a client in a round."""
    events: int
    """Events of a long history."""
    sessions: int
    """Sessions of a store with many."""
    polls: int
    """Long-polls that wait."""
    artifact: int
    """Bytes of an artifact."""
    artifacts: int
    """Artifacts of a store with many."""
    kills: int
    """How often a worker is killed in a round."""
    seconds: float
    """For how long an idle tree is watched in a round."""
    share: bool = False
    """Whether trees serve one measurement after another, when it is their start that takes the time."""


SIZES = {
    "full": Size(3000, 1_000_000, 100_000, 1000, 512 * 1024**2, 100_000, 5, 4.0),
    "quick": Size(500, 50_000, 10_000, 200, 64 * 1024**2, 10_000, 2, 1.0),
    "tiny": Size(20, 2000, 1100, 20, 1024**2, 1100, 1, 0.1, share=True),
}


class Bench:
    """A run: how much of everything, where it may write, and which anchors are not installed here.

    A context manager: what it shares ends with it.
    """

    def __init__(self, size, rounds, directory, peers_python=None):
        self.size = size
        self.rounds = rounds
        self.peers_python = peers_python
        self.absent = {}
        """The command that installs it, for each anchor that is not here."""
        self._directory = Path(directory)
        self._numbers = itertools.count()
        self._shared = contextlib.ExitStack()
        self._free = collections.defaultdict(list)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self._shared.close()

    def directory(self):
        """Make a directory; its path is short enough for sockets."""
        path = self._directory / str(next(self._numbers))
        path.mkdir()
        return path

    @contextlib.contextmanager
    def shared(self, kind, make):
        """Start something, or take one of its kind that is free; what has gone wrong is not used again."""
        free = self._free[kind]
        taken = free.pop() if free else self._shared.enter_context(make())
        yield taken
        free.append(taken)

    @contextlib.contextmanager
    def anchor(self, names, make):
        """Start an anchor, a context manager that ``make`` returns; None when it is not installed.

        :param names: the names of the figures that it gives.
        """
        with contextlib.ExitStack() as stack:
            try:
                started = stack.enter_context(make())
            except NotInstalledError as missing:
                self.absent |= dict.fromkeys(names, str(missing))
                started = None
            yield started


def event(session_id="ses_bench", **fields):
    """Make an event of about 200 bytes."""
    return asm.Event.new(**{"type": "message_received", "session_id": session_id, "data": {"content": CONTENT}} | fields)


def median_of(call, count, warm_up=100):
    """Make so many calls; return the median of what they took, in microseconds."""
    for _ in range(min(warm_up, count)):
        call()
    return statistics.median(_took(call) for _ in range(count))


def medians_of(calls, count, warm_up=50):
    """Make the calls of each in turn; return the median of each, in microseconds."""
    for call in calls:
        for _ in range(min(warm_up, count)):
            call()
    took = [[_took(call) for call in calls] for _ in range(count)]
    return [statistics.median(column) for column in zip(*took, strict=True)]


def _took(call):
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1000


def together(count, prepare, patience=PATIENCE):
    """Run work in so many processes at once.

    :param prepare: called in each with its number; connects, warms up, and returns what is to be timed.
    :param patience: how many seconds it may take.
    :returns: the seconds from the first one's beginning to the last one's end, and what each returned.
    """
    barrier = _FORK.Barrier(count)
    ends = [_FORK.Pipe(duplex=False) for _ in range(count)]
    processes = [_FORK.Process(target=_work, args=(prepare, at, barrier, ends[at][1]), daemon=True) for at in range(count)]
    try:
        for process in processes:
            process.start()
        answers = [_receive(end, patience) for end, _ in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in itertools.chain(*ends):
            end.close()
    failures = [failure for _, _, _, failure in answers if failure]
    if failures:
        raise RuntimeError(failures[0])
    return max(end for _, end, _, _ in answers) - min(began for began, _, _, _ in answers), [told for _, _, told, _ in answers]


def _receive(end, patience):
    if not end.poll(patience):
        raise TimeoutError("a client does not come to an end")
    return end.recv()


def _work(prepare, number, barrier, end):
    try:
        work = prepare(number)
        barrier.wait(PATIENCE)
        began = time.monotonic()
        told = work()
        end.send((began, time.monotonic(), told, None))
    except BaseException:  # noqa: BLE001  # whoever started it is told
        barrier.abort()
        end.send((0, 0, None, traceback.format_exc()))
