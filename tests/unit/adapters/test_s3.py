"""What is particular to artifacts in S3: names, trailers, large uploads and what is left of them, and what goes wrong."""

import io
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from services import refusing, send, service

from asm.adapters import S3ArtifactStore
from asm.adapters.s3 import names, objects, uploads
from asm.adapters.s3 import store as s3_store
from asm.adapters.s3.uploads import is_dead, reclaim, this_process
from asm.core.errors import Error
from asm.core.values import ArtifactInfo
from asm.testing.artifacts import SourceError, breaking, content
from asm.testing.samples import refused

MIB = 1024 * 1024
CHUNK = 5 * MIB
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Place:
    """A bucket, and what it really holds."""

    def __init__(self, server):
        self.bucket = server.new_bucket()
        self.client = server.client
        self.options = {"bucket": self.bucket, "endpoint_url": server.url, "multipart_chunk_size": CHUNK}

    def store(self, **options):
        return S3ArtifactStore(**self.options, **options)

    def names(self):
        return [item["Key"] for item in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", ())]

    def uploads(self):
        return [item["Key"] for item in self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())]

    def read(self, name):
        return self.client.get_object(Bucket=self.bucket, Key=name)["Body"].read()

    def write(self, name, data):
        self.client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def begin(self, name):
        """Begin an upload and send a part; return its id."""
        upload = self.client.create_multipart_upload(Bucket=self.bucket, Key=name)["UploadId"]
        self.client.upload_part(Bucket=self.bucket, Key=name, UploadId=upload, PartNumber=1, Body=b"part")
        return upload


@pytest.fixture
def place(s3_server):
    return Place(s3_server)


@pytest.fixture
def store(place):
    with place.store() as made:
        yield made


# -- Names --------------------------------------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300)
LONG_KEYS = st.builds(str.__add__, st.sampled_from(["", "a" * 178, "a" * 179, "a" * 180, "a" * 181, "я" * 29 + "abcd"]), KEYS)


@given(LONG_KEYS)
@settings(deadline=None)
def test_a_name_is_safe(key):
    name = names.object_name(key)
    assert re.fullmatch(r"([-0-9A-Za-y]|[!.=_z][0-9A-F]{2})+(!![0-9a-f]{64})?", name)
    assert len(name) <= 255


@given(LONG_KEYS, LONG_KEYS)
@settings(deadline=None)
def test_names_stand_in_the_order_of_their_keys(one, other):
    first, second = names.object_name(one), names.object_name(other)
    assert (first == second) == (one == other)
    if names.group(first) != names.group(second):
        assert (first < second) == (one < other)


@given(LONG_KEYS, KEYS)
@settings(deadline=None)
def test_a_prefix_of_keys_is_one_of_names(prefix, rest):
    assert names.object_name(prefix + rest).startswith(names.search_prefix(prefix))


@given(LONG_KEYS, LONG_KEYS)
@settings(deadline=None)
def test_no_later_key_is_passed_over(after, key):
    if key > after:
        assert names.object_name(key) > names.start_after(after)


@given(LONG_KEYS)
@settings(deadline=None)
def test_a_name_is_known_as_one_of_ours(key):
    assert names.is_name(names.object_name(key))


def test_a_name_can_be_read():
    assert names.object_name("run-1/patch.diff") == "run-1.2Fpatch.2Ediff"


def test_long_keys_that_begin_alike_are_listed_in_order(store):
    keys = [f"{'я' * 400}{number:03}" for number in range(12)] + ["я" * 10, "я" * 401, "яю"]
    for key in reversed(keys):
        store.put(key, key.encode())
    keys.sort()
    assert [info.key for info in store.list()] == keys
    assert [info.key for info in store.list(prefix="я" * 400 + "00")] == [
        key for key in keys if key.startswith("я" * 400 + "00")
    ]
    found = []
    while page := store.list(after=found[-1] if found else None, limit=2):
        found += [info.key for info in page]
    assert found == keys


def test_stores_with_different_prefixes_share_nothing(place):
    with place.store(prefix="a") as one, place.store(prefix="a!!/b/") as other, place.store() as root:
        for store in (one, other, root):
            store.put("key", repr(store).encode())
        for store in (one, other, root):
            assert store.get("key") == repr(store).encode()
            assert len(store.list()) == 1
    assert sorted(place.names()) == ["a!!/b/artifacts/key", "a/artifacts/key", "artifacts/key"]


