"""The worker: a process that holds one adapter and serves it on a name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from asm.adapters import load
from asm.core.errors import Error
from asm.processes import server
from asm.processes.access import Access
from asm.processes.backends import Backend, perform
from asm.processes.limits import Limits
from asm.processes.logs import LogStyle
from asm.processes.server import Lifeline
from asm.processes.turns import Turns

__all__ = ["Worker", "main", "open_store"]

_log = logging.getLogger(__name__)


def main(
    lifeline: Lifeline,
    *,
    name: str,
    store: str | type,
    options: Mapping[str, Any],
    log: LogStyle | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> None:
    """Be a worker: what its process runs.

    :param lifeline: the way to the parent.
    :param name: the name to serve.
    :param store: the adapter, as a class or as a reference that :func:`asm.adapters.load` knows.
    :param options: the keyword arguments of its constructor.
    :param log: how to log.
    :param limits: what connections may cost.
    :param access: who may connect.
    """

    async def start(opened: Any) -> Worker:
        return Worker(Backend(name, opened))

    server.run(lifeline, name, lambda: open_store(name, store, options), start, log, limits, access)


class Worker:
    """The service of one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.call = Turns(functools.partial(perform, backend)).call
        """Take a call to the backend."""
        self.contracts = (backend.contract,)

    def interrupt(self, error: Error) -> None:
        """End the long-polls."""
        self._backend.interrupt(error)

    def close(self) -> None:
        """Close the adapter."""
        self._backend.close()


def open_store(name: str, store: str | type, options: Mapping[str, Any]) -> Any:
    """Make an adapter.

    :raises Error: what its constructor raises; anything else than an :class:`Error` becomes a ``storage_error``.
    """
    kind = load(store) if isinstance(store, str) else store
    try:
        return kind(**options)
    except Error:
        raise
    except Exception as error:
        _log.exception("a store could not be opened", extra={"store": kind.__qualname__})
        details = {"backend": name, "exception": type(error).__name__, "text": str(error)[:1000]}
        raise Error(
            "storage_error", f"{kind.__qualname__} of {name} could not be opened: {error!r}", details=details
        ) from error
