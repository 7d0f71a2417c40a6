from asm.testing import ArtifactStoreContract
from asm.testing.seeking import Seeking


class TestArtifactStores(ArtifactStoreContract):
    """The suite, on every artifact store."""


class TestSeekingInAStore(Seeking):
    """Seeking, in every artifact store that is used without a process."""

    contract = "artifact here"