# -- Lists --------------------------------------------------------------------------------------------------------------


def test_a_list_of_more_than_a_page(place, store, monkeypatch):
    monkeypatch.setattr(s3_store, "PAGE", 100)
    keys = [f"run/{number:04}" for number in range(103)]

    def write(key):
        info = ArtifactInfo(key=key, byte_size=0, checksum_sha256=EMPTY, updated_at=datetime.now(UTC))
        place.write(f"artifacts/{names.object_name(key)}", objects.pack_trailer(info))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, keys))
    assert [info.key for info in store.list()] == keys
    assert [info.key for info in store.list(after="run/0098")] == keys[99:]


def test_a_limited_list_asks_for_no_more(store, monkeypatch):
    for number in range(10):
        store.put(f"key-{number}", b"")
    looks = []
    look = store._look
    monkeypatch.setattr(store, "_look", lambda name: looks.append(name) or look(name))
    assert [info.key for info in store.list(after="key-3", limit=2)] == ["key-4", "key-5"]
    assert len(looks) == 2


FOREIGN = ["", "READ.me", "a/b", "a b", ".41b", "!!", "a!!b", "z41", "z2", "_5F/", "zD0", f"a!!{'0' * 64}", f"{'a' * 190}!!x"]
"""Names that no key has."""


def test_what_is_not_ours_is_neither_listed_nor_deleted(place, store):
    store.put("key", b"data")
    for name in FOREIGN:
        place.write(f"artifacts/{name}", b"something else")
    assert [info.key for info in store.list()] == ["key"]
    for prefix in ("key", "a", "a/", ".", "a" * 190):
        assert store.delete_prefix(prefix) == (prefix == "key")
    assert sorted(place.names()) == sorted(f"artifacts/{name}" for name in FOREIGN)


@pytest.mark.parametrize("what", ["other", "moved"])
def test_one_that_cannot_be_read_is_an_error_and_never_left_out(place, store, what):
    """Of the lists that it belongs to."""
    store.put("key", b"data")
    place.write(f"artifacts/{what}", b"something else" if what == "other" else place.read("artifacts/key"))
    for filters in ({}, {"prefix": what[0]}, {"after": "key"}, {"limit": 2}):
        with refused("storage_read_failed", reason="damaged", object=f"artifacts/{what}"):
            store.list(**filters)
    assert [info.key for info in store.list(limit=1)] == ["key"]
    with refused("storage_read_failed"):
        store.stat(what)
    store.delete(what)
    assert [info.key for info in store.list()] == ["key"]


# -- Deleting what begins alike -------------------------------------------------------------------------------------------


@pytest.fixture
def asked(store, monkeypatch):
    """The requests that delete, from here on, by their names."""
    calls = []

    def note(name, call):
        return lambda **arguments: calls.append(name) or call(**arguments)

    for name in ("delete_objects", "delete_object", "get_object"):
        monkeypatch.setattr(store._client, name, note(name, getattr(store._client, name)))
    return calls


def test_a_page_is_deleted_with_one_request(place, store, asked, monkeypatch):
    monkeypatch.setattr(s3_store, "PAGE", 100)
    for number in range(103):
        place.write(f"artifacts/{names.object_name(f'run/{number}')}", b"whatever it is")
    store.put("other", b"data")
    assert store.delete_prefix("run/") == 103
    assert asked == ["delete_objects"] * 2
    assert place.names() == ["artifacts/other"]


def test_only_keys_that_begin_so_are_deleted_where_names_do_not_tell(store, asked):
    keys = [f"{'я' * 400}{number:02}" for number in range(12)]
    for key in keys:
        store.put(key, b"data")
    assert store.delete_prefix("я" * 400 + "0") == 10
    assert [info.key for info in store.list()] == keys[10:]
    assert asked.count("delete_objects") == 1
    asked.clear()
    assert store.delete_prefix("я" * 20) == 2  # its name is whole, and theirs begin with it
    assert asked == ["delete_objects"]


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "MissingContentMD5")])
def test_a_service_that_does_not_delete_many_at_once_is_asked_for_each(place, store, asked, monkeypatch, status, code):
    def refuse(**_arguments):
        answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(answer, "DeleteObjects")

    monkeypatch.setattr(store._client, "delete_objects", refuse)
    for number in range(5):
        store.put(f"run/{number}", b"data")
    assert store.delete_prefix("run/") == 5
    assert asked == ["delete_object"] * 5
    assert place.names() == []


