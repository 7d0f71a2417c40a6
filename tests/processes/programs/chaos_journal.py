"""What the clients of a campaign were told, and whether the stores hold exactly that: the oracle of the campaigns of chaos.

An operation is one intention of a client, and one call or several that were made for it. A call *was refused* when its error
says that nothing was done; its outcome is *open* when it may be done even later, because whoever works on it may live: after a
timeout or a lost connection. After ``backend_exited`` it was done by then, or never will be.
"""

import bisect
import collections
import json
import math
from dataclasses import dataclass, field

ANSWERED = "ok"

REASONS = {"backend_exited", "backend_restarting", "backend_waiting", "backend_failed", "shutting_down", "overloaded"}
"""What a ``storage_error`` may be about when processes die."""

OPEN = {"timeout", "storage_connection_failed", "shutting_down"}
"""Errors after which a call may yet be done."""

REFUSED = {"backend_restarting", "backend_waiting", "backend_failed", "overloaded", "conflict"}
"""Errors that say that nothing was done."""

KINDS = ("lost", "duplicated", "gaps", "torn", "orphans", "twins", "calls beyond their timeout", "undocumented errors")
"""What a campaign looks for, beside what was refused and done all the same."""


class Findings(collections.defaultdict):
    """What was found wrong, by kind, each in a sentence."""

    def __init__(self):
        super().__init__(list)

    def __str__(self):
        kinds = [*KINDS, *(kind for kind in self if kind not in KINDS)]
        lines = [", ".join(f"{len(self.get(kind, ()))} {kind}" for kind in kinds)]
        for kind in kinds:
            lines += [f"  {kind}: {finding}" for finding in self.get(kind, ())[:10]]
        return "\n".join(lines)


@dataclass(slots=True)
class Operation:
    """One operation of a client."""

    client: str
    number: int
    at: float
    intent: dict
    calls: list = field(default_factory=list)

    @property
    def acknowledged(self):
        """The call that was answered; ``None`` when none was."""
        return self.calls[-1] if self.calls and self.calls[-1]["code"] == ANSWERED else None

    @property
    def was_refused(self):
        """Whether nothing of it may have been done."""
        return bool(self.calls) and all(fate(call) in REFUSED for call in self.calls)

    def __str__(self):
        told = "; ".join(fate(call) for call in self.calls[-5:])
        return f"client {self.client}, operation {self.number}: {json.dumps(self.intent)[:300]}: {told}"


def fate(call):
    """Return in one word how a call ended."""
    return (call["reason"] or call["code"]) if call["code"] == "storage_error" else call["code"]


def fates(operations):
    """Return how often calls ended in which way."""
    return collections.Counter(fate(call) for operation in operations for call in operation.calls).most_common()


def read(paths):
    """Return the operations in the journals at these paths. A line that a killed client left half is no line."""
    operations = []
    for path in paths:
        found = {}
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            number = record.pop("n")
            if "op" in record:
                found[number] = Operation(path.stem, number, record.pop("at"), record)
            else:
                found[number].calls.append(record)
        operations += found.values()
    return operations


def check_calls(operations, allowance, findings):
    """Each call ended in its time, and with an error that is documented."""
    for operation in operations:
        for call in operation.calls:
            if call["waited"] > call["limit"] + allowance:
                findings["calls beyond their timeout"].append(f"{operation} took {call['waited']:.2f} s of {call['limit']:g} s")
            code, reason = call["code"], call["reason"]
            if code == "conflict" and operation.intent["op"] == "expect":
                continue
            if code not in (ANSWERED, "timeout", "storage_connection_failed") and (
                code != "storage_error" or reason not in REASONS
            ):
                findings["undocumented errors"].append(f"{operation}: {code} ({reason})")


# -- Events ---------------------------------------------------------------------------------------------------------------


