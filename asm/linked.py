"""``start_link``: a store in a process of its own, for programs and notebooks that want a tree without a configuration.

    artifacts = FileArtifactStore.start_link(root="artifacts")
    store = CompositeSessionStore.start_link(
        session_store=(SqlSessionStore, {"url": "sqlite:///app.db"}), artifact_store=artifacts, name="MyApp.Store"
    )

The process lives as long as its handle and its caller, whichever ends first. Nobody restarts it: that is the supervisor's
trade (``asm-supervise``). When it dies, calls to it fail at once.
"""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asm.client.blocking import Client
from asm.client.calling import DEFAULT_TIMEOUT, check_timeout
from asm.core.errors import Error
from asm.core.options import options_of
from asm.processes.composite import Module, Named
from asm.registry import contract_of, load
from asm.tree import composite_spec, preload, worker_spec
from asm.wire.names import check_name, find_runtime_dir, prepare_runtime_dir, socket_path
from asm_supervisor import Child, ChildSpec, Listener, NameInUse, StartFailed

__all__ = ["CompositeSessionStore", "Handle", "Reference", "start_link"]

Reference = str | Client | tuple[type | str, Mapping[str, Any]]
"""What a composite can refer to: a name, a handle, or a store with its options that runs inside the composite."""

PREFIX = "linked-"
"""How the names begin that are made up for stores that were given none."""


class Handle(Client):
    """A handle of a store whose process was started by this one. Made by ``start_link``.

    A context manager that stops the process at the end.
    """

    def __init__(self, child: Child, name: str, path: str, timeout: float, keeps: tuple[object, ...] = ()) -> None:
        self.pid = child.pid
        """The process."""
        self._keeps = keeps  # handles that this one's process uses: they live as long
        self._stop = weakref.finalize(self, _stop, child, os.getpid())
        super().__init__(name, path, timeout)
        self._reach()

    def close(self) -> None:
        """Stop the process, after the calls that it is working on."""
        super().close()
        if hasattr(self, "_stop"):
            self._stop()


def start_link(
    store: type | str,
    options: Mapping[str, Any],
    *,
    name: str | None = None,
    runtime_dir: str | os.PathLike[str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Handle:
    """Start a store in a process of its own.

    :param store: the class of the store.
    :param options: the keyword arguments of its constructor.
    :param name: the name to serve; made up unless given.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds a call through the handle may take.
    :raises Error: what the constructor raised; ``already_exists`` when another process has the name;
        ``storage_error`` when the process did not come up.
    """
    check_timeout(timeout)
    kind = load(store) if isinstance(store, str) else store
    options_of(kind).check(options)
    if preflight := getattr(kind, "preflight", None):
        preflight(**options)
    name, path = _place(name, runtime_dir)
    child = _start(worker_spec(name, store, options, path), preload([store]))
    return Handle(child, name, path, timeout)  # type: ignore[abstract]  # the methods are derived from the contracts


class CompositeSessionStore:
    """A session store and an artifact store behind one name."""

    @classmethod
    def start_link(
        cls,
        *,
        session_store: Reference,
        artifact_store: Reference,
        name: str | None = None,
        runtime_dir: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Handle:
        """Start a composite in a process of its own. Its two stores must be up.

        :param session_store: a name, a handle, or ``(Class, {option: value})`` for one that runs inside the composite.
        :param artifact_store: likewise.
        :param name: the name to serve; made up unless given.
        :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
        :param timeout: how many seconds a call through the handle may take.
        :raises Error: ``validation_error`` for what is no reference; ``storage_connection_failed`` when a store is not up;
            ``already_exists`` when another process has the name.
        """
        check_timeout(timeout)
        sessions = _reference(session_store, "session", runtime_dir)
        artifacts = _reference(artifact_store, "artifact", runtime_dir)
        name, path = _place(name, runtime_dir)
        stores = [reference.store for reference in (sessions, artifacts) if isinstance(reference, Module)]
        child = _start(composite_spec(name, sessions, artifacts, path), preload(stores))
        keeps = (session_store, artifact_store)
        return Handle(child, name, path, timeout, keeps)  # type: ignore[abstract]  # as above


def _place(name: str | None, runtime_dir: str | os.PathLike[str] | None) -> tuple[str, str]:
    """Return the name and the path of its socket, in a directory that is there."""
    directory = find_runtime_dir(runtime_dir)
    path = socket_path(check_name(name or f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"), directory)
    prepare_runtime_dir(directory)
    if name is None:
        _sweep(directory)
    return Path(path).stem, path


def _sweep(directory: str) -> None:
    """Remove the sockets of linked stores whose callers were killed. Their names are never asked for again."""
    for path in Path(directory).glob(f"{PREFIX}*.sock"):
        try:
            Listener.acquire(path).close()
        except (NameInUse, OSError):
            continue


def _start(spec: ChildSpec, modules: tuple[str, ...]) -> Child:
    """Start a child and wait until it serves."""
    child = Child(spec, preload=modules)
    try:
        child.start()
        child.wait_ready()
    except NameInUse as error:
        raise Error("already_exists", str(error), details={"name": spec.name, "pid": error.pid}) from error
    except StartFailed as error:
        if error.error:
            raise Error.from_map(dict(error.error)) from error
        raise Error("storage_error", f"{spec.name} did not come up: {error}", details={"reason": "start_failed"}) from error
    return child


def _stop(child: Child, owner: int) -> None:
    """Stop the process, unless this is a fork of the one that started it."""
    if os.getpid() == owner:
        child.stop()


def _reference(reference: Reference, contract: str, runtime_dir: str | os.PathLike[str] | None) -> Named | Module:
    if isinstance(reference, Client):
        return Named(reference.name, reference.path)
    if isinstance(reference, str):
        return Named(reference, socket_path(reference, runtime_dir))
    given: Any = reference  # whatever the annotation says
    match given:
        case (type() | str() as store, Mapping() as options):
            kind = load(store) if isinstance(store, str) else store
            if contract_of(kind) == contract:
                return Module(kind.__qualname__, kind, options)
            problem = f"{kind.__qualname__} is no {contract} store"
        case _:  # only its type is shown: it may hold a password
            problem = f"a name, a handle, or a pair (Class, {{option: value}}) is needed, not {type(given).__name__}"
    raise Error("validation_error", f"{contract}_store: {problem}", details={"field": f"{contract}_store"})
