"""Artifacts in a bucket of S3, or of any service that speaks its protocol."""

from asm.adapters.s3.store import S3ArtifactStore

__all__ = ["S3ArtifactStore"]
