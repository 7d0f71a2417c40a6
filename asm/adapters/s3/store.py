"""The artifact store in a bucket: each operation of the contract as requests.

::

    prefix/artifacts/<name>               one object an artifact (asm.adapters.s3.names, asm.adapters.s3.objects)
    prefix/uploads/<process>/<number>     a large upload that is under way (asm.adapters.s3.uploads)

=================  ================================================================================================
``put``            one request for what fits into a chunk; else a multipart upload, visible with its last request
``get``            one request, streamed for ``open``; more if the connection breaks, and one for each place that is
                   read from after a ``seek``
``stat``           one request, for the last kilobyte
``list``           one request for every 1,000 names, and a ``stat`` for every artifact that it returns, many at a time
``delete_prefix``  one request for every 1,000 names, and one to delete them
=================  ================================================================================================

A service lists names, sizes and times of its own, and nothing of what was said of an object when it was put: no SHA-256. The
name cannot hold that either, because a ``get`` must know it from the key alone, and an object that holds it for many others
would be a second place that must agree. So ``list`` asks each object that it returns. It asks others only among those whose
names are cut (:mod:`asm.adapters.s3.names`) and begin with the same 180 characters: their order is not told by their names.
"""

# ruff: noqa: D102  # the operations are documented in asm.ports, once

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from typing import Annotated, Any, BinaryIO, Final, cast

from botocore.exceptions import ClientError
from s3transfer.manager import TransferManager

from asm.adapters.base import Adapter
from asm.adapters.s3.client import make_clients, naming, transfer_config
from asm.adapters.s3.names import are_told, group, is_name, object_name, search_prefix, start_after
from asm.adapters.s3.objects import LONGEST, ObjectReader, ObjectSource, damaged, unpack_trailer
from asm.adapters.s3.options import AddressingStyle, Bucket, Endpoint, Patience, Prefix
from asm.adapters.s3.uploads import RecordedClient, reclaim, this_process
from asm.chunks import CHUNK
from asm.core import checks
from asm.core.arguments import ArtifactInfos, OptionalId
from asm.core.errors import Error
from asm.core.forks import tell_of_forks
from asm.core.options import options
from asm.core.values import ArtifactInfo
from asm.operations import implements
from asm.ports import ArtifactStore, Data

__all__ = ["S3ArtifactStore"]

PAGE: Final = 1000
"""How many names the service tells in one answer."""

LEAST_PART: Final = 5 * 1024 * 1024
"""The fewest bytes that the service takes as a part of an upload."""

Names = list[str]
"""Has a name, because within the store ``list`` is an operation."""

LOOKS: Final = 16
"""How many trailers are read at the same time for a list."""

UNWILLING: Final = {*range(400, 429), *range(430, 500), 501}
"""The statuses of a service that does not delete many objects at once, or not in this way."""


