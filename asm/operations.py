"""The operations of the contracts as data, derived from the signatures in :mod:`asm.ports`.

``OPERATIONS`` is what everything generic is made from: the clients make a proxy method of each operation, the
composite routes by the contract in :attr:`Operation.method`, a worker dispatches by it, and all of them check arguments with
:meth:`Operation.bind`. A new operation is written in :mod:`asm.ports` and in each adapter, and nowhere else.
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
from asm.core.policies import RetentionPolicy
from asm.core.results import Page
from asm.core.values import Event, Run, Session
from asm.ports import ArtifactStore, Data, ExecutionResult, Maintenance, SessionQueries, SessionStore

__all__ = ["CONTRACTS", "METHODS", "OPERATIONS", "OPTIONAL", "Operation", "Parameter", "implements", "unchecked"]

CONTRACTS: Final[dict[str, type]] = {
    "session": SessionStore,
    "artifact": ArtifactStore,
    "query": SessionQueries,
    "maintenance": Maintenance,
}
"""The contracts, by the names that messages and messages of error use for them."""

OPTIONAL: Final[dict[str, str]] = {"query": "session", "maintenance": "session"}
"""Those that a store may keep beside another, all of it or some operations, and which other that is."""

UNREPEATABLE: Final = frozenset({"save_session", "save_run", "flush", "import_session"})
"""What may not be done twice without a look in between: it could undo what somebody else did, or be refused."""

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
    """One of :data:`CONTRACTS`."""
    parameters: dict[str, Parameter]
    positional: tuple[str, ...]
    """The names of those that may be given by position."""
    required: tuple[str, ...]
    """The names of those that must be given."""
    result: Any
    """The annotation of what it returns."""
    signature: inspect.Signature
    method: str
    """Its name in a message: ``session.get_events``."""
    data_parameter: str | None
    """The parameter that is bytes, which may be more than fit into a message."""
    returns_data: bool
    """Whether it returns bytes, which may be more than fit into a message."""
    returns_rows: bool
    """Whether it returns a list or a page, which may be longer than fits into a message."""
    may_wait: bool
    """Whether it can be told to wait for what may not happen for long."""
    repeatable: bool
    """Whether doing it twice is the same as doing it once, whatever others did in between."""
    rule: Rule | None
    """Checks what arguments mean together."""
    sent_events: Callable[[Mapping[str, Any]], Any] | None
    """Returns the event or events among its arguments that come back as they are stored, where any do."""

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
        if self.rule is not None:
            self.rule(given)
        return given


Rule = Callable[[Mapping[str, Any]], None]

GIVEN: Final = operator.attrgetter("check")
RECEIVED: Final = operator.attrgetter("receive")


def implements(*contracts: type) -> Callable[[C], C]:
    """Return a class decorator for a store: each operation of some contracts is there, and checks its arguments first.

    What the class inherits counts. A subclass that overrides operations of one of our stores is decorated again, if these are
    to check their arguments as well.

    :param contracts: :class:`~asm.ports.SessionStore` or :class:`~asm.ports.ArtifactStore`, and for a session store
        :class:`~asm.ports.SessionQueries` and :class:`~asm.ports.Maintenance`, if it keeps them.
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
    given = {name: _PARTS[name](part, f"{where}.{name}") for name, part in value.items() if part is not None}
    if not given:
        checks.refuse(where, f"needs at least one of: {', '.join(_PARTS)}")
    if "provider_metadata" in given and "run" not in given:
        checks.refuse(where, "has provider_metadata, which is merged into that of a run, and no run")
    return given


_PARTS: Final[dict[str, checks.Check]] = {
    "session": _instance(Session),
    "run": _instance(Run),
    "events": _events,
    "provider_metadata": checks.json_map,
}
"""The checks of what ``flush`` takes."""


def _data(value: Any, where: str) -> Any:
    """Accept bytes, or what gives bytes. Text is refused, because only the caller knows its encoding."""
    if isinstance(value, bytes | bytearray | memoryview) or callable(getattr(value, "read", None)):
        return value
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        checks.refuse(where, f"must be bytes, a readable binary file or an iterable of bytes, not {checks.kind(value)}")
    return value


_CHECKS: Final[list[tuple[Any, checks.Check]]] = [
    (Session, _instance(Session)),
    (Session | None, checks.optional(_instance(Session))),
    (Run, _instance(Run)),
    (Run | None, checks.optional(_instance(Run))),
    (RetentionPolicy, _instance(RetentionPolicy)),
    (Event, _instance(Event)),
    (list[Event], _events),
    (ExecutionResult, _execution_result),
    (Data, _data),
]
"""The checks of the types that carry none in their annotation."""


def _same_id(name: str) -> Rule:
    """Return the rule that what is replaced has the id of what replaces it."""

    def rule(given: Mapping[str, Any]) -> None:
        value, replaced = given[name], given.get("replacing")
        if replaced is not None and replaced.id != value.id:
            checks.refuse("replacing", f"is the {name} {replaced.id!r}, and not {value.id!r}, which is to replace it")

    return rule


def _last_stands_alone(given: Mapping[str, Any]) -> None:
    for other in ("limit", "wait_timeout_ms"):
        if given.get("last") is not None and given.get(other) is not None:
            checks.refuse("last", f"counts from the end, and cannot be given together with {other}")


def _some_condition(given: Mapping[str, Any]) -> None:
    names = ("through", "run_id", "type")
    if all(given.get(name) is None for name in names):
        checks.refuse("delete_events", f"needs a condition: {', '.join(names)}; delete_session deletes all of a session")


RULES: Final[dict[str, Rule]] = {
    "save_session": _same_id("session"),
    "save_run": _same_id("run"),
    "get_events": _last_stands_alone,
    "delete_events": _some_condition,
}
"""What the arguments of an operation mean together, where that can be wrong."""

SENT_EVENTS: Final[dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    "append_event_with_sequence": operator.itemgetter("event"),
    "append_events": operator.itemgetter("events"),
    "flush": lambda given: given["result"].get("events", []),
}
"""Where the events are among the arguments of the operations that return them."""


def _operations() -> dict[str, Operation]:
    """Read the contracts."""
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
                method=f"{contract}.{name}",
                data_parameter=next((item.name for item in parameters.values() if item.annotation == Data), None),
                returns_data=result is bytes or result is BinaryIO,
                returns_rows=typing.get_origin(result) in (list, Page),
                may_wait="wait_timeout_ms" in parameters,
                repeatable=name not in UNREPEATABLE,
                rule=RULES.get(name),
                sent_events=SENT_EVENTS.get(name),
            )
    return found


def _parameter(name: str, hint: Any) -> Parameter:
    if typing.get_origin(hint) is typing.Annotated:
        return Parameter(name, hint.__origin__, hint.__metadata__[0], hint.__metadata__[-1])
    check = next(check for kind, check in _CHECKS if kind == hint)
    return Parameter(name, hint, check, check)


OPERATIONS: Final[dict[str, Operation]] = _operations()
"""Every operation of the contracts, by name. No two contracts have one of the same name."""

METHODS: Final[dict[bytes, Operation]] = {operation.method.encode(): operation for operation in OPERATIONS.values()}
"""The same, by the name that each has in a message."""
