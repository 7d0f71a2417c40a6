"""The operations of the contracts as data, derived from the signatures in :mod:`asm.ports`.

``OPERATIONS`` is what everything generic is made from: the clients make a proxy method of each operation, the
composite routes by :attr:`Operation.contract`, a worker dispatches by :attr:`Operation.name`, and all of them
check arguments with :meth:`Operation.bind`. A new operation is written in ``ports.py`` and in each adapter, and nowhere else.
"""

from __future__ import annotations

import functools
import inspect
import operator
import typing
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeVar

from asm.core import checks
from asm.core.values import Event, Run, Session
from asm.ports import ArtifactStore, Data, ExecutionResult, SessionStore

__all__ = ["CONTRACTS", "OPERATIONS", "Operation", "Parameter", "implements", "unchecked"]

CONTRACTS: Final[dict[str, type]] = {"session": SessionStore, "artifact": ArtifactStore}
"""The two contracts, by the names that messages and messages of error use for them."""

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of an operation, without ``self``."""

    name: str
    annotation: Any
    """Its type, without the check."""
    check: checks.Check
    """Checks what a caller gives."""
    receive: checks.Check
    """Checks what another process was given, which may be a later version."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a contract."""

    name: str
    contract: str
    """``session`` or ``artifact``."""
    parameters: dict[str, Parameter]
    positional: tuple[str, ...]
    """The names of those that may be given by position."""
    required: tuple[str, ...]
    """The names of those that must be given."""
    result: Any
    """The annotation of what it returns."""
    signature: inspect.Signature
    data_parameter: str | None
    """The parameter that is the bytes of an artifact, which may be more than fit into a message."""
    events_parameter: str | None
    """The parameter with the events that it stores and gives back."""

    @property
    def returns_data(self) -> bool:
        """Whether it returns the bytes of an artifact."""
        return self.result is bytes or self.result is BinaryIO

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments of a call; return those that were given, by name, each in its normal form.

        :raises Error: ``validation_error`` for a wrong number, an unknown name or a missing argument, and whatever
            the check of an argument refuses.
        """
        given = dict(zip(self.positional, args, strict=False))
        if len(given) < len(args):
            names = self.positional
            checks.refuse(self.name, f"takes {len(names)} positional arguments ({', '.join(names)}), not {len(args)}")
        if kwargs:
            if twice := given.keys() & kwargs.keys():
                checks.refuse(self.name, f"got {', '.join(twice)} twice")
            given |= kwargs
        return self._checked(given, GIVEN)

    def receive(self, given: dict[str, Any]) -> dict[str, Any]:
        """Check arguments that were bound in another process, by name. Returns and raises as :meth:`bind`."""
        return self._checked(given, RECEIVED)

    def _checked(self, given: dict[str, Any], check_of: Callable[[Parameter], checks.Check]) -> dict[str, Any]:
        for name, value in given.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                checks.refuse(
                    self.name, f"has no parameter {name!r}; it takes: {', '.join(self.parameters)}", parameter=str(name)
                )
            given[name] = check_of(parameter)(value, name)
        for name in self.required:
            if name not in given:
                checks.refuse(self.name, f"needs {name}", parameter=name)
        return given


GIVEN: Final = operator.attrgetter("check")
RECEIVED: Final = operator.attrgetter("receive")


def implements(*contracts: type) -> Callable[[C], C]:
    """Return a class decorator for a store: each operation is there, and checks its arguments first.

    What the class inherits counts. A subclass that overrides operations of one of our stores is decorated again, if these are
    to check their arguments as well.

    :param contracts: :class:`~asm.ports.SessionStore`, :class:`~asm.ports.ArtifactStore`, or both.
    :raises TypeError: when the class lacks an operation or names its parameters differently.
    """

    def decorate(cls: C) -> C:
        for operation in OPERATIONS.values():
            port = CONTRACTS[operation.contract]
            if port not in contracts:
                continue
            function = inspect.getattr_static(cls, operation.name, None)
            if function is None or function is vars(port)[operation.name]:
                message = f"{cls.__name__} lacks the operation {operation.name}{operation.signature}"
                raise TypeError(message)
            if list(inspect.signature(function).parameters)[1:] != list(operation.parameters):
                message = f"{cls.__name__}.{operation.name} must have the parameters {operation.signature}"
                raise TypeError(message)
            if function not in _UNCHECKED:  # what is inherited from one of our stores is checked
                setattr(cls, operation.name, _checked(operation, function))
        return cls

    return decorate


def unchecked(store: Any, name: str) -> Callable[..., Any]:
    """Return an operation of a store for a caller who has checked the arguments: without a second check."""
    method: Any = getattr(store, name)
    function: Any = getattr(method, "__func__", None)
    return _UNCHECKED[function].__get__(method.__self__) if function in _UNCHECKED else method  # type: ignore[no-any-return]


_UNCHECKED: Final[weakref.WeakKeyDictionary[Callable[..., Any], Any]] = weakref.WeakKeyDictionary()
"""The operations that check their arguments, and what they are without that."""


def _checked(operation: Operation, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(self, **operation.bind(args, kwargs))

    _UNCHECKED[call] = function
    return call


def _instance(kind: type) -> checks.Check:
    def check(value: Any, where: str) -> Any:
        if not isinstance(value, kind):
            checks.refuse(where, f"must be {checks.a(kind.__name__)}, not {checks.kind(value)}")
        return value

    return check


def _events(value: Any, where: str) -> list[Event]:
    """Accept events in a list, in the order in which they are appended."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        checks.refuse(where, f"must be a list of Events, not {checks.kind(value)}")
    return [_instance(Event)(item, f"{where}[{index}]") for index, item in enumerate(value)]


