"""The operations of both contracts as coroutines, for type checkers.

While the program runs the methods are derived from the contracts (:func:`asm.client.calling.proxies`); what a type checker
reads is the stub beside this file, which is made from the contracts, too: ``python tests/tools/async_store.py``. A test
compares the two.
"""

from __future__ import annotations

__all__ = ["AsyncStore"]


class AsyncStore:
    """A store whose operations are coroutines."""
