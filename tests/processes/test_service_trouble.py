"""A service for artifacts in trouble under a tree at work: clients are told what it is, no worker dies, and all is well again.

Short in the default run; with ``--campaign`` there are :data:`LONG` rounds of everything.
"""

import asyncio

import pytest
from configurations import MEMORY, configuration
from load import Load
from proxy import Proxy

import asm
from asm.adapters import S3ArtifactStore

LONG = 25
MIB = 1024 * 1024

CONFIG = configuration(
    MEMORY,
    """
store = "s3"
bucket = "{bucket}"
endpoint_url = "{url}"
connect_timeout = 1
read_timeout = 0.5
max_attempts = 2
""",
)


@pytest.fixture
def rounds(campaign):
    return range(LONG if campaign else 1)


@pytest.fixture
def proxy(s3_server):
    """What stands before the service."""
    made = Proxy(s3_server.url)
    yield made
    made.close()


def pids(tree):
    return [tree.child(name).pid for name in ("dev.sessions", "dev.artifacts", "MyApp.Store")]


def lost(error):
    return (error.code, error.retryable) == ("storage_connection_failed", True)


def answered(status, code, *, retryable):
    def is_it(error):
        details = error.details
        told = (error.code, details.get("http_status"), details.get("service_code"), error.retryable)
        return told == ("storage_error", status, code, retryable)

    return is_it


TROUBLES = {
    "broken": answered(500, "InternalError", retryable=False),
    "overloaded": answered(503, "SlowDown", retryable=True),
    "silent": lost,
    "deaf": lost,
    "stammering": lost,
}
"""How the service misbehaves, and what clients are told then."""


def large():
    """An artifact that is sent in parts."""
    return (bytes(MIB) for _ in range(12))


def test_the_service_misbehaves_under_load(trees, s3_server, proxy, rounds):
    """Sessions notice nothing. What could not be cleared away of a large upload is, at the next start."""
    bucket = s3_server.new_bucket()
    tree = trees(CONFIG.format(bucket=bucket, url=proxy.url)).wait_ready()
    before = pids(tree)

    async def scenario():
        async with Load(tree) as load:
            await load.store.put("large", large())
            for _ in rounds:
                for how, is_told in TROUBLES.items():
                    await load.all_go_on(load.artifacts)
                    with proxy.misbehaving(how):
                        await load.all_are_told(load.artifacts, is_told)
                        await load.all_go_on(load.events)
                        calls = load.store.put("large", large()), load.store.get("large"), load.store.list()
                        for error in await asyncio.gather(*calls, return_exceptions=True):
                            assert is_told(error), error
                with proxy.misbehaving("slow"):
                    await load.all_go_on(load.artifacts)
            assert len(await load.store.get("large")) == 12 * MIB
            await load.all_go_on(load.artifacts)
            told = [error for writer in load.artifacts for error in writer.told]
            assert [error for error in told if not any(is_told(error) for is_told in TROUBLES.values())] == []
            assert [error for writer in load.events for error in writer.told] == []

    asyncio.run(scenario())
    assert pids(tree) == before
    assert tree.stop() == 0
    S3ArtifactStore(bucket=bucket, endpoint_url=s3_server.url).close()
    assert s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert s3_server.client.list_objects_v2(Bucket=bucket, Prefix="uploads/")["KeyCount"] == 0


def test_a_bucket_that_is_deleted_and_made_again_under_load(trees, s3_server):
    bucket, client = s3_server.new_bucket(), s3_server.client
    tree = trees(CONFIG.format(bucket=bucket, url=s3_server.url)).wait_ready()
    before, is_told = pids(tree), answered(404, "NoSuchBucket", retryable=False)

    def delete():
        while True:
            for item in client.list_objects_v2(Bucket=bucket).get("Contents", ()):
                client.delete_object(Bucket=bucket, Key=item["Key"])
            try:
                client.delete_bucket(Bucket=bucket)
            except client.exceptions.ClientError:  # somebody put something meanwhile
                continue
            return

    async def scenario():
        async with Load(tree) as load:
            await load.all_go_on(load.artifacts)
            await asyncio.to_thread(delete)
            await load.all_are_told(load.artifacts, is_told)
            await load.all_go_on(load.events)
            await asyncio.to_thread(client.create_bucket, Bucket=bucket)
            await load.all_go_on(load.artifacts)
            assert [error for writer in load.events for error in writer.told] == []

    asyncio.run(scenario())
    assert pids(tree) == before


def test_a_tree_whose_service_refuses_it_does_not_start(trees, proxy, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-wrong-one")
    with proxy.misbehaving("forbidding"):
        tree = trees(CONFIG.format(bucket="mine", url=proxy.url))
        assert tree.wait() == 69
    assert any("does not accept the credentials" in line for line in tree.stderr)
    assert not any("the-wrong-one" in line for line in [*tree.stdout, *tree.stderr])
    assert list(tree.runtime_dir.iterdir()) == []


@pytest.mark.parametrize("how", TROUBLES)
def test_a_tree_whose_service_is_away_starts_and_waits_for_it(trees, s3_server, proxy, how):
    with proxy.misbehaving(how):
        tree = trees(CONFIG.format(bucket=s3_server.new_bucket(), url=proxy.url)).wait_ready()
        assert tree.child_status("dev.artifacts").state == "waiting"
        with tree.connect() as store, pytest.raises(asm.StorageError) as caught:
            store.put("key", b"data")
        assert caught.value.details["reason"] == "backend_waiting"
        assert proxy.url in caught.value.details["cause"]
    tree.wait_state("dev.artifacts", "ready")
    with tree.connect() as store:
        store.put("key", b"data")
        assert store.get("key") == b"data"


def test_a_worker_that_dies_while_the_service_is_away(trees, s3_server, proxy):
    """It is noticed without a call, too, and passes without a restart; who is started meanwhile waits."""
    tree = trees(CONFIG.format(bucket=s3_server.new_bucket(), url=proxy.url)).wait_ready()
    with proxy.misbehaving("deaf"):
        tree.wait_state("dev.artifacts", "waiting")
        tree.child("dev.artifacts").kill()
        tree.wait_child("dev.artifacts", lambda child: (child.state, child.restarts) == ("waiting", 1))
    assert tree.wait_state("dev.artifacts", "ready").restarts == 1
