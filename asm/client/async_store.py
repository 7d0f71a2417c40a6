"""The operations of all contracts, and what handles have beside them, as coroutines: for type checkers.

While the program runs the methods are derived from the contracts (:func:`asm.client.calling.proxies`) and shared with the
blocking client (:mod:`asm.client.handles`); what a type checker reads is the stub beside this file, which is made from both,
too: ``python tests/tools/async_store.py``. A test compares the two.
"""

from __future__ import annotations

from asm.client.handles import Handles

__all__ = ["AsyncStore"]


class AsyncStore(Handles):
    """A store whose operations are coroutines."""
