"""Programs in processes of their own, for what several processes do to one store; and models that stores are compared with."""

import random
import subprocess
import sys
import textwrap

import pytest
from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

PROLOGUE = """
import sys
from asm.adapters import SqlSessionStore
from asm.core.errors import Error
from asm.core.values import Event, Run, Session

def say(*words):
    print(*words, flush=True)
"""


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
