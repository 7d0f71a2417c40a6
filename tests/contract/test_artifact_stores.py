from asm.testing import ArtifactStoreContract
from asm.testing.seeking import Seeking
from asm.testing.streams import Streams


class TestArtifactStores(ArtifactStoreContract):
    """The suite, on every artifact store."""


class TestReadersWithAsyncio(Streams, Seeking):
    """What the suite says of files, of those of an asyncio handle."""

    contract = "artifact with asyncio"
