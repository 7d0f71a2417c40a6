"""What is particular to sessions in PostgreSQL: connections that break, many who write, who is told, and what goes wrong."""

import random
import select
import socket
import string
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import make_url

from asm.adapters import SqlSessionStore
from asm.adapters.sql import schema
from asm.adapters.sql.urls import parse_url
from asm.core.errors import Error
from asm.testing.samples import at_once, event, refused, run, session

PATIENCE = 60
LONG = PATIENCE * 1000
SECRET = "hush"


@pytest.fixture
def store(postgres_url):
    with SqlSessionStore(url=postgres_url) as made:
        yield made


@pytest.fixture
def other(postgres_url):
    """Another store on the same database, as another tree has it."""
    with SqlSessionStore(url=postgres_url) as made:
        yield made


@pytest.fixture
def admin(postgres, postgres_url):
    """A connection of somebody else's."""
    with postgres.connect(make_url(postgres_url).database) as connection:
        yield connection


@pytest.fixture
def on_insert(admin):
    """A function that has the database run some PL/pgSQL before each insert of an event, or at the commit of one."""

    def arrange(code, *, at_commit=False):
        admin.execute("CREATE SEQUENCE times")
        admin.execute(f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {code} RETURN new; END $$")
        when = "CONSTRAINT TRIGGER act AFTER" if at_commit else "TRIGGER act BEFORE"
        deferred = "DEFERRABLE INITIALLY DEFERRED" if at_commit else ""
        admin.execute(f"CREATE {when} INSERT ON asm_events {deferred} FOR EACH ROW EXECUTE FUNCTION act()")

    yield arrange
    admin.execute("DROP FUNCTION IF EXISTS act CASCADE")
    admin.execute("DROP SEQUENCE IF EXISTS times")


FIRST_TIME = "IF nextval('times') = 1 THEN {} END IF;"
TERMINATE = FIRST_TIME.format("PERFORM pg_terminate_backend(pg_backend_pid());")


def terminate(admin, query="%"):
    """Cut the store's connections whose last statement was like this."""
    cut = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'asm' AND query LIKE %s"
    count = len(admin.execute(cut, [query]).fetchall())
    assert count
    return count


def wait_connected(admin, count, query="%"):
    """Wait until the store has so many connections, and has been answered such a statement last on them."""
    deadline = time.monotonic() + PATIENCE
    connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asm' AND query LIKE %s AND state <> 'active'"
    while admin.execute(connected, [query]).fetchone()[0] < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- The URL, and what is never shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_forms_of_a_url(postgres_url, scheme):
    url = postgres_url.replace("postgresql", scheme)
    assert parse_url(url).drivername == "postgresql+psycopg"
    with SqlSessionStore(url=url) as store:
        assert store.list_sessions() == []


def test_other_drivers_are_refused():
    with refused("validation_error", field="url"):
        parse_url("postgresql+asyncpg://host/name")


@pytest.mark.parametrize("bad", ["never", True, None], ids=repr)
def test_what_migrate_may_be(bad):
    with refused("validation_error", field="migrate"):
        SqlSessionStore.preflight(url="postgresql://host/name", migrate=bad)


@pytest.mark.parametrize("bad", [0, -1, "5"], ids=repr)
def test_what_a_pool_size_may_be(bad):
    with refused("validation_error", field="pool_size"):
        SqlSessionStore.preflight(url="postgresql://host/name", pool_size=bad)


def everything(error):
    """All that is said about an error, by whoever says it."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.details) + repr(error.to_map())


@pytest.mark.parametrize("place", ["user", "query"])
def test_a_password_is_never_shown(postgres, postgres_url, place, caplog):
    url = make_url(postgres_url)
    wrong = url.set(password=SECRET if place == "user" else None)
    if place == "query":
        wrong = wrong.update_query_dict({"password": SECRET})
    with pytest.raises(Error) as caught:
        SqlSessionStore(url=wrong.render_as_string(hide_password=False))
    assert caught.value.code == "storage_connection_failed"
    assert "password authentication failed" in caught.value.details["cause"]
    assert caught.value.__cause__ is not None
    assert SECRET not in everything(caught.value) + caplog.text
    if place == "query":
        asked = url.set(password=None).update_query_dict({"password": url.password})
    with SqlSessionStore(url=(asked if place == "query" else url).render_as_string(hide_password=False)) as store:
        assert url.password not in repr(store) + repr(vars(store._database) | {"_secrets": None})


def test_a_database_that_does_not_exist(postgres):
    with pytest.raises(Error, match="does not exist") as caught:
        SqlSessionStore(url=postgres.url("nowhere"))
    assert caught.value.code == "storage_connection_failed"
    assert caught.value.retryable


def test_a_schema_that_does_not_exist(postgres_url):
    url = make_url(postgres_url).update_query_dict({"options": "-c search_path=nowhere"}).render_as_string(hide_password=False)
    with refused("migration_required", reason="absent"):
        SqlSessionStore(url=url)
    with refused("storage_connection_failed", reason="no_schema"):
        SqlSessionStore(url=url, migrate="auto")


def test_a_schema_of_ones_own(postgres_url, admin):
    admin.execute("CREATE SCHEMA mine")
    url = make_url(postgres_url).update_query_dict({"options": "-c search_path=mine"}).render_as_string(hide_password=False)
    with SqlSessionStore(url=url, migrate="auto") as store, SqlSessionStore(url=postgres_url) as public:
        store.append_event(event())
        assert (store.get_latest_sequence("ses"), public.get_latest_sequence("ses")) == (1, 0)
    admin.execute("DROP SCHEMA mine CASCADE")


def test_a_user_who_may_not_make_tables(postgres):
    with postgres.database() as url:
        with postgres.connect(make_url(url).database) as admin:
            admin.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        try:
            asked = make_url(url).set(username="reader", password="reader")
            with refused("storage_error", reason="not_permitted"):
                SqlSessionStore(url=asked.render_as_string(hide_password=False), migrate="auto")
        finally:
            with postgres.connect() as admin:
                admin.execute("DROP ROLE reader")


def test_a_server_that_is_not_there(tmp_path):
    with pytest.raises(Error, match="cannot be reached") as caught:
        SqlSessionStore(url=f"postgresql://somebody:{SECRET}@/name?host={tmp_path}")
    assert caught.value.code == "storage_connection_failed"
    assert SECRET not in everything(caught.value)


def test_the_settings_of_the_connections(postgres_url):
    wanted = ("lock_timeout", "idle_in_transaction_session_timeout", "transaction_isolation", "client_encoding")
    found = {}
    with SqlSessionStore(url=postgres_url, busy_timeout=1.5) as store:
        for name, engine in (("write", store._database._writer), ("read", store._database._readers)):
            with engine.connect() as connection:
                found[name] = [connection.exec_driver_sql(f"SHOW {setting}").scalar() for setting in wanted]
                driver = connection.connection.driver_connection
                driver.rollback()
                # Nothing stays behind, where a pooler would give it to somebody else.
                left = [psycopg.Cursor(driver).execute(f"SHOW {setting}").fetchone() for setting in wanted[:2]]
                assert left == [("0",), ("0",)]
                assert driver.prepare_threshold is None
    assert found == {
        "write": ["1500ms", "10s", "read committed", "UTF8"],
        "read": ["1500ms", "0", "read committed", "UTF8"],
    }


def test_the_url_may_say_otherwise(postgres_url):
    url = make_url(postgres_url).update_query_dict({"application_name": "mine", "connect_timeout": "7"})
    with (
        SqlSessionStore(url=url.render_as_string(hide_password=False)) as store,
        store._database._readers.connect() as connection,
    ):
        given = connection.connection.driver_connection.info.get_parameters()
        assert (given["application_name"], given["connect_timeout"], given["keepalives_idle"]) == ("mine", "7", "30")


# -- Connections that break -----------------------------------------------------------------------------------------


def test_connections_that_are_cut_are_not_noticed(store, admin):
    for number in range(1, 4):
        assert store.append_event_with_sequence(event()).sequence_number == number
        assert len(store.get_events("ses")) == number
        wait_connected(admin, 3)  # who writes, who reads, who listens, which comes back by itself
        terminate(admin)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: store.get_events("ses"), range(8)))
        terminate(admin)
        assert all(pool.map(lambda _: store.get_events("ses"), range(32)))


def test_a_transaction_whose_connection_breaks_is_made_again(store, on_insert):
    on_insert(TERMINATE)
    stored = store.append_events([event(), event("other"), event()])
    assert [item.sequence_number for item in stored] == [1, 1, 2]
    assert store.get_events("other") == stored[1:2]


@pytest.mark.parametrize("operation", ["append", "flush"])
def test_a_connection_that_breaks_during_the_commit(store, on_insert, operation):
    """Nobody knows then whether it took place. Events tell by their ids, also of what was stored with them."""
    on_insert(TERMINATE, at_commit=True)
    if operation == "append":
        assert store.append_event_with_sequence(event()).sequence_number == 1
    else:
        saved = session(id="ses")
        assert [item.sequence_number for item in store.flush({"session": saved, "run": run("ses"), "events": [event()]})] == [1]
        assert store.get_session("ses") == saved
        assert len(store.list_runs("ses")) == 1
    assert store.get_latest_sequence("ses") == len(store.get_events("ses")) == 1


def test_a_transaction_that_stands_still_is_ended_and_made_again(store):
    """As when a process is frozen in the middle of one: others must be able to write to its sessions."""
    times = []

    def write(connection):
        connection.exec_driver_sql("INSERT INTO asm_session_sequences VALUES ('ses', 5, now())")
        times.append(None)
        if len(times) == 1:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '1ms'")
            assert select.select([connection.connection.driver_connection], [], [], PATIENCE)[0]  # the server says good-bye

    store._database.write(write)
    assert len(times) == 2
    assert store.get_latest_sequence("ses") == 5


def test_a_server_that_stops_and_starts_again(postgres):
    server = type(postgres)()  # of this test's own
    try:
        url = server.url()
        with SqlSessionStore(url=url, migrate="auto") as store, ThreadPoolExecutor(1) as pool:
            store.append_event(event())
            server.stop()
            with refused("storage_connection_failed"):
                store.append_event(event())
            with refused("storage_connection_failed"):
                store.get_events("ses")
            with pytest.raises(Error, match="cannot be reached"):
                list(pool.map(lambda _: store.append_event(event()), range(8)))
            with refused("storage_connection_failed"):
                SqlSessionStore(url=url)
            server.start()
            waiting = pool.submit(store.get_events, "ses", after=1, wait_timeout_ms=LONG)
            with SqlSessionStore(url=url) as other:
                assert other.append_event_with_sequence(event()).sequence_number == 2
            assert [item.sequence_number for item in waiting.result(PATIENCE)] == [2]
            assert store.append_event_with_sequence(event()).sequence_number == 3
            server.stop()  # closing does not wait for it
        server.start()
    finally:
        server.close()


# -- Many who write -------------------------------------------------------------------------------------------------


def test_processes_that_append_at_once(start, store, postgres_url):
    program = """
    say("ready")
    sys.stdin.readline()
    with SqlSessionStore(url=sys.argv[1]) as store:
        for number in range(25):
            given = Event.new(type="message_sent", session_id="ses", id=f"{sys.argv[2]} {number}")
            say(store.append_event_with_sequence(given).sequence_number)
        shared = [Event.new(type="run_started", session_id="other", id=f"shared {number}") for number in range(10)]
        say(*[event.sequence_number for event in store.append_events(shared)])
    """
    programs = [start(program, postgres_url, name) for name in "abcd"]
    for item in programs:
        assert item.hear() == ["ready"]
    for item in programs:
        item.go()
    answers = {
        f"{name} {number}": int(item.hear()[0]) for name, item in zip("abcd", programs, strict=True) for number in range(25)
    }
    for item in programs:
        assert item.hear() == [str(number) for number in range(1, 11)]
    assert sorted(answers.values()) == list(range(1, 101))
    assert {item.id: item.sequence_number for item in store.get_events("ses")} == answers
    assert [item.id for item in store.get_events("other")] == [f"shared {number}" for number in range(10)]


def test_stores_that_write_and_delete_the_same_sessions_at_once(store, other):
    """In whatever order each of them touches sessions and runs: nobody fails, and no counter loses its events."""
    names = ["a", "b", "c"]

    def work(number):
        chance = random.Random(number)
        mine = (store, other)[number % 2]
        for _ in range(25):
            first, second = chance.sample(names, 2)
            result = {"session": session(id=first), "run": run(second, id=f"run {second}"), "events": [event(second)]}
            write, argument = chance.choice(
                [
                    (mine.flush, result),
                    (mine.append_events, [event(first), event(second), event(first)]),
                    (mine.save_run, run(first, id=f"run {first}")),
                    (mine.delete_session, first),
                ]
            )
            write(argument)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    for name in names:
        stored = [item.sequence_number for item in store.get_events(name)]
        assert stored == list(range(1, other.get_latest_sequence(name) + 1))


def test_what_is_appended_while_a_session_is_deleted_goes_with_it(store, admin, postgres):
    """The append has not committed when the deletion begins, and the session has no counter yet that could be locked."""
    with postgres.connect(admin.info.dbname) as appending, ThreadPoolExecutor(1) as pool:
        appending.execute("BEGIN")
        appending.execute("INSERT INTO asm_session_sequences (session_id, last_sequence, updated_at) VALUES ('ses', 1, now())")
        appending.execute(
            "INSERT INTO asm_events (id, type, timestamp, session_id, sequence_number, schema_version)"
            " VALUES ('evt', 'run_started', now(), 'ses', 1, 1)"
        )
        deleting = pool.submit(store.delete_session, "ses")
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asm' AND wait_event_type = 'Lock'"
        while not admin.execute(waiting).fetchone()[0]:
            assert not deleting.done()
        appending.execute("COMMIT")
        deleting.result(PATIENCE)
    assert store.get_events("ses") == []
    assert store.append_event_with_sequence(event()).sequence_number == 1


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_transaction_that_the_server_gave_up_is_made_again(store, on_insert, code):
    on_insert(FIRST_TIME.format(f"RAISE EXCEPTION 'others were in the way' USING ERRCODE = '{code}';"))
    assert store.append_event_with_sequence(event()).sequence_number == 1


def test_and_one_that_it_gives_up_every_time_is_refused(store, on_insert):
    on_insert("RAISE EXCEPTION 'others were in the way' USING ERRCODE = '40001';")
    with refused("storage_error", reason="conflict"):
        store.append_event(event())


def test_the_same_event_through_two_stores(store, other):
    """Whoever comes second is refused by the primary key, looks, and finds it."""
    given = [event(id=f"evt {number}") for number in range(20)]

    def append(number):
        order = given if number % 2 else given[::-1]
        return {item.id: (store, other)[number % 2].append_event_with_sequence(item) for item in order}

    first, *others = at_once(6, append)
    assert all(answered == first for answered in others)
    assert sorted(item.sequence_number for item in first.values()) == list(range(1, 21))
    assert sorted(first.values(), key=lambda item: item.sequence_number) == store.get_events("ses")


def test_what_two_stores_replace_is_never_lost(store, other):
    """Many count, each by replacing what it read, and again where somebody else was first."""
    store.save_session(session(id="ses", metadata={"count": 0}))
    store.save_run(run("ses", id="run"))

    def count(number):
        at = (store, other)[number % 2]
        conflicts = 0
        for get, save, key, change in (
            (
                at.get_session,
                at.save_session,
                "ses",
                lambda found: found.changed(metadata={"count": found.metadata["count"] + 1}),
            ),
            (at.get_run, at.save_run, "run", lambda found: found.increment_turn()),
        ):
            for _ in range(15):
                while True:
                    found = get(key)
                    try:
                        save(change(found), replacing=found)
                        break
                    except Error as error:
                        assert error.code == "conflict"
                        conflicts += 1
        return conflicts

    assert sum(at_once(12, count))
    assert store.get_session("ses").metadata["count"] == store.get_run("run").turn_count == 12 * 15


def test_what_two_stores_append_stands_where_each_expected_it(store, other):
    """Some events of two sessions, in turns with appends that expect nothing, and flushes that expect something elsewhere."""

    def append(number):
        at, taken = (store, other)[number % 2], []
        for _ in range(15):
            names = ["a", "b"] if number % 3 else ["b"]
            expect = {name: at.get_latest_sequence(name) for name in names}
            given = [event(name, provider=str(number)) for name in names for _ in range(2)]
            try:
                stored = at.flush({"events": given}, expect=expect) if number % 4 else at.append_events(given, expect=expect)
            except Error as error:
                assert (error.code, error.details["expected"]) == ("conflict", expect[error.details["session_id"]])
                assert error.details["actual"] > error.details["expected"]
                continue
            taken += stored
            last = dict(expect)
            for item in stored:
                last[item.session_id] += 1
                assert item.sequence_number == last[item.session_id]
        at.append_event(event("a"))
        return taken

    taken = [item for of_one in at_once(12, append) for item in of_one]
    for name, unexpected in (("a", 12), ("b", 0)):
        found = store.get_events(name)
        assert [item.sequence_number for item in found] == list(range(1, len(found) + 1))
        of_name = [item for item in taken if item.session_id == name]
        assert sorted(of_name, key=lambda item: item.sequence_number) == [item for item in found if item.provider]
        assert len(found) == len(of_name) + unexpected
    assert taken


def test_what_is_deleted_while_others_append_is_counted_to_the_last(store, other):
    """Also what is appended and deleted at the same time."""

    def work(number):
        at = (store, other)[number % 2]
        if number < 4:
            return len(at.append_events([event(run_id="run") for _ in range(300)]))
        return -sum(
            at.delete_events("ses", **condition) for condition in ({"run_id": "run"}, {"through": 500}) for _ in range(5)
        )

    left = sum(at_once(8, work))
    assert left == len(store.get_events("ses"))
    assert store.get_latest_sequence("ses") == 1200


# -- Who waits ------------------------------------------------------------------------------------------------------


def test_an_append_wakes_who_waits_in_another_process(start, store, postgres_url):
    program = """
    with SqlSessionStore(url=sys.argv[1]) as store:
        store.append_event(Event.new(type="message_sent", session_id="ses"))
        for number in range(1, 6):
            found = store.get_events("ses", after=2 * number - 1, wait_timeout_ms=60_000)
            say(*[event.sequence_number for event in found])
            store.append_event(Event.new(type="message_sent", session_id="ses"))
    """
    waiter = start(program, postgres_url)
    for number in range(1, 6):
        assert len(store.get_events("ses", after=2 * number - 2, wait_timeout_ms=LONG)) == 1
        store.append_event(event())
        assert waiter.hear() == [str(2 * number)]


@pytest.fixture
def heard(other):
    """What the other store's subscribers are told, from when it listens."""
    told, changed = [], threading.Condition()

    def note(session_id):
        with changed:
            told.append(session_id)
            changed.notify_all()

    def wait(wanted):
        with changed:
            assert changed.wait_for(lambda: wanted in told, PATIENCE), told
            seen, told[:] = list(told), []
        return seen

    other.appends.subscribe(note)
    other._listener.listening.wait(PATIENCE)
    return wait


def test_each_session_is_told_once_and_only_when_it_is_committed(store, heard, on_insert):
    on_insert("IF new.type = 'error_occurred' THEN RAISE EXCEPTION 'boom'; END IF;")
    with refused("storage_write_failed"):
        store.append_events([event("failed"), event("failed", type="error_occurred")])
    store.append_events([event("b"), event("a"), event("b")])
    store.append_event(event("ключ"))
    assert [name for name in heard("ключ") if name] == ["a", "b", "ключ"]


def test_a_store_is_not_told_of_its_own_appends_twice(store, other, heard):
    other.append_event(event("own"))
    store.append_event(event("end"))
    assert [name for name in heard("end") if name] == ["own", "end"]


def test_one_that_listens_again_may_have_missed_any(store, other, admin, heard):
    wait_connected(admin, 2, "LISTEN%")
    terminate(admin, "LISTEN%")
    assert heard(None)[-1] is None
    wait_connected(admin, 2, "LISTEN%")  # what is committed before is told by no name
    store.append_event(event("end"))
    heard("end")


def test_closing_ends_the_threads_and_the_connections(postgres):
    before = threading.active_count()
    with postgres.database() as url:
        with SqlSessionStore(url=url, migrate="auto") as store:
            store.append_event(event())
            store.list_sessions()
        assert threading.active_count() == before
        with postgres.connect(make_url(url).database) as admin:
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asm' AND datname = current_database()"
            while admin.execute(count).fetchone()[0]:
                pass  # the server takes its time to notice
        SqlSessionStore(url=url).close()


# -- What goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sqlstate", "code", "reason"),
    [
        ("53100", "storage_write_failed", "disk_full"),
        ("58030", "storage_write_failed", "io_error"),
        ("53200", "storage_error", "overloaded"),
        ("XX001", "storage_read_failed", "corrupt"),
        ("XX002", "storage_read_failed", "corrupt"),
        ("42501", "storage_error", "not_permitted"),
        ("P0001", "storage_write_failed", "refused"),
    ],
)
def test_what_the_server_refuses_has_a_meaning(store, on_insert, sqlstate, code, reason):
    on_insert(f"RAISE EXCEPTION 'said the server' USING ERRCODE = '{sqlstate}';")
    with pytest.raises(Error, match="said the server") as caught:
        store.append_event(event(data={"password": SECRET}))
    assert (caught.value.code, caught.value.details["reason"]) == (code, reason)
    assert isinstance(caught.value.__cause__, sqlalchemy.exc.DBAPIError)
    assert isinstance(caught.value.__cause__.orig, psycopg.Error)
    assert SECRET not in everything(caught.value)
    assert store.get_latest_sequence("ses") == 0


