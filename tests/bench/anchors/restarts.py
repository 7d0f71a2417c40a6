"""How long after SIGKILL a program runs again under other supervisors. It does nothing but note that it started."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time

from anchors.outside import NotInstalledError, ending, interpreter

PATIENCE = 30.0
"""Seconds after which a program counts as not started."""

SETTLED = 1.2
"""Seconds after which a program counts as started: all of these supervisors ask for a second."""

_PROGRAM = "import os, time; open('starts', 'a').write(f'{os.getpid()}\\n'); time.sleep(1000)"

_CIRCUS = "[circus]\ncheck_delay=1\nendpoint=ipc://endpoint\npubsub_endpoint=ipc://pubsub\n[watcher:program]\ncmd={command}\n"
_SUPERVISORD = (
    "[supervisord]\nnodaemon=true\nlogfile=log\npidfile=pid\n"
    "[program:program]\ncommand={command}\nautorestart=true\nstartsecs=0\n"
)


@contextlib.contextmanager
def circus(directory, peers_python):
    """Start circus, which looks after its programs every second. See :func:`_supervised`."""
    with _supervised(directory, peers_python, "circusd", "circus", _CIRCUS) as restart:
        yield restart


@contextlib.contextmanager
def supervisord(directory, peers_python):
    """Start supervisord. See :func:`_supervised`."""
    with _supervised(directory, peers_python, "supervisord", "supervisor", _SUPERVISORD, "-c") as restart:
        yield restart


@contextlib.contextmanager
def _supervised(directory, peers_python, name, package, config, *options):
    """Start a supervisor; the value is a function that kills its program, and returns the seconds until it runs again."""
    command = interpreter(peers_python).with_name(name)
    if not command.exists():
        raise NotInstalledError(f"pip install {package} 'setuptools<81'")
    (directory / "program.py").write_text(_PROGRAM)
    (directory / "config").write_text(config.format(command=shlex.join([sys.executable, "program.py"])))
    starts, output = directory / "starts", directory / "output"
    starts.touch()

    def after(count):
        deadline = time.monotonic() + PATIENCE
        while len(lines := starts.read_text().splitlines()) <= count:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"{name} ({process.poll()}) does not start its program: {output.read_text()[-500:]!r}")
            time.sleep(0.001)
        return lines

    def restart():
        lines = after(0)
        time.sleep(SETTLED)
        began = time.monotonic()
        os.kill(int(lines[-1]), signal.SIGKILL)
        after(len(lines))
        return time.monotonic() - began

    with (
        output.open("wb") as log,
        ending(
            subprocess.Popen(
                [command, *options, "config"],
                cwd=directory,
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},  # ours has a supervisor, too
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        ) as process,
    ):
        yield restart
