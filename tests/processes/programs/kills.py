"""How a test has processes killed in the middle of a write, at each step of it, and looks at what they left behind."""

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import sqlalchemy

from asm.adapters.sql.urls import parse_url

HERE = Path(__file__).parent


class Forks:
    """A process that makes calls in processes forked from it."""

    def __init__(self):
        command = [sys.executable, HERE / "forks.py", "writes", "killing", "alembic.command", "alembic.config"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.with_name("stores")), *sys.path])}
        # Who is killed leaves no coverage, and under it each of so many forks begins a file of its own.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def call(self, function, **arguments):
        """Call a function of ``programs/writes.py``; return how its process ended."""
        self._process.stdin.write(json.dumps([f"writes:{function}", arguments]) + "\n")
        return int(self._process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()


def killed_at_every_step(fuse, attempt, stride=1):
    """Have a write killed at its first step, at its second, … until it lives.

    :param attempt: makes a write, the one of that number, looks at what is there then, and returns how the process ended and
        whether it is the ``old`` or the ``new``.
    :param stride: more than one leaves out steps.
    """
    found = []
    for number in itertools.count(1, stride):
        fuse.write_text(str(number))
        ended, state = attempt(number)
        assert ended in (0, -signal.SIGKILL)
        assert not fuse.exists()
        found.append(state)
        if ended == 0:
            _check(found)
            assert stride > 1 or found[-2] == "new"  # one was killed before it could tell
            return


def killed_at_every_byte(stride, attempt):
    """Have a write killed at the first byte of a file, at one that stands ``stride`` bytes behind it, … until it lives."""
    found = []
    for most in itertools.count(0, stride):
        ended, state = attempt(most)
        assert ended in (0, -signal.SIGXFSZ)
        found.append(state)
        if ended == 0:
            _check(found)
            return


def _check(found):
    """There was one moment at which the old became the new."""
    assert found == sorted(found, reverse=True), found
    assert (found[0], found[-1]) == ("old", "new"), found


# -- What they left in a database ------------------------------------------------------------------------------------------


def nothing_is_left(path):
    """Nobody has the database open, and nothing is left beside it."""
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asm' AND datname = current_database()"


def bare(url):
    """An engine without anything of ours."""
    return sqlalchemy.create_engine(parse_url(url), poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT")


def settle(url):
    """Wait until a server has noticed that whoever was killed is gone: the last that they said may have been COMMIT.

    The database must be one that nobody else has open.
    """
    if url.startswith("postgresql"):
        with bare(url).connect() as connection:
            while connection.exec_driver_sql(OTHERS).scalar():
                pass
