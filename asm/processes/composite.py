"""The composite: a process that puts a session store and an artifact store behind one name.

    client ──► [0, 7, "artifact.put", …] ──► route by method ──► [0, 91, "artifact.put", …] ──► link to the artifact store
    client ◄── [1, 7, …] ◄─────────────────── remember 91 → (client, 7) ◄── [1, 91, …] ◄──┘

When a store goes away, every call in flight to it is answered at once; calls to the other one notice nothing. A module-backed
reference runs in this process and needs no link.

At its first start both stores must be up. A composite that is started again serves whatever is there, and connects to the
rest as soon as that is back: a store that is away must not take the other one with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from asm.core.errors import Error
from asm.processes import server
from asm.processes.access import Access
from asm.processes.hosted import Hosted
from asm.processes.limits import Limits
from asm.processes.links import Link, Named
from asm.processes.logs import LogStyle
from asm.processes.reports import Lifeline
from asm.processes.service import Served

__all__ = ["Module", "Named", "main"]


@dataclass(frozen=True, slots=True)
class Module:
    """A reference to a store that the composite runs itself."""

    name: str
    store: str | type
    options: Mapping[str, Any] = field(default_factory=dict)


def main(
    lifeline: Lifeline,
    *,
    name: str,
    session_store: Named | Module,
    artifact_store: Named | Module,
    waits: bool = False,
    log: LogStyle | None = None,
    limits: Limits | None = None,
    access: Access | None = None,
    key: str | None = None,
) -> None:
    """Be a composite: what its process runs.

    :param lifeline: the way to the parent.
    :param name: the name to serve.
    :param session_store: where calls of the session contract go.
    :param artifact_store: where calls of the artifact contract go.
    :param waits: whether to serve the name while the service of a store that runs in here is away, and to wait for it.
    :param log: how to log.
    :param limits: what connections may cost.
    :param access: who may connect.
    :param key: what the processes of our tree say to know each other.
    """
    references = {"session": session_store, "artifact": artifact_store}
    again = lifeline.restarts > 0
    limits = limits or Limits()

    def prepare() -> dict[str, Hosted]:
        return {
            contract: _open(reference, contract, waits=waits, recovers=lifeline.recovers, limits=limits)
            for contract, reference in references.items()
            if isinstance(reference, Module)
        }

    async def start(opened: dict[str, Hosted]) -> dict[str, Served]:
        stores: dict[str, Served] = dict(opened)
        try:
            for contract, reference in references.items():
                if isinstance(reference, Named):
                    stores[contract] = link = Link(reference, contract, limits, key)
                    await link.connect(again=again)
        except BaseException:
            for store in stores.values():
                store.close()
            raise
        return stores

    server.run(lifeline, name, prepare, start, log, limits, access, key)


def _open(reference: Module, contract: str, *, waits: bool, recovers: bool, limits: Limits) -> Hosted:
    """Make a store that runs in this process.

    :raises Error: why it cannot be.
    """
    hosted = Hosted(reference.name, reference.store, reference.options, waits=waits, recovers=recovers, limits=limits)
    if hosted.contract != contract:
        raise Error("validation_error", f"{reference.name} is no {contract} store", details={"field": f"{contract}_store"})
    hosted.open()
    return hosted
