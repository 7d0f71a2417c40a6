"""The stores, by name: ours, and those of anybody else; and what a class keeps, so that it is one.

A store is a class whose instances have the operations of one contract (:mod:`asm.ports`). All that is known of it here is text:
whoever runs stores loads them by name when they are needed, and imports none. So a store may in turn import what runs it
(:meth:`asm.adapters.base.Adapter.start_link`), and each may need a package that not everybody has installed.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from asm.core.errors import Error
from asm.operations import CONTRACTS, METHODS, OPERATIONS, OPTIONAL, Operation

__all__ = [
    "CLASSES",
    "ENTRY_POINTS",
    "EXTRAS",
    "STORES",
    "contract_of",
    "contracts_of",
    "load",
    "missing",
    "operations_of",
    "resolve",
]

STORES: Final[dict[str, str]] = {
    "memory": "asm.adapters.memory:InMemorySessionStore",
    "sql": "asm.adapters.sql:SqlSessionStore",
    "file": "asm.adapters.files:FileArtifactStore",
    "s3": "asm.adapters.s3:S3ArtifactStore",
}
"""Our stores: the short name that a configuration uses, and where the class is."""

CLASSES: Final[dict[str, str]] = {reference.partition(":")[2]: reference for reference in STORES.values()}
"""The same, by the names of the classes."""

ENTRY_POINTS: Final = ("asm.session_stores", "asm.artifact_stores")
"""The groups in which installed packages name stores of their own."""

EXTRAS: Final[dict[str, str]] = {
    "sqlalchemy": "sql",
    "alembic": "sql",
    "psycopg": "postgres",
    "boto3": "s3",
    "botocore": "s3",
    "s3transfer": "s3",
    "dill": "server",
    "multiprocess": "server",
    "pydantic": "server",
    "rich": "server",
    "setproctitle": "server",
    "structlog": "server",
    "typer": "server",
}
"""The packages that our stores and processes need, and the extra of this distribution that brings each."""


def load(reference: str) -> type:
    """Return the class of a store.

    :param reference: a short name (:data:`STORES`), the name of an entry point (:data:`ENTRY_POINTS`), or
        ``package.module:Class``.
    :raises Error: ``validation_error`` for a reference to nothing or to what is no store;
        ``dependency_not_available`` when the store's module needs a package that is not installed.
    """
    reference = resolve(reference)
    module_name, class_name = _parts(reference)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise _refused(reference, f"there is no module {error.name!r}") from error
        raise missing(f"the store {reference}", error, store=reference) from error
    except Exception as error:  # a module may raise anything at all while it is imported
        raise _refused(reference, f"importing {module_name!r} failed: {error!r}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise _refused(reference, f"the module {module_name!r} has no class {class_name!r}")
    contract_of(found)
    return found


def contract_of(cls: type) -> str:
    """Return the contract that a class keeps: ``session`` or ``artifact``.

    :raises Error: ``validation_error`` when it has the operations of neither, or of both.
    """
    lacks: dict[str, list[str]] = {contract: [] for contract in CONTRACTS if contract not in OPTIONAL}
    for operation in OPERATIONS.values():
        if operation.contract in lacks and not callable(getattr(cls, operation.name, None)):
            lacks[operation.contract].append(operation.name)
    kept = [contract for contract, names in lacks.items() if not names]
    if len(kept) == 1:
        return kept[0]
    problem = (
        "has the operations of both contracts; make a class for each"
        if kept
        else "; ".join(
            f"for a store of the {contract} contract it lacks {', '.join(names)}" for contract, names in lacks.items()
        )
    )
    raise Error("validation_error", f"{cls.__qualname__} is no store: {problem}", details={"field": "store", "lacks": lacks})


def operations_of(cls: type) -> dict[bytes, Operation]:
    """Return the operations that a class has, by the names that they have in messages.

    :raises Error: as :func:`contract_of`.
    """
    contract = contract_of(cls)
    return {
        method: operation
        for method, operation in METHODS.items()
        if OPTIONAL.get(operation.contract, operation.contract) == contract and callable(getattr(cls, operation.name, None))
    }


def contracts_of(cls: type) -> tuple[str, ...]:
    """Return the contracts of which a class has all operations.

    :raises Error: as :func:`contract_of`.
    """
    has = {operation.name for operation in operations_of(cls).values()}
    names = {contract: {item.name for item in OPERATIONS.values() if item.contract == contract} for contract in CONTRACTS}
    return tuple(contract for contract, needed in names.items() if needed <= has)


def resolve(reference: Any) -> Any:
    """Return ``package.module:Class`` for a name: one of ours, or an entry point of an installed package."""
    if not isinstance(reference, str) or ":" in reference:
        return reference
    if reference in STORES:
        return STORES[reference]
    from importlib.metadata import entry_points  # noqa: PLC0415  # reads the disk, for names that are not ours only

    found = [point for group in ENTRY_POINTS for point in entry_points(group=group, name=reference)]
    return found[0].value if found else reference


def _parts(reference: Any) -> tuple[str, str]:
    """Split ``package.module:Class``."""
    module_name, separator, class_name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if not separator or not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise _refused(reference, "it must be a name of ours or of an installed package, or have the form package.module:Class")
    return module_name, class_name


def _refused(reference: Any, problem: str) -> Error:
    known = ", ".join(STORES)
    return Error(
        "validation_error",
        f"there is no store {reference!r}: {problem} (stores with a name: {known})",
        details={"field": "store", "store": str(reference), "known": list(STORES)},
    )


def missing(who: str, error: ModuleNotFoundError, **details: str) -> Error:
    """Return the error that names the package which somebody needs, and how to get it.

    :param who: who needs it, as the subject of a sentence.
    :param details: what else a program may want to know.
    """
    package = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(package)
    remedy = f'pip install "asm-store[{extra}]"' if extra else f"the package that provides {package!r}"
    return Error(
        "dependency_not_available",
        f"{who} needs the package {package!r}, which is not installed; to install: {remedy}",
        details={**details, "package": package, "install": remedy},
    )
