"""The oracle of the campaigns of chaos: it finds whatever a store could do wrong, and nothing in what it may do."""

import json

import chaos_journal as journal
import pytest

OK, TIMEOUT, LOST = ("ok", None), ("timeout", None), ("storage_connection_failed", None)
EXITED, RESTARTING = ("storage_error", "backend_exited"), ("storage_error", "backend_restarting")


@pytest.fixture
def findings():
    return journal.Findings()


def operation(*calls, number=0, result=None, **intent):
    """An operation with these calls, each told something at a time: ``(began, ended, told)``."""
    records = [
        {
            "began": began,
            "ended": ended,
            "waited": ended - began,
            "limit": 1.0,
            "code": code,
            "reason": reason,
            "result": result,
        }
        for began, ended, (code, reason) in calls
    ]
    return journal.Operation("0", number, calls[0][0] if calls else 0.0, intent, records)


def append(*told, ids=("a",), numbers=(1,), at=0.0):
    """An append of events with these ids, that was told these things one after the other."""
    calls = [(at + step, at + step + 0.5, answer) for step, answer in enumerate(told)]
    result = [["s", name, number] for name, number in zip(ids, numbers, strict=True)]
    op = "append" if len(ids) == 1 else "batch"
    return operation(*calls, op=op, result=result, events=[["s", name] for name in ids])


def kinds(findings):
    return {kind for kind, found in findings.items() if found}


@pytest.mark.parametrize(
    ("operations", "stored", "expected"),
    [
        ([append(OK)], [("a", 1)], set()),
        ([append(OK)], [], {"lost"}),
        ([append(OK)], [("b", 1)], {"lost", "duplicated"}),
        ([append(OK, numbers=[2])], [("a", 1)], {"duplicated"}),
        ([append(OK), append(OK, ids=["b"], numbers=[3])], [("a", 1), ("b", 3)], {"gaps"}),
        ([append(OK)], [("a", 1), ("a", 2)], {"duplicated"}),
        ([append(OK, at=1), append(OK, ids=["b"], numbers=[2])], [("a", 1), ("b", 2)], {"gaps"}),
        ([append(TIMEOUT)], [("a", 1)], set()),
        ([append(EXITED)], [("a", 1)], set()),
        ([append(TIMEOUT)], [], set()),
        ([append()], [("a", 1)], set()),
        ([append(RESTARTING, EXITED)], [("a", 1)], set()),
        ([append(RESTARTING)], [("a", 1)], {"refused, and done"}),
        ([append(OK, ids="ab", numbers=[1, 2])], [("a", 1), ("b", 2)], set()),
        ([append(OK, ids="ab", numbers=[1, 2])], [("a", 1)], {"lost", "torn"}),
        ([append(EXITED, ids="ab", numbers=[1, 2])], [("a", 1)], {"torn"}),
        ([append(EXITED, ids="ab", numbers=[1, 2])], [("b", 1), ("a", 2)], {"torn"}),
        (
            [append(EXITED, ids="ac", numbers=[1, 2]), append(OK, ids="b", numbers=[2])],
            [("a", 1), ("b", 2), ("c", 3)],
            {"torn"},
        ),
    ],
)
def test_events(operations, stored, expected, findings):
    journal.check_events(operations, {"s": stored}, findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([["b", 2], ["c", 3]], set()),
        ([], set()),
        ([["c", 3]], {"gaps"}),
        ([["b", 2], ["x", 3]], {"lost"}),
        ([["c", 3], ["b", 2]], {"gaps"}),
    ],
)
def test_what_a_reader_saw(seen, expected, findings):
    known = append(OK, ids="abc", numbers=[1, 2, 3])
    poll = operation((0, 1, OK), op="poll", session="s", after=1, result=seen)
    journal.check_events([known, poll], {"s": [("a", 1), ("b", 2), ("c", 3)]}, findings)
    assert kinds(findings) == expected, findings


def expecting(*told, number=1):
    calls = [(step, step + 0.5, answer) for step, answer in enumerate(told)]
    return operation(*calls, op="expect", result=[["s", "a", number]], events=[["s", "a"]])


CONFLICT = ("conflict", None)


@pytest.mark.parametrize(
    ("told", "stored", "expected"),
    [
        ([OK], [("a", 1)], set()),
        ([OK], [], {"lost"}),
        ([CONFLICT], [], set()),
        ([CONFLICT], [("a", 1)], {"refused, and done"}),
        ([EXITED, CONFLICT], [("a", 1)], set()),
    ],
)
def test_appends_that_expect_something(told, stored, expected, findings):
    journal.check_events([expecting(*told)], {"s": stored}, findings)
    journal.check_calls([expecting(*told)], 1.0, findings)
    assert kinds(findings) == expected, findings


def prune(through, told, at):
    return operation((at, at + 1, told), op="prune", session="s", through=through, result=through)


