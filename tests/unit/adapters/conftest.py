"""What several modules share: a store in each database, programs in processes of their own, and models to compare with."""

import random
import subprocess
import sys
import textwrap

import pytest
import sqlalchemy
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from asm.adapters import SqlSessionStore
from asm.adapters.sql.urls import parse_url

PROLOGUE = """
import sys
from asm.adapters import SqlSessionStore
from asm.core.errors import Error
from asm.core.values import Event, Run, Session

def say(*words):
    print(*words, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    """A store in an empty database of either kind."""
    with SqlSessionStore(url=url) as made:
        yield made


@pytest.fixture
def behind(url):
    """A function that runs a statement behind the store's back."""
    engine = sqlalchemy.create_engine(parse_url(url), poolclass=sqlalchemy.pool.NullPool)

    def execute(statement, **parameters):
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement), parameters)

    return execute


class Program:
    """A Python program in another process, which says what it does line by line."""

    def __init__(self, source, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROLOGUE + textwrap.dedent(source), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self):
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()}"
        return line.split()

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


@pytest.fixture
def start():
    """A function that starts programs, which end with the test."""
    programs = []

    def starting(*args):
        programs.append(Program(*args))
        return programs[-1]

    yield starting
    for program in programs:
        program.process.kill()
        program.process.communicate()


@pytest.fixture
def explore(request):
    """A function that lets a state machine loose: the same way every time; with ``--campaign`` another way, and for longer."""
    campaign = request.config.getoption("--campaign", default=False)
    given = request.config.getoption("--seed", default=None)

    def run(machine, *, examples, steps):
        chosen = settings(
            max_examples=50 * examples if campaign else examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not campaign,
            phases=[Phase.generate],  # making a failure smaller takes longer than a test may
        )
        if campaign or given is not None:
            number = random.randrange(2**32) if given is None else given
            print(f"seed {number}")
            machine = seed(number)(machine)
        run_state_machine_as_test(machine, settings=chosen)

    return run
