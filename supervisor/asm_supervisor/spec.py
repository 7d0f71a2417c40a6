"""What a user writes: the description of a child, the strategies, and the check of both before anything starts."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from asm_supervisor.pipe import encode
from asm_supervisor.sockets import MAX_PATH_BYTES, lock_path

__all__ = [
    "ON_FAILURE",
    "RESTART",
    "START_METHODS",
    "STRATEGIES",
    "ChildSpec",
    "SpecError",
    "Strategy",
    "check_name",
    "check_settings",
    "check_specs",
    "check_start_method",
    "target_name",
]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a child may be called. It is the name of its files, and goes into logs as it is."""

START_METHODS: Final = ("forkserver", "spawn", "fork")
"""How a process may be started, as multiprocess names it."""

Strategy = Callable[[Sequence[str], str], Sequence[str]]
"""Takes the names of all children in start order and the one that died; returns those to start again, in start order."""

STRATEGIES: Final[Mapping[str, Strategy]] = {
    "one_for_one": lambda _order, died: [died],
    "rest_for_one": lambda order, died: order[order.index(died) :],
    "one_for_all": lambda order, _died: order,
}
"""Who is restarted with a child that died, by the name that OTP has for the strategy."""

RESTART: Final = ("permanent", "transient", "temporary")
"""When a child that ended is started again: always; unless it exited with status 0; never."""

ON_FAILURE: Final = ("degrade", "shutdown")
"""What follows when a child died too often: the others go on without it; the tree stops."""

MAX_HEARTBEAT: Final = 1.0
"""Every how many seconds a child beats at least. What its heartbeats tell of it is not older than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One child of a tree.

    :param name: unique in the tree; letters, digits, ``.``, ``_`` and ``-``, the first one a letter or digit.
    :param target: a function at the top level of a module that can be imported. It is called in the child as
        ``target(lifeline, **kwargs)`` (:class:`~asm_supervisor.lifeline.Lifeline`), and when it returns, the child exits.
    :param kwargs: arguments for ``target``; they are pickled, except with the start method ``fork``.
    :param settings: what the process may be told anew while it runs, so that a change of it needs no other process: JSON values
        with string keys, ``lifeline.settings``.
    :param listen: the path of an AF_UNIX socket that the parent owns, listens on and hands down as ``lifeline.socket``.
    :param rebinds: whether the target serves another listening socket when it is handed one while it runs
        (:attr:`Lifeline.on_socket <asm_supervisor.lifeline.Lifeline.on_socket>`). One that does not is restarted when the file
        of its socket was taken away.
    :param description: what the child is, in a few words for people.
    :param listen_mode: the permissions of that socket; whoever has the right to write may connect.
    :param restart: when it is started again: ``permanent``, always; ``transient``, unless it exited with status 0;
        ``temporary``, never.
    :param on_failure: what follows when it died too often: ``shutdown``, the tree stops; ``degrade``, the others go on.
    :param retry_after: after how many seconds it is tried again when it died too often and the others go on; 0: never.
    :param start_timeout: how many seconds it may take until it is ready.
    :param stop_timeout: how many seconds lie between SIGTERM and SIGKILL.
    :param heartbeat_timeout: after how many seconds without :meth:`~asm_supervisor.lifeline.Lifeline.beat` a child that is
        up counts as hung; ``None``: never.
    """

    name: str
    target: Callable[..., None]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    listen: Path | None = None
    rebinds: bool = False
    listen_mode: int = 0o600
    description: str = ""
    restart: Literal["permanent", "transient", "temporary"] = "permanent"
    on_failure: Literal["degrade", "shutdown"] = "shutdown"
    retry_after: float = 30.0
    start_timeout: float = 30.0
    stop_timeout: float = 10.0
    heartbeat_timeout: float | None = None

    @property
    def heartbeat(self) -> float | None:
        """Every how many seconds the process is to beat; ``None``: it need not."""
        return None if self.heartbeat_timeout is None else min(MAX_HEARTBEAT, self.heartbeat_timeout / 4)

    def makes_the_same(self, other: ChildSpec) -> bool:
        """Whether a process of the one is one of the other as well. The rest concerns its parent, or it can be told."""
        made_of = ("target", "kwargs", "listen", "listen_mode", "heartbeat")
        return all(getattr(self, name) == getattr(other, name) for name in made_of)


class SpecError(ValueError):
    """A child or a supervisor is described in a way that cannot work.

    :ivar child: the name of the child; ``None`` when a setting of the supervisor is meant.
    :ivar field: the name of the field or the setting.
    """

    def __init__(self, child: str | None, field: str, problem: str) -> None:
        super().__init__(f"{'the supervisor' if child is None else f'the child {child!r}'}: {field} {problem}")
        self.child = child
        self.field = field


