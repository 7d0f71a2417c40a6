"""Programs in processes of their own, for what several processes do to one store."""

import subprocess
import sys
import textwrap

import pytest

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