def check_events(operations, stored, findings):
    """Each event is where it was acknowledged to be, once; what belongs together is there as a whole, or not at all.

    :param stored: for each session the ids of its events with their sequence numbers, in the order in which they were read.
    """
    firsts = _first_numbers(operations, stored, findings)
    places = _places_before(operations, firsts)
    for session_id, events in stored.items():
        first = firsts.get(session_id, 1)
        if [number for _id, number in events] != list(range(first, first + len(events))):
            findings["gaps"].append(f"{session_id} has {[number for _id, number in events][:100]}")
        for identifier, number in events:
            if identifier in places:
                findings["duplicated"].append(f"{identifier} is at {places[identifier]} and {(session_id, number)}")
            places[identifier] = (session_id, number)
    intended = set()
    for operation in operations:
        if "events" in operation.intent:
            intended.update(identifier for _session_id, identifier in operation.intent["events"])
            _check_appended(operation, places, findings)
        elif operation.intent["op"] == "poll" and operation.acknowledged:
            _check_seen(operation, places, findings)
    for identifier in places.keys() - intended:
        findings["duplicated"].append(f"{identifier} at {places[identifier]} is an event of nobody's")
    _check_order(operations, places, findings)


def _first_numbers(operations, stored, findings):
    """Return at which number the sessions begin of which events were deleted: just where it may be."""
    done, tried = collections.Counter(), collections.Counter()
    for operation in operations:
        if operation.intent["op"] == "prune":
            session_id, through = operation.intent["session"], operation.intent["through"]
            if not operation.was_refused:
                tried[session_id] = max(tried[session_id], through)
            if operation.acknowledged:
                done[session_id] = max(done[session_id], through)
    firsts = {}
    for session_id in tried:
        first = firsts[session_id] = stored[session_id][0][1] if stored.get(session_id) else tried[session_id] + 1
        if first <= done[session_id]:
            findings["deleted, and there"].append(f"{session_id} begins with {first}; deleted is {done[session_id]}")
        elif first > tried[session_id] + 1:
            findings["lost"].append(f"{session_id} begins with {first}; {tried[session_id]} was to be deleted")
    return firsts


def _places_before(operations, firsts):
    """Return where the events were that are deleted, by id, as far as anybody was told."""
    told = (
        place
        for operation in operations
        if (call := operation.acknowledged) and "events" in operation.intent
        for place in call["result"] or []
    )
    return {identifier: (session_id, number) for session_id, identifier, number in told if number < firsts.get(session_id, 1)}


def _check_appended(operation, places, findings):
    events = operation.intent["events"]
    there = [identifier for _session_id, identifier in events if identifier in places]
    if operation.acknowledged:
        if len(there) < len(events):
            findings["lost"].append(f"{len(events) - len(there)} events of {operation}")
        for session_id, identifier, number in operation.acknowledged["result"]:
            if places.get(identifier, (session_id, number)) != (session_id, number):
                findings["duplicated"].append(f"{identifier} is at {places[identifier]}, and not at {number}: {operation}")
    elif there and operation.was_refused:
        findings["refused, and done"].append(str(operation))
    if there:
        at = collections.defaultdict(list)
        for session_id, identifier in events:
            at[session_id].append(places.get(identifier))
        whole = [[(name, found[0][1] + step) for step in range(len(found))] if found[0] else [] for name, found in at.items()]
        if whole != list(at.values()):
            findings["torn"].append(f"its events are at {dict(at)}: {operation}")


def _check_seen(operation, places, findings):
    """A reader saw what is there, in order, and passed over nothing."""
    after, session_id = operation.intent["after"], operation.intent["session"]
    for place, (identifier, number) in enumerate(operation.acknowledged["result"], 1):
        if number != after + place:
            findings["gaps"].append(f"{number} was seen, and not {after + place}: {operation}")
            break
        if places.get(identifier) != (session_id, number):
            findings["lost"].append(f"{identifier} was seen at {number} and is at {places.get(identifier)}: {operation}")


def _check_order(operations, places, findings):
    """What one caller appended after it was told of the event before comes after that event."""
    appended = collections.defaultdict(list)
    for operation in operations:
        if operation.intent["op"] == "append" and (call := operation.acknowledged):
            ((session_id, identifier),) = operation.intent["events"]
            if identifier in places:
                appended[operation.client, session_id].append((call["ended"], places[identifier][1]))
    for (client, session_id), calls in appended.items():
        numbers = [number for _ended, number in sorted(calls)]
        if numbers != sorted(numbers):
            findings["gaps"].append(f"client {client} appended to {session_id} in another order: {numbers[:100]}")


