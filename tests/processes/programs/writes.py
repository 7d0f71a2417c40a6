"""What the tests of torn writes write: always the same under the same name, in whatever process."""

import contextlib
import resource
import signal
from concurrent.futures import Future
from pathlib import Path

from asm.adapters import InMemorySessionStore
from asm.adapters.sql import schema
from asm.core.values import Event, Run, Session
from asm.testing.samples import at


def content(number, size):
    """Bytes of which no version is like another."""
    return bytes([number % 251]) * size


def pieces(data, size=700_000):
    """The same in pieces, so that nobody knows beforehand how much it is."""
    return (data[start : start + size] for start in range(0, len(data), size))


def events(own, count, version):
    """Events for a session and for another one, in turns."""
    made = {"type": "message_sent", "timestamp": at(0), "data": {"version": version, "text": "x" * 3000}}
    return [Event.new(id=f"{own} {version} {n}", session_id=(own, f"{own} 2")[n % 2], **made) for n in range(count)]


def result(own, version):
    """What a run brought about."""
    session = Session.new(id=own, agent_id=version, created_at=at(0), updated_at=at(1))
    run = Run.new(id=own, session_id=own, started_at=at(0), input={"version": version})
    return {"session": session, "run": run, "events": events(own, 5, version), "provider_metadata": {"version": version}}


WRITES = {
    "append_events": lambda own: {"events": events(own, 5, "new")},
    "flush": lambda own: {"result": result(own, "new")},
    "delete_session": lambda own: {"session_id": own},
    "delete_events": lambda own: {"session_id": own, "through": 2},
}
"""The arguments of each operation that writes several rows, which replace or follow those of the version ``old``."""


def perform(store, operation, own):
    """Write as a worker does."""
    answered = Future()
    store.submit(operation, WRITES[operation](own), lambda _result, error: answered.set_result(error))
    if error := answered.result():
        raise error


# -- What is there ----------------------------------------------------------------------------------------------------------


def state(store, own):
    """All that a store holds of a session and the one beside it."""
    saved = [session for session in store.list_sessions() if session.id == own]
    return saved, store.list_runs(own), store.get_active_run(own), *(log(store, name) for name in (own, f"{own} 2"))


def log(store, name):
    """The events of a session, which have no gap, unless the first were deleted."""
    found, last = store.get_events(name), store.get_latest_sequence(name)
    assert [item.sequence_number for item in found] == list(range(last - len(found) + 1, last + 1))
    return found


def states(operation, own):
    """What there is before an operation, and what afterwards."""
    with InMemorySessionStore() as store:
        store.flush(result(own, "old"))
        before = state(store, own)
        getattr(store, operation)(**WRITES[operation](own))
        return before, state(store, own)


# -- In processes of their own ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(store, options):
    """A store of the module ``killing``."""
    import killing  # noqa: PLC0415  # is on the path of the processes that are killed, and not on that of the tests

    with getattr(killing, store)(**options) as made:
        yield made


def put(store, options, key, number, size):
    with opened(store, options) as made:
        made.put(key, pieces(content(number, size)))


def delete(store, options, key):
    with opened(store, options) as made:
        made.delete(key)


def write(options, operation, own):
    with opened("Sql", options) as made:
        perform(made, operation, own)


def write_until_full(options, operation, own, most):
    """Write, and close the store; and die of the first byte of a file behind so many, which may be half-way through a page."""
    with opened("Sql", options) as made:
        die_behind(most)
        perform(made, operation, own)


def migrate(url, migrations, versions, fuse):
    """Migrate, and die at a step."""
    import killing  # noqa: PLC0415  # as above

    steps = killing.Steps(fuse)
    killing.statements(steps, "MainThread")
    use(migrations, versions)
    steps.light()
    schema.migrate(url)
    steps.put_out()


def migrate_until_full(url, migrations, versions, most):
    use(migrations, versions)
    die_behind(most)
    schema.migrate(url)


def use(migrations, versions):
    """Be a program of another version."""
    schema.MIGRATIONS, schema.VERSIONS = Path(migrations), tuple(versions)


def die_behind(most):
    """Have the kernel kill this process when it writes a byte of a file behind so many."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
