"""Services that speak S3, or should: they refuse, are away, come back, and break off in the middle."""

import hashlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from services import refusing, send, service

from asm.adapters import S3ArtifactStore
from asm.adapters.s3 import client, objects
from asm.core.errors import Error
from asm.core.values import ArtifactInfo
from asm.processes.opening import Opener
from asm.testing.artifacts import content
from asm.testing.samples import refused
from asm.wire.streams import read_opened

MIB = 1024 * 1024


@pytest.fixture
def bucket(s3_server):
    return s3_server.new_bucket()


@pytest.fixture
def store(s3_server, bucket):
    with S3ArtifactStore(bucket=bucket, endpoint_url=s3_server.url) as made:
        yield made


@pytest.mark.parametrize(
    ("status", "code", "words", "retryable", "away"),
    [
        (400, "AuthorizationHeaderMalformed", "correct the option region", False, None),
        (403, "AccessDenied", "access is forbidden", False, None),
        (403, "RequestTimeTooSkewed", "set this machine's clock", False, None),
        (403, "SignatureDoesNotMatch", "does not accept the credentials", False, None),
        (404, "NoSuchBucket", "create it, or correct the option bucket", False, None),
        (500, "InternalError", "said InternalError", False, True),
        (502, "BadGateway", "said BadGateway", False, True),
        (503, "SlowDown", "said SlowDown", True, True),
        (418, "Teapot", "said Teapot", False, None),
        (501, "NotImplemented", "said NotImplemented", False, None),
    ],
)
def test_a_service_that_refuses_keeps_the_store_from_starting(aws, status, code, words, retryable, away):
    """What passes by itself is away; what somebody has to correct is wrong."""
    with refusing(status, code) as url, refused("storage_error", service_code=code, http_status=status) as _:
        try:
            S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1)
        except Error as error:
            assert words in error.message
            assert f"the bucket mine at {url}" in error.message
            assert error.retryable is retryable
            assert error.details.get("away") is away
            assert error.provider_error["code"] == code
            assert error.__cause__ is not None
            raise


def test_a_bucket_that_is_not_there_keeps_the_store_from_starting(s3_server):
    with pytest.raises(Error, match="the bucket does not exist; create it") as caught:
        S3ArtifactStore(bucket="no-such-bucket", endpoint_url=s3_server.url)
    assert caught.value.details["service_code"] == "NoSuchBucket"
    assert "away" not in caught.value.details


