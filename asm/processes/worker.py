"""The worker: a process that holds one adapter and serves it on a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asm.core.errors import Error
from asm.processes import server
from asm.processes.access import Access
from asm.processes.hosted import Hosted
from asm.processes.limits import Limits
from asm.processes.logs import LogStyle
from asm.processes.server import Lifeline

__all__ = ["Worker", "main"]


def main(
    lifeline: Lifeline,
    *,
    name: str,
    store: str | type,
    options: Mapping[str, Any],
    waits: bool = False,
    log: LogStyle | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
) -> None:
    """Be a worker: what its process runs.

    :param lifeline: the way to the parent.
    :param name: the name to serve.
    :param store: the adapter, as a class or as a reference that :func:`asm.registry.load` knows.
    :param options: the keyword arguments of its constructor.
    :param waits: whether to serve the name while the store's service is away, and to wait for it.
    :param log: how to log.
    :param limits: what connections may cost.
    :param access: who may connect.
    """

    def prepare() -> Hosted:
        hosted = Hosted(name, store, options, waits=waits, recovers=lifeline.recovers)
        hosted.open()
        return hosted

    async def start(hosted: Hosted) -> Worker:
        return Worker(hosted)

    server.run(lifeline, name, prepare, start, log, limits, access)


class Worker:
    """The service of one store."""

    def __init__(self, hosted: Hosted) -> None:
        self._hosted = hosted
        self.call = hosted.call
        """Take a call to the store."""
        self.interrupt = hosted.interrupt
        self.close = hosted.close
        self.contracts = hosted.contracts

    @property
    def away(self) -> Error | None:
        """Why the store cannot be used at the moment."""
        return self._hosted.away

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Serve, and tell what becomes of the store."""
        self._hosted.begin(changed, failed)

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with the store, if anything is."""
        return self._hosted.health.trouble(now)
