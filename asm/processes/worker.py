"""The worker: a process that holds one adapter and serves it on a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asm.processes import server
from asm.processes.access import Access
from asm.processes.hosted import Hosted
from asm.processes.limits import Limits
from asm.processes.logs import LogStyle
from asm.processes.reports import Lifeline
from asm.processes.service import Served

__all__ = ["main"]


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
    key: str | None = None,
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
    :param key: what the processes of our tree say to know each other.
    """

    def prepare() -> Hosted:
        hosted = Hosted(name, store, options, waits=waits, recovers=lifeline.recovers, limits=limits)
        hosted.open()
        return hosted

    async def start(hosted: Hosted) -> dict[str, Served]:
        return {hosted.contract: hosted}

    server.run(lifeline, name, prepare, start, log, limits, access, key)
