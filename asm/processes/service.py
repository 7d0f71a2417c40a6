"""The stores that a process serves, one or several, as one thing: where calls go, how the stores are, and what ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from asm.core.errors import Error
from asm.operations import METHODS, OPTIONAL
from asm.processes.accounts import Lane
from asm.processes.roles import Route, Store

__all__ = ["Served", "Service"]


class Served(Store, Protocol):
    """A store that a process serves: one that it holds itself, or one that it is connected to."""

    @property
    def lanes(self) -> Mapping[bytes, Lane]:
        """Whose turns its calls take, by the methods that it has."""

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts that it keeps."""

    @property
    def away(self) -> Error | None:
        """Why calls cannot be made at the moment, though nothing has to be corrected: the store's service is away."""

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Learn that the name is served.

        :param changed: to be called after each change of :attr:`away`.
        :param failed: to be called with the reason when the store can be of no use any more.
        """

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with the store, as far as is known; ``None`` if nothing is."""

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""

    def close(self) -> None:
        """Let go of everything."""


class Service:
    """What a process does.

    :param stores: its stores, by the contract that is served by each.
    """

    def __init__(self, stores: Mapping[str, Served]) -> None:
        self._stores = stores
        self.routes = {
            method: Route(store, store.lanes[method], may_upload=operation.data_parameter is not None)
            for method, operation in METHODS.items()
            if (store := stores.get(OPTIONAL.get(operation.contract, operation.contract))) and method in store.lanes
        }

    @property
    def contracts(self) -> tuple[str, ...]:
        """The contracts that it serves."""
        return tuple(contract for store in self._stores.values() for contract in store.contracts)

    @property
    def away(self) -> Error | None:
        """Why one of the stores cannot be used at the moment."""
        return next((store.away for store in self._stores.values() if store.away is not None), None)

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Serve, and tell what becomes of the stores."""
        for store in self._stores.values():
            store.begin(changed, failed)

    def trouble(self) -> Error | None:
        """Return what is wrong with a store, if anything is."""
        found = (store.trouble(time.monotonic()) for store in self._stores.values())
        return next((error for error in found if error is not None), None)

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""
        for store in self._stores.values():
            store.interrupt(error)

    def close(self) -> None:
        """Let go of the stores."""
        for store in self._stores.values():
            store.close()