@pytest.fixture(params=["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "endpoint_url", "s3"])
def elsewhere(request, s3_server, monkeypatch, tmp_path):
    """A function that says in one of the ways of AWS clients at which address the service is."""

    def say(url):
        if request.param.startswith("AWS"):
            monkeypatch.setenv(request.param, url)
            return
        line = f"endpoint_url = {url}"
        services = f"services = mine\n[services mine]\ns3 =\n  {line}"
        (tmp_path / "config").write_text(f"[default]\n{line if request.param == 'endpoint_url' else services}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))

    return say


def test_messages_name_the_service_that_was_really_asked(s3_server, elsewhere):
    elsewhere(s3_server.url)
    with pytest.raises(Error, match=f"in the bucket no-such-bucket at {s3_server.url}: the bucket does not exist"):
        S3ArtifactStore(bucket="no-such-bucket")
    with S3ArtifactStore(bucket=s3_server.new_bucket()) as store:
        store.put("key", b"data")
        assert store.get("key") == b"data"
    elsewhere("http://127.0.0.1:1")
    with pytest.raises(Error, match=r"no answer from the bucket mine at http://127\.0\.0\.1:1") as caught:
        S3ArtifactStore(bucket="mine")
    assert caught.value.details["away"] is True


@pytest.mark.parametrize("url", ["user:pa55word@localhost", "http://user:pa55word@localhost", "localhost:9000"])
def test_an_address_of_the_environment_is_checked_like_an_option(elsewhere, url):
    elsewhere(url)
    with refused("validation_error", field="endpoint_url"):
        try:
            S3ArtifactStore(bucket="mine")
        except Error as error:
            assert "pa55word" not in str(error.to_map())
            assert "AWS_ENDPOINT_URL_S3" in error.message
            raise


@pytest.mark.parametrize("region", ["eu-central1", "x y"])
def test_a_region_that_cannot_be_is_not_waited_for(aws, region):
    with pytest.raises(Error, match=region) as caught:
        S3ArtifactStore(bucket="mine", region=region)
    assert caught.value.code == "storage_error"
    assert "away" not in caught.value.details


def test_a_store_says_how_it_is(s3_server, bucket, store):
    store.ping()
    s3_server.client.delete_bucket(Bucket=bucket)
    with refused("storage_error", service_code="NoSuchBucket", away=None):
        store.ping()
    s3_server.client.create_bucket(Bucket=bucket)
    store.ping()


def test_who_may_use_the_objects_and_not_the_bucket_is_well(aws):
    """As a policy has it that allows a prefix only: asking for the bucket is refused, and listing below the prefix is not."""
    asked = []

    def answer(request):
        asked.append(request.command)
        send(request, 403 if request.command == "HEAD" else 200, b"" if request.command == "HEAD" else b"<R></R>")

    with service(answer) as url, S3ArtifactStore(bucket="mine", endpoint_url=url) as store:
        asked.clear()
        store.ping()
        assert asked == ["HEAD", "GET"]


def test_a_service_that_goes_away_and_comes_back_is_noticed(aws):
    status = 200

    with service(lambda request: send(request, status, b"<R></R>")) as url:
        with S3ArtifactStore(bucket="mine", endpoint_url=url) as store:
            store.ping()
            status = 503
            with refused("storage_error", reason="overloaded", away=True):
                store.ping()
            status = 200
            store.ping()
        stopped = S3ArtifactStore(bucket="mine", endpoint_url=url)
    with refused("storage_connection_failed", away=True):
        stopped.ping()
    stopped.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed, to make a certificate")
def test_a_certificate_that_is_not_accepted_is_not_waited_for(aws, tmp_path):
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    made = f"req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {key} -out {certificate}"
    subprocess.run(["openssl", *made.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def greet(listening):
        with listening.accept()[0] as connection, suppress(OSError):  # the client hangs up
            context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        greeting = pool.submit(greet, listening)
        with refused("storage_connection_failed", away=None):
            S3ArtifactStore(bucket="mine", endpoint_url=f"https://127.0.0.1:{listening.getsockname()[1]}")
        greeting.result()


def test_a_bucket_that_goes_away(s3_server, bucket, store):
    s3_server.client.delete_bucket(Bucket=bucket)
    for call in (
        lambda: store.put("key", b"data"),
        lambda: store.put("key", content(10 * MIB)),
        lambda: store.get("key"),
        lambda: store.open("key"),
        lambda: store.stat("key"),
        store.list,
        lambda: store.delete("key"),
    ):
        with refused("storage_error", service_code="NoSuchBucket", http_status=404):
            call()


@pytest.mark.parametrize("answer", [b"<html>not S3", b"", b"<Error>", b"\xff\xfe"])
def test_what_is_no_s3_at_all(aws, answer):
    with service(lambda request: send(request, 404, answer)) as url, refused("storage_error"):
        S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1)


def test_what_does_not_even_speak_http(aws):
    with service(lambda request: request.wfile.write(b"220 mail\r\n")) as url, refused("storage_connection_failed"):
        S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1)


def test_a_service_that_does_not_answer(aws):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(Error, match=f"no answer from the bucket mine at {url}") as caught:
            S3ArtifactStore(bucket="mine", endpoint_url=url, read_timeout=0.1, max_attempts=1)
    assert caught.value.code == "storage_connection_failed"
    for away in (url, "http://no-such-host.invalid"):  # nobody listens any more
        with refused("storage_connection_failed", away=True):
            S3ArtifactStore(bucket="mine", endpoint_url=away)


def test_who_asks_whether_the_service_is_there_asks_once_and_does_not_wait_for_long(aws, monkeypatch):
    """Whatever time and however many attempts the work may have."""
    monkeypatch.setitem(client.SOON, "read_timeout", 0.2)
    asked, answer = [], threading.Event()

    def wait(request):
        asked.append(request.command)
        answer.wait()
        send(request, 503, b"")

    with service(wait) as url:
        with refused("storage_connection_failed", away=True):
            S3ArtifactStore(bucket="mine", endpoint_url=url, connect_timeout=300, read_timeout=300, max_attempts=100)
        answer.set()
    assert asked == ["GET"]


def test_an_answer_that_is_cut_off(aws):
    def answer(request):
        if "list-type" in request.path or "uploads" in request.path:
            send(request, 200, b"<?xml version='1.0'?><Result></Result>")
        else:
            send(request, 200, b"some of it", size=5000, tag="tag")

    with service(answer) as url, S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store:
        with refused("storage_connection_failed"):
            store.get("key")
        with store.open("key") as file, refused("storage_connection_failed"):
            file.read()
        with refused("storage_connection_failed"):
            store.stat("key")


class Slipping:
    """A service that holds one object, and breaks off whenever it has sent a little of it."""

    def __init__(self, data, tags=("one",)):
        info = ArtifactInfo(
            key="key", byte_size=len(data), checksum_sha256=hashlib.sha256(data).hexdigest(), updated_at=datetime.now(UTC)
        )
        self.whole = data + objects.pack_trailer(info)
        self.tags = list(tags)
        self.ranges = []

    def __call__(self, request):
        if "list-type" in request.path or "uploads" in request.path:
            send(request, 200, b"<?xml version='1.0'?><Result></Result>")
            return
        first = int(re.findall(r"\d+", request.headers.get("Range", "0"))[0])
        self.ranges.append(first)
        tag = self.tags.pop(0) if len(self.tags) > 1 else self.tags[0]
        if request.headers.get("If-Match", tag) != tag:
            send(request, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        rest = self.whole[first:]
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(rest)))
        request.send_header("Content-Range", f"bytes {first}-{len(self.whole) - 1}/{len(self.whole)}")
        request.send_header("ETag", tag)
        request.end_headers()
        request.wfile.write(rest[:100_000])


def test_a_connection_that_breaks_is_taken_up_again(aws):
    data = content(450_000)
    slipping = Slipping(data)
    with service(slipping) as url, S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store:
        assert store.get("key") == data
        assert slipping.ranges == [0, 100_000, 200_000, 300_000, 400_000]
        with store.open("key") as file:
            assert b"".join(iter(lambda: file.read(7000), b"")) == data


def test_a_broken_connection_is_not_taken_up_with_another_object(aws):
    slipping = Slipping(content(450_000), tags=["one", "two"])
    with (
        service(slipping) as url,
        S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store,
        store.open("key") as file,
        refused("storage_connection_failed"),
    ):
        file.read()


def test_a_seek_asks_for_nothing_and_the_read_after_it_for_the_rest(aws):
    data = content(80_000)
    slipping = Slipping(data)
    with service(slipping) as url, S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store:
        with store.open("key") as file:
            assert file.seek(0, 2) == 80_000
            assert file.seek(70_000) == 70_000
            assert slipping.ranges == [0]
            assert file.read() == data[70_000:]
            assert slipping.ranges == [0, 70_000]
        slipping.ranges.clear()
        slipping.tags = ["one", "two"]
        with store.open("key") as file:
            file.seek(70_000)
            with refused("storage_read_failed", reason="changed"):
                file.read()


def test_to_tell_the_version_of_what_is_opened_asks_for_nothing_more(aws):
    data = content(80_000)
    slipping = Slipping(data)
    with service(slipping) as url, S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store:
        opener = Opener({"open": store.open, "stat": store.stat})
        head, file = opener.open({"key": "key"}, {"info": True})
        with file:
            assert file.read() == data
        assert slipping.ranges == [0]
        size, version, _ = read_opened(head)
        assert size == len(data)
        with opener.open({"key": "key"}, {"offset": 70_000, "version": version})[1] as file:
            assert file.read() == data[70_000:]
        assert slipping.ranges == [0, 0, 70_000]
        slipping.tags = ["two"]
        with refused("storage_read_failed", reason="changed"):
            opener.open({"key": "key"}, {"offset": 70_000, "version": version})


def test_an_empty_object_that_is_not_ours(aws):
    def answer(request):
        if "list-type" in request.path:
            send(request, 200, b"<R><Contents><Key>artifacts/</Key></Contents></R>")
        elif "uploads" in request.path:
            send(request, 200, b"<R></R>")
        else:
            send(request, 416, b"<Error><Code>InvalidRange</Code></Error>")

    with service(answer) as url, S3ArtifactStore(bucket="mine", endpoint_url=url, max_attempts=1) as store:
        assert store.list() == []


def test_without_credentials(s3_server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with refused("storage_error", reason="no_credentials"):
        S3ArtifactStore(bucket="mine", endpoint_url=s3_server.url)


def test_a_profile_that_is_not_there(s3_server, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(Error, match="nobody") as caught:
        S3ArtifactStore(bucket="mine", endpoint_url=s3_server.url)
    assert caught.value.code == "storage_error"
