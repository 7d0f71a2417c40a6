"""Programs of others, in processes of their own: found or not, started, asked line by line, ended."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

PATIENCE = 60.0
"""Seconds after which a program that should have ended is killed."""


class NotInstalledError(Exception):
    """What an anchor needs is not here. The message is the command that installs it."""


class Outside:
    """A program that prints one JSON line when it is ready, and one for each line that it reads. It ends with its input."""

    def __init__(self, *command, **options):
        self._command = [str(part) for part in command]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options
        )
        try:
            self.told = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, *words):
        """Send a line and return the answer."""
        self._process.stdin.write(" ".join(str(word) for word in words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.wait(PATIENCE)}")

    def close(self):
        """End it."""
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


@contextlib.contextmanager
def ending(process):
    """Terminate a program at the end; kill it when it does not listen."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def interpreter(peers_python):
    """Return the interpreter in which the peers are looked for."""
    return Path(peers_python or sys.executable)
