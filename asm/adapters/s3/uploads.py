"""Multipart uploads: each is on record while it is under way, so that those of dead processes are found and aborted.

::

    prefix/uploads/<process>/<number>     {"name": <name of the object>, "upload_id": <the service's>}

S3 tells of an upload when it began and for which object, but not who sends it, and an old one may be alive: its source is
slow. So the record is written before the first part is sent, and names the process: boot of the machine, namespace of
process ids, process id, start time. A store that starts aborts the uploads of processes that are dead for certain: of
this boot and this namespace, and gone. What other machines (and other containers) left is aborted when its record is
older than a setting. So is what is on no record, because its process died right after it began: it has no parts.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asm.adapters.s3.client import VENDOR_ERRORS
from asm.adapters.s3.objects import ObjectSource

__all__ = ["RecordedClient", "is_dead", "reclaim", "this_process"]

_log: Final = logging.getLogger(__name__)


class RecordedClient:
    """The client of one upload: that of the store, with a record kept beside a multipart upload.

    :param client: the store's.
    :param records: what the names of this process's records begin with.
    :param source: told when a part failed.
    """

    def __init__(self, client: Any, records: str, source: ObjectSource) -> None:
        self._client = client
        self._record = f"{records}/{uuid.uuid4().hex}"
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_multipart_upload(self, **arguments: Any) -> Any:
        """Begin, and record it. Without a record, no part is sent."""
        answer = self._client.create_multipart_upload(**arguments)
        upload = {"name": arguments["Key"], "upload_id": answer["UploadId"]}
        try:
            self._client.put_object(Bucket=arguments["Bucket"], Key=self._record, Body=json.dumps(upload).encode())
        except BaseException:
            self.abort_multipart_upload(Bucket=arguments["Bucket"], Key=upload["name"], UploadId=upload["upload_id"])
            raise
        return answer

    def upload_part(self, **arguments: Any) -> Any:
        """Send a part. When that fails, the source is not read to its end for nothing."""
        try:
            return self._client.upload_part(**arguments)
        except BaseException:
            self._source.given_up = True
            raise

    def complete_multipart_upload(self, **arguments: Any) -> Any:
        """Make the object visible."""
        answer = self._client.complete_multipart_upload(**arguments)
        self._forget(arguments["Bucket"])
        return answer

    def abort_multipart_upload(self, **arguments: Any) -> Any:
        """Delete the parts. If that fails, the record stays, and a later start does it."""
        answer = self._client.abort_multipart_upload(**arguments)
        self._forget(arguments["Bucket"])
        return answer

    def _forget(self, bucket: str) -> None:
        try:
            self._client.delete_object(Bucket=bucket, Key=self._record)
        except VENDOR_ERRORS as error:
            _log.warning("the record %s of a finished upload could not be deleted: %s", self._record, error)


def reclaim(client: Any, bucket: str, *, records: str, objects: str, older_than: float) -> None:
    """Abort the uploads that nobody will finish. What fails is logged, and left to the next start.

    :param records: what the names of all records begin with.
    :param objects: what the names of all artifacts begin with.
    :param older_than: the age in seconds from which an upload is taken for abandoned, whoever began it.
    """
    oldest = datetime.now(UTC) - timedelta(seconds=older_than)
    recorded = set()
    try:
        # Listed first: what is among them and not on record by the time the records are read, is on no record at all.
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=objects)
        begun = [upload for page in pages for upload in page.get("Uploads", ()) if upload["Initiated"] < oldest]
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=records):
            for record in page.get("Contents", ()):
                upload = _read(client, bucket, record["Key"])
                if upload is None:
                    continue
                recorded.add(upload["upload_id"])
                process = record["Key"].removeprefix(records).partition("/")[0]
                if is_dead(process) or record["LastModified"] < oldest:
                    _abort(client, bucket, upload["name"], upload["upload_id"])
                    client.delete_object(Bucket=bucket, Key=record["Key"])
        for upload in begun:
            if upload["UploadId"] not in recorded:
                _abort(client, bucket, upload["Key"], upload["UploadId"])
    except VENDOR_ERRORS as error:
        _log.warning("abandoned uploads in the bucket %s could not be cleared away: %s", bucket, error)


def _read(client: Any, bucket: str, record: str) -> dict[str, str] | None:
    """Return what is on record; nothing if the record is gone by now, or is none of ours."""
    try:
        with closing(client.get_object(Bucket=bucket, Key=record)["Body"]) as body:
            upload = json.loads(body.read())
        return {"name": upload["name"], "upload_id": upload["upload_id"]}
    except client.exceptions.NoSuchKey:
        return None
    except (ValueError, KeyError, TypeError):
        _log.warning("the object %s is no record of an upload; delete it", record)
        return None


def _abort(client: Any, bucket: str, name: str, upload_id: str) -> None:
    with suppress(client.exceptions.NoSuchUpload):  # it was finished, or another store that starts was faster
        client.abort_multipart_upload(Bucket=bucket, Key=name, UploadId=upload_id)
        _log.info("aborted the abandoned upload of %s", name)


def this_process() -> str:
    """Return the name of this process, which no other has or will have."""
    pid = os.getpid()
    return f"{_host()}.{pid}.{_start_time(pid)}"


def is_dead(process: str) -> bool:
    """Tell whether a process, named by :func:`this_process`, is gone for certain."""
    host, pid, start_time = process.rsplit(".", 2) if process.count(".") >= 2 else ("", "", "")
    if host != _host() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # there is one
    found = _start_time(int(pid))
    return found not in ("", start_time)


def _host() -> str:
    """Name what process ids are unique in: this boot of the machine, and the namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}.{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's own count; nothing if that is hidden, and ``dead`` for a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = status.rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]
