"""A tree at work: the supervisor, the name on which it answers, and the configuration that it may be told to read again.

::

    SIGHUP ────────────┐
    asmctl ──► Control ┴──► RunningTree ── posts ──► Supervisor ──► children
                                 │
                                 └── reload: read, check, and only then hand over what the tree is to be
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from asm._version import __version__
from asm.config import ConfigError, read
from asm.core.errors import Error
from asm.processes.control import Control
from asm.processes.logs import LogStyle, log_to_stderr
from asm.settings import Settings
from asm.status import ChildStatus, RestartStatus, TreeStatus
from asm.tree import build, policy, specs
from asm.wire.names import socket_path
from asm_supervisor import Exit, Listener, ListenError, NameInUse, Notifier, Snapshot, SpecError

__all__ = ["Exit", "RunningTree", "Snapshot"]

_log = logging.getLogger(__name__)

T = TypeVar("T")


class RunningTree:
    """The tree of a configuration.

    :param config: the file, which a reload reads again.
    :param settings: what it says now.
    :param style: how the tree logs.
    :param on_ready: told once, when all children are up.
    :raises Error: ``storage_connection_failed`` when the runtime directory cannot be used.
    """

    def __init__(self, config: Path, settings: Settings, style: LogStyle, on_ready: Callable[[list[Snapshot]], None]) -> None:
        self._config = config
        self._settings = settings
        self._style = style
        self._on_ready = on_ready
        self._is_ready = False
        self._listener: Listener | None = None
        self._began = time.monotonic()
        self._notifier = Notifier.from_environment()
        self._reloads = ThreadPoolExecutor(1, thread_name_prefix="reload")
        """One at a time, and not in the supervisor's loop, which a slow disk would hold up."""
        self._tree = build(
            settings, style, notifier=self._notifier, on_ready=self._ready, on_hangup=lambda: self._reloads.submit(self._reload)
        )

    def run(self) -> Exit:
        """Run the tree until it ends, and the program with it. Needs the main thread.

        :raises Error: ``already_exists`` when another process has the tree's name, ``storage_connection_failed`` when it
            cannot be had for another reason; nothing was started then.
        """
        name = self._settings.supervisor.name
        try:
            listener = Listener.acquire(socket_path(name, self._settings.runtime_dir))
        except ListenError as error:
            code = "already_exists" if isinstance(error, NameInUse) else "storage_connection_failed"
            raise Error(code, f"{name} {error}", details={"name": name}) from error
        assert listener.socket is not None
        control = Control(name, listener.socket, self, listener.close)
        self._listener = listener

        def rebind() -> None:
            assert listener.socket is not None
            control.rebind(listener.socket)

        self._tree.watch(name, listener, rebind)
        control.start()
        try:
            return self._tree.run(last=True)
        finally:
            self._reloads.shutdown(cancel_futures=True)
            control.close()
            listener.close()

    # -- Operator

    def status(self) -> TreeStatus:
        """Return what there is to know about the tree now."""
        now = time.monotonic()
        return TreeStatus(
            name=self._settings.supervisor.name,
            pid=os.getpid(),
            version=__version__,
            config=str(self._config),
            uptime_seconds=round(now - self._began, 3),
            trouble="" if self._listener is None else self._listener.trouble,
            children=tuple(_child_status(child, now) for child in self._tree.children),
        )

    def restart(self, name: str) -> None:
        """Have a child stopped and started again; also one that failed or ended.

        :raises Error: ``not_found`` when there is no such child; ``invalid_operation`` when the tree is stopping.
        """
        try:
            self._in_loop(lambda: self._tree.restart(name))
        except KeyError as error:
            known = ", ".join(child.name for child in self._tree.children)
            message = f"{self._settings.supervisor.name} has no child {name!r}; it has: {known}"
            raise Error("not_found", message, details={"name": name}) from error

    def reload(self) -> Mapping[str, list[str]]:
        """Read the configuration again, and start, restart and stop what it says otherwise.

        :return: names of children, as ``added``, ``changed`` (restarted), ``adjusted`` (not restarted) and ``removed``.
        :raises Error: ``validation_error`` with the reason ``configuration`` when it is refused; nothing was changed then.
        """
        try:
            return self._reloads.submit(self._reload).result()
        except (CancelledError, RuntimeError) as error:  # the end of the tree came first
            raise self._stopping() from error

    def stop(self) -> None:
        """Have the tree stopped, in reverse order."""
        self._in_loop(lambda: self._tree.stop("stopped by asmctl"))

    # -- inside

    def _ready(self, children: list[Snapshot]) -> None:
        self._is_ready = True
        self._on_ready(children)

    def _in_loop(self, function: Callable[[], T]) -> T:
        """Have the supervisor's loop call a function; return its result.

        :raises Error: when the tree cannot do that now.
        """
        try:
            return self._tree.post(function).result()
        except CancelledError as error:
            raise self._stopping() from error
        except (RuntimeError, ListenError) as error:
            raise Error("invalid_operation", str(error)) from error

    def _stopping(self) -> Error:
        return Error("invalid_operation", f"{self._settings.supervisor.name} is stopping")

    def _reload(self) -> Mapping[str, list[str]]:
        """Do what :meth:`reload` says, in its thread. What is wrong is logged as well, because a signal has no answer."""
        name = self._settings.supervisor.name
        try:
            if not self._is_ready:
                raise Error("invalid_operation", f"{name} is still starting; reload it when it is ready")
            self._notifier.reloading()
            try:
                return self._take(read(self._config))
            except BaseException:
                self._notifier.ready()
                raise
        except Error as error:
            _log.error("%s: not reloaded, nothing was changed: %s", name, error.message)  # no defect
            raise
        except ConfigError as error:
            text = str(error)
            _log.error("%s: not reloaded, nothing was changed: %s", name, text.replace("\n", "; "))
            details = {"reason": "configuration", "problems": error.problems}
            raise Error("validation_error", text, details=details) from error
        except Exception:
            _log.exception("%s: not reloaded", name)
            raise

    def _take(self, settings: Settings) -> Mapping[str, list[str]]:
        """Make the tree what new settings say.

        :raises ConfigError: when that cannot be while it runs.
        """
        if problems := list(_fixed(self._settings, settings)):
            raise ConfigError(str(self._config), problems)
        style = LogStyle(pretty=self._style.pretty, level=settings.supervisor.log_level)
        try:
            reloaded = self._in_loop(lambda: self._tree.reload(specs(settings, style), **policy(settings)))
        except SpecError as error:
            raise ConfigError(str(self._config), [str(error)]) from error
        self._settings, self._style = settings, style
        log_to_stderr(settings.supervisor.name, style)
        changes = {what: list(names) for what, names in dataclasses.asdict(reloaded).items()}
        _log.info("%s: reloaded", settings.supervisor.name, extra=changes)
        return changes


