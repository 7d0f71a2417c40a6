"""Links: how a composite reaches a running store.

    call ──► Link ──► Upstream: an id of its own ──► the store
    answer ◄───────── Upstream: whose call was it? ◄─────┘     lost: every call in flight is answered at once
                 Dialer: connects, says hello, and again whenever the connection is lost

A link never waits and decodes nothing but the head of a message: it has an id of its own written in front, and passes the rest
on as it is. Which call an answer is for is known to the engine (:mod:`asm.wire.conversation`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from asm.core.errors import Error
from asm.operations import METHODS, OPTIONAL
from asm.processes.accounts import Account, Client, Lane
from asm.processes.limits import Limits, overloaded
from asm.processes.peers import Call, Line
from asm.wire import messages
from asm.wire.conversation import Broken, Caller
from asm.wire.frames import MAX_FRAME, framed
from asm.wire.messages import HELLO, MALFORMED, WAITS, MessageError, decode_response, operation_name
from asm.wire.names import check_listener, check_owner
from asm.wire.streams import PIECE

__all__ = ["Link", "Named"]

_log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 10.0
"""How long a composite that starts waits for each of its stores."""

RECONNECT_SECONDS: Final = 0.5
"""How long one that is started again waits for each of them, before it serves without."""

RETRY_SECONDS: Final = 0.1
"""How long to wait before connecting again to a store of which not even the socket is there."""

HEAD_BYTES: Final = 16
"""More than a msgid of ours may add to a message."""


@dataclass(frozen=True, slots=True)
class Named:
    """A reference to a running store."""

    name: str
    path: str
    """Its socket."""


class Link:
    """Passes calls on to a running store, and its answers back.

    :param target: the store.
    :param contract: the contract that is expected of it.
    :param limits: what calls may cost.
    :param key: what the processes of our tree say to know each other.
    """

    away = None
    """A store that is away is no trouble of the composite: the other one is served."""

    def __init__(self, target: Named, contract: str, limits: Limits, key: str | None = None) -> None:
        self._lane = lane = Lane()
        self.lanes = {
            method: lane for method, item in METHODS.items() if OPTIONAL.get(item.contract, item.contract) == contract
        }
        self.contracts: tuple[str, ...] = (contract,)
        """The contracts that the store serves, as far as it has said."""
        self._name = target.name
        self._most_untaken = limits.bytes_untaken
        self._upstream: Upstream | None = None
        """The connection, as long as there is one and the store has said hello."""
        self._interrupted: Error | None = None
        self._dialer = Dialer(self, target, contract, key, limits.bytes_untaken)

    # -- what the composite calls

    async def connect(self, *, again: bool = False) -> None:
        """Connect for the first time, and from then on stay connected.

        :param again: another process did so before. Then a store that does not answer soon is connected to later.
        :raises Error: ``storage_connection_failed`` when the store does not answer, and ``validation_error`` when it is
            no store of this contract.
        """
        await self._dialer.connect(again=again)

    def begin(self, changed: Callable[[], None], failed: Callable[[Error], None]) -> None:
        """Do nothing: the link is there."""

    def trouble(self, now: float) -> Error | None:
        """Return nothing: the store tells its own process what is wrong with it."""
        return None

    def take(self, call: Call) -> None:
        """Pass a call on, or say at once why not."""
        upstream, head, body = self._upstream, call.head, call.body
        if upstream is None or upstream.caller.lost is not None:
            reason = (
                ("backend_failed", "has failed") if self._dialer.is_refused else ("backend_restarting", "is being restarted")
            )
            call.fail(self._gone(*reason, head.method))
        elif len(body) - head.method_at > MAX_FRAME - HEAD_BYTES:
            problem = f"a message of {len(body)} bytes cannot be passed on; at most {MAX_FRAME - HEAD_BYTES} can"
            call.fail(Error("validation_error", problem, details={"byte_size": len(body)}))
        elif upstream.account.is_slow and upstream.unsent > self._most_untaken:
            call.fail(overloaded(f"{self._name} does not keep up"))
        else:
            call.work, call.body = upstream, b""
            call.key = upstream.caller.number(call)
            upstream.send(*upstream.caller.pass_on(call.key, body[head.method_at :]))

    def interrupt(self, error: Error) -> None:
        """Answer those who wait for what may not happen for long, and let the store know."""
        self._interrupted = error
        for call in [] if self._upstream is None else list(self._upstream.caller.calls.values()):
            if isinstance(call, Call) and call.waits:
                call.stop(error)

    def close(self) -> None:
        """Disconnect for good."""
        self._upstream = None
        self._dialer.close()

    # -- what the connection calls

    def waits(self, call: Call) -> None:
        """Let others go before a call that waits for what may not happen for long."""
        if not call.waits:
            call.wait()
            if self._interrupted is not None:
                call.stop(self._interrupted)

    def lost(self, upstream: Upstream, calls: list[Call]) -> None:
        """Answer every call in flight, and those that wait for their turn: the store is gone, and nobody waits on a corpse."""
        if upstream is self._upstream:
            calls += self._lane.waiting()
            _log.warning("store lost", extra={"store": self._name, "in_flight": len(calls)})
            self._upstream = None
            for call in calls:
                call.fail(self._gone("backend_exited", "went away during the call", call.head.method))
        self._dialer.lost(upstream)

    # -- what the dialer calls

    def connected(self, upstream: Upstream, contracts: tuple[str, ...]) -> None:
        """Pass calls on from now on."""
        self._upstream, self.contracts = upstream, contracts

    # -- inside

    def _gone(self, reason: str, what: str, method: bytes) -> Error:
        details = {"reason": reason, "backend": self._name, "operation": operation_name(method)}
        return Error("storage_error", f"{self._name} {what}", details=details)


class Upstream(Line):
    """A connection to the store, on which the calls of many are made.

    :param link: told of what is not of a call alone.
    :param most_untaken: how many bytes the store may not have taken before a stream that sends more breaks its window.
    """

    def __init__(self, link: Link, most_untaken: int) -> None:
        self.caller: Caller[Call | Greeting] = Caller(relays=True)
        super().__init__(self.caller, Account(Client(0, is_ours=True), self))
        self._link = link
        self._most_untaken = most_untaken

    def greet(self, arguments: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """Ask who the store is; return what becomes the answer."""
        greeting = Greeting(self._loop.create_future())
        self.send(*framed(messages.request(self.caller.number(greeting), HELLO.decode(), arguments)))
        return greeting.answer

    # -- what the line calls

    def hear(self) -> None:
        """Pass on to a client what came for its call."""
        try:
            news = self.caller.hear()
        except Error:  # the store takes nothing of this connection; whoever said hello hears why
            self.abort()
            return
        if news is None:
            return
        call, method, body, rest_at = news
        if not method:
            call.respond(body, rest_at)
        elif isinstance(call, Greeting):
            raise MessageError("hello has no stream, and does not wait")
        elif method == WAITS:
            self._link.waits(call)
        elif method == MALFORMED:
            call.malformed()
        else:
            call.rest(is_long=True)  # what goes on for long keeps nobody waiting
            call.peer.send(*call.peer.callee.relay(call.msgid, method, body, rest_at))

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and all calls with it."""
        super().connection_lost(exc)
        calls = []
        for call in self.caller.end(Broken("it closed the connection")):
            if isinstance(call, Greeting):
                call.fail(self.caller.lost)
            else:
                calls.append(call)
        self._link.lost(self, calls)

    # -- Work

    def cancel(self, call: Call) -> None:
        """Tell the store that nobody waits for a call any more."""
        self.send(self.caller.give_up(call.key))

    def carry(self, call: Call, method: bytes, body: bytes, rest_at: int) -> None:
        """Pass on a message of a client's stream.

        :raises MessageError: when the client sends far more than the store takes, which a window forbids.
        """
        if len(body) > 2 * PIECE or self.unsent > 2 * self._most_untaken:
            raise MessageError("more was sent than a window allows")
        self.send(*self.caller.relay(call.key, method, body, rest_at))


