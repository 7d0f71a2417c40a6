"""Several processes on one SQLite file, and processes that are killed."""

import signal

import pytest

from asm.adapters import SqlSessionStore


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/new/sessions.db"


def test_processes_that_open_and_append_at_once(start, url):
    """All of them make the database, switch it to WAL, make its tables, and append to one session."""
    program = """
    say("ready")
    sys.stdin.readline()
    with SqlSessionStore(url=sys.argv[1], busy_timeout=60) as store:
        for number in range(25):
            given = Event.new(type="message_sent", session_id="ses", id=f"{sys.argv[2]} {number}")
            say(store.append_event_with_sequence(given).sequence_number)
        shared = [Event.new(type="run_started", session_id="other", id=f"shared {number}") for number in range(10)]
        shared = store.append_events(shared)
        say(*[event.sequence_number for event in shared])
    """
    programs = [start(program, url, name) for name in "abcd"]
    for item in programs:
        assert item.hear() == ["ready"]
    for item in programs:
        item.go()
    answers = {
        f"{name} {number}": int(item.hear()[0]) for name, item in zip("abcd", programs, strict=True) for number in range(25)
    }
    assert sorted(answers.values()) == list(range(1, 101))
    for item in programs:
        assert item.hear() == [str(number) for number in range(1, 11)]
    with SqlSessionStore(url=url) as store:
        assert {event.id: event.sequence_number for event in store.get_events("ses")} == answers
        assert [event.id for event in store.get_events("other")] == [f"shared {number}" for number in range(10)]


def test_what_was_acknowledged_survives_a_kill(start, url):
    program = """
    with SqlSessionStore(url=sys.argv[1]) as store:
        for number in range(1_000_000):
            stored = store.append_events([Event.new(type="message_sent", session_id="ses") for _ in range(3)])
            say(*[f"{event.id}:{event.sequence_number}" for event in stored])
    """
    killed = start(program, url)
    acknowledged = [word for _ in range(20) for word in killed.hear()]
    killed.process.send_signal(signal.SIGKILL)
    rest, _ = killed.process.communicate()
    acknowledged += [word for line in rest.splitlines(keepends=True) if line.endswith("\n") for word in line.split()]
    with SqlSessionStore(url=url) as store:
        stored = [f"{event.id}:{event.sequence_number}" for event in store.get_events("ses")]
        assert stored[: len(acknowledged)] == acknowledged
        assert len(stored) % 3 == 0
        assert store.get_latest_sequence("ses") == len(stored)


def test_a_disk_that_is_full(start, url, tmp_path):
    program = """
    import resource
    from pathlib import Path
    with SqlSessionStore(url=sys.argv[1]) as store:
        store.append_event(Event.new(type="message_sent", session_id="ses"))
        size = Path(sys.argv[2]).stat().st_size + 100_000
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        try:
            store.append_event(Event.new(type="message_sent", session_id="ses", data={"text": "x" * 1_000_000}))
        except Error as error:
            say(error.code, error.details["reason"])
        say(store.get_latest_sequence("ses"), len(store.get_events("ses")))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        say(store.append_event_with_sequence(Event.new(type="message_sent", session_id="ses")).sequence_number)
    """
    full = start(program, url, tmp_path / "new" / "sessions.db-wal")
    assert full.hear() == ["storage_write_failed", "io_error"]
    assert full.hear() == ["1", "1"]
    assert full.hear() == ["2"]
