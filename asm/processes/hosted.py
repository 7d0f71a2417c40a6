"""A store that a process runs itself: opened, opened again until its service is there, and asked how it is.

    open ──► wrong: the process does not come up, and says why
     │ └───► away ──► waiting: calls get ``backend_waiting`` ──► open again, with growing pauses ──┐
     ▼                                                                                             ▼
    open: calls reach the store, which is asked now and then how it is ◄───────────────────────────┘

*Away* is what passes by itself: a database that starts, a network that is down, a volume that is not mounted. *Wrong* is what
somebody has to correct: credentials, a database that does not exist, an old schema. The store says which, in the details of
its error: ``{"away": True}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from asm.core.errors import Error
from asm.core.options import options_of
from asm.processes import loops
from asm.processes.backends import Backend, lanes
from asm.processes.health import Health
from asm.processes.limits import Limits
from asm.processes.peers import Call
from asm.registry import contract_of, contracts_of, load
from asm.wire.messages import operation_name

__all__ = ["Hosted"]

_log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.1
"""Seconds between the first attempt to open a store and the second …"""

LONGEST_PAUSE: Final = 5.0
"""… and the most between two later ones. Each is up to twice as long as the one before."""

ASK_SECONDS: Final = 5.0
"""Every how many seconds a store is asked how it is …"""

ASK_AGAIN_SECONDS: Final = 1.0
"""… and as long as it is not well, or at the most how soon after a call has failed."""

CREATE: Final = "create"
"""The option of a store that says whether one is made where there is none."""

PATIENCE: Final = 5.0
"""After how many seconds without an answer a store counts as one that does not give any."""


class Hosted:
    """One store of this process.

    :param name: the name that errors give it.
    :param store: its class, or a reference that :func:`asm.registry.load` knows.
    :param options: the keyword arguments of its constructor.
    :param waits: whether a store whose service is away is waited for, instead of being an error.
    :param recovers: whether a process before this one had the store and died. What is missing now is away then, and no store
        is made in its place.
    :param limits: what calls may cost.
    :raises Error: when there is no such store.
    """

    def __init__(
        self,
        name: str,
        store: str | type,
        options: Mapping[str, Any],
        *,
        waits: bool = False,
        recovers: bool = False,
        limits: Limits | None = None,
    ) -> None:
        kind = load(store) if isinstance(store, str) else store
        if recovers and CREATE in options_of(kind).known:
            options = {**options, CREATE: False}
        self.name = name
        self.contract = contract_of(kind)
        self.contracts = contracts_of(kind)
        self._limits = limits or Limits()
        self.lanes = lanes(kind, self._limits)
        """Whose turns calls take, by method."""
        self.take: Callable[[Call], None] = self._refuse
        """Make a call."""
        self.away: Error | None = None
        """Why the store cannot be used at the moment, though nothing has to be corrected."""
        self.health = Health()
        self._make = functools.partial(_open, name, kind, options)
        self._waits = waits
        self._opened: Any = None
        self._backend: Backend | None = None
        self._failed_call = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Open the store, or find it away. Before there is a loop, since it may take its time.

        :raises Error: what its constructor raised; anything else than an :class:`Error` becomes a ``storage_error``.
        """
        try:
            self._opened = self._make()
        except Error as error:
            if not self._waits or error.details.get("away") is not True:
                raise
            self._note(error)

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Serve calls from now on, in the running loop.

        :param changed: called after each change of :attr:`away`.
        :param failed: called when it turns out that the store is not away, but wrong.
        """
        if self._opened is not None:
            self._serve()
        self._keeping = asyncio.create_task(self._keep(changed, failed))

    def trouble(self, now: float) -> Error | None:
        """Return what is wrong with the store, if anything is."""
        return self.health.trouble(now)

    def interrupt(self, error: Error) -> None:
        """End with this error what would wait for long."""
        if self._backend is not None:
            self._backend.interrupt(error)

    def close(self) -> None:
        """Close the store, after the calls that have begun."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._backend is not None:
            self._backend.close()
        elif self._opened is not None and (close := getattr(self._opened, "close", None)):
            close()

    # -- inside

    def _serve(self) -> None:
        self._backend = Backend(self.name, self._opened, self.health, self._failed, self._limits)
        self.take = self._backend.take

    def _failed(self, operation: str, error: Error) -> None:
        """Note that a call failed."""
        if self.health.failed(operation, error, time.monotonic()):
            self._failed_call.set()

    async def _keep(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Open the store if it is away, and then ask it again and again how it is, if it can say so."""
        try:
            if self._backend is None:
                await self._open_again()
                changed()
        except Error as error:
            failed(error)
            return
        ask = getattr(self._opened, "ping", None)
        while ask is not None:
            was_away = self.away is not None
            self._failed_call.clear()
            await self._ask(ask)
            if was_away != (self.away is not None):
                changed()
            well = self.health.trouble(time.monotonic()) is None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ASK_SECONDS if well else ASK_AGAIN_SECONDS):
                    await self._failed_call.wait()
                    await asyncio.sleep(ASK_AGAIN_SECONDS)  # many fail at once, and one question is enough

    async def _open_again(self) -> None:
        """Try to open the store until it is there.

        :raises Error: when it is wrong.
        """
        pause = FIRST_PAUSE
        while self._backend is None:
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311  # no secret: those that wait come one by one
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                self._opened = await loops.in_daemon(self._make)
            except Error as error:
                if error.details.get("away") is not True:
                    raise
                self._note(error)
            else:
                self._note(None)
                self._serve()

    async def _ask(self, ask: Callable[[], object]) -> None:
        """Ask the store how it is, and wait for the answer, however long it takes; say meanwhile that there is none."""
        asking = asyncio.ensure_future(loops.in_daemon(ask))
        try:
            done, _ = await asyncio.wait({asking}, timeout=PATIENCE)
            if not done:
                self._note(Error("timeout", f"{self.name} has not answered for {PATIENCE:g} s when it was asked how it is"))
            await asking
        except Error as error:
            self._note(error)
        except Exception as cause:  # noqa: BLE001  # a store of somebody else's may raise anything
            self._note(Error("internal_error", f"{self.name} failed when it was asked how it is: {cause!r}"))
        else:
            self._note(None)
        finally:
            asking.cancel()

    def _note(self, error: Error | None) -> None:
        """Note what the store said of itself."""
        if self.health.heard(error):
            if error is not None:
                _log.warning("the store is not well", extra={"reason": error.message, "code": error.code})
            else:
                _log.info("the store is well again")
        self.away = error if error is not None and error.details.get("away") is True else None

    def _refuse(self, call: Call) -> None:
        """Answer a call that cannot be made while the store is away."""
        cause = self.away.message if self.away is not None else "it is being opened"
        operation = operation_name(call.head.method)
        details = {"reason": "backend_waiting", "backend": self.name, "operation": operation, "cause": cause}
        call.fail(Error("storage_error", f"{self.name} waits for its store to come back: {cause}", details=details))


def _open(name: str, kind: type, options: Mapping[str, Any]) -> Any:
    """Make an adapter.

    :raises Error: what its constructor raises; anything else than an :class:`Error` becomes a ``storage_error``.
    """
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