@pytest.mark.parametrize(
    ("prunes", "stored", "expected"),
    [
        ([], "abc", set()),
        ([prune(1, OK, 5)], "bc", set()),
        ([prune(1, OK, 5)], "abc", {"deleted, and there"}),
        ([prune(1, OK, 5)], "c", {"lost"}),
        ([prune(1, OK, 5), prune(2, EXITED, 7)], "bc", set()),
        ([prune(1, OK, 5), prune(2, EXITED, 7)], "c", set()),
        ([prune(1, OK, 5), prune(2, RESTARTING, 7)], "c", {"lost"}),
        ([prune(3, OK, 5)], "", set()),
        ([prune(1, RESTARTING, 5)], "bc", {"lost", "gaps"}),
    ],
)
def test_events_that_were_deleted(prunes, stored, expected, findings):
    appended = [append(OK, ids=[name], numbers=[number], at=number) for number, name in enumerate("abc", 1)]
    journal.check_events([*appended, *prunes], {"s": [(name, "abc".index(name) + 1) for name in stored]}, findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("op", "result", "expected"),
    [
        ("search", {"missing": [], "twice": 0}, set()),
        ("search", {"missing": ["s"], "twice": 0}, {"lost"}),
        ("search", {"missing": [], "twice": 1}, {"duplicated"}),
        ("export", {"whole": True}, set()),
        ("export", {"whole": False}, {"torn"}),
    ],
)
def test_answers(op, result, expected, findings):
    journal.check_answers([operation((0, 1, OK), op=op, result=result)], findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("sessions", "keys", "expected"),
    [
        ((), ["archive/s.jsonl"], set()),
        (("s",), ["archive/s.jsonl"], {"deleted, and there"}),
        ((), ["archive/s.jsonl", "s/notes"], {"deleted, and there"}),
        ((), [], {"lost"}),
    ],
)
def test_what_was_retired(sessions, keys, expected, findings):
    journal.check_retired([operation((0, 1, OK), op="retire", session="s")], sessions, keys, findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("told", "sessions", "runs", "expected"),
    [
        (OK, {"s"}, {"r"}, set()),
        (OK, set(), set(), {"lost"}),
        (OK, {"s"}, set(), {"torn"}),
        (EXITED, set(), set(), set()),
        (EXITED, set(), {"r"}, {"torn"}),
    ],
)
def test_flushes(told, sessions, runs, expected, findings):
    journal.check_flushes([operation((0, 1, told), op="flush", session="s", run="r", events=[])], sessions, runs, findings)
    assert kinds(findings) == expected, findings


def write(value, *calls):
    return operation(*calls, op="write", key="k", value=value)


@pytest.mark.parametrize(
    ("writes", "held", "expected"),
    [
        ([write("a", (0, 1, OK))], "a", set()),
        ([write("a", (0, 1, OK))], None, {"lost"}),
        ([write("a", (0, 1, OK))], "x", {"torn"}),
        ([write("a", (0, 1, OK)), write("b", (2, 3, OK))], "a", {"lost"}),
        ([write("a", (0, 3, OK)), write("b", (1, 2, OK))], "a", set()),  # both at once: either may be the last
        ([write("a", (0, 3, OK)), write("b", (1, 2, OK))], "b", set()),
        ([write("a", (0, 1, OK)), write("b", (2, 3, EXITED))], "b", set()),
        ([write("a", (0, 1, OK)), write("b", (2, 3, EXITED))], "a", set()),
        ([write("a", (0, 1, OK)), write("b", (2, 3, RESTARTING))], "b", {"refused, and done"}),
        ([write("a", (0, 1, EXITED)), write("b", (2, 3, OK))], "a", {"lost"}),  # its worker was dead by then
        ([write("a", (0, 1, TIMEOUT)), write("b", (2, 3, OK))], "a", set()),  # who got it may have been slow
        ([write("a", (0, 1, LOST), (2, 3, OK)), write("b", (4, 5, OK))], "b", set()),
        ([write("a")], None, set()),
        ([write("a")], "a", set()),
    ],
)
def test_what_is_held_in_the_end(writes, held, expected, findings):
    journal.check_registers(writes, {"k": held}, findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("value", "began", "expected"),
    [
        ("a", 1.5, set()),
        ("b", 1.5, {"torn"}),
        (None, 1.5, {"lost"}),
        (None, 0.5, set()),
        ("a", 2.5, set()),
        ("a", 3.5, {"lost"}),
    ],
)
def test_what_was_read_meanwhile(value, began, expected, findings):
    writes = [write("a", (0, 1, OK)), write("b", (2, 3, OK))]
    read = operation((began, began + 0.1, OK), op="read", key="k", result=value)
    journal.check_registers([*writes, read], {"k": "b"}, findings)
    assert kinds(findings) == expected, findings


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ((0, 1.9, TIMEOUT), set()),
        ((0, 2.1, TIMEOUT), {"calls beyond their timeout"}),
        ((0, 2.1, OK), {"calls beyond their timeout"}),
        ((0, 1, ("storage_error", "shutting_down")), set()),
        ((0, 1, ("storage_error", None)), {"undocumented errors"}),
        ((0, 1, ("internal_error", "backend_exited")), {"undocumented errors"}),
        ((0, 1, ("undocumented", "KeyError()")), {"undocumented errors"}),
    ],
)
def test_calls(call, expected, findings):
    journal.check_calls([operation(call, op="append")], 1.0, findings)
    assert kinds(findings) == expected, findings


def test_a_journal_is_read_up_to_a_line_that_was_left_half(tmp_path):
    lines = [
        {"n": 1, "at": 0.5, "op": "append", "events": [["s", "a"]]},
        {"n": 1, "began": 1, "ended": 2, "waited": 1, "limit": 1, "code": "ok", "reason": None, "result": None},
        {"n": 2, "at": 2.5, "op": "read", "key": "k"},
    ]
    path = tmp_path / "3.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"n": 2, "be')
    first, second = journal.read([path])
    assert (first.client, first.intent, first.acknowledged["ended"]) == ("3", {"op": "append", "events": [["s", "a"]]}, 2)
    assert (second.at, second.acknowledged, second.was_refused) == (2.5, None, False)
