from asm.testing import ArtifactStoreContract


class TestArtifactStores(ArtifactStoreContract):
    """The suite, on every artifact store."""