def test_a_database_that_is_read_only(store, admin):
    name = admin.info.dbname
    admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        terminate(admin)
        with refused("storage_write_failed", reason="read_only"):
            store.append_event(event())
        assert store.get_events("ses") == []
    finally:
        admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert store.append_event_with_sequence(event()).sequence_number == 1


def test_a_column_whose_type_changes_under_a_store(postgres):
    """Prepared statements would fail for good: their plans return what the column was."""
    with postgres.database() as url, SqlSessionStore(url=url, migrate="auto", prepared_statements=True, pool_size=1) as store:
        store.save_session(session(id="ses"))
        for _ in range(10):
            store.get_session("ses")
        with postgres.connect(make_url(url).database) as admin:
            admin.execute("ALTER TABLE asm_sessions ALTER COLUMN agent_id TYPE varchar(100)")
        assert store.get_session("ses").id == "ses"


@pytest.mark.parametrize("code", ["26000", "42P05", "25P02", "0A000"])
def test_a_connection_that_is_of_no_use_is_replaced_once(store, on_insert, code):
    on_insert(FIRST_TIME.format(f"RAISE EXCEPTION 'of no use' USING ERRCODE = '{code}';"))
    assert store.append_event_with_sequence(event()).sequence_number == 1


def test_those_who_read_leave_a_server_that_became_a_standby(store, admin, on_insert):
    store.list_sessions()
    pid = "SELECT pg_backend_pid()"
    before = store._database.read(lambda connection: connection.exec_driver_sql(pid).scalar())
    on_insert("RAISE EXCEPTION 'in a read-only transaction' USING ERRCODE = '25006';")
    with refused("storage_write_failed", reason="read_only"):
        store.append_event(event())
    assert store._database.read(lambda connection: connection.exec_driver_sql(pid).scalar()) != before


