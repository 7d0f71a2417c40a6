"""The store that programs running AI agents keep their work in: sessions, runs and events, and artifacts, behind one name.

::

    import asm

    store = asm.connect("MyApp.Store")
    session = asm.Session.new(agent_id="my-agent")
    store.save_session(session)
    store.append_event(asm.Event.new(type="session_created", session_id=session.id))
    store.put(f"patch-{session.id}", patch)

A client needs nothing but msgpack; the stores themselves and asyncio are imported when they are asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from asm._version import __version__
from asm.client.blocking import Client, connect
from asm.core.errors import (
    ConcurrencyError,
    Error,
    ExecutionError,
    ProviderError,
    ResourceError,
    StateError,
    StorageError,
    ToolError,
    ValidationError,
)
from asm.core.results import Page, SessionStats, Usage
from asm.core.values import ArtifactInfo, Event, EventType, Run, RunStatus, Session, SessionStatus
from asm.operations import implements
from asm.ports import ArtifactStore, Maintenance, SessionQueries, SessionStore
from asm.registry import CLASSES, load, missing

if TYPE_CHECKING:
    from asm import aio, retention
    from asm.adapters.files import FileArtifactStore
    from asm.adapters.memory import InMemorySessionStore
    from asm.adapters.s3 import S3ArtifactStore
    from asm.adapters.sql import SqlSessionStore
    from asm.linked import CompositeSessionStore, Handle

__all__ = [
    "ArtifactInfo",
    "ArtifactStore",
    "Client",
    "CompositeSessionStore",
    "ConcurrencyError",
    "Error",
    "Event",
    "EventType",
    "ExecutionError",
    "FileArtifactStore",
    "Handle",
    "InMemorySessionStore",
    "Maintenance",
    "Page",
    "ProviderError",
    "ResourceError",
    "Run",
    "RunStatus",
    "S3ArtifactStore",
    "Session",
    "SessionQueries",
    "SessionStats",
    "SessionStatus",
    "SessionStore",
    "SqlSessionStore",
    "StateError",
    "StorageError",
    "ToolError",
    "Usage",
    "ValidationError",
    "__version__",
    "aio",
    "connect",
    "implements",
    "retention",
]

_LINKED: Final = ("CompositeSessionStore", "Handle")
"""What needs processes, and is imported when it is asked for; so are the stores."""


def __getattr__(name: str) -> Any:
    if name in ("aio", "retention"):
        return importlib.import_module(f"asm.{name}")
    if name in CLASSES:
        return load(CLASSES[name])
    if name in _LINKED:
        try:
            return getattr(importlib.import_module("asm.linked"), name)
        except ModuleNotFoundError as error:
            raise missing(f"asm.{name}", error) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
