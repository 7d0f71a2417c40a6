"""Poolers between a store and PostgreSQL, which give every transaction another connection to the server."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from pooler import PgBouncer, SharedConnection
from sqlalchemy import make_url

from asm.adapters import SqlSessionStore
from asm.adapters.sql import listener
from asm.core.errors import Error
from asm.testing.samples import event, refused, run, session

PATIENCE = 60
LONG = PATIENCE * 1000


@pytest.fixture(params=["one shared connection", "PgBouncer"])
def pooler(request, postgres, postgres_url):
    """A pooler in transaction mode."""
    if request.param == "PgBouncer":
        if not PgBouncer.is_installed():
            pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
        made = PgBouncer(postgres.directory, make_url(postgres_url).password)
    else:
        made = SharedConnection(postgres.directory)
    yield made
    made.close()


def through(pooler, url):
    return make_url(url).update_query_dict({"host": pooler.directory}).render_as_string(hide_password=False)


@pytest.fixture
def pooled(pooler, postgres_url):
    """The URL of the database by way of the pooler."""
    return through(pooler, postgres_url)


@pytest.fixture
def impatient(monkeypatch):
    """A listener that soon finds out what it hears."""
    monkeypatch.setattr(listener, "PATIENCE", 0.2)
    monkeypatch.setattr(listener, "POLL", 0.05)
    monkeypatch.setattr(listener, "INTERVAL", 0.2)


# -- What every session would keep ------------------------------------------------------------------------------------


def test_two_stores_keep_the_contract(pooled):
    """Each statement is made so often that a driver would prepare it, and each client makes others in between."""

    def work(store, name):
        chance = random.Random(name)
        for number in range(25):
            saved = session(id=f"{name} {number}", status="active")
            store.save_session(saved)
            store.save_run(run(saved.id, id=f"run {saved.id}", status="running"))
            appended = store.append_events([event(saved.id), event(saved.id)])
            assert store.append_event_with_sequence(appended[0]).sequence_number == 1
            calls = [
                lambda: store.get_session(saved.id) == saved,  # noqa: B023
                lambda: store.get_active_run(saved.id).id == f"run {saved.id}",  # noqa: B023
                lambda: store.get_events(saved.id) == appended,  # noqa: B023
                lambda: store.get_latest_sequence(saved.id) == 2,  # noqa: B023
                lambda: store.list_runs(saved.id)[0].session_id == saved.id,  # noqa: B023
            ]
            chance.shuffle(calls)
            assert all(call() for call in calls)
            if number % 2:
                store.delete_session(saved.id)

    with SqlSessionStore(url=pooled) as one, SqlSessionStore(url=pooled) as two, ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (one, two, one, two), "abcd"))
        kept = {f"{name} {number}" for name in "abcd" for number in range(0, 25, 2)}
        assert {item.id for item in two.list_sessions()} == kept
        assert all(len(one.get_events(name)) == 2 for name in kept)


def test_nothing_of_a_session_is_left_to_others(pooled, postgres_url):
    with SqlSessionStore(url=pooled, busy_timeout=1.5) as store:
        store.append_event(event())
        store.get_events("ses")
        with psycopg.connect(make_url(pooled).set(drivername="postgresql").render_as_string(False)) as other:
            for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
                assert other.execute(f"SHOW {setting}").fetchone() == ("0",)
            assert other.execute("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''").fetchone() == (0,)
            assert other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


def test_a_lock_that_is_not_given_back_is_named(pooled, postgres, postgres_url):
    with SqlSessionStore(url=pooled, busy_timeout=0.1) as store, postgres.connect(make_url(postgres_url).database) as admin:
        admin.execute("BEGIN")
        admin.execute("LOCK TABLE asm_events, asm_session_sequences")
        for call in (lambda: store.append_event(event()), lambda: store.get_events("ses")):
            with refused("storage_error", reason="database_locked"):
                call()
        admin.execute("ROLLBACK")
        assert store.append_event_with_sequence(event()).sequence_number == 1


def test_a_database_is_migrated(postgres, request):
    with postgres.database() as url:
        pooler = SharedConnection(postgres.directory)
        request.addfinalizer(pooler.close)
        with SqlSessionStore(url=through(pooler, url), migrate="auto") as store:
            store.append_event(event())
            assert store.get_latest_sequence("ses") == 1


def test_who_wants_statements_prepared_gets_them(postgres_url):
    with SqlSessionStore(url=postgres_url, prepared_statements=True, pool_size=1) as store:
        for _ in range(10):
            store.get_events("ses")
        with store._database._readers.connect() as connection:
            found = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements").scalars().all()
    assert any("asm_events" in statement for statement in found)


@pytest.mark.parametrize("bad", [None, 1, "yes"], ids=repr)
def test_what_prepared_statements_may_be(bad):
    with refused("validation_error", field="prepared_statements"):
        SqlSessionStore.preflight(url="postgresql://host/name", prepared_statements=bad)


# -- Who waits ----------------------------------------------------------------------------------------------------------


@contextmanager
def waiting(store, *, after=0):
    """Have a thread wait for an event."""
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(store.get_events, "ses", after=after, wait_timeout_ms=LONG)
        yield waiter
        assert [item.sequence_number for item in waiter.result(PATIENCE)] == [after + 1]


def test_one_that_hears_nothing_says_so_and_whoever_waits_looks_again(pooled, postgres_url, impatient, caplog):
    with SqlSessionStore(url=pooled) as store, SqlSessionStore(url=postgres_url) as other:
        assert store._listener.listening.wait(PATIENCE)
        for number in range(2):
            with waiting(store, after=number):
                other.append_event(event())
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, warnings
    assert "pooler" in warnings[0]
    assert "listen_url" in warnings[0]
    assert make_url(postgres_url).password not in caplog.text


def test_with_a_listen_url_appends_are_heard_of(pooled, postgres_url):
    with SqlSessionStore(url=pooled, listen_url=postgres_url) as store, SqlSessionStore(url=pooled) as other:
        assert store._listener.listening.wait(PATIENCE)
        told = threading.Event()
        store.appends.subscribe(lambda session_id: session_id == "ses" and told.set())
        with waiting(store):
            other.append_event(event())
        assert told.wait(PATIENCE)  # by name, and not only that any may have new ones
        assert not store._listener._troubled


def test_a_listen_url_that_leads_nowhere_is_said_and_looked_around(postgres_url, tmp_path, impatient, caplog):
    nowhere = make_url(postgres_url).update_query_dict({"host": str(tmp_path)}).render_as_string(hide_password=False)
    with (
        SqlSessionStore(url=postgres_url, listen_url=nowhere) as store,
        SqlSessionStore(url=postgres_url) as other,
        waiting(store),
    ):
        other.append_event(event())
    assert str(tmp_path) in caplog.text
    assert make_url(postgres_url).password not in caplog.text


def test_a_connection_that_dies_without_a_word_is_replaced(postgres, postgres_url, impatient, caplog):
    pooler = SharedConnection(postgres.directory, sharing=False)
    try:
        listen_url = through(pooler, postgres_url)
        with SqlSessionStore(url=postgres_url, listen_url=listen_url) as store, SqlSessionStore(url=postgres_url) as other:
            assert store._listener.listening.wait(PATIENCE)
            assert not store._listener._troubled
            pooler.silent = True
            with waiting(store):
                other.append_event(event())
            while not store._listener._troubled:
                pass
            pooler.silent = False
            while store._listener._troubled:
                pass
    finally:
        pooler.close()


@pytest.mark.parametrize(
    ("url", "listen_url", "text"),
    [
        ("sqlite:///x.db", "postgresql://host/name", "is for PostgreSQL"),
        ("postgresql://host/name", "sqlite:///x.db", "is for PostgreSQL"),
        ("postgresql://host/name", "nonsense", "is no URL"),
        ("postgresql://host/name", "postgresql://user:pa@ss@host/name", "quote"),
    ],
)
def test_a_listen_url_that_can_never_work_is_refused(url, listen_url, text):
    with pytest.raises(Error, match=text) as caught:
        SqlSessionStore.preflight(url=url, listen_url=listen_url)
    assert (caught.value.code, caught.value.details["field"]) == ("validation_error", "listen_url")
