"""Sessions, runs and events in the memory of this process."""

from asm.adapters.memory.store import InMemorySessionStore

__all__ = ["InMemorySessionStore"]
