"""The client of a supervisor: how a tree is, and what it is to do. Blocking, and for one thread.

with asm.client.control.attach("dev") as tree:
    print(tree.status().state)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final, Self

from asm.client.calling import Late
from asm.client.connection import Connection
from asm.client.conversation import Call
from asm.core.errors import Error
from asm.status import CONTROL, TreeStatus
from asm.wire.conversation import Broken
from asm.wire.messages import HELLO, packed
from asm.wire.names import check_owner, find_runtime_dir, socket_path

__all__ = ["NOT_RUNNING", "Controller", "attach", "trees"]

NOT_RUNNING: Final = "not_running"
"""``details["reason"]`` of the error when nobody answers to the name of a tree."""

DEFAULT_TIMEOUT: Final = 10.0
"""How many seconds a supervisor may take for an answer. It reads a configuration meanwhile, if it is told to."""

LOOK_TIMEOUT: Final = 1.0
"""How many seconds all that have a socket in the runtime directory may take together to say what they are."""

MOMENT: Final = 0.001
"""How many seconds are enough to read what has come already."""

NO_META: Final = packed({})


def attach(name: str, *, runtime_dir: str | os.PathLike[str] | None = None, timeout: float = DEFAULT_TIMEOUT) -> Controller:
    """Connect to the supervisor of a tree.

    :param name: the tree's, as in ``[supervisor]``.
    :param runtime_dir: the directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places.
    :param timeout: how many seconds an answer may take.
    :raises Error: ``storage_connection_failed`` with the reason ``not_running`` when no tree has this name; ``timeout`` when
        it does not answer; ``validation_error`` when it is the name of a store.
    """
    path = socket_path(name, runtime_dir)
    check_owner(path)
    try:
        connection = _Connection(name, path, timeout)
    except (OSError, Late) as error:
        why = "too many wait to be connected" if isinstance(error, Late) else error.strerror or error
        message = f"no tree {name!r} is running: nobody answers at {path} ({why})"
        raise Error("storage_connection_failed", message, details={"reason": NOT_RUNNING, "name": name}) from error
    try:
        contracts = connection.call(HELLO.decode()).get("contracts", [])
        if CONTROL not in contracts:
            known = ", ".join(trees(runtime_dir)) or "none"
            raise Error("validation_error", f"{name} is a store, and no tree; trees that run: {known}", details={"name": name})
    except BaseException:
        connection.close()
        raise
    return Controller(name, connection)


def trees(runtime_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of the trees that run in a runtime directory, sorted; also of what does not say what it is.

    :raises Error: ``storage_connection_failed`` when the directory belongs to somebody else, or cannot be read.
    """
    directory = find_runtime_dir(runtime_dir)
    check_owner(os.path.join(directory, "any"))  # noqa: PTH118  # a client does not import pathlib
    try:
        names = sorted(file.removesuffix(".sock") for file in os.listdir(directory) if file.endswith(".sock"))  # noqa: PTH208
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Error("storage_connection_failed", f"{directory} cannot be read: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        asked, deadline = {}, time.monotonic() + LOOK_TIMEOUT
        for name in names:
            with contextlib.suppress(OSError, Error, Late):  # what a killed tree left behind
                connection = stack.enter_context(
                    contextlib.closing(_Connection(name, socket_path(name, directory), LOOK_TIMEOUT))
                )
                connection.send(HELLO.decode(), None, deadline)
                asked[name] = connection
        said = {name: _contracts(connection, deadline) for name, connection in asked.items()}
        found = {name for name, contracts in said.items() if contracts and CONTROL in contracts}
        # Who does not answer is a store that hangs, if it is the child of a tree. If not, it may be a tree that hangs.
        children = {child["name"] for name in found for child in asked[name].call("control.status")["children"]}
    return [name for name, contracts in said.items() if name in found or (contracts is None and name not in children)]


class Controller:
    """A connection to the supervisor of a tree. Made by :func:`attach`; a context manager that closes it."""

    def __init__(self, name: str, connection: _Connection) -> None:
        self.name = name
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def status(self) -> TreeStatus:
        """Return how the tree is.

        :raises Error: ``timeout`` when it does not answer, ``storage_connection_failed`` when it went away.
        """
        return TreeStatus.from_map(self._connection.call("control.status"))

    def restart(self, name: str) -> None:
        """Have a child stopped and started again; also one that failed. It is done when :meth:`status` says so.

        :raises Error: ``not_found`` when there is no such child; ``invalid_operation`` when the tree is stopping.
        """
        self._connection.call("control.restart", {"name": name})

    def reload(self) -> dict[str, list[str]]:
        """Have the configuration read again, and what changed restarted.

        :return: names of children, as ``added``, ``changed`` and ``removed``.
        :raises Error: ``validation_error`` with the reason ``configuration`` when it is refused; then nothing was changed.
        """
        changes: dict[str, list[str]] = self._connection.call("control.reload")
        return changes

    def stop(self) -> None:
        """Have the tree stopped, and wait until it is gone."""
        self._connection.call("control.stop")
        self._connection.wait_closed()


class _Connection:
    """One connection, with one call at a time."""

    def __init__(self, name: str, path: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._connection = Connection(path, time.monotonic() + timeout)
        self._call = Call()

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, arguments: dict[str, Any] | None = None) -> Any:
        """Make a call; return its result.

        :raises Error: what was answered, or why nothing was.
        """
        deadline = time.monotonic() + self._timeout
        self.send(method, arguments, deadline)
        return self.receive(deadline)

    def send(self, method: str, arguments: dict[str, Any] | None, deadline: float) -> None:
        with self._translated():
            self._call = Call()
            request = self._connection.conversation.request(self._call, method, NO_META, arguments or {})
            self._connection.send(self._call, request, deadline)

    def receive(self, deadline: float) -> Any:
        with self._translated():
            self._connection.receive(self._call, deadline)
            return self._call.outcome()

    def wait_closed(self) -> None:
        """Wait until the other side closes the connection: the tree does so when nothing of it is left."""
        self._connection.wait_closed()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise what goes wrong with a connection as an error of ours."""
        details = {"name": self._name}
        try:
            yield
        except Late:
            message = f"the supervisor of {self._name} did not answer within {self._timeout:g} s"
            raise Error("timeout", message, details=details) from None
        except Broken as error:
            message = f"the supervisor of {self._name} went away: {error}"
            raise Error("storage_connection_failed", message, details=details) from error


def _contracts(connection: _Connection, deadline: float) -> list[str] | None:
    """Return the contracts in the answer to ``hello``; ``None`` when there is no answer yet."""
    try:
        contracts: list[str] = connection.receive(max(deadline, time.monotonic() + MOMENT)).get("contracts", [])
    except Error as error:
        return None if error.code == "timeout" else []
    return contracts
