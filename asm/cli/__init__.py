"""The command lines: ``asm-supervise CONFIG`` runs a tree, ``asmctl`` looks after it.

Before they import what they need, which takes its time, both make sure that they have what every program expects to have.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Final

__all__ = ["control", "supervise"]

EXIT_UNAVAILABLE: Final = 69
"""From sysexits.h: something that is needed is not there."""


def supervise() -> None:
    """Run ``asm-supervise``."""
    _run("asm-supervise", "asm.cli.run")


def control() -> None:
    """Run ``asmctl``."""
    _run("asmctl", "asm.cli.ctl")


def _run(program: str, module: str) -> None:
    """Run a program, or say what has to be installed for it."""
    _hear_signals()
    _open_standard_files()
    try:
        app = importlib.import_module(module).app
    except ModuleNotFoundError as error:
        from asm.registry import missing  # noqa: PLC0415  # seldom needed

        sys.stderr.write(f"{missing(program, error).message}\n")
        sys.exit(EXIT_UNAVAILABLE)
    app(prog_name=program)


def _hear_signals() -> None:
    """Let signals through that whoever started this program has blocked; and as PID 1, whom none ends, end at SIGTERM."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, _frame: os._exit(128 + number))


def _open_standard_files() -> None:
    """Have the standard files, also when they are closed: else a socket takes the place of one, and gets what is said."""
    for file in (0, 1, 2):
        try:
            os.fstat(file)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    for file, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(file, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # a descriptor
