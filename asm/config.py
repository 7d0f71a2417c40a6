"""The configuration: a TOML file, read and checked as a whole before anything starts.

    file ──► TOML ──► ${VAR} from the environment ──► tables and types ──► stores and references ──► Settings

Every problem is found in one pass, and each is told with its place in the file and what to do. Nothing is touched: a
store's own options are checked as its constructor does (:mod:`asm.core.options`), and by its ``preflight``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from asm.core.errors import Error
from asm.core.options import options_of
from asm.processes.access import Access, find_group
from asm.processes.limits import Limits
from asm.registry import contract_of, load
from asm.wire.credentials import find_user
from asm.wire.frames import MAX_FRAME
from asm.wire.names import check_name, find_runtime_dir, socket_path

__all__ = [
    "BackendSettings",
    "BackoffSettings",
    "CompositeSettings",
    "ConfigError",
    "ModuleSettings",
    "Settings",
    "SupervisorSettings",
    "read",
]

LEAST_FRAME: Final = 512 * 1024
"""The least that a message must be allowed to have: a piece of an artifact, and what is around it."""

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


def _name(value: str) -> str:
    try:
        return check_name(value)
    except Error as error:
        raise ValueError(error.message) from error


def _users(users: list[str | int]) -> list[int]:
    return [_id("user", user, find_user) for user in users]


def _groups(groups: list[str | int]) -> list[int]:
    return [_id("group", group, find_group) for group in groups]


def _id(kind: str, given: str | int, find: Callable[[str | int], int]) -> int:
    """Return a uid or a gid."""
    try:
        found = find(given)
    except KeyError:
        raise ValueError(f"there is no {kind} {given!r} on this host; correct its name, or give its number") from None
    if not 0 <= found < 2**32 - 1:
        raise ValueError(f"{given} is the number of no {kind}")
    return found


def _limits(table: Any) -> Any:
    """Return ``[limits]`` as what it stands for."""
    if not isinstance(table, dict):
        return table
    known = [field.name for field in dataclasses.fields(Limits)]
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{key} is no key that exists here; remove it or correct its name. Known: {', '.join(known)}")
        least, most = (LEAST_FRAME, MAX_FRAME) if key == "max_frame_bytes" else (1, sys.maxsize)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{key} must be a whole number from {least} to {most}, not {value!r}")
    return Limits(**table)


Name = Annotated[str, AfterValidator(_name)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class BackoffSettings(_Table):
    """``[supervisor.backoff]``: how long a child that died waits for its restart. The first one comes at once."""

    first: Pause = 0.1
    """Seconds before the second restart in a row."""
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    """By which each further pause is longer."""
    cap: Pause = 2.0
    """The longest pause, in seconds."""
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The share of a pause that is left to chance."""
    stable: Pause = 1.0
    """A child that was ready for this many seconds begins anew with a restart at once."""


class SupervisorSettings(_Table):
    """``[supervisor]``: how the tree is kept up."""

    name: Name
    """What the tree is called, in the title of its process and in its log, and the name on which it answers ``asmctl``."""
    strategy: Literal["one_for_one", "rest_for_one", "one_for_all"] = "one_for_one"
    """Who is restarted when a child crashes: it alone, those declared after it as well, or all."""
    max_restarts: Annotated[int, Field(ge=0)] = 10
    """With more restarts of a child than this within ``max_seconds``, its ``on_failure`` decides."""
    max_seconds: Seconds = 30.0
    backoff: BackoffSettings = Field(default_factory=BackoffSettings)
    runtime_dir: str | None = None
    """The directory with the sockets; by default ``ASM_RUNTIME_DIR``, then the usual places."""
    allow_users: Annotated[list[str | int], AfterValidator(_users)] = Field(default_factory=list)
    """Who may connect beside the user of the tree and root: names or uids."""
    allow_groups: Annotated[list[str | int], AfterValidator(_groups)] = Field(default_factory=list)
    """Whose members may connect: names or gids."""
    start_method: Literal["forkserver", "spawn", "fork"] = "forkserver"
    """How processes are made."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class ModuleSettings(BaseModel):
    """``{ store = "sql", url = "…" }``: a store that needs no process of its own. Other keys are its options."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    store: str
    """``memory``, ``sql``, ``file``, ``s3``, the name of an entry point, or ``package.module:Class``."""

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the store's constructor."""
        return dict(self.model_extra or {})


class _Process(BaseModel):
    """What every process of the tree can be told."""

    model_config = ConfigDict(strict=True, frozen=True)

    name: Name
    start_timeout: Seconds = 30.0
    """How many seconds it may take to come up."""
    stop_timeout: Seconds = 10.0
    """How many seconds it may take to stop before it is killed."""
    heartbeat_timeout: Seconds = 10.0
    """After how many seconds without progress of its event loop it counts as hung, is killed and restarted."""
    restart: Literal["permanent", "transient", "temporary"] = "permanent"
    """When it is started again: always; unless it exited with status 0; never."""
    retry_after: Pause = 30.0
    """After how many seconds it is tried again when it died too often and the tree goes on without it; 0: never."""


class BackendSettings(_Process, ModuleSettings):
    """``[[backend]]``: a store in a process of its own. Keys that are not below are its options."""

    on_failure: Literal["degrade", "shutdown"] = "degrade"
    """What follows when it died too often: the tree goes on without it, or stops."""


class CompositeSettings(_Process, _Table):
    """``[composite]`` or ``[[composite]]``: the name that puts two stores together."""

    session_store: str | ModuleSettings
    artifact_store: str | ModuleSettings
    on_failure: Literal["degrade", "shutdown"] = "shutdown"
    """What follows when it died too often: the tree goes on without it, or stops."""

    def references(self) -> Iterator[tuple[str, str, str | ModuleSettings]]:
        """Return key, contract and reference of both stores."""
        yield "session_store", "session", self.session_store
        yield "artifact_store", "artifact", self.artifact_store


class Settings(_Table):
    """A whole configuration."""

    supervisor: SupervisorSettings
    limits: Annotated[Limits, BeforeValidator(_limits)] = Field(default_factory=Limits)
    backend: list[BackendSettings] = Field(default_factory=list)
    composite: list[CompositeSettings]

    @property
    def access(self) -> Access:
        """Who may connect."""
        tree = self.supervisor
        return Access(frozenset(map(find_user, tree.allow_users)), frozenset(map(find_group, tree.allow_groups)))

    @property
    def runtime_dir(self) -> str:
        """The directory with the sockets of this tree."""
        return find_runtime_dir(self.supervisor.runtime_dir)

    def stores(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield every store of the tree: a name for people, the reference of its class, and its options."""
        for backend in self.backend:
            yield backend.name, backend.store, backend.options
        for composite in self.composite:
            for key, _contract, reference in composite.references():
                if isinstance(reference, ModuleSettings):
                    yield f"{composite.name}:{key}", reference.store, reference.options


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
    models: dict[Any, type[BaseModel]] = {"supervisor": SupervisorSettings, "composite": CompositeSettings}
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
