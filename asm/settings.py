"""What a configuration says: its tables, with the type, the range and the default of each key.

What they mean together, and the options of the stores, is checked where they are read (:mod:`asm.config`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from asm.core.errors import Error
from asm.processes.access import Access, find_group
from asm.processes.limits import Limits
from asm.wire.credentials import find_user
from asm.wire.frames import MAX_FRAME
from asm.wire.names import check_name, find_runtime_dir

__all__ = [
    "BackendSettings",
    "BackoffSettings",
    "CompositeSettings",
    "ModuleSettings",
    "Settings",
    "SupervisorSettings",
]

LEAST_FRAME: Final = 512 * 1024
"""The least that a message must be allowed to have: a piece of an artifact, and what is around it."""


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
