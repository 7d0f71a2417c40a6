"""The configuration for production as it stands, on a real PostgreSQL and a service that speaks S3 over HTTP."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

import asm

CONFIG = Path(__file__).parents[2] / "configs" / "production.toml"
CONTROL = Path(sys.executable).with_name("asmctl")
CLIENTS, EVENTS = 8, 25


def event(content=""):
    return asm.Event.new(type="message_sent", session_id="ses_1", data={"content": content})


@pytest.fixture
def production(postgres, s3_server):
    """The environment of a host: a fresh database and a fresh bucket."""
    with postgres.database() as url:
        yield {"ASM_DATABASE_URL": url, "ASM_S3_BUCKET": s3_server.new_bucket(), "AWS_ENDPOINT_URL_S3": s3_server.url}


def migrate(production, *arguments):
    command = [CONTROL, "migrate", CONFIG, *arguments]
    return subprocess.run(command, env={**os.environ, **production}, capture_output=True, text=True, timeout=60)


def test_without_a_schema_it_says_what_to_do_and_then_it_comes_up(trees, production):
    refused = trees(CONFIG.read_text(), env=production)
    assert refused.wait() == 69
    assert any("asmctl migrate" in line for line in refused.stderr)
    assert list(refused.runtime_dir.iterdir()) == []

    script = migrate(production, "--sql")
    assert script.returncode == 0
    assert "asm_events" in script.stdout
    for _ in range(2):
        assert migrate(production).returncode == 0

    tree = trees(CONFIG.read_text(), env=production).wait_ready()
    with tree.connect() as store:
        stored = store.append_event_with_sequence(event())
        store.put("../ключ", b"artifact")
        assert store.get_events("ses_1") == [stored]
        assert store.get("../ключ") == b"artifact"
        assert [info.key for info in store.list()] == ["../ключ"]
    assert tree.stop() == 0


def test_no_secret_is_ever_said(trees, production):
    migrate(production)
    wrong = production | {"ASM_DATABASE_URL": production["ASM_DATABASE_URL"].replace("postgres:", "nobody:")}
    said = []
    for environment in (production, wrong, production | {"ASM_S3_BUCKET": "no-such-bucket"}):
        tree = trees(CONFIG.read_text(), env=environment)
        if environment is production:
            tree.wait_ready().stop()
        else:
            assert tree.wait() == 69
        said += [*tree.stdout, *tree.stderr]
    quoted = production["ASM_DATABASE_URL"].partition("//postgres:")[2].partition("@")[0]
    for secret in (quoted, unquote(quoted), os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert not any(secret in line for line in said)


def test_two_hosts_on_one_database_and_one_bucket(trees, production, tmp_path):
    """Two trees with a runtime directory each; eight clients on each append to one session."""
    migrate(production)
    left = trees(CONFIG.read_text(), env=production).wait_ready()
    right = trees(CONFIG.read_text(), env=production, runtime_dir=tmp_path / "r").wait_ready()

    async def append(tree, number):
        async with tree.aconnect(timeout=30) as store:
            return [await store.append_event_with_sequence(event(f"{tree.runtime_dir} {number} {n}")) for n in range(EVENTS)]

    async def scenario():
        async with right.aconnect(timeout=30) as store:
            last = 2 * CLIENTS * EVENTS
            woken = asyncio.create_task(store.get_events("ses_1", after=last, wait_timeout_ms=60_000))
            writers = [append(tree, number) for tree in (left, right) for number in range(CLIENTS)]
            acknowledged = [item for items in await asyncio.gather(*writers) for item in items]
            assert not woken.done()
            async with left.aconnect(timeout=30) as other:
                stored = await other.append_event_with_sequence(event("wake up"))
            assert await woken == [stored]
            log = await store.get_events("ses_1")
        assert [item.sequence_number for item in log] == list(range(1, last + 2))
        assert sorted(acknowledged, key=lambda item: item.sequence_number) == log[:-1]

    asyncio.run(scenario())
    with left.connect() as one, right.connect() as two:
        one.put("key", b"shared")
        assert two.get("key") == b"shared"
