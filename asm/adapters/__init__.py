"""The stores of our own. Each is loaded when it is first asked for, because it may need a package that is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm.registry import CLASSES, load

if TYPE_CHECKING:
    from asm.adapters.files import FileArtifactStore
    from asm.adapters.memory import InMemorySessionStore
    from asm.adapters.s3 import S3ArtifactStore
    from asm.adapters.sql import SqlSessionStore

__all__ = ["FileArtifactStore", "InMemorySessionStore", "S3ArtifactStore", "SqlSessionStore", "load"]


def __getattr__(name: str) -> type:
    """Load a store of ours.

    :raises Error: ``dependency_not_available``.
    """
    if name not in CLASSES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return load(CLASSES[name])
