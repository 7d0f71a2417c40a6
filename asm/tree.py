"""From settings to a tree of processes: where the stores meet the supervisor, which knows nothing of them.

::

    Settings ──► a ChildSpec for each backend, in the order of the file ──► one for each composite ──► Supervisor
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from asm.processes import composite, worker
from asm.processes.access import Access
from asm.processes.composite import Module, Named
from asm.processes.limits import Limits
from asm.processes.logs import LogStyle
from asm.registry import resolve
from asm.settings import BackendSettings, CompositeSettings, ModuleSettings, Settings
from asm.wire.names import prepare_runtime_dir, socket_path
from asm_supervisor import Backoff, ChildSpec, Exit, Snapshot, Supervisor

__all__ = ["PRELOAD", "Exit", "Snapshot", "build", "composite_spec", "policy", "preload", "specs", "worker_spec"]

PRELOAD: Final = ("asm.processes.worker", "asm.processes.composite")
"""What the fork server imports once for all children, beside the stores that are used."""


KEY: Final = secrets.token_hex(16)
"""What the processes that are started from here say to know each other: a composite carries the calls of many."""


def build(settings: Settings, log: LogStyle, **more: Any) -> Supervisor:
    """Return the supervisor of a tree, with nothing started yet.

    :param settings: a configuration that was checked.
    :param log: how the children log.
    :param more: the notifier and the callbacks of the :class:`~asm_supervisor.Supervisor`.
    :raises Error: ``storage_connection_failed`` when the runtime directory cannot be used.
    """
    prepare = functools.partial(prepare_runtime_dir, settings.runtime_dir, settings.access.directory_mode)
    prepare()
    return Supervisor(
        specs(settings, log),
        name=settings.supervisor.name,
        start_method=settings.supervisor.start_method,
        preload=preload([store for _name, store, _options in settings.stores()]),
        prepare=prepare,
        **policy(settings),
        **more,
    )


def policy(settings: Settings) -> dict[str, Any]:
    """Return who is restarted when, and how often: what a tree that runs can be told anew."""
    tree = settings.supervisor
    return {
        "strategy": tree.strategy,
        "max_restarts": tree.max_restarts,
        "max_seconds": tree.max_seconds,
        "backoff": Backoff(**tree.backoff.model_dump()),
    }


def specs(settings: Settings, log: LogStyle) -> list[ChildSpec]:
    """Return the children of a tree in the order in which they start: the backends as declared, then the composites."""
    runtime_dir = settings.runtime_dir
    terms = {
        "waits": True,
        "log": LogStyle(pretty=log.pretty),
        "settings": {"log_level": log.level},  # told, and no reason for another process
        "limits": settings.limits,
        "access": settings.access,
        "listen_mode": settings.access.socket_mode,
    }
    return [
        *(_backend(backend, runtime_dir, terms) for backend in settings.backend),
        *(_composite(item, runtime_dir, terms) for item in settings.composite),
    ]


def worker_spec(name: str, store: str | type, options: Mapping[str, Any], path: str, **terms: Any) -> ChildSpec:
    """Return the specification of a worker: one store, served on the socket at ``path``.

    :param terms: ``waits``, whether it serves its name while the store's service is away, and waits for it; ``log``, ``limits``
        and ``access``; and what else a :class:`~asm_supervisor.ChildSpec` can be told.
    """
    kind = store if isinstance(store, str) else store.__qualname__
    return _spec(name, worker.main, {"store": store, "options": dict(options)}, path, f"worker: {kind}", **terms)


def composite_spec(
    name: str, session_store: Named | Module, artifact_store: Named | Module, path: str, **terms: Any
) -> ChildSpec:
    """Return the specification of a composite: two stores behind one name, served on the socket at ``path``.

    :param terms: as those of :func:`worker_spec`.
    """
    stores = {"session_store": session_store, "artifact_store": artifact_store}
    description = f"composite: {_described(session_store)} + {_described(artifact_store)}"
    return _spec(name, composite.main, stores, path, description, **terms)


def _spec(
    name: str,
    target: Callable[..., None],
    own: Mapping[str, Any],
    path: str,
    description: str,
    *,
    waits: bool = False,
    log: LogStyle | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
    **more: Any,
) -> ChildSpec:
    kwargs = {"name": name, **own, "waits": waits, "log": log, "limits": limits, "access": access, "key": KEY}
    return ChildSpec(name=name, target=target, kwargs=kwargs, listen=Path(path), rebinds=True, description=description, **more)


def preload(stores: Sequence[str | type]) -> tuple[str, ...]:
    """Return the modules that the fork server imports once, so that its children need not."""
    references = [resolve(store) for store in stores if isinstance(store, str)]
    return (*PRELOAD, *dict.fromkeys(reference.partition(":")[0] for reference in references))


def _backend(backend: BackendSettings, runtime_dir: str, terms: Mapping[str, Any]) -> ChildSpec:
    return worker_spec(
        backend.name,
        backend.store,
        backend.options,
        socket_path(backend.name, runtime_dir),
        **terms,
        **_lifetime(backend),
    )


def _composite(item: CompositeSettings, runtime_dir: str, terms: Mapping[str, Any]) -> ChildSpec:
    return composite_spec(
        item.name,
        _reference(item.session_store, f"{item.name}:session_store", runtime_dir),
        _reference(item.artifact_store, f"{item.name}:artifact_store", runtime_dir),
        socket_path(item.name, runtime_dir),
        **terms,
        **_lifetime(item),
    )


def _lifetime(child: BackendSettings | CompositeSettings) -> dict[str, Any]:
    """Return what the supervisor is to do with a child, by the names that it has for that."""
    keys = ("restart", "on_failure", "retry_after", "start_timeout", "stop_timeout", "heartbeat_timeout")
    return {key: getattr(child, key) for key in keys}


def _reference(reference: str | ModuleSettings, name: str, runtime_dir: str) -> Named | Module:
    if isinstance(reference, ModuleSettings):
        return Module(name, reference.store, reference.options)
    return Named(reference, socket_path(reference, runtime_dir))


def _described(reference: Named | Module) -> str:
    if isinstance(reference, Named):
        return reference.name
    return f"{reference.store if isinstance(reference.store, str) else reference.store.__qualname__} (inside)"