def _fixed(old: Settings, new: Settings) -> list[str]:
    """Find what a tree cannot change while it runs."""
    keys = ["name", "runtime_dir", "start_method"]
    if old.access.socket_mode != new.access.socket_mode:
        keys += ["allow_users", "allow_groups"]  # the mode of the directory and of the sockets follows from them
    return [
        f"supervisor.{key}: cannot change while the tree runs; stop it and start it again"
        for key in keys
        if getattr(old.supervisor, key) != getattr(new.supervisor, key)
    ]


def _child_status(child: Snapshot, now: float) -> ChildStatus:
    stats = {name: child.stats.get(name, 0) for name in ("calls", "errors", "in_flight")}
    return ChildStatus(
        name=child.name,
        description=child.description,
        state=child.state.value,
        pid=child.pid,
        uptime_seconds=None if child.started_at is None else round(now - child.started_at, 3),
        restarts=child.restarts,
        history=tuple(
            RestartStatus(at=datetime.now(UTC) - timedelta(seconds=now - restart.at), reason=restart.reason, kind=restart.kind)
            for restart in child.history
        ),
        reason=child.reason,
        trouble=child.trouble,
        due_in_seconds=None if child.due_at is None else round(max(0.0, child.due_at - now), 3),
        health=str((child.stats.get("health") or {}).get("message", "")) if child.pid is not None else "",
        memory_bytes=None if child.pid is None else _memory(child.pid),
        **stats,
    )


def _memory(pid: int) -> int | None:
    """Return the share of a process in the machine's memory, in bytes; ``None`` when it cannot be told (proc(5))."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass  # it is gone, or hides from us
    return None
