"""The two contracts as test classes, each put together from a class for a group of operations."""

from typing import ClassVar

from asm.testing.appending import Appending
from asm.testing.artifacts import Artifacts
from asm.testing.flushing import Flushing
from asm.testing.keys import Keys
from asm.testing.listing import Listing
from asm.testing.prefixes import Prefixes
from asm.testing.reading import Reading
from asm.testing.runs import Runs
from asm.testing.sessions import Sessions
from asm.testing.streams import Streams
from asm.testing.waiting import Waiting

__all__ = ["ArtifactStoreContract", "SessionStoreContract"]


class SessionStoreContract(Sessions, Runs, Appending, Flushing, Reading, Waiting):
    """What a session store must do. Give the class a fixture ``store`` that makes an empty one."""

    contract: ClassVar[str] = "session"


class ArtifactStoreContract(Artifacts, Keys, Streams, Listing, Prefixes):
    """What an artifact store must do. Give the class a fixture ``store`` that makes an empty one."""

    contract: ClassVar[str] = "artifact"
