"""The client of the service: made from the settings, and its exceptions turned into ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError
from s3transfer.manager import TransferConfig
from urllib3.exceptions import HTTPError

from asm.adapters.s3.options import check_url, refuse_url
from asm.core.errors import Error

__all__ = ["CONNECTIONS", "VENDOR_ERRORS", "make_clients", "naming", "transfer_config"]

MIB: Final = 1024 * 1024

CONNECTIONS: Final = 64
"""How many connections are kept open for the next request. More are made as they are needed."""

VENDOR_ERRORS: Final = (ClientError, BotoCoreError, ResponseParserError)
"""All that a call of the client raises."""

SOON: Final = {"connect_timeout": 1.5, "read_timeout": 3.0, "max_attempts": 1}
"""What the client has at the most that is to say soon whether the service is there."""

LOST: Final = (BotoConnectionError, HTTPClientError, IncompleteReadError, HTTPError, OSError)

OVERLOADED: Final = {"SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "Throttling", "RequestLimitExceeded"}

BROKEN: Final = (500, 502, 504)
"""The statuses of a service that fails for the moment, or of what stands before it."""

REFUSED: Final = "the service does not accept the credentials; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or the profile"

REMEDIES: Final = {
    "RequestTimeTooSkewed": "the clock of this machine and that of the service differ too much; set this machine's clock",
    "NoSuchBucket": "the bucket does not exist; create it, or correct the option bucket",
    "AccessDenied": "access is forbidden; the credentials need permission to list the bucket and to get, put and delete in it",
    "InvalidAccessKeyId": REFUSED,
    "SignatureDoesNotMatch": REFUSED,
    "InvalidToken": REFUSED,
    "ExpiredToken": "the credentials have expired; renew them",
    "PermanentRedirect": "the bucket is in another region; correct the option region",
    "AuthorizationHeaderMalformed": "the bucket is in another region; correct the option region",
}
"""What the service's codes mean, and what to do."""


def make_clients(
    *,
    endpoint_url: str | None,
    region: str | None,
    addressing_style: str,
    connect_timeout: float,
    read_timeout: float,
    max_attempts: int,
) -> tuple[Any, Any]:
    """Return two clients, which any number of threads may use. Nothing is sent yet.

    :returns: the one for the work, and one that says soon whether the service is there.
    :raises Error: ``validation_error`` or ``storage_error`` for settings, also of the environment, that cannot be used.
    """
    patience = {"connect_timeout": connect_timeout, "read_timeout": read_timeout, "max_attempts": max_attempts}
    made = []
    with naming("use the service", None, endpoint_url or "the service"):
        session = boto3.session.Session()  # of its own: the default one is not made for threads
        for each in (patience, {name: min(value, SOON[name]) for name, value in patience.items()}):
            config = _config(endpoint_url, addressing_style, **each)
            made.append(_client(session, endpoint_url=endpoint_url, region_name=region, config=config))
        meta = made[0].meta
        check_url(meta.endpoint_url)  # it may come from the environment
        if _is_aws(meta.endpoint_url) and meta.region_name != "aws-global":
            session.get_partition_for_region(meta.region_name)  # one that does not exist is not waited for
    return made[0], made[1]


def _client(session: boto3.session.Session, **arguments: Any) -> Any:
    try:
        return session.client("s3", **arguments)
    except BotoCoreError:
        raise
    except ValueError:  # its text is the address, which may hold a password
        refuse_url()


def _config(
    endpoint_url: str | None, addressing_style: str, *, connect_timeout: float, read_timeout: float, max_attempts: float
) -> Config:
    if endpoint_url is not None and addressing_style == "auto":
        addressing_style = "path"  # few services other than S3 itself have a host name for each bucket
    return Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": int(max_attempts), "mode": "standard"},
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": addressing_style},
        # Checksums of boto's own are not understood by every service. The artifact has one, kept and checked by us.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _is_aws(url: str) -> bool:
    return bool(re.search(r"\.amazonaws\.com(\.cn)?$", urlsplit(url).hostname or ""))


def transfer_config(chunk_size: int, concurrency: int) -> TransferConfig:
    """Return the settings of one upload. It holds so many chunks in memory, the one that is being read, and the one before."""
    return TransferConfig(
        multipart_threshold=chunk_size,
        multipart_chunksize=chunk_size,
        max_request_concurrency=concurrency,
        max_submission_concurrency=1,
        max_in_memory_upload_chunks=concurrency,
    )


@contextmanager
def naming(doing: str, bucket: str | None, endpoint: str) -> Iterator[None]:
    """Turn what the client raises into an :class:`Error`, with ``details["away"]`` where it passes by itself.

    :param doing: what is being done, in words that fit behind "failed to".
    :param endpoint: where requests go.
    """
    try:
        yield
    except ClientError as error:
        raise _refused(error, doing, bucket, endpoint) from error
    except LOST as error:
        message = f"failed to {doing}: no answer from {_place(bucket, endpoint)}: {error}"
        away = {} if isinstance(error, SSLError) else {"away": True}  # a certificate does not become valid by waiting
        raise Error("storage_connection_failed", message, details=_details(bucket, error) | away) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        message = (
            f"failed to {doing}: there are no credentials for {_place(bucket, endpoint)}: {error}; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or one of the other ways in which AWS clients find them"
        )
        raise Error("storage_error", message, details={**_details(bucket, error), "reason": "no_credentials"}) from error
    except (BotoCoreError, ResponseParserError, ValueError) as error:
        message = f"failed to {doing}: {_place(bucket, endpoint)} cannot be used: {error}"
        raise Error("storage_error", message, details=_details(bucket, error)) from error


def _refused(error: ClientError, doing: str, bucket: str | None, endpoint: str) -> Error:
    """Return the error for an answer that says no."""
    answer: dict[str, Any] = error.response
    said, facts = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    code, status = str(said.get("Code", "")), facts.get("HTTPStatusCode")
    why = REMEDIES.get(code) or said.get("Message") or "the service gives no reason"
    details = {**_details(bucket, error), "service_code": code, "http_status": status}
    if code in OVERLOADED or status in (429, 503):
        details |= {"reason": "overloaded", "away": True}
    elif status in BROKEN:
        details["away"] = True
    return Error(
        "storage_error",
        f"failed to {doing} in {_place(bucket, endpoint)}: {why} ({code}, HTTP {status})",
        details=details,
        provider_error={"code": code, "message": said.get("Message"), "request_id": facts.get("RequestId")},
    )


def _place(bucket: str | None, endpoint: str) -> str:
    return f"the bucket {bucket} at {endpoint}" if bucket else endpoint


def _details(bucket: str | None, error: Exception) -> dict[str, Any]:
    return {"cause": str(error)} | ({"bucket": bucket} if bucket else {})
