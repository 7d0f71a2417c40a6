"""What a configuration says of a process, its supervisor is told."""

import pytest

from asm.config import ConfigError, read
from asm.processes.logs import LogStyle
from asm.settings import BackoffSettings
from asm.tree import policy, specs
from asm_supervisor import Backoff

CONFIG = """
[supervisor]
name = "dev"
{supervisor}
[[backend]]
name = "s"
store = "memory"
{backend}
[composite]
name = "C"
session_store = "s"
artifact_store = {{ store = "file", root = "artifacts" }}
{composite}
"""


@pytest.fixture
def settings(tmp_path):
    def make(*, supervisor="", backend="", composite=""):
        path = tmp_path / "c.toml"
        path.write_text(CONFIG.format(supervisor=supervisor, backend=backend, composite=composite))
        return read(path)

    return make


def children(settings):
    return specs(settings, LogStyle(pretty=False))


def test_the_defaults(settings):
    backend, composite = children(settings())
    assert (backend.restart, backend.on_failure, backend.heartbeat_timeout) == ("permanent", "degrade", 10)
    assert (composite.restart, composite.on_failure, composite.heartbeat_timeout) == ("permanent", "shutdown", 10)
    assert policy(settings()) == {"strategy": "one_for_one", "max_restarts": 10, "max_seconds": 30, "backoff": Backoff()}
    assert BackoffSettings().model_dump() == {name: getattr(Backoff(), name) for name in Backoff.__slots__}


def test_what_is_set(settings):
    keys = 'restart = "transient"\non_failure = "{}"\nheartbeat_timeout = 3\nstart_timeout = 4\nstop_timeout = 5'
    described = children(settings(backend=keys.format("shutdown"), composite=keys.format("degrade")))
    assert [spec.on_failure for spec in described] == ["shutdown", "degrade"]
    for spec in described:
        assert (spec.restart, spec.heartbeat_timeout, spec.start_timeout, spec.stop_timeout) == ("transient", 3, 4, 5)
    assert described[0].kwargs["options"] == {}


@pytest.mark.parametrize("strategy", ["one_for_one", "rest_for_one", "one_for_all"])
def test_the_policy(settings, strategy):
    text = f'strategy = "{strategy}"\nmax_restarts = 1\nmax_seconds = 2\n[supervisor.backoff]\nfirst = 3\ncap = 4'
    told = policy(settings(supervisor=text))
    assert told == {"strategy": strategy, "max_restarts": 1, "max_seconds": 2, "backoff": Backoff(first=3, cap=4)}


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        ("supervisor", "backoff = {frist = 1}", "supervisor.backoff.frist: is no key that exists here"),
        ("supervisor", "backoff = {frist = 1}", "Known: first, factor, cap, jitter, stable"),
        ("supervisor", "backoff = {first = -1}", "supervisor.backoff.first: input should be greater than or equal to 0"),
        (
            "supervisor",
            'strategy = "all"',
            "supervisor.strategy: input should be 'one_for_one', 'rest_for_one' or 'one_for_all'",
        ),
        ("backend", 'restart = "always"', "backend[0].restart: input should be 'permanent', 'transient' or 'temporary'"),
        ("backend", "heartbeat_timeout = 0", "backend[0].heartbeat_timeout: input should be greater than 0"),
        ("composite", 'on_failure = "ignore"', "composite[0].on_failure: input should be 'degrade' or 'shutdown'"),
        ("composite", 'root = "x"', "composite[0].root: is no key that exists here"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(settings, table, text, said):
    with pytest.raises(ConfigError) as caught:
        settings(**{table: text})
    (problem,) = caught.value.problems
    assert said in problem