def check_flushes(operations, sessions, runs, findings):
    """A flush stored its session, its run and its events, or nothing at all.

    :param sessions: the ids of those that are stored.
    :param runs: the ids of those that are stored.
    """
    for operation in operations:
        if operation.intent["op"] != "flush":
            continue
        there = {operation.intent["session"] in sessions, operation.intent["run"] in runs}
        if there == {False} and operation.acknowledged:
            findings["lost"].append(f"session and run were acknowledged: {operation}")
        if len(there) > 1:
            findings["torn"].append(f"session or run is there alone: {operation}")


def check_answers(operations, findings):
    """A search finds each session once that was acknowledged before it, and an export has all of its session."""
    for operation in operations:
        if call := operation.acknowledged:
            match operation.intent["op"], call["result"]:
                case "search", {"missing": missing} if missing:
                    findings["lost"].append(str(operation))
                case "search", {"twice": twice} if twice:
                    findings["duplicated"].append(str(operation))
                case "export", {"whole": False}:
                    findings["torn"].append(str(operation))


def check_retired(operations, sessions, keys, findings):
    """Of a session that was to be archived and deleted nothing is left but its archive.

    :param sessions: the ids of those that are stored.
    :param keys: those of all artifacts.
    """
    archives = [key for key in keys if key.startswith("archive/")]
    for operation in operations:
        if operation.intent["op"] == "retire" and operation.acknowledged:
            session_id = operation.intent["session"]
            if session_id in sessions or any(key.startswith(f"{session_id}/") for key in keys):
                findings["deleted, and there"].append(str(operation))
            if not any(session_id in key for key in archives):
                findings["lost"].append(f"there is no archive: {operation}")


# -- What is replaced: artifacts, sessions, runs -----------------------------------------------------------------------------


class Register:
    """All writes to one key, and what may be read there when."""

    def __init__(self):
        self._writes = collections.defaultdict(list)
        self._acknowledged = []
        self._ends, self._latest = [], []

    def write(self, operation):
        value = operation.intent["value"]
        calls = operation.calls or [{"began": operation.at, "ended": math.inf, "code": "timeout"}]
        for call in calls:
            self._writes[value].append(call)
            if call["code"] == ANSWERED:
                self._acknowledged.append((call["ended"], call["began"]))

    def complete(self):
        """All writes are known now."""
        latest = -math.inf
        for ended, began in sorted(self._acknowledged):
            latest = max(latest, began)
            self._ends.append(ended)
            self._latest.append(latest)

    def problem(self, value, began, ended):
        """Return which kind of finding it is that a read, made in this time, returned this value; ``None`` if it is right."""
        before = bisect.bisect_left(self._ends, began)
        newest = self._latest[before - 1] if before else -math.inf
        if value is None:
            return "lost" if before else None
        writes = [call for call in self._writes.get(value, ()) if call["began"] < ended]
        if not writes:
            return "torn"
        done = [call for call in writes if fate(call) not in REFUSED]
        if not done:
            return "refused, and done"
        return None if any(fate(call) in OPEN or call["ended"] >= newest for call in done) else "lost"


def check_registers(operations, held, findings):
    """Whatever was read is what was written last, or may have been; what is held now, too.

    :param held: what each key holds in the end: the value, or ``None``.
    """
    registers = collections.defaultdict(Register)
    for operation in operations:
        if operation.intent["op"] == "write":
            registers[operation.intent["key"]].write(operation)
    for register in registers.values():
        register.complete()
    for operation in operations:
        if operation.intent["op"] == "read" and (call := operation.acknowledged):
            key = operation.intent["key"]
            if kind := registers[key].problem(call["result"], call["began"], call["ended"]):
                findings[kind].append(f"{key} held {call['result']} at {call['began']:.3f}: {operation}")
    for key in registers.keys() | held.keys():
        if kind := registers[key].problem(held.get(key), math.inf, math.inf):
            findings[kind].append(f"{key} holds {held.get(key)} in the end")