@implements(ArtifactStore)
class S3ArtifactStore(Adapter):
    """An artifact store in a bucket of S3, or of a service that speaks its protocol.

    Any number of threads, processes and machines may use one bucket and prefix. What a call acknowledged is as durable
    as the service makes it. Credentials are found as every AWS client finds them: in the environment, the shared files,
    or the role of the machine.

    :param bucket: its name. The bucket must be there.
    :param prefix: what the names of all objects begin with, as a directory: two stores with different ones share nothing.
    :param endpoint_url: of a service other than AWS.
    :param region: of the bucket; by default as AWS clients find it.
    :param addressing_style: ``path`` or ``virtual``; with ``auto``, ``path`` wherever ``endpoint_url`` is given.
    :param multipart_chunk_size: bytes, at least 5 MiB. What is larger is sent in parts of this size, 10,000 at the most,
        so that an artifact can have 48 GiB unless this is set to more.
    :param max_concurrency: how many parts of one ``put`` are sent at a time. So many chunks, and two more, are in memory.
    :param connect_timeout: seconds to wait for a connection.
    :param read_timeout: seconds to wait for the next byte of an answer.
    :param max_attempts: how often a request is sent, when it fails in a way that may pass.
    :param abandoned_after: seconds after which an upload that is not finished is taken for abandoned, although it is not
        known that its process is dead. No ``put`` may take longer. Checked at the start of a store.
    :raises Error: ``validation_error``; ``storage_connection_failed`` when the service does not answer soon; ``storage_error``
        when the bucket does not exist, is forbidden, or cannot be used for another reason, which is told. With
        ``details["away"]`` when it is not there, or not well, for the moment.
    """

    @options
    def __init__(
        self,
        *,
        bucket: Bucket,
        prefix: Prefix = "",
        endpoint_url: Endpoint = None,
        region: OptionalId = None,
        addressing_style: AddressingStyle = "auto",
        multipart_chunk_size: Annotated[int, checks.whole(LEAST_PART, 1024**3)] = LEAST_PART,
        max_concurrency: Annotated[int, checks.whole(1, 64)] = 2,
        connect_timeout: Patience = 5.0,
        read_timeout: Patience = 30.0,
        max_attempts: Annotated[int, checks.whole(1, 100)] = 3,
        abandoned_after: Annotated[float, checks.seconds(60, 10 * 365 * 86400)] = 86400.0,
    ) -> None:
        self._bucket = bucket
        self._objects, records = f"{prefix}artifacts/", f"{prefix}uploads/"
        self._records = f"{records}{this_process()}"
        self._transfer = transfer_config(multipart_chunk_size, max_concurrency)
        self._client, self._asking = make_clients(
            endpoint_url=endpoint_url,
            region=region,
            addressing_style=addressing_style,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_attempts=max_attempts,
        )
        self._endpoint = self._client.meta.endpoint_url
        try:
            self._look_at_bucket("start")
            reclaim(self._asking, bucket, records=records, objects=self._objects, older_than=abandoned_after)
        except BaseException:
            self._close_clients()
            raise
        self._lookers = ThreadPoolExecutor(LOOKS, thread_name_prefix="s3-list")
        tell_of_forks(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(bucket={self._bucket!r}, prefix={self._objects.removesuffix('artifacts/')!r})"

    def close(self) -> None:
        """Close the connections."""
        if not self.closed:
            super().close()
            self._lookers.shutdown()
            self._close_clients()

    def ping(self) -> None:
        """Ask the service whether the bucket is there and may be used, and take no answer for one soon.

        :raises Error: as the constructor.
        """
        self.require_open()
        try:
            with self._naming("ask for the bucket"):
                self._asking.head_bucket(Bucket=self._bucket)
        except Error as error:
            if error.code != "storage_error":
                raise
            # What it refuses in so few words, it gives a reason for here; or it lets us have the objects, not all the bucket.
            self._look_at_bucket("ask for the bucket")

    def put(self, key: str, data: Data) -> None:
        self.require_open()
        source = ObjectSource(key, data)
        client = RecordedClient(self._client, self._records, source)
        try:
            with self._naming(f"put {key!r}"), TransferManager(client, self._transfer) as manager:
                manager.upload(source, self._bucket, self._name(key)).result()
        except BaseException:
            if source.failure is not None:  # it comes through as it is
                raise source.failure from None
            raise

    def get(self, key: str) -> bytes:
        with self._reader(key) as reader:
            return reader.readall()

    def delete(self, key: str) -> None:
        self.require_open()
        with self._naming(f"delete {key!r}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def open(self, key: str) -> BinaryIO:
        reader = self._reader(key)
        return cast("BinaryIO", io.BufferedReader(reader, buffer_size=min(CHUNK, reader.byte_size + 1)))

    def stat(self, key: str) -> ArtifactInfo:
        self.require_open()
        name = self._name(key)
        info = self._look(name)
        if info is None:
            raise _not_found(key)
        if info.key != key:
            raise Error("storage_read_failed", f"the object {name} is of the key {info.key!r}, not {key!r}")
        return info

    def delete_prefix(self, prefix: str) -> int:
        self.require_open()
        doing, deleted = f"delete what begins with {prefix!r}", 0
        for names in self._batches(prefix, None, PAGE):
            if not are_told(prefix):
                infos = self._lookers.map(self._look_to_list, names)
                found = zip(names, infos, strict=True)
                names = [name for name, info in found if info is not None and info.key.startswith(prefix)]  # noqa: PLW2901
            for start in range(0, len(names), PAGE):
                self._delete_all(names[start : start + PAGE], doing)
            deleted += len(names)
        return deleted

    def list(self, *, prefix: str = "", after: str | None = None, limit: int | None = None) -> ArtifactInfos:
        self.require_open()
        found: ArtifactInfos = []
        for names in self._batches(prefix, after, PAGE if limit is None else min(limit, PAGE)):
            infos = [info for info in self._lookers.map(self._look_to_list, names) if info is not None]
            wanted = (info for info in infos if info.key.startswith(prefix) and (after is None or info.key > after))
            found += sorted(wanted, key=_key)
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def _delete_all(self, names: Names, doing: str) -> None:
        """Delete objects with one request; singly those that the service does not delete so, because it failed or cannot."""
        try:
            with self._naming(doing):
                delete = {"Objects": [{"Key": name} for name in names], "Quiet": True}
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=delete)
        except Error as error:
            if error.details.get("http_status") not in UNWILLING:
                raise
            left = names
        else:
            left = [problem["Key"] for problem in answer.get("Errors", ())]

        def delete_one(name: str) -> None:
            with self._naming(doing):
                self._client.delete_object(Bucket=self._bucket, Key=name)

        for _ in self._lookers.map(delete_one, left):
            pass

    def _look_at_bucket(self, doing: str) -> None:
        with self._naming(doing):
            self._asking.list_objects_v2(Bucket=self._bucket, Prefix=self._objects, MaxKeys=1)

    def _close_clients(self) -> None:
        for client in (self._client, self._asking):
            client.close()

    def _name(self, key: str) -> str:
        return self._objects + object_name(key)

    def _naming(self, doing: str) -> AbstractContextManager[None]:
        return naming(doing, self._bucket, self._endpoint)

    def _reader(self, key: str) -> ObjectReader:
        self.require_open()
        name = self._name(key)
        answer = self._get(name, f"get {key!r}")
        if answer is None:
            raise _not_found(key)
        doing, tag = f"read {key!r}", answer.get("ETag")

        def resume(position: int) -> Any:
            rest = self._get(name, doing, Range=f"bytes={position}-", IfMatch=tag) if tag else None
            if rest is None or str(rest.get("ContentRange")).startswith(f"bytes {position}-"):
                return rest and rest["Body"]
            rest["Body"].close()  # a service that does not know ranges begins at the beginning
            return None

        return ObjectReader(
            answer["Body"], answer["ContentLength"], tag, key=key, name=name, reading=lambda: self._naming(doing), resume=resume
        )

    def _get(self, name: str, doing: str, **arguments: Any) -> Any:
        """Ask for an object; return nothing if there is none, or another than the one that was asked for."""
        with self._naming(doing):
            try:
                return self._client.get_object(Bucket=self._bucket, Key=name, **arguments)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code in ("NoSuchKey", "404", "PreconditionFailed", "412"):
                    return None
                if code in ("InvalidRange", "416"):
                    raise damaged(name, "it is too short") from error
                raise

    def _look(self, name: str) -> ArtifactInfo | None:
        """Return what the trailer of an object tells, if there is one."""
        doing = f"look at {name}"
        answer = self._get(name, doing, Range=f"bytes=-{LONGEST}")
        if answer is None:
            return None
        with self._naming(doing), closing(answer["Body"]) as body:
            end = body.read()
        total = str(answer.get("ContentRange", "")).rpartition("/")[2]  # without it, it was sent as a whole
        return unpack_trailer(end, int(total) if total.isdecimal() else len(end), name)

    def _look_to_list(self, name: str) -> ArtifactInfo | None:
        """Return what is known of an object, if it is still there."""
        info = self._look(name)
        if info is not None and self._name(info.key) != name:
            raise damaged(name, f"it is of the key {info.key!r}, which has another name")
        return info

    def _batches(self, prefix: str, after: str | None, size: int) -> Iterator[Names]:
        """Yield names in order, about ``size`` at a time, and those of one group together."""
        batch: Names = []
        for name in self._names(prefix, after, min(size + 1, PAGE)):
            if len(batch) >= size and group(name) != group(batch[-1]):
                yield batch
                batch = []
            batch.append(name)
        if batch:
            yield batch

    def _names(self, prefix: str, after: str | None, page_size: int) -> Iterator[str]:
        """Yield the names of all objects of ours that the filters may mean, in order."""
        arguments = {"Bucket": self._bucket, "Prefix": self._objects + search_prefix(prefix)}
        if after is not None:
            arguments["StartAfter"] = self._objects + start_after(after)
        with self._naming("list"):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                **arguments, PaginationConfig={"PageSize": page_size}
            ):
                names = (item["Key"] for item in page.get("Contents", ()))
                yield from (name for name in names if is_name(name.removeprefix(self._objects)))


def _not_found(key: str) -> Error:
    return Error("not_found", f"there is no artifact {key!r}", details={"key": key})


def _key(info: ArtifactInfo) -> str:
    return info.key