def _execution_result(value: Any, where: str) -> dict[str, Any]:
    """Accept what ``flush`` takes."""
    if not isinstance(value, Mapping):
        checks.refuse(where, f"must be a map, not {checks.kind(value)}")
    if unknown := [str(name) for name in value if name not in ExecutionResult.__annotations__]:
        checks.refuse(where, f"has no key {', '.join(unknown)}; it takes: {', '.join(ExecutionResult.__annotations__)}")
    if missing := [name for name in ("session", "run", "events") if name not in value]:
        checks.refuse(where, f"needs {', '.join(missing)}")
    return {
        "session": _instance(Session)(value["session"], f"{where}.session"),
        "run": _instance(Run)(value["run"], f"{where}.run"),
        "events": _events(value["events"], f"{where}.events"),
        "provider_metadata": checks.json_map_or_empty(value.get("provider_metadata"), f"{where}.provider_metadata"),
    }


def _data(value: Any, where: str) -> Any:
    """Accept bytes, or what gives bytes. Text is refused, because only the caller knows its encoding."""
    if isinstance(value, bytes | bytearray | memoryview) or callable(getattr(value, "read", None)):
        return value
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        checks.refuse(where, f"must be bytes, a readable binary file or an iterable of bytes, not {checks.kind(value)}")
    return value


_CHECKS: Final[list[tuple[Any, checks.Check]]] = [
    (Session, _instance(Session)),
    (Run, _instance(Run)),
    (Event, _instance(Event)),
    (list[Event], _events),
    (ExecutionResult, _execution_result),
    (Data, _data),
]
"""The checks of the types that carry none in their annotation."""


def _operations() -> dict[str, Operation]:
    """Read both contracts."""
    found = {}
    for contract, port in CONTRACTS.items():
        for name, function in vars(port).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            hints, signature = typing.get_type_hints(function, include_extras=True), inspect.signature(function)
            items = list(signature.parameters.values())[1:]
            result = hints["return"]
            parameters = {item.name: _parameter(item.name, hints[item.name]) for item in items}
            found[name] = Operation(
                name,
                contract,
                parameters,
                tuple(item.name for item in items if item.kind is not item.KEYWORD_ONLY),
                tuple(item.name for item in items if item.default is item.empty),
                result,
                signature,
                next((item.name for item in parameters.values() if item.annotation == Data), None),
                next((item.name for item in parameters.values() if item.annotation == result in (Event, list[Event])), None),
            )
    return found


def _parameter(name: str, hint: Any) -> Parameter:
    if typing.get_origin(hint) is typing.Annotated:
        return Parameter(name, hint.__origin__, hint.__metadata__[0], hint.__metadata__[-1])
    check = next(check for kind, check in _CHECKS if kind == hint)
    return Parameter(name, hint, check, check)


OPERATIONS: Final[dict[str, Operation]] = _operations()
"""Every operation of both contracts, by name."""