def check_specs(specs: Iterable[ChildSpec]) -> tuple[ChildSpec, ...]:
    """Check each child, and all of them together.

    :raises SpecError: names the child and the field.
    """
    checked = tuple(specs)
    names: set[str] = set()
    paths: dict[str, str] = {}
    for spec in checked:
        _check_spec(spec)
        if spec.name in names:
            raise SpecError(spec.name, "name", "is there twice")
        names.add(spec.name)
        if spec.listen is None:
            continue
        path = Path(spec.listen).absolute()
        for taken in (str(path), str(lock_path(path))):
            if taken in paths:
                raise SpecError(spec.name, "listen", f"needs {taken}, which {paths[taken]!r} needs, too")
            paths[taken] = spec.name
    return checked


def check_name(name: str) -> None:
    """Check the name of a supervisor.

    :raises SpecError: when it is none.
    """
    if not isinstance(name, str) or not name:
        raise SpecError(None, "name", f"must be a string that is not empty, not {name!r}")


def check_settings(*, strategy: str, max_restarts: int, max_seconds: float) -> None:
    """Check the settings of a supervisor.

    :raises SpecError: names the setting.
    """
    if strategy not in STRATEGIES:
        raise SpecError(None, "strategy", f"is {strategy!r}; there is: {', '.join(STRATEGIES)}")
    if not isinstance(max_restarts, int) or isinstance(max_restarts, bool) or max_restarts < 0:
        raise SpecError(None, "max_restarts", f"must be a whole number, 0 or greater, not {max_restarts!r}")
    if not _is_duration(max_seconds):
        raise SpecError(None, "max_seconds", f"must be a number of seconds greater than 0, not {max_seconds!r}")


def check_start_method(start_method: str) -> None:
    """Check a start method.

    :raises SpecError: when there is no such one.
    """
    if start_method not in START_METHODS:
        raise SpecError(None, "start_method", f"is {start_method!r}; there is: {', '.join(START_METHODS)}")


def target_name(target: Callable[..., None]) -> str:
    """Return the name by which a child finds its target: ``package.module:function``."""
    return f"{target.__module__}:{target.__qualname__}"


def _check_spec(spec: ChildSpec) -> None:
    name = spec.name

    def refuse(field: str, problem: str) -> NoReturn:
        raise SpecError(str(name), field, problem)

    if not isinstance(name, str) or not NAME.fullmatch(name):
        refuse("name", "must be made of letters, digits, '.', '_' and '-', and begin with a letter or a digit")
    _check_target(spec)
    if not isinstance(spec.kwargs, Mapping) or not all(isinstance(key, str) for key in spec.kwargs):
        refuse("kwargs", f"must be a map with string keys, not {spec.kwargs!r}")
    _check_settings_of(spec)
    if spec.retry_after != 0 and not _is_duration(spec.retry_after):
        refuse("retry_after", f"must be a number of seconds, or 0, not {spec.retry_after!r}")
    for timeout in ("start_timeout", "stop_timeout", "heartbeat_timeout"):
        seconds = getattr(spec, timeout)
        if not _is_duration(seconds) and not (seconds is None and timeout == "heartbeat_timeout"):
            refuse(timeout, f"must be a number of seconds greater than 0, not {seconds!r}")
    for choice, choices in (("restart", RESTART), ("on_failure", ON_FAILURE)):
        if getattr(spec, choice) not in choices:
            refuse(choice, f"is {getattr(spec, choice)!r}; there is: {', '.join(choices)}")
    if spec.listen is not None:
        _check_listen(spec)


def _check_settings_of(spec: ChildSpec) -> None:
    try:
        encode("settings", spec.settings)
    except (TypeError, ValueError, OverflowError) as cause:
        raise SpecError(spec.name, "settings", f"must be a map of JSON values, and short: {cause}") from cause


def _check_listen(spec: ChildSpec) -> None:
    if not isinstance(spec.listen, str | os.PathLike):
        raise SpecError(spec.name, "listen", f"must be a path, not {spec.listen!r}")
    size = len(os.fsencode(Path(spec.listen).absolute()))
    if size > MAX_PATH_BYTES:
        raise SpecError(
            spec.name, "listen", f"is too long for an AF_UNIX socket: {size} bytes, {MAX_PATH_BYTES} fit: {spec.listen}"
        )
    if not isinstance(spec.listen_mode, int) or not 0o200 <= spec.listen_mode <= 0o777:
        raise SpecError(spec.name, "listen_mode", f"must be the permissions of a file, such as 0o600, not {spec.listen_mode!r}")


def _check_target(spec: ChildSpec) -> None:
    """Refuse what a child could not import: it gets the target's name and not the function."""
    module, qualname = getattr(spec.target, "__module__", None), getattr(spec.target, "__qualname__", None)
    if not callable(spec.target) or not module or not qualname:
        raise SpecError(spec.name, "target", f"must be a function of a module, not {spec.target!r}")
    if module == "__main__":
        raise SpecError(
            spec.name, "target", f"({qualname}) is defined in the main script, which children do not run; move it to a module"
        )
    if getattr(sys.modules.get(module), qualname, None) is not spec.target:
        raise SpecError(spec.name, "target", f"must be found at the top level of its module; {module}.{qualname} is not")


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