def test_a_lock_that_is_not_given_back_is_named(postgres_url, admin):
    with SqlSessionStore(url=postgres_url, busy_timeout=0.05) as store:
        admin.execute("BEGIN")
        admin.execute("LOCK TABLE asm_events, asm_session_sequences")
        with refused("storage_error", reason="database_locked"):
            store.append_event(event())
        with refused("storage_error", reason="database_locked"):
            store.get_events("ses")
        admin.execute("ROLLBACK")
        assert store.append_event_with_sequence(event()).sequence_number == 1


def test_a_statement_that_takes_too_long_names_the_setting(store, postgres_url, on_insert):
    on_insert("PERFORM pg_sleep(60);")
    url = make_url(postgres_url).update_query_dict({"options": "-c statement_timeout=50"})
    with SqlSessionStore(url=url.render_as_string(hide_password=False)) as hurried:
        with pytest.raises(Error, match="statement_timeout") as caught:
            hurried.append_event(event())
        assert (caught.value.code, caught.value.details["reason"]) == ("storage_error", "statement_timeout")
        assert hurried.get_events("ses") == []


def test_a_migration_says_who_keeps_it_waiting(postgres, monkeypatch):
    """Soon enough for a start, which has half a minute."""
    assert schema.LOCK_TIMEOUT_AT_START < 30 / 2
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_AT_START", 0.1)
    with postgres.database() as url, postgres.connect(make_url(url).database) as admin:
        admin.execute("SET application_name = 'psql'")
        admin.execute("BEGIN")
        admin.execute(f"SELECT pg_advisory_xact_lock({schema.LOCK})")
        with pytest.raises(Error, match=rf"locked by process {admin.info.backend_pid} of postgres \(psql, idle in") as caught:
            SqlSessionStore(url=url, migrate="auto")
        assert (caught.value.code, caught.value.details["reason"]) == ("storage_error", "database_locked")
        admin.execute("ROLLBACK")
        SqlSessionStore(url=url, migrate="auto").close()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres):
    with postgres.connect() as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with pytest.raises(Error, match="createdb --encoding=UTF8") as caught:
                SqlSessionStore(url=postgres.url("latin"), migrate="auto")
            assert (caught.value.code, caught.value.details.get("away")) == ("storage_error", None)
            assert caught.value.details["encoding"] == "LATIN1"
        finally:
            admin.execute("DROP DATABASE latin")