def test_what_a_service_did_not_delete_with_the_others_is_asked_for_again(place, store, asked, monkeypatch):
    many = store._client.delete_objects

    def leave_one(**arguments):
        (left, *rest) = arguments["Delete"]["Objects"]
        many(Bucket=arguments["Bucket"], Delete={"Objects": rest})
        return {"Errors": [{"Key": left["Key"], "Code": "InternalError", "Message": "We encountered an internal error."}]}

    monkeypatch.setattr(store._client, "delete_objects", leave_one)
    for number in range(5):
        store.put(f"run/{number}", b"data")
    assert store.delete_prefix("run/") == 5
    assert asked == ["delete_objects", "delete_object"]
    assert place.names() == []


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")])
def test_a_service_that_does_not_delete_is_an_error_that_can_be_repeated(place, store, monkeypatch, status, code):
    def refuse(**_arguments):
        answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise ClientError(answer, "DeleteObjects")

    store.put("run/1", b"data")
    with monkeypatch.context() as patch:
        for name in ("delete_objects", "delete_object"):
            patch.setattr(store._client, name, refuse)
        with refused("storage_error", service_code=code):
            store.delete_prefix("run/")
    assert store.delete_prefix("run/") == 1
    assert place.names() == []


# -- Damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3 * MIB, CHUNK + 1])
@pytest.mark.parametrize("where", ["data", "trailer", "end", "short", "long", "gone"])
def test_damage_is_reported_and_never_returned(place, store, size, where):
    data = content(size)
    store.put("key", data)
    whole = bytearray(place.read("artifacts/key"))
    if where == "short":
        whole = whole[1:]
    elif where == "long":
        whole = b"x" + whole
    elif where == "gone":
        whole = b""
    elif where == "data" and not size:
        return
    else:
        whole[{"data": size // 2, "trailer": size + 5, "end": -1}[where]] ^= 1
    place.write("artifacts/key", bytes(whole))

    with refused("storage_read_failed", reason="damaged"):
        store.get("key")
    with refused("storage_read_failed", reason="damaged"), store.open("key") as file:
        while file.read(1000):
            pass
    if where != "data":
        with refused("storage_read_failed", reason="damaged"):
            store.stat("key")
        with refused("storage_read_failed", reason="damaged", object="artifacts/key"):
            store.list()


def test_a_reader_that_stops_early_gets_no_error(place, store):
    data = content(3 * MIB)
    store.put("key", data)
    place.write("artifacts/key", place.read("artifacts/key")[: 2 * MIB])
    with store.open("key") as file:
        assert file.read(10) == data[:10]


# -- Large uploads ------------------------------------------------------------------------------------------------------


class Program:
    """A Python program in another process, which tells of what it does line by line."""

    def __init__(self, source, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def line(self):
        return self.process.stdout.readline().strip()


def test_a_large_artifact_is_never_held_in_memory(place):
    program = """
    import hashlib, resource, sys
    from asm.adapters import S3ArtifactStore
    MIB = 1024 * 1024
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    def numbered(count):
        return (hashlib.sha256(b"%d" % number).digest() * (MIB // 32) for number in range(count))
    with S3ArtifactStore(bucket=sys.argv[1], endpoint_url=sys.argv[2]) as store:
        store.put("small", b"data")
        store.get("small")
        before = peak()
        store.put("large", numbered(96))
        with store.open("large") as file:
            for piece in numbered(96):
                assert file.read(MIB) == piece
            assert not file.read(1)
        print(peak() - before, store.stat("large").byte_size == 96 * MIB)
    """
    with Program(program, place.bucket, place.options["endpoint_url"]) as run:
        growth, right = run.line().split()
    assert right == "True"
    assert int(growth) < 48  # (2 + 2) chunks of 5 MiB, what the allocator keeps, and a reader's buffers


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 3 * CHUNK + 1])
def test_sizes_around_those_of_parts(place, store, size):
    data = content(size)
    store.put("key", [data])
    assert store.get("key") == data
    assert store.stat("key").byte_size == size
    assert place.names() == ["artifacts/key"]
    assert place.uploads() == []


def test_a_source_that_raises_late_leaves_no_upload(place, store):
    store.put("key", b"old")
    with pytest.raises(SourceError):
        store.put("key", breaking(content(4 * CHUNK)))
    assert store.get("key") == b"old"
    assert place.names() == ["artifacts/key"]
    assert place.uploads() == []


def test_what_a_source_raises_is_not_taken_for_the_service(store):
    class LossError(ConnectionError):
        pass

    def source():
        yield content(2 * CHUNK)
        raise LossError

    with pytest.raises(LossError):
        store.put("key", source())


def test_a_source_may_use_its_memory_again(store):
    data = content(2 * CHUNK)

    def source():
        buffer = bytearray(100_000)
        stream = io.BytesIO(data)
        while count := stream.readinto(buffer):
            yield memoryview(buffer)[:count]

    store.put("key", source())
    assert store.get("key") == data


def test_a_part_that_fails_ends_the_upload(place, store, monkeypatch):
    taken = []

    def source():
        for number in range(100):
            taken.append(number)
            yield content(MIB)

    def fail(**_):
        raise uploads_error()

    store.put("key", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(store._client, "upload_part", fail)
        with refused("storage_error", service_code="InternalError", http_status=500):
            store.put("key", source())
    assert len(taken) < 100
    assert store.get("key") == b"old"
    assert place.names() == ["artifacts/key"]
    assert place.uploads() == []


def test_nothing_is_sent_that_is_not_on_record(place, store, monkeypatch):
    def fail(**_):
        raise uploads_error()

    monkeypatch.setattr(store._client, "put_object", fail)
    with refused("storage_error", service_code="InternalError"):
        store.put("key", content(2 * CHUNK))
    assert place.names() == []
    assert place.uploads() == []


def uploads_error():
    from botocore.exceptions import ClientError  # noqa: PLC0415  # here it is data

    return ClientError(
        {"Error": {"Code": "InternalError", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "Test"
    )


# -- What is left behind ------------------------------------------------------------------------------------------------

UPLOADING = """
import sys
from asm.adapters import S3ArtifactStore
def source():
    for _ in range(40):
        yield bytes(1024 * 1024)
    print("waiting", flush=True)  # at most 2 parts are in memory, so others are sent
    sys.stdin.read()
S3ArtifactStore(bucket=sys.argv[1], endpoint_url=sys.argv[2], multipart_chunk_size=5 * 1024 * 1024).put("key", source())
"""


def test_an_upload_is_aborted_when_its_process_is_dead_and_not_before(place, store):
    store.put("key", b"old")
    with Program(UPLOADING, place.bucket, place.options["endpoint_url"]) as run:
        assert run.line() == "waiting"
        place.store().close()
        assert place.uploads() == ["artifacts/key"]
        run.process.kill()
        run.process.wait()
    assert place.uploads() == ["artifacts/key"]
    assert store.get("key") == b"old"
    place.store().close()
    assert place.uploads() == []
    assert place.names() == ["artifacts/key"]
    assert store.get("key") == b"old"


def test_who_is_dead():
    assert not is_dead(this_process())
    with Program("import sys; sys.stdin.read()") as run:
        host, _, _ = this_process().rsplit(".", 2)
        started = uploads._start_time(run.process.pid)
        living = f"{host}.{run.process.pid}.{started}"
        assert not is_dead(living)
        assert is_dead(f"{host}.{run.process.pid}.{int(started) - 1}")  # the id is used again
        run.process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, run.process.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(living)  # a zombie
        run.process.wait()
        assert is_dead(living)
        assert not is_dead(f"another-host.{run.process.pid}.{started}")
    assert not any(is_dead(other) for other in ("", "a", "a.b.c", f"{host}.x.y"))


def test_uploads_of_other_machines_are_aborted_when_they_are_old(place):
    for process in ("another-host.1.5", "another-host.2.5"):
        upload = place.begin("artifacts/key")
        place.write(f"uploads/{process}/1", f'{{"name": "artifacts/key", "upload_id": "{upload}"}}'.encode())
    place.begin("artifacts/unrecorded")
    place.begin("elsewhere")
    before = place.names()

    def clear(older_than):
        reclaim(place.client, place.bucket, records="uploads/", objects="artifacts/", older_than=older_than)

    clear(100 * 365 * 86400)
    assert place.names() == before
    assert sorted(place.uploads()) == ["artifacts/key", "artifacts/key", "artifacts/unrecorded", "elsewhere"]
    clear(3600)  # the server says that every upload began in 2010, and that objects are as old as they are
    assert place.names() == before
    assert sorted(place.uploads()) == ["artifacts/key", "artifacts/key", "elsewhere"]
    clear(-3600)
    assert place.names() == []
    assert place.uploads() == ["elsewhere"]


def test_a_record_of_what_is_finished_is_deleted(place):
    upload = place.begin("artifacts/key")
    place.client.abort_multipart_upload(Bucket=place.bucket, Key="artifacts/key", UploadId=upload)
    process = re.sub(r"\d+$", "1", this_process())
    place.write(f"uploads/{process}/1", f'{{"name": "artifacts/key", "upload_id": "{upload}"}}'.encode())
    place.store().close()
    assert place.names() == []


def test_a_record_that_cannot_be_read_is_passed_over(place, caplog):
    dead = re.sub(r"[0-9]+$", "1", this_process())
    upload = place.begin("artifacts/key")
    place.write(f"uploads/{dead}/1", b"no JSON")
    place.write(f"uploads/{dead}/2", f'{{"name": "artifacts/key", "upload_id": "{upload}"}}'.encode())
    place.store().close()
    assert f"uploads/{dead}/1 is no record of an upload" in caplog.text
    assert place.names() == [f"uploads/{dead}/1"]
    assert place.uploads() == []


def test_a_service_without_lists_of_uploads_will_do(place, caplog):
    with service(lambda request: send(request, 501 if "uploads" in request.path else 200, b"<R></R>")) as url:
        S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1).close()
    assert "could not be cleared away" in caplog.text


# -- Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bucket", ""),
        ("bucket", None),
        ("bucket", "a/b"),
        ("prefix", None),
        ("prefix", "/a"),
        ("prefix", "a//b"),
        ("prefix", "../b"),
        ("prefix", "a\n"),
        ("prefix", "x" * 513),
        ("endpoint_url", "localhost:9000"),
        ("endpoint_url", "ftp://localhost"),
        ("endpoint_url", "http://localhost:port"),
        ("endpoint_url", "http://"),
        ("endpoint_url", 5),
        ("region", ""),
        ("addressing_style", "other"),
        ("multipart_chunk_size", CHUNK - 1),
        ("multipart_chunk_size", 5.5e6),
        ("max_concurrency", 0),
        ("max_concurrency", True),
        ("connect_timeout", 0),
        ("read_timeout", float("nan")),
        ("read_timeout", float("inf")),
        ("max_attempts", 0),
        ("abandoned_after", "1 day"),
        ("abandoned_after", 1),
        ("bucket_name", "b"),
    ],
)
def test_options_are_checked_before_anything_is_sent(field, value):
    with refused("validation_error", field=field):
        S3ArtifactStore.preflight(**{"bucket": "mine", field: value})
    if field != "bucket_name":
        with refused("validation_error", field=field):
            S3ArtifactStore(**{"bucket": "mine", field: value})


def test_the_bucket_is_required():
    with refused("validation_error", field="bucket"):
        S3ArtifactStore.preflight()
    S3ArtifactStore.preflight(bucket="mine", prefix="team/asm", endpoint_url="https://s3.example.org", read_timeout=5)


def test_no_secret_is_told(place, monkeypatch):
    with pytest.raises(Error) as caught:
        S3ArtifactStore.preflight(bucket="mine", endpoint_url="http://user:pa55word@localhost")
    assert "pa55word" not in str(caught.value.to_map())
    with place.store() as store:
        assert repr(store) == f"S3ArtifactStore(bucket={place.bucket!r}, prefix='')"
    with refusing(403, "InvalidAccessKeyId") as url, pytest.raises(Error) as caught:
        S3ArtifactStore(bucket="mine", endpoint_url=url)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value.to_map())


def test_a_closed_store_refuses(place):
    store = place.store()
    store.close()
    store.close()
    for call in (
        lambda: store.put("key", b""),
        lambda: store.get("key"),
        lambda: store.open("key"),
        lambda: store.stat("key"),
        lambda: store.delete("key"),
        store.list,
        store.ping,
    ):
        with refused("storage_error", reason="closed"):
            call()


def test_without_boto3_the_extra_is_named():
    program = """
    import sys
    sys.modules["boto3"] = None  # as if it were not installed
    import asm
    try:
        asm.S3ArtifactStore
    except asm.Error as error:
        print(error.code, error.details["install"])
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True).stdout
    assert out == 'dependency_not_available pip install "asm-store[s3]"\n'
