"""The options of the store: each type with its check."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, NoReturn
from urllib.parse import urlsplit

from asm.core import checks

__all__ = ["AddressingStyle", "Bucket", "Endpoint", "Patience", "Prefix", "check_url", "refuse_url"]

BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|arn:\S+")
MAX_PREFIX_BYTES: Final = 512
ORIGINS: Final = "; it may also come from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile"


def _bucket(value: Any, where: str) -> str:
    bucket = checks.identifier(value, where)
    if not BUCKET.fullmatch(bucket):
        checks.refuse(where, f"must be the name of a bucket, not {checks.shown(bucket)}")
    return bucket


def _prefix(value: Any, where: str) -> str:
    """Accept a prefix; return it as it stands in front of the names of objects."""
    prefix = checks.text(value, where)
    if not prefix:
        return ""
    directory = prefix.removesuffix("/")
    if len(prefix.encode()) > MAX_PREFIX_BYTES or not prefix.isprintable() or {"", ".", ".."} & set(directory.split("/")):
        checks.refuse(
            where, f"must be printable text such as team/asm, {MAX_PREFIX_BYTES} bytes at the most, not {checks.shown(prefix)}"
        )
    return f"{directory}/"


def check_url(value: Any, where: str = "endpoint_url") -> str:
    """Check the address of a service, and do not tell it if it may hold a password.

    :raises Error: ``validation_error``.
    """
    url = checks.text(value, where)
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        right = False
    if not right:
        refuse_url()
    if "@" in parts.netloc:
        checks.refuse(where, f"must hold no user and password; credentials come from the environment{ORIGINS}")
    return url


def refuse_url() -> NoReturn:
    """Refuse what is no address of a service.

    :raises Error: ``validation_error``.
    """
    checks.refuse("endpoint_url", f"must be the address of the service, such as https://s3.example.org{ORIGINS}")


Bucket = Annotated[str, _bucket]
Prefix = Annotated[str, _prefix]
Endpoint = Annotated[str | None, checks.optional(check_url)]
AddressingStyle = Annotated[Literal["auto", "path", "virtual"], checks.one_of("auto", "path", "virtual")]
Patience = Annotated[float, checks.seconds(0.001, 3600)]
