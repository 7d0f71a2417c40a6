"""What the fork server imports last. See :mod:`asm_supervisor.preloading`."""

from __future__ import annotations

import sys
from types import TracebackType

from asm_supervisor.preloading import finish

__all__ = ["complain"]


def complain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what went wrong in the fork server, as Python does.

    But not that its parent is gone: one that is killed while it starts a child leaves half of what a child is made from, and
    both the fork server and the child find that out by an ``EOFError``. It ends them, and there is nothing to say about it.
    """
    if not isinstance(error, EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = complain
finish()