class Greeting:
    """The question who the store is, as what is in flight.

    :param answer: becomes what it says.
    """

    def __init__(self, answer: asyncio.Future[dict[str, Any]]) -> None:
        self.answer = answer

    def respond(self, body: bytes, rest_at: int) -> None:
        """Take the answer.

        :raises MessageError: when it is none.
        """
        if self.answer.done():  # nobody waits for it any more
            return
        try:
            _msgid, said = decode_response(body)
        except Error as error:
            self.fail(error)
        except MessageError as error:
            self.fail(Broken(str(error)))
            raise
        else:
            self.answer.set_result(said if isinstance(said, dict) else {})

    def fail(self, error: Broken | Error | None) -> None:
        """Learn that none will come."""
        if not self.answer.done():
            self.answer.set_exception(error if isinstance(error, Error) else ConnectionResetError(str(error)))


class Dialer:
    """Connects a link to its store, now and whenever the connection is lost.

    :param link: told of each connection.
    :param target: the store.
    :param contract: the contract that is expected of it.
    :param key: what the processes of our tree say to know each other.
    :param most_untaken: as for :class:`Upstream`.
    """

    def __init__(self, link: Link, target: Named, contract: str, key: str | None, most_untaken: int) -> None:
        self.is_refused = False
        """Whether nobody listens on the store's socket: its supervisor has given it up."""
        self._link = link
        self._target = target
        self._contract = contract
        self._hello = {"relay": True} | ({} if key is None else {"tree": key})
        self._most_untaken = most_untaken
        self._upstream: Upstream | None = None
        self._gone = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def connect(self, *, again: bool) -> None:
        """Connect for the first time, and from then on stay connected. As :meth:`Link.connect`."""
        name, path = self._target.name, self._target.path
        try:
            async with asyncio.timeout(RECONNECT_SECONDS if again else CONNECT_SECONDS):
                contracts = await self._reach()
        except (OSError, TimeoutError, Error) as error:
            if not again:
                why = str(error) or "it does not answer"
                raise Error(
                    "storage_connection_failed",
                    f"the {self._contract}_store {name} cannot be reached at {path} ({why}); start it before the composite",
                    details={"name": name, "path": path},
                ) from error
            _log.warning("store is away", extra={"store": name, "reason": str(error) or "it does not answer"})
            self.is_refused = isinstance(error, ConnectionRefusedError)
            self._gone.set()
        else:
            if self._contract not in contracts:
                self.close()
                raise Error(
                    "validation_error",
                    f"{name} is no {self._contract} store: it serves {', '.join(contracts)}",
                    details={"field": f"{self._contract}_store", "name": name},
                )
        self._keeping = asyncio.create_task(self._keep_connected())

    def lost(self, upstream: Upstream) -> None:
        """Connect again."""
        if upstream is self._upstream:
            self._gone.set()

    def close(self) -> None:
        """Disconnect for good."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._upstream is not None:
            self._upstream.abort()

    async def _reach(self) -> tuple[str, ...]:
        """Connect; return the contracts that the store serves, when it has said so.

        The socket outlives the process behind it, so the connection alone says nothing: only the answer to ``hello`` shows that
        a process is there and takes calls.
        """
        loop = asyncio.get_running_loop()
        check_owner(self._target.path)
        transport, upstream = await loop.create_unix_connection(
            lambda: Upstream(self._link, self._most_untaken), self._target.path
        )
        self._upstream = upstream
        self._gone.clear()
        try:
            check_listener(transport.get_extra_info("socket"), self._target.path)
            contracts = tuple((await upstream.greet(self._hello)).get("contracts", ()))
        except BaseException:
            upstream.abort()
            raise
        self._link.connected(upstream, contracts)
        self.is_refused = False
        return contracts

    async def _keep_connected(self) -> None:
        """Whenever the store is lost, connect again."""
        while True:
            await self._gone.wait()
            try:
                await self._reach()
            except (OSError, Error) as error:
                self.is_refused = isinstance(error, ConnectionRefusedError)
                await asyncio.sleep(RETRY_SECONDS)  # the next try is due then; there is no event to wait for
            else:
                _log.info("store is back", extra={"store": self._target.name})
