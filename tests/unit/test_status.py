"""The values that a supervisor answers ``status`` with."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

import asm
from asm.status import ChildStatus, RestartStatus, TreeStatus

CHILD = ChildStatus(
    name="dev.sessions",
    description="worker: sql",
    state="ready",
    pid=4711,
    uptime_seconds=12.5,
    restarts=1,
    history=(RestartStatus(at=datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), reason="was killed by SIGKILL", kind="asked"),),
    reason="was killed by SIGKILL",
    calls=10,
    errors=2,
    in_flight=1,
    health="",
    memory_bytes=12_345_678,
)
TREE = TreeStatus(name="dev", pid=4710, version="1.0", config="dev.toml", uptime_seconds=60.0, children=(CHILD,))


def test_a_status_survives_json():
    assert TreeStatus.from_map(json.loads(json.dumps(TREE.to_map()))) == TREE


def test_a_history_of_an_older_version_has_crashes():
    older = {"at": "2026-01-02T03:04:05.678+00:00", "reason": "was killed by SIGKILL"}
    assert RestartStatus.from_map(older).kind == "crash"


def test_what_a_newer_version_adds_is_left_out():
    newer = TREE.to_map() | {"colour": "green", "children": [CHILD.to_map() | {"mood": "good"}]}
    assert TreeStatus.from_map(newer) == TREE


@pytest.mark.parametrize("state", ["starting", "backoff", "stopping", "failed", "ended", "stopped"])
def test_a_tree_is_ready_when_every_child_is(state):
    assert TREE.state == TREE.to_map()["state"] == "ready"
    degraded = replace(TREE, children=(CHILD, replace(CHILD, state=state)))
    assert degraded.state == degraded.to_map()["state"] == "degraded"


def test_a_tree_with_a_store_that_is_not_well_is_degraded():
    assert replace(TREE, children=(replace(CHILD, health="it is read-only"),)).state == "degraded"


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"children": None},
        TREE.to_map() | {"children": [{}]},
        TREE.to_map() | {"children": [CHILD.to_map() | {"history": [{}]}]},
    ],
)
def test_what_is_no_status_is_refused(broken):
    with pytest.raises(asm.ValidationError):
        TreeStatus.from_map(broken)
