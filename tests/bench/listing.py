"""Lists of artifacts, where there are many and where there are few."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from anchors import bucket
from anchors.outside import ending
from measuring import medians_of
from table import Row, at_most

from asm import FileArtifactStore, S3ArtifactStore
from asm.adapters.artifact_file import pack_header
from asm.adapters.file_index import file_name

PAGE = 50
FEW = 1000

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}


def listed_rows(size):
    """Return the rows of :func:`listed`."""
    return [
        Row(f"list(limit={PAGE}) of {size.artifacts:,}, {kind}", "µs", kind, f"of {FEW:,}, {kind}", at_most(1.3, relative=True))
        for kind in STORES
    ]


def listed(bench):
    """Measure listing a page where there are many artifacts, and where there are few; call by call in turn."""
    with contextlib.ExitStack() as stack:
        pairs = {}
        for kind, make in STORES.items():
            many, few = (stack.enter_context(make(bench, count)) for count in (bench.size.artifacts, FEW))
            pairs[kind] = [_first_page(many), _first_page(few)]
        for _ in range(bench.rounds):
            figures = {}
            for kind, calls in pairs.items():
                count = max(bench.size.calls // (10 if kind == "files" else 60), 10)
                many, few = medians_of(calls, count, warm_up=5)
                figures |= {kind: many, f"of {FEW:,}, {kind}": few}
            yield figures


def _first_page(store):
    def read():
        assert len(store.list(limit=PAGE)) == PAGE

    return read


@contextlib.contextmanager
def _files(bench, count):
    """Have a store in files, filled past it: what it would cost to put so many is not measured here."""
    root = bench.directory() / "artifacts"
    with FileArtifactStore(root=root) as store:
        for number in range(count):
            info = bucket.info(number)
            path = root / file_name(info.key)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pack_header(info))
        store.list(limit=1)  # the first one reads what is new
        time.sleep(0.3)
        store.list(limit=1)  # and looks again at what is so new that it might change within the same tick of the clock
        yield store


@contextlib.contextmanager
def _s3(bench, count):
    """Have a store in a bucket of a service of its own."""
    command = [sys.executable, Path(bucket.__file__), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    with ending(process), process.stdin, process.stdout:
        port = int(process.stdout.readline())
        os.environ.update({name: value for name, value in CREDENTIALS.items() if name not in os.environ})
        endpoint = f"http://127.0.0.1:{port}"
        with S3ArtifactStore(bucket="bucket", endpoint_url=endpoint, region="us-east-1") as store:
            yield store


STORES = {"files": _files, "S3": _s3}
