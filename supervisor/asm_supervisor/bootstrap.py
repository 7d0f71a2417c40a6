"""What runs in a child before its target and after it.

Whatever way a process came to be, its target finds the same: the parent's environment of the moment of the start, SIGINT
and SIGHUP ignored, SIGTERM with its default action, a lifeline that has said hello and is watched, and nothing of the parent's.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from asm_supervisor.launch import Parcel
from asm_supervisor.lifeline import Lifeline

__all__ = ["run_child"]

logger = logging.getLogger("asm_supervisor")

EXIT_PATIENCE: Final = 2.0
"""How many seconds the last lines of output have, before the process ends without them."""


def run_child(
    *,
    name: str,
    target: str,
    kwargs: Parcel,
    connection: Any,
    listening: socket.socket | None,
    environment: Mapping[str, str],
    grace: float,
    restarts: int,
    recovers: bool,
    heartbeat: float | None,
    settings: Mapping[str, Any],
) -> NoReturn:
    """Run a child, from its first line to its exit.

    :param target: ``package.module:function``.
    :param kwargs: the arguments of the function.
    :param connection: the child's end of the lifeline.
    :param grace: how many seconds after the parent's death this process ends, if it is still there.
    :param restarts: how many processes the child had before this one.
    :param recovers: whether it is to go on where one of them died.
    :param heartbeat: every how many seconds it is to beat; ``None``: it need not.
    :param settings: what it may be told anew.
    """
    _reset_signals()
    _set_environment(environment)
    if listening is not None:
        listening.setblocking(True)  # the flag is the socket's and not the process's: the one before may have changed it
        listening.set_inheritable(False)  # the method spawn left it inheritable
    lifeline = Lifeline(
        name, connection, listening, restarts=restarts, recovers=recovers, heartbeat=heartbeat, settings=settings
    )
    lifeline.attach(grace)
    _exit(_run(lifeline, target, kwargs))


def _run(lifeline: Lifeline, target: str, kwargs: Parcel) -> int:
    """Call the target; return the exit status."""
    try:
        _find(target)(lifeline, **kwargs.open())
    except SystemExit as request:
        if request.code is None or isinstance(request.code, int):
            return (request.code or 0) & 0xFF
        logger.critical("%s: %s", lifeline.name, request.code, extra={"child": lifeline.name, "pid": os.getpid()})
        lifeline.failed({"code": "exited", "message": str(request.code)})
        return 1
    except BaseException as error:
        logger.critical(
            "%s: uncaught %s",
            lifeline.name,
            type(error).__name__,
            exc_info=True,
            extra={"child": lifeline.name, "pid": os.getpid()},
        )
        message = "".join(traceback.format_exception_only(error)).strip()
        lifeline.failed({"code": "exception", "type": type(error).__qualname__, "message": message})
        return 1
    return int(lifeline.told == "failed")


def _find(target: str) -> Callable[..., None]:
    module, function = target.split(":")
    found: Callable[..., None] = getattr(importlib.import_module(module), function)
    return found


def _reset_signals() -> None:
    """Forget the handlers that a fork inherited, and take the signals that the parent, or whoever started it, blocked."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    # A terminal sends SIGINT to the whole group, and SIGHUP when it goes. What is to stop, and when, is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take from the target how its own children end
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _set_environment(environment: Mapping[str, str]) -> None:
    """Take the parent's environment: a fork server still has the one that it was started with."""
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _exit(status: int) -> NoReturn:
    """End the process, whatever its other threads are doing."""
    # One of them may hold the lock of a stream or a log handler for ever.
    with contextlib.suppress(Exception):
        timer = threading.Timer(EXIT_PATIENCE, os._exit, (status,))
        timer.daemon = True
        timer.start()
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
