"""Exports of a session: all of it as lines of JSON, each in UTF-8 and ended by a newline.

::

    {"format":"asm-session","version":1,"session_id":"ses_…","last_sequence":7}
    {"session":{"id":"ses_…","agent_id":"…",…}}                  unless it is not saved
    {"run":{"id":"run_…",…}}                                     oldest first, those of the same moment by id
    {"event":{"id":"evt_…",…,"sequence_number":3,…}}             by their numbers, in which deletions leave gaps
    {"end":{"runs":1,"events":5}}

Each value is what its ``to_map`` returns: all of its fields in their order, times in ISO 8601, free-form maps in the order that
they have. So one session has one export, whatever stores it went through, and one that was cut lacks its end.

Both ways are streamed: no more than a line is in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NoReturn

from asm.adapters.encoding import dumps
from asm.chunks import chunks
from asm.core import checks
from asm.core.errors import Error
from asm.core.values import Event, Run, Session
from asm.ports import Data

__all__ = ["Export", "broken", "export_lines", "file_of"]

FORMAT: Final = "asm-session"
VERSION: Final = 1

MAX_LINE: Final = 128 * 1024 * 1024
"""How many bytes a line may have. A value has at most 16 MiB, and JSON writes some characters with six bytes."""

KINDS: Final[dict[str, type[Session | Run | Event]]] = {"session": Session, "run": Run, "event": Event}
"""What the lines hold, in their order."""

AGAIN: Final = "export the session again, or take a copy that is whole"


def export_lines(
    session_id: str, last_sequence: int, session: Session | None, runs: Iterable[Run], events: Iterable[Event]
) -> Iterator[bytes]:
    """Yield the lines of an export.

    :param last_sequence: the greatest number that was given in the session.
    :param session: the session, if it is saved.
    :param runs: its runs, in the order of ``list_runs``.
    :param events: its events, in the order of their numbers.
    :raises Error: ``storage_read_failed`` for a value that JSON has no form for, which only a foreign hand can have stored.
    """
    yield _line({"format": FORMAT, "version": VERSION, "session_id": session_id, "last_sequence": last_sequence})
    if session is not None:
        yield _line({"session": session.to_map()})
    counts = {"runs": 0, "events": 0}
    for run in runs:
        counts["runs"] += 1
        yield _line({"run": run.to_map()})
    for event in events:
        counts["events"] += 1
        yield _line({"event": event.to_map()})
    yield _line({"end": counts})


def _line(content: dict[str, Any]) -> bytes:
    try:
        return dumps(content).encode() + b"\n"
    except ValueError as error:  # a number that is not finite, a lone surrogate
        message = f"the session holds what JSON has no form for, and cannot be exported: {error}"
        raise Error("storage_read_failed", message, details={"reason": "malformed_row", "cause": str(error)}) from error


def file_of(pieces: Iterator[bytes]) -> BinaryIO:
    """Return a readable binary file of some pieces, which are asked for as it is read. What they raise, reading raises."""
    return io.BufferedReader(_Pieces(pieces), 128 * 1024)


class _Pieces(io.RawIOBase):
    """Pieces of bytes, one behind the other, as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = filter(None, pieces)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what fits into the buffer; return how many bytes that are, 0 at the end."""
        into = memoryview(buffer).cast("B")
        done = 0
        while done < len(into):
            if not self._left:
                self._left = memoryview(next(self._pieces, b""))
                if not self._left:
                    break
            count = min(len(self._left), len(into) - done)
            into[done : done + count] = self._left[:count]
            self._left = self._left[count:]
            done += count
        return done


class Export:
    """An export that is read: its header at once, and what is in it by iterating, once.

    Iterating yields the session, if it is there, its runs and its events, each checked as what another process wants stored:
    what a later version of asm knows passes, and what no store could hold does not.

    :param data: what was exported.
    :raises Error: ``invalid_format`` with the number of the ``line``, also while iterating.
    """

    def __init__(self, data: Data) -> None:
        self._lines = _lines(data)
        self.line = 0
        """The number of the line that was read last, from 1."""
        header = self._next("is no export of a session")
        if header.get("format") != FORMAT:
            broken(1, "does not begin as an export of a session does; give what export_session returned")
        version = header.get("version")
        if type(version) is int and version > VERSION:
            broken(
                1, f"says that this export has version {version}, and this asm reads {VERSION}; upgrade asm", version=version
            )
        if version != VERSION or isinstance(version, bool):
            broken(1, f"has no version of an export: {checks.shown(version)}")
        self.session_id: str = self._checked(checks.identifier, header, "session_id")
        self.last_sequence: int = self._checked(checks.count, header, "last_sequence")
        """The greatest number that was given in the session."""

    def __iter__(self) -> Iterator[Session | Run | Event]:
        """Yield what is in it, in its order."""
        kinds = list(KINDS)
        counts = dict.fromkeys(kinds, 0)
        last: Session | Run | Event | None = None
        while True:
            content = self._next("is missing: the export was cut")
            kind = next(iter(content), None)
            if len(content) != 1 or kind not in (*kinds, "end"):
                broken(self.line, f"is none of: {', '.join(kinds)}, end")
            if kind == "end":
                break
            value = self._value(kind, content[kind])
            self._require_order(last, value)
            counts[kind] += 1
            last = value
            yield value
        found = {"runs": counts["run"], "events": counts["event"]}
        if content["end"] != found:
            broken(self.line, f"counts {checks.shown(content['end'])}, and there are {found}; {AGAIN}")
        if next(self._lines, None) is not None:
            broken(self.line + 1, f"stands behind the end; {AGAIN}")

    def _next(self, missing: str) -> dict[str, Any]:
        """Return what the next line holds."""
        self.line += 1
        line = next(self._lines, None)
        if line is None:
            broken(self.line, f"{missing}; {AGAIN}")
        try:
            content = json.loads(line.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            broken(self.line, f"is no JSON ({error}); {AGAIN}")
        if not isinstance(content, dict):
            broken(self.line, f"is no map; {AGAIN}")
        return content

    def _value(self, kind: str, fields: Any) -> Session | Run | Event:
        try:
            value = KINDS[kind].receive_map(fields)
        except Error as error:
            broken(self.line, f"holds no {kind} that can be stored: {error.message}", cause=error.message)
        owner = value.id if isinstance(value, Session) else value.session_id
        if owner != self.session_id:
            broken(self.line, f"belongs to the session {owner!r}, and the export is one of {self.session_id!r}")
        return value

    def _require_order(self, last: Session | Run | Event | None, value: Session | Run | Event) -> None:
        """Refuse what cannot come behind what came last."""
        if isinstance(value, Event) and value.sequence_number is None:
            broken(self.line, "holds an event without a sequence_number")
        if last is not None and _place(last) >= _place(value):
            broken(self.line, "is not in its order: the session, runs by started_at and id, events by sequence_number")
        if isinstance(value, Event) and (value.sequence_number or 0) > self.last_sequence:
            broken(self.line, f"has a sequence_number beyond {self.last_sequence}, which the header says is the last")

    def _checked(self, check: checks.Check, header: dict[str, Any], name: str) -> Any:
        try:
            return check(header.get(name), name)
        except Error as error:
            broken(self.line, f"is no header: {error.message}", cause=error.message)


def broken(line: int, problem: str, **details: Any) -> NoReturn:
    """Refuse an export.

    :param line: the number of the line that is wrong, from 1.
    :raises Error: ``invalid_format``.
    """
    raise Error("invalid_format", f"line {line} of the export {problem}", details={"line": line, **details})


def _place(value: Session | Run | Event) -> tuple[Any, ...]:
    """Return what orders the lines. No two have the same."""
    if isinstance(value, Session):
        return (0,)
    return (1, value.started_at, value.id) if isinstance(value, Run) else (2, value.sequence_number)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _lines(data: Data) -> Iterator[bytes]:
    """Yield the lines without their ends."""
    begun: list[bytes] = []
    number, size = 1, 0
    for chunk in chunks(data):
        first, *rest = bytes(chunk).split(b"\n")
        begun.append(first)
        size += len(first)
        for piece in rest:
            yield b"".join(begun)
            number, begun, size = number + 1, [piece], len(piece)
        if size > MAX_LINE:
            broken(number, f"has more than {MAX_LINE:,} bytes: this is no export of a session", limit=MAX_LINE)
    if size:
        yield b"".join(begun)
