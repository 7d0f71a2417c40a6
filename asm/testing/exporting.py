"""``export_session`` and ``import_session``."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from asm.core.errors import Error
from asm.testing.paging import QueriedStore
from asm.testing.samples import INVALID_IDS, JSON, ODD_IDS, all_refused, at, event, refused, run, same, session

__all__ = ["Exporting"]


def moment(second: float) -> str:
    """Return a time as an export has it."""
    return at(second).isoformat(timespec="microseconds")


LINES: list[dict[str, Any]] = [
    {"format": "asm-session", "version": 1, "session_id": "ses", "last_sequence": 7},
    {
        "session": {
            "id": "ses",
            "agent_id": "agent-7",
            "status": "active",
            "parent_session_id": "ses_parent",
            "metadata": {"b": 1, "a": [1.5, None, True, 2**53 + 1]},
            "context": {"ключ": "é \u2028 \"'\\ \n"},
            "tags": ["one", "ключ"],
            "created_at": moment(0),
            "updated_at": moment(1),
            "deleted_at": None,
        }
    },
    {
        "run": {
            "id": "run",
            "session_id": "ses",
            "status": "completed",
            "input": {"a": 1},
            "output": {},
            "error": None,
            "metadata": {},
            "turn_count": 2,
            "token_usage": {"input_tokens": 2**53 + 1, "details": {"cached": 0.1}},
            "cost_usd": 0.1 + 0.2,
            "started_at": moment(2),
            "ended_at": moment(3),
            "provider": "anthropic",
            "provider_metadata": {"model": "m"},
        }
    },
    *(
        {
            "event": {
                "id": f"evt {number}",
                "type": kind,
                "timestamp": moment(-number),
                "session_id": "ses",
                "run_id": run_id,
                "data": {"number": number},
                "metadata": {},
                "sequence_number": number,
                "schema_version": 1,
                "provider": None,
                "correlation_id": run_id,
            }
        }
        for number, kind, run_id in ((2, "message_sent", None), (3, "message_received", "run"), (6, "myapp.thought", "run"))
    ),
    {"end": {"runs": 1, "events": 3}},
]
"""The export of a session with gaps in its events, line by line, as version 1 of the format has it."""


def written(lines: list[Any]) -> bytes:
    """Return lines as an export has them; what is bytes stands there as it is."""
    return b"".join(
        line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        for line in lines
    )


def changed(number: int, **fields: Any) -> list[Any]:
    """Return the lines, of which one has other fields."""
    (kind, value), *more = LINES[number - 1].items()
    line = {kind: {**value, **fields}} if isinstance(value, dict) else {kind: value, **dict(more), **fields}
    return [*LINES[: number - 1], line, *LINES[number:]]


def without(number: int, name: str) -> list[Any]:
    """Return the lines, of which one lacks a field."""
    lines = changed(number)
    inside = lines[number - 1] if name in lines[number - 1] else next(iter(lines[number - 1].values()))
    del inside[name]
    return lines


BROKEN: list[tuple[int, list[Any]]] = [
    (1, []),
    (1, [b"\n"]),
    (1, [b"no export\n"]),
    (1, [b"\xff\xfe\x00"]),
    (1, [b"{}\n", *LINES[1:]]),
    (1, [[], *LINES[1:]]),
    (1, [LINES[1]]),
    (1, changed(1, format="other")),
    (1, changed(1, version=2)),
    (1, changed(1, version=0)),
    (1, changed(1, version="1")),
    (1, changed(1, session_id="")),
    (1, changed(1, last_sequence=-1)),
    (1, without(1, "session_id")),
    (2, changed(2, id="ses_other")),
    (2, changed(2, tags="text")),
    (2, changed(2, created_at="yesterday")),
    (2, without(2, "agent_id")),
    (2, changed(1, session_id="ses_other")),
    (3, [*LINES[:2], b"{not JSON\n", *LINES[2:]]),
    (3, [*LINES[:2], b"\n", *LINES[2:]]),
    (3, [*LINES[:2], {"unknown": {}}, *LINES[2:]]),
    (3, [*LINES[:2], *LINES[1:]]),
    (3, changed(3, session_id="ses_other")),
    (3, changed(3, cost_usd="1")),
    (3, [*LINES[:2], b'{"run": {"id": NaN}}\n', *LINES[3:]]),
    (4, [*LINES[:3], LINES[2], *LINES[3:]]),
    (4, [*LINES[:1], *LINES[2:4], LINES[1], *LINES[4:]]),
    (4, changed(4, sequence_number=None)),
    (4, changed(4, sequence_number=8)),
    (5, [*LINES[:3], LINES[4], LINES[3], *LINES[5:]]),
    (5, changed(5, sequence_number=2)),
    (5, changed(5, type=7)),
    (5, changed(5, id="evt 2")),
    (4, [*changed(3, started_at=moment(1))[:3], *LINES[2:]]),
    (6, changed(1, last_sequence=5)),
    (6, [*LINES[:5], LINES[6]]),
    (7, changed(7, runs=2)),
    (7, changed(7, events=2)),
    (8, [*LINES, LINES[5]]),
    (8, [*LINES, *LINES]),
]
"""What is no export, and the number of its line that says so."""


class Exporting:
    """A session goes out and comes in again as it was, whole or not at all."""

    def test_an_export_is_what_it_always_was(self, store: QueriedStore) -> None:
        """One of version 1 is taken, and comes out again byte for byte; every field of it is stored."""
        text = written(LINES)
        assert store.import_session(text) == "ses"
        with store.export_session("ses") as file:
            assert file.readable()
            assert file.read() == text
        found = store.get_session("ses")
        assert found.to_map() == LINES[1]["session"]
        assert store.get_run("run").to_map() == LINES[2]["run"]
        assert [item.to_map() for item in store.get_events("ses")] == [line["event"] for line in LINES[3:6]]
        assert store.list_sessions() == [found]
        assert len(store.list_runs("ses")) == 1

    def test_numbers_and_gaps_stay(self, store: QueriedStore) -> None:
        """What was given once is not given again, also behind the last event."""
        store.import_session(written(LINES))
        assert store.get_latest_sequence("ses") == 7
        with refused("conflict", actual=7):
            store.append_events([event()], expect={"ses": 6})
        assert store.append_event_with_sequence(event()).sequence_number == 8
        assert store.append_event_with_sequence(event(id="evt 3")).sequence_number == 3
        assert [item.sequence_number for item in store.get_events("ses", run_id="run", last=2)] == [3, 6]
        assert store.get_events("ses", correlation_id="run", limit=1)[0].id == "evt 3"

    def test_a_session_survives_the_way_out_and_in(self, store: QueriedStore) -> None:
        """However odd what it holds; the second export is the first, and nobody else's is in it."""
        store.save_session(session(id="ses", metadata=JSON["text"], context=JSON["floats"], tags=["ключ"], deleted_at=at(0)))
        for number, value in enumerate(JSON.values()):
            store.save_run(run(id=f"run {number:02}", token_usage=value, output=value, started_at=at(-number // 2)))
            store.append_event(event(data=value, metadata=value, timestamp=at(-number)))
        store.delete_events("ses", through=2)
        store.save_run(run("ses_other"))
        others = store.append_events([event("ses_other")])
        before = [store.get_session("ses"), *store.list_runs("ses"), *store.get_events("ses")]
        exported = store.export_session("ses").read()
        store.delete_session("ses")
        assert store.import_session(exported) == "ses"
        after = [store.get_session("ses"), *store.list_runs("ses"), *store.get_events("ses")]
        assert len(after) == len(before)
        assert all(map(same, after, before))
        assert store.export_session("ses").read() == exported
        assert store.get_events("ses_other") == others

    def test_any_session_can_be_exported(self, store: QueriedStore) -> None:
        """However odd its id; saved or not, with runs or not."""
        for number, name in enumerate(ODD_IDS):
            if number % 3 == 0:
                store.save_session(session(id=name))
            if number % 3 < 2:
                store.append_event(event(name, id=name))
            if number % 3 > 0:
                store.save_run(run(name, id=name))
            exported = store.export_session(name).read()
            store.delete_session(name)
            assert store.import_session(exported) == name
            assert store.export_session(name).read() == exported

    @pytest.mark.parametrize("way", ["bytes", "bytearray", "a file", "pieces", "its own file"])
    def test_ways_to_give_an_export(self, store: QueriedStore, way: str) -> None:
        """Of a session that is more than a piece."""
        events = [event(data={"text": "x" * 20_000, "number": number}) for number in range(60)]
        stored = store.append_events(events)
        text = store.export_session("ses").read()
        ways: dict[str, Any] = {
            "bytes": lambda: text,
            "bytearray": lambda: bytearray(text),
            "a file": lambda: io.BytesIO(text),
            "pieces": lambda: (text[at : at + 7777] for at in range(0, len(text), 7777)),
            "its own file": lambda: store.export_session("ses"),
        }
        given = ways[way]()
        if way == "its own file":
            with refused("already_exists", session_id="ses"), given:
                store.import_session(given)
        else:
            store.delete_session("ses")
            assert store.import_session(given) == "ses"
        assert store.get_events("ses") == stored

    def test_an_export_can_be_read_in_pieces(self, store: QueriedStore) -> None:
        """And left at any time."""
        store.append_events([event(data={"text": "x" * 20_000}) for _ in range(30)])
        with store.export_session("ses") as whole, store.export_session("ses") as file:
            assert b"".join(iter(lambda: file.read(10_001), b"")) == whole.read()
        file = store.export_session("ses")
        file.read(10)
        file.close()
        assert store.append_event_with_sequence(event()).sequence_number == 31

    def test_what_is_not_there_is_not_exported(self, store: QueriedStore) -> None:
        """``session_not_found``, when it is asked for and not when it is read."""
        store.append_event(event())
        with refused("session_not_found", session_id="ses_nobody"):
            store.export_session("ses_nobody")
        all_refused("validation_error", store.export_session, INVALID_IDS)

    def test_numbers_that_were_given_are_exported_where_nothing_else_is_left(self, store: QueriedStore) -> None:
        """They are never given again, in no store."""
        store.append_events([event(), event()])
        store.delete_events("ses", through=2)
        with store.export_session("ses") as file:
            exported = file.read()
        store.delete_session("ses")
        assert store.import_session(exported) == "ses"
        assert (store.get_events("ses"), store.get_latest_sequence("ses")) == ([], 2)
        assert store.append_event_with_sequence(event()).sequence_number == 3

    @pytest.mark.parametrize("what", ["session", "run", "event"])
    def test_what_is_there_is_not_imported_over(self, store: QueriedStore, what: str) -> None:
        """``already_exists`` if there is anything under the id, and that stays as it is."""
        if what == "session":
            store.save_session(session(id="ses"))
        elif what == "run":
            store.save_run(run(id="run of its own"))
        else:
            store.append_event(event())
        before = store.export_session("ses").read()
        with refused("already_exists", session_id="ses"):
            store.import_session(written(LINES))
        assert store.export_session("ses").read() == before
        store.delete_session("ses")
        assert store.import_session(written(LINES)) == "ses"

    @pytest.mark.parametrize("what", ["run", "event"])
    def test_what_another_session_has_is_not_imported(self, store: QueriedStore, what: str) -> None:
        """``session_mismatch`` for a run and for an event; nothing of the other session is shown, and nothing is stored."""
        if what == "run":
            store.save_run(run("ses_owner", id="run"))
        else:
            store.append_event(event("ses_owner", id="evt 6"))
        before = store.export_session("ses_owner").read()
        with pytest.raises(Error) as caught:
            store.import_session(written(LINES))
        assert caught.value.code == "session_mismatch"
        assert caught.value.details == {f"{what}_id": "run" if what == "run" else "evt 6", "session_id": "ses"}
        assert "owner" not in str(caught.value.to_map())
        assert store.export_session("ses_owner").read() == before
        self._nothing_is_stored(store)

    def test_what_is_broken_is_not_imported(self, store: QueriedStore) -> None:
        """``invalid_format`` with the number of the line, and nothing is stored."""
        for line, lines in BROKEN:
            try:
                store.import_session(written(lines))
            except Error as error:
                assert (error.code, error.details.get("line")) == ("invalid_format", line), (lines, error.message)  # noqa: PT017
            else:
                pytest.fail(f"accepted: {lines}")
        self._nothing_is_stored(store)
        assert store.import_session(written(LINES)) == "ses"

    def test_what_was_cut_is_not_imported(self, store: QueriedStore) -> None:
        """Wherever: behind a line, and in the middle of one; but the last newline may be missing."""
        text = written(LINES)
        places = [len(written(LINES[:count])) + more for count in range(len(LINES)) for more in (0, 1, 10, -1)]
        for place in {max(place, 0) for place in places}:
            with pytest.raises(Error) as caught:
                store.import_session(text[:place])
            assert caught.value.code == "invalid_format", place
            assert caught.value.details["line"] in (text[:place].count(b"\n") + 1, text[:place].count(b"\n") + 2), place
        self._nothing_is_stored(store)
        assert store.import_session(text[:-1]) == "ses"

    def test_what_is_no_data_is_refused(self, store: QueriedStore) -> None:
        """``validation_error``."""
        all_refused("validation_error", store.import_session, [None, 1, "text", {"format": "asm-session"}, [1], [None]])
        self._nothing_is_stored(store)

    def _nothing_is_stored(self, store: QueriedStore) -> None:
        assert store.list_sessions() == []
        assert store.list_runs("ses") == []
        assert store.get_events("ses") == []
        assert store.get_latest_sequence("ses") == 0
        with refused("session_not_found"):
            store.export_session("ses")
