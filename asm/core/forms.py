"""What calls of ``new`` and ``changed`` look like, for type checkers and editors.

While the program runs both are derived from the fields (:mod:`asm.core.making`); what a type checker reads is the stub beside
this file, which is made from the fields, too: ``python tests/tools/forms.py``. A test compares the two.
"""

from __future__ import annotations

__all__ = ["EventForm", "RunForm", "SessionForm"]


class SessionForm:
    """How a session is made and changed."""

    __slots__ = ()


class RunForm:
    """How a run is made and changed."""

    __slots__ = ()


class EventForm:
    """How an event is made."""

    __slots__ = ()