# -- Away, or wrong -------------------------------------------------------------------------------------------------


def opening(url):
    with pytest.raises(Error) as caught:
        SqlSessionStore(url=url)
    return caught.value


def test_what_is_away_passes_by_itself_and_what_is_wrong_does_not(postgres, postgres_url, tmp_path, admin):
    url = make_url(postgres_url)
    away, wrong = {}, {}
    away["nobody there"] = url.update_query_dict({"host": str(tmp_path)})
    away["refused"] = url.update_query_dict({"host": "127.0.0.1", "port": "1"})
    away["no such host"] = url.update_query_dict({"host": "nowhere.invalid"})
    wrong["password"] = url.set(password="wrong")
    wrong["user"] = url.set(username="nobody")
    wrong["database"] = url.set(database="nowhere")
    for name, asked in away.items():
        assert opening(asked.render_as_string(hide_password=False)).details.get("away") is True, name
    for name, asked in wrong.items():
        error = opening(asked.render_as_string(hide_password=False))
        assert error.details.get("away") is None, (name, error)
        assert error.details["reason"] in ("credentials", "no_database")
    admin.execute(f"ALTER DATABASE {url.database} CONNECTION LIMIT 0")
    admin.execute("CREATE ROLE somebody LOGIN PASSWORD 'somebody'")
    try:
        error = opening(url.set(username="somebody", password="somebody").render_as_string(hide_password=False))
        assert (error.details["reason"], error.details.get("away")) == ("too_many_connections", True)
    finally:
        admin.execute(f"ALTER DATABASE {url.database} CONNECTION LIMIT -1")
        admin.execute("DROP ROLE somebody")


