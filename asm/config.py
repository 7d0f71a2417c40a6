"""The configuration: a TOML file, read and checked as a whole before anything starts.

    file ──► TOML ──► ${VAR} from the environment ──► tables and types ──► stores and references ──► Settings

Every problem is found in one pass, and each is told with its place in the file and what to do. Nothing is touched: a
store's own options are checked as its constructor does (:mod:`asm.core.options`), and by its ``preflight``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pydantic

from asm.core.errors import Error
from asm.core.options import options_of
from asm.registry import contract_of, load
from asm.settings import BackoffSettings, CompositeSettings, ModuleSettings, Settings, SupervisorSettings
from asm.wire.names import socket_path

__all__ = ["ConfigError", "read"]

VARIABLE: Final = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
"""``${VAR}`` and ``${VAR:-default}``; ``$${`` stands for a literal ``${``."""


class ConfigError(Exception):
    """What is wrong with a configuration: one line a problem.

    :param path: the file.
    :param problems: each with its place in the file.
    """

    def __init__(self, path: str, problems: list[str]) -> None:
        super().__init__(path, problems)
        self.path = path
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(f"{self.path}: {problem}" for problem in self.problems)


def read(path: str | os.PathLike[str]) -> Settings:
    """Read a configuration and check all of it.

    :param path: a TOML file.
    :raises ConfigError: with every problem that was found.
    """
    shown = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(shown, [f"cannot be read: {why}"]) from error
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(shown, [f"is no TOML: {error}"]) from error

    problems: list[str] = []
    tables = _expand(tables, "", problems)
    if isinstance(tables.get("composite"), dict):
        tables["composite"] = [tables["composite"]]
    if problems:
        raise ConfigError(shown, problems)
    try:
        settings = Settings.model_validate(tables)
    except pydantic.ValidationError as error:
        raise ConfigError(shown, [_problem(item) for item in error.errors()]) from error
    if problems := list(_check(settings)):
        raise ConfigError(shown, problems)
    return settings


def _expand(value: Any, where: str, problems: list[str]) -> Any:
    """Replace ``${VAR}`` in every string. Only the name of a variable is ever told, never what it holds."""
    if isinstance(value, dict):
        return {key: _expand(item, f"{where}.{key}" if where else key, problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, f"{where}[{index}]", problems) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        escaped, name, default = match.groups()
        if escaped:
            return match[0][1:]
        found = os.environ.get(name) or default
        if found is None:
            problems.append(f"{where}: the environment variable {name} is not set; set it, or give a default: ${{{name}:-…}}")
            return ""
        return found

    return VARIABLE.sub(replacement, value)


def _problem(item: Any) -> str:
    """Say what pydantic found as a person would."""
    place = [part for part in item["loc"] if part not in ("str", "ModuleSettings")]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if item["type"] == "missing":
        return f"{where}: is missing; add it"
    if item["type"] == "extra_forbidden":
        return f"{where}: is no key that exists here; remove it or correct its name. {_known_keys(place)}"
    return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _known_keys(place: list[Any]) -> str:
    models: dict[Any, type[pydantic.BaseModel]] = {"supervisor": SupervisorSettings, "composite": CompositeSettings}
    model = models.get(place[0], Settings) if len(place) > 1 else Settings
    if place[:-1] == ["supervisor", "backoff"]:
        model = BackoffSettings
    return f"Known: {', '.join(model.model_fields)}"


def _check(settings: Settings) -> Iterator[str]:
    """Find what is wrong between the tables, and in the options of the stores."""
    try:
        runtime_dir = settings.runtime_dir
    except Error as error:
        yield f"supervisor.runtime_dir: {error.message}"
        return
    seen: dict[str, str] = {}
    children = [*_numbered("backend", settings.backend), *_numbered("composite", settings.composite)]
    for where, table in [("supervisor", settings.supervisor), *children]:
        if table.name in seen:
            yield f"{where}.name: {table.name!r} is the name of {seen[table.name]} already; choose another"
        seen.setdefault(table.name, where)
        try:
            socket_path(table.name, runtime_dir)
        except Error as error:
            yield f"{where}.name: {error.message}"
    if not settings.composite:
        yield "composite: is missing; add a table [composite] with name, session_store and artifact_store"

    contracts: dict[str, str] = {}
    for where, backend in _numbered("backend", settings.backend):
        contract, problems = _check_store(backend.store, backend.options, where)
        yield from problems
        contracts[backend.name] = contract
    for where, composite in _numbered("composite", settings.composite):
        for key, wanted, reference in composite.references():
            yield from _check_reference(f"{where}.{key}", reference, wanted, contracts, runtime_dir)


def _numbered(kind: str, tables: list[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{kind}[{index}]", table) for index, table in enumerate(tables))


def _check_store(store: str, options: Mapping[str, Any], where: str) -> tuple[str, list[str]]:
    """Return the contract of a store (empty if there is no such store) and what is wrong with its options."""
    try:
        kind = load(store)
        contract = contract_of(kind)
    except Error as error:
        return "", [f"{where}.store: {error.message}"]
    try:
        if problems := [_about_option(where, error) for error in options_of(kind).problems(options)]:
            return contract, problems
        if preflight := getattr(kind, "preflight", None):
            preflight(**options)
    except Error as error:
        return contract, [_about_option(where, error)]
    except Exception as error:  # noqa: BLE001  # a store of somebody else's may raise anything
        return contract, [f"{where}: the options of {store} could not be checked: {type(error).__name__}"]
    return contract, []


def _about_option(where: str, error: Error) -> str:
    field = error.details.get("field")
    return f"{where}{f'.{field}' if field else ''}: {error.message}"


def _check_reference(
    where: str, reference: str | ModuleSettings, wanted: str, contracts: Mapping[str, str], runtime_dir: str
) -> Iterator[str]:
    """Find what is wrong with what a composite refers to."""
    if isinstance(reference, ModuleSettings):
        contract, problems = _check_store(reference.store, reference.options, where)
        yield from problems
        if contract and contract != wanted:
            yield f"{where}.store: {reference.store!r} is no {wanted} store, but one of the {contract} contract"
        return
    if reference in contracts:
        if contracts[reference] not in ("", wanted):
            yield f"{where}: {reference!r} is no {wanted} store, but one of the {contracts[reference]} contract"
        return
    try:
        path = socket_path(reference, runtime_dir)
    except Error:  # its message would show what may have come from the environment
        yield f"{where}: is no name; give that of a backend ({', '.join(contracts) or 'there are none'}) or of a running store"
        return
    if not os.path.exists(path):  # noqa: PTH110  # the path is text everywhere else
        known = ", ".join(contracts) or "none"
        yield f"{where}: {reference!r} is no backend of this file (there are: {known}), and no store runs under this name"
