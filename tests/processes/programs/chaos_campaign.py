"""A campaign of chaos: clients at work while somebody strikes, and the reckoning afterwards."""

import contextlib
import hashlib
import itertools
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chaos_journal as journal
from chaos_monkey import PATIENCE, TURN, Monkey, Watch, describe, inhabitants
from chaos_roles import POLICY

import asm
import asm.retention

CLIENT = Path(__file__).with_name("chaos_client.py")

KINDS = (("blocking", 3.0), ("asyncio", 3.0), ("blocking", 0.5), ("asyncio", 0.5))
"""The clients in turn, and how many seconds their calls may take: some are told in time, some cannot wait."""

PAGE = 5000
"""How many events, or sessions, are read at once."""


class Campaign:
    """A tree, clients, and who strikes. A context manager that leaves nothing running.

    :param start: starts the tree; returns it before it is ready.
    :param directory: the working directory of the tree, and of no other process.
    :param seconds_to_end: how long the processes of a killed supervisor may be there.
    """

    def __init__(self, start, directory, runtime_dir, chance, *, seconds_to_end):
        self.findings = journal.Findings()
        self._directory = directory
        self._runtime_dir = runtime_dir
        self._journals = directory / "journals"
        self._journals.mkdir()
        self._chance = chance
        self._clients = []
        self._operations = []
        self.watch = Watch(directory, seconds_to_end, self.findings)
        self._temporary = Path(tempfile.mkdtemp(prefix="asm-"))  # a short path
        self.monkey = Monkey(start, directory, self._temporary, chance, self.watch)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.watch.close()
        (self._journals / "blows.log").write_text("\n".join(self.monkey.log))
        for client in self._clients:
            client.kill()
            client.wait()
            client.stdin.close()
        for process in inhabitants(self._directory):
            with contextlib.suppress(ProcessLookupError):
                process.resume()
        shutil.rmtree(self._temporary)

    def start_clients(self, count):
        """Start clients, and wait until each has been answered."""
        for number in range(count):
            kind, timeout = KINDS[number % len(KINDS)]
            arguments = [self._journal(number), number, self._chance.getrandbits(32), kind, timeout]
            command = [sys.executable, CLIENT, self._runtime_dir, *map(str, arguments)]
            with self._complaints(number).open("wb") as stderr:
                self._clients.append(subprocess.Popen(command, cwd=self._journals, stdin=subprocess.PIPE, stderr=stderr))
        self.wait_answered()

    def wait_answered(self):
        """Wait until each client has been answered once more."""
        deadline = time.monotonic() + PATIENCE
        for number, client in enumerate(self._clients):
            path = self._journal(number)
            start = path.stat().st_size if path.exists() else 0
            while not path.exists() or b'"code": "ok"' not in tail(path, start):
                assert client.poll() is None, f"client {number} ended"
                assert time.monotonic() < deadline, f"client {number} gets no answer"
                time.sleep(TURN)

    def end_clients(self):
        """Let the clients end, once the tree is whole: what they still want is done."""
        self.monkey.wait_ready()
        for client in self._clients:
            client.stdin.close()
        for number, client in enumerate(self._clients):
            assert client.wait(PATIENCE) == 0, self._complaints(number).read_text()
            if complaints := self._complaints(number).read_text():
                self.findings["complaints"].append(complaints)

    def reckon(self, allowance):
        """Stop the tree and start it, compare what is there with what was acknowledged, and stop it again.

        :param allowance: by how many seconds a call may have taken longer than its timeout.
        """
        assert self.monkey.tree.stop() == 0
        self._look_for_orphans()
        tree = self.monkey.start_again()
        self._operations = journal.read(sorted(self._journals.glob("*.jsonl")))
        self._check(tree, allowance)
        assert tree.stop() == 0
        self._look_for_orphans()
        for tree in self.monkey.trees:
            self.findings["complaints"] += tracebacks(tree.stderr)

    @property
    def report(self):
        """What happened, in some lines."""
        blows = sorted(self.monkey.blows.items())
        troubles = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.monkey.troubles.items()))
        rows = [f"{target:14} {way:12} {count:5}" for (target, way), count in blows]
        acknowledged = [operation for operation in self._operations if operation.acknowledged]
        events = sum(len(operation.intent.get("events", ())) for operation in acknowledged)
        artifacts = sum(
            operation.intent["op"] == "write" and operation.intent["key"].startswith("artifact:") for operation in acknowledged
        )
        told = journal.fates(self._operations)
        return "\n".join(
            [
                *rows,
                *([f"between them {troubles}"] if troubles else []),
                f"{self.monkey.blows.total()} blows; {events} events and {artifacts} artifacts acknowledged",
                f"calls: {', '.join(f'{count} {fate}' for fate, count in told)}",
                f"the processes of a killed supervisor were gone after {self.watch.longest_end:.2f} s at the most",
                str(self.findings),
            ]
        )

    # -- inside

    def _journal(self, number):
        return self._journals / f"{number}.jsonl"

    def _complaints(self, number):
        return self._journals / f"{number}.stderr"

    def _look_for_orphans(self):
        self.watch.wait_ended()
        self.findings["orphans"] += [f"after the end: {describe(process)}" for process in inhabitants(self._directory)]

    def _check(self, tree, allowance):
        operations, findings = self._operations, self.findings
        findings["leftovers"] += [path.name for path in (self._directory / "var" / "artifacts" / "tmp").iterdir()]
        journal.check_calls(operations, allowance, findings)
        with contextlib.closing(sqlite3.connect(self._directory / "var" / "asm.db")) as database:
            names = {name for (name,) in database.execute("SELECT session_id FROM asm_session_sequences")}
        names |= {name for operation in operations for name, _id in operation.intent.get("events", ())}
        with tree.connect(timeout=PATIENCE) as store:
            findings["complaints"] += [str(error) for error in asm.retention.apply(store, POLICY).errors]
            journal.check_events(operations, {name: stored_events(store, name) for name in names}, findings)
            sessions = {session.id: session for session in stored_sessions(store)}
            runs = {run.id: run for name in names for run in store.list_runs(name)}
            journal.check_flushes(operations, sessions, runs, findings)
            journal.check_answers(operations, findings)
            journal.check_retired(operations, sessions, [info.key for info in store.list()], findings)
            held = {f"session:{item.id}": item.metadata["value"] for item in sessions.values() if "value" in item.metadata}
            held |= {f"run:{item.id}": item.metadata["value"] for item in runs.values() if "value" in item.metadata}
            artifacts = [info for info in store.list() if not info.key.startswith(("archive/", "ses_"))]  # those of retention
            held |= {f"artifact:{info.key}": digest(store, info) for info in artifacts}
            journal.check_registers(operations, held, findings)


def tail(path, start):
    """Return what a file holds from a place on."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read()


def stored_events(store, session_id):
    """Return the ids and the sequence numbers of all events of a session, in the order in which they come."""
    found = []
    while page := store.get_events(session_id, after=found[-1][1] if found else 0, limit=PAGE):
        found += [(event.id, event.sequence_number) for event in page]
    return found


def stored_sessions(store):
    """Yield all sessions."""
    for offset in itertools.count(step=PAGE):
        page = store.list_sessions(limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return


def digest(store, info):
    """Return the SHA-256 of an artifact as it is read; of one that is damaged, why it cannot be read."""
    found = hashlib.sha256()
    try:
        with store.open(info.key) as file:
            while piece := file.read1():
                found.update(piece)
    except asm.Error as error:
        return str(error)
    return found.hexdigest()


def tracebacks(lines):
    """Find the tracebacks in a log, in a line of their own as JSON or as Python writes them."""
    for number, line in enumerate(lines):
        if "Traceback" in line:
            rest = itertools.takewhile(lambda line: not line.startswith("{"), lines[number + 1 :])
            yield "\n".join([line, *rest])