@pytest.mark.parametrize(
    ("said", "reason", "away"),
    [
        ("FATAL:  the database system is starting up", "connection", True),
        ("FATAL:  the database system is shutting down", "connection", True),
        ("FATAL:  das Datenbanksystem startet", "connection", True),
        ("timeout expired", "connection", True),
        ("SSL SYSCALL error: EOF detected", "connection", True),
        ("FATAL:  sorry, too many clients already", "too_many_connections", True),
        ("FATAL:  remaining connection slots are reserved for roles with SUPERUSER", "too_many_connections", True),
        ("FATAL:  no more connections allowed (max_client_conn)", "too_many_connections", True),
        ('FATAL:  no pg_hba.conf entry for host "::1"', "credentials", None),
        ("server does not support SSL, but SSL was required", "tls", None),
        ('root certificate file "x" does not exist', "tls", None),
        ("FATAL:  no such database: x", "no_database", None),
        ("FATAL:  unsupported startup parameter: options", "startup_parameter", None),
        ("FATAL:  unsupported startup parameter in options: search_path", "startup_parameter", None),
    ],
)
def test_what_libpq_says_when_it_lets_nobody_in(store, said, reason, away):
    error = sqlalchemy.exc.OperationalError("", {}, psycopg.OperationalError(f"connection failed: {said}"))
    made = store._database.error(error, writing=True)
    assert (made.code, made.details["reason"], made.details.get("away")) == ("storage_connection_failed", reason, away)


