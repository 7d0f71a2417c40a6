"""The contracts as test classes, each put together from a class for a group of operations."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from asm.registry import contract_of, operations_of
from asm.testing.appending import Appending
from asm.testing.artifacts import Artifacts
from asm.testing.deleting import Deleting
from asm.testing.expecting import Expecting
from asm.testing.exporting import Exporting
from asm.testing.flushing import Flushing
from asm.testing.keys import Keys
from asm.testing.listing import Listing
from asm.testing.maintaining import Maintaining
from asm.testing.paging import Paging
from asm.testing.prefixes import Prefixes
from asm.testing.reading import Reading
from asm.testing.replacing import Replacing
from asm.testing.runs import Runs
from asm.testing.searching_events import SearchingEvents
from asm.testing.searching_runs import SearchingRuns
from asm.testing.searching_sessions import SearchingSessions
from asm.testing.seeking import Seeking
from asm.testing.sessions import Sessions
from asm.testing.streams import Streams
from asm.testing.summing import Summing
from asm.testing.waiting import Waiting

__all__ = ["ArtifactStoreContract", "MaintenanceContract", "SessionQueriesContract", "SessionStoreContract", "suite_of"]


class SessionStoreContract(Sessions, Runs, Appending, Flushing, Reading, Waiting, Replacing, Expecting, Deleting):
    """What a session store must do. Give the class a fixture ``store`` that makes an empty one."""

    contract: ClassVar[str] = "session"


class ArtifactStoreContract(Artifacts, Keys, Streams, Seeking, Listing, Prefixes):
    """What an artifact store must do. Give the class a fixture ``store`` that makes an empty one."""

    contract: ClassVar[str] = "artifact"


class SessionQueriesContract(Paging, SearchingSessions, SearchingRuns, SearchingEvents, Summing, Exporting):
    """What a session store must do, beside its own contract, that answers queries."""

    contract: ClassVar[str] = "query"


class MaintenanceContract(Maintaining):
    """What a session store must do, beside its own contract, that lets itself be looked after."""

    contract: ClassVar[str] = "maintenance"


OPTIONAL: Final[dict[type, set[str]]] = {
    Paging: {"search_sessions", "search_runs", "search_events"},
    SearchingSessions: {"search_sessions"},
    SearchingRuns: {"search_runs"},
    SearchingEvents: {"search_events", "count_events"},
    Summing: {"get_session_stats", "get_usage"},
    Exporting: {"export_session", "import_session"},
    Maintaining: {"health_check", "compact", "expired"},
}
"""The operations that not every session store has, and who tests them."""


def suite_of(store: type) -> Any:
    """Return the test class of all that a store keeps: its contract, and those of the optional operations that it has.

    :param store: the class of the store.
    :raises Error: ``validation_error`` for a class that is no store.
    """
    has = {operation.name for operation in operations_of(store).values()}
    whole = ArtifactStoreContract if contract_of(store) == "artifact" else SessionStoreContract
    return type(f"{store.__name__}Contract", (whole, *(group for group, needs in OPTIONAL.items() if needs <= has)), {})