def test_a_server_that_does_not_answer_is_given_up_soon(postgres_url):
    """It is connected to once, and not again and again: whoever opens a store tries again himself."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = make_url(postgres_url).update_query_dict(
            {"host": "127.0.0.1", "port": str(silent.getsockname()[1]), "connect_timeout": "2"}
        )
        before = threading.active_count()
        assert opening(url.render_as_string(hide_password=False)).details["away"] is True
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
        assert threading.active_count() == before


def test_a_ping_tells_whether_the_store_could_serve(postgres):
    server = type(postgres)()  # of this test's own
    try:
        with SqlSessionStore(url=server.url(), migrate="auto") as store:
            store.ping()
            server.stop()
            with refused("storage_connection_failed", away=True):
                store.ping()
            server.start()
            store.ping()
        with refused("storage_error", reason="closed"):
            store.ping()
    finally:
        server.close()


def test_a_ping_does_not_wait_for_those_who_read(postgres_url):
    with SqlSessionStore(url=postgres_url, busy_timeout=PATIENCE, pool_size=1) as store, store._database._readers.connect():
        store.ping()


# -- Parameters of a URL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("nonsense=1", "nonsense"),
        ("prepare_threshold=5", "prepare_threshold"),
        ("sslmode=sometimes", "sslmode"),
        ("target_session_attrs=both", "target_session_attrs"),
        ("connect_timeout=soon", "connect_timeout"),
        ("keepalives_idle=1.5", "keepalives_idle"),
        ("port=0", "port"),
        ("port=70000", "port"),
        ("port=5432,x", "port"),
        ("sslmode=require&sslmode=disable", "sslmode"),
    ],
)
def test_a_parameter_that_can_never_work_is_refused(query, parameter):
    for field in ("url", "listen_url"):
        given = {"url": "postgresql://host/name"} | {field: f"postgresql://user:{SECRET}@host/name?{query}"}
        with pytest.raises(Error, match=parameter) as caught:
            SqlSessionStore.preflight(**given)
        assert (caught.value.code, caught.value.details["field"]) == ("validation_error", field)
        assert caught.value.details["parameter"] == parameter
        assert SECRET not in everything(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=verify-full&sslrootcert=system",
        "connect_timeout=2&target_session_attrs=read-write&host=a,b&port=5432,5433",
        "options=-c%20search_path%3Dmine&application_name=me%40home",
        "host=a:5432&host=b:5433",
        "service=mine",
    ],
)
def test_parameters_of_libpq_are_taken(query):
    SqlSessionStore.preflight(url=f"postgresql://user:{SECRET}@/name?{query}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:h@{}@host/db",
        "postgresql://user:h@{}@host:5432/db?sslmode=require",
        "postgresql://user:{}/x@host/db",
        "postgresql://user:{}?x@host/db",
        "postgresql://user:x?{}@host/db",
        "postgresql://user:x@host:{}/db",
        "postgresql://user:{}/db",
        "postgresql://us@er:{}@host/db",
        "postgresql://host:5432/db?user=me@home&password={}",
        "postgresql://host/db?password=x&{}=1",
        "postgresql://host:99999/db?password={}",
    ],
)
def test_a_password_that_is_not_quoted_is_refused_and_never_shown(url):
    with pytest.raises(Error) as caught:
        SqlSessionStore.preflight(url=url.format(SECRET))
    assert (caught.value.code, caught.value.details["field"]) == ("validation_error", "url")
    assert SECRET not in everything(caught.value)
    if "@{}@" in url:
        assert "%40" in caught.value.message


def test_secrets_in_parameters_are_not_shown(postgres_url):
    url = make_url(postgres_url).update_query_dict({"sslpassword": SECRET, "oauth_client_secret": SECRET})
    with SqlSessionStore(url=url.render_as_string(hide_password=False)) as store:
        assert SECRET not in repr(store)


def test_readers_that_find_no_connection_free_are_told(postgres_url):
    with SqlSessionStore(url=postgres_url, busy_timeout=0.05, pool_size=1) as store, store._database._readers.connect():
        with refused("storage_error", reason="overloaded"):
            store.get_events("ses")
        store.append_event(event())  # who writes has a connection of their own


def test_tables_of_another_version(postgres):
    with postgres.database() as url, SqlSessionStore(url=url, migrate="auto") as store:
        with postgres.connect(make_url(url).database) as admin:
            admin.execute("ALTER TABLE asm_runs RENAME COLUMN turn_count TO turns")
            admin.execute("DROP TABLE asm_session_sequences")
        with refused("migration_required"):
            store.get_run("run")
        with refused("migration_required"):
            store.append_event(event())


def test_what_a_later_version_stored_is_read_as_it_is(store, admin):
    store.save_session(session(id="ses"))
    admin.execute("UPDATE asm_sessions SET status = 'flying'")
    assert [item.status for item in store.list_sessions()] == ["flying"]


def test_ids_of_the_greatest_length_fit_into_every_index(store):
    """Of text that cannot be compressed, as two columns of one index."""
    chance = random.Random(0)

    def name():
        return "".join(chance.choice(string.ascii_letters + string.digits) for _ in range(1024))

    saved = session(name(), id=name(), parent_session_id=name())
    store.save_session(saved)
    store.save_run(run(saved.id, id=name(), provider=name(), status="running"))
    appended = event(saved.id, id=name(), run_id=name(), provider=name(), correlation_id=name(), type=f"a.{'b' * 126}")
    stored = store.append_event_with_sequence(appended)
    assert store.get_events(saved.id, run_id=appended.run_id, type=appended.type) == [stored]
    assert store.list_sessions(agent_id=saved.agent_id) == [saved]
    assert store.get_active_run(saved.id).session_id == saved.id


# -- Plans ----------------------------------------------------------------------------------------------------------


def test_every_read_is_by_index(store, admin):
    """With sequential scans and sorts as a last resort, the planner shows that it never needs them."""
    for number in range(3):
        store.save_session(session(f"agent {number}", id=f"ses {number}"))
        store.save_run(run(f"ses {number}"))
        store.append_events([event(f"ses {number}", run_id="run") for _ in range(10)])
    sent = []
    engines = (store._database._readers, store._database._writer)
    for engine in engines:
        sqlalchemy.event.listen(
            engine, "before_cursor_execute", lambda _c, _cursor, sql, values, _x, many: sent.append((sql, values, many))
        )
    store.list_sessions(limit=5, offset=1)
    store.list_sessions(status="active", limit=5)
    store.list_sessions(agent_id="agent 1", limit=5)
    store.list_runs("ses 0", limit=5)
    store.list_runs("ses 0", status="failed", limit=5)
    store.get_active_run("ses 0")
    store.get_events("ses 0", after=5, before=9, limit=2)
    store.get_events("ses 0", type="run_failed", after=5)
    store.get_events("ses 0", run_id="run", limit=5)
    store.get_latest_sequence("ses 0")
    for lookup in (store.get_session, store.get_run):
        with refused(f"{lookup.__name__[4:]}_not_found"):
            lookup("nothing")
    given = [event("ses 0"), event("ses 1")]
    for _ in range(2):  # the second time it is looked up whether they are stored
        store.append_events(given)
    store.delete_session("ses 1")
    admin.execute("SET enable_seqscan = off")
    admin.execute("SET enable_sort = off")
    admin.execute("SET enable_bitmapscan = off")
    admin.execute("ANALYZE")
    seen = 0
    for sql, values, many in sent:
        if "asm_" not in sql or sql.startswith("INSERT"):
            continue
        given = values[0] if many and isinstance(values, (list, tuple)) else values
        plan = "\n".join(row[0] for row in admin.execute(f"EXPLAIN {sql}", given))
        assert "Seq Scan" not in plan, plan
        assert "Sort" not in plan, plan
        assert "Index" in plan, plan
        seen += 1
    assert seen >= 20
