"""The version of the tables: what is migrated, what is refused, and that a migration is whole or not at all."""

import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from asm.adapters import SqlSessionStore
from asm.adapters.sql import schema
from asm.adapters.sql.engine import Database
from asm.adapters.sql.schema import VERSION_TABLE, VERSIONS, migrate
from asm.adapters.sql.tables import METADATA
from asm.adapters.sql.urls import parse_url
from asm.core.errors import Error
from asm.testing.samples import event, refused

NEWER = f"UPDATE {VERSION_TABLE} SET version_num = '99999'"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/sessions.db"
        return
    with request.getfixturevalue("postgres").database() as made:
        yield made


@pytest.fixture
def connect(url):
    """A function that connects to it without us."""
    engine = sqlalchemy.create_engine(parse_url(url), poolclass=sqlalchemy.pool.NullPool)
    return engine.begin


def tables(connect):
    with connect() as connection:
        return {name for name in sqlalchemy.inspect(connection).get_table_names() if name.startswith("asm_")}


def run(connect, *statements):
    with connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


ALL = {*METADATA.tables, VERSION_TABLE}


def test_the_versions_are_those_of_the_migrations():
    script = ScriptDirectory(str(schema.MIGRATIONS))
    assert tuple(item.revision for item in reversed(list(script.walk_revisions()))) == VERSIONS


def test_the_migrations_make_the_tables_that_the_program_uses(url, connect):
    migrate(url)
    with connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": False, "include_name": lambda name, kind, _: (kind, name) != ("table", VERSION_TABLE)},
        )
        assert compare_metadata(context, METADATA) == []
        found = {
            (table.name, column.name): (str(column.type), column.nullable)
            for table in METADATA.sorted_tables
            for column in sqlalchemy.Table(table.name, sqlalchemy.MetaData(), autoload_with=connection).columns
        }
        METADATA.drop_all(connection)
        METADATA.create_all(connection)
        wanted = {
            (table.name, column.name): (str(column.type), column.nullable)
            for table in METADATA.sorted_tables
            for column in sqlalchemy.Table(table.name, sqlalchemy.MetaData(), autoload_with=connection).columns
        }
    assert found == wanted


def test_migrating_twice_is_the_same_as_once(url, connect):
    assert migrate(url) is None
    with SqlSessionStore(url=url) as store:
        store.append_event(event())
    assert migrate(url) is None
    assert migrate(url, sql=True) == ""
    with SqlSessionStore(url=url) as store:
        assert store.get_latest_sequence("ses") == 1


def test_the_statements_can_be_had_instead(url, connect):
    script = migrate(url, sql=True)
    assert tables(connect) == set()
    assert script.startswith("BEGIN")
    assert script.rstrip().endswith("COMMIT;")
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database)) as connection:
            connection.executescript(script)
    else:
        with connect() as connection:
            connection.connection.driver_connection.execute(script)
    assert tables(connect) == ALL
    with SqlSessionStore(url=url) as store:
        store.append_event(event())


def test_tables_that_are_there_already_are_kept(url, connect):
    """As those of the original are, which keeps its version elsewhere."""
    with connect() as connection:
        METADATA.tables["asm_sessions"].create(connection)
        connection.exec_driver_sql(
            "INSERT INTO asm_sessions (id, agent_id, status, created_at, updated_at)"
            " VALUES ('ses', 'agent', 'active', '2026-01-01T00:00:00.000000', '2026-01-01T00:00:00.000000')"
        )
    migrate(url)
    with SqlSessionStore(url=url) as store:
        assert store.get_session("ses").agent_id == "agent"
    assert tables(connect) == ALL


FILLED = """
    INSERT INTO asm_sessions (id, agent_id, status, metadata, created_at, updated_at)
        VALUES ('ses', 'agent', 'active', '{"a": 1}', '2026-01-01 00:00:01', '2026-01-01T00:00:02.500Z');
    INSERT INTO asm_runs (id, session_id, status, turn_count, token_usage, started_at) VALUES
        ('total', 'ses', 'running', 1, '{"total_tokens": 7, "input_tokens": 1}', '2026-01-01T00:00:00.000000'),
        ('parts', 'ses', 'running', 1, '{"input_tokens": 1.5, "output_tokens": 2}', '2026-01-01T00:00:00.000000'),
        ('other', 'ses', 'running', 1, '{"total_tokens": "7", "input_tokens": true}', '2026-01-01T00:00:00.000000'),
        ('odd', 'ses', 'running', 1, '{"\\u0000": 1}', '2026-01-01T00:00:00.000000'),
        ('none', 'ses', 'running', 1, NULL, '2026-01-01T00:00:00.000000');
    INSERT INTO asm_events (id, type, timestamp, session_id, sequence_number, schema_version)
        VALUES ('evt', 'run_started', '2026-01-01T00:00:00.000000', 'ses', 1, 1);
    INSERT INTO asm_session_sequences (session_id, last_sequence, updated_at) VALUES ('ses', 1, '2026-01-01T00:00:00.000000')
"""


@pytest.mark.parametrize("version", VERSIONS[:-1])
def test_an_older_version_is_migrated_with_what_it_holds(url, connect, version):
    with closing(Database(parse_url(url), 4.0)) as database:
        database.write(lambda connection: schema._alembic(connection, version))
    run(connect, *FILLED.split(";"))
    migrate(url)
    with SqlSessionStore(url=url) as store:
        saved = store.get_session("ses")
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        assert (saved.created_at, saved.updated_at) == (moment + timedelta(seconds=1), moment + timedelta(seconds=2.5))
        assert [item.id for item in store.list_runs("ses")] == ["none", "odd", "other", "parts", "total"]
        assert store.append_event_with_sequence(event("ses")).sequence_number == 2
        store.save_run(store.get_run("total").changed(token_usage={"input_tokens": 5}))
    with connect() as connection:
        tokens = dict(connection.exec_driver_sql("SELECT id, tokens FROM asm_runs").all())
        times = connection.exec_driver_sql("SELECT created_at, updated_at FROM asm_sessions").all()
    assert tokens == {"total": 5, "parts": 3.5, "other": 0, "odd": 0, "none": 0}
    if url.startswith("sqlite"):
        assert times == [("2026-01-01T00:00:01.000000", "2026-01-01T00:00:02.500000")]


def test_a_newer_database_is_refused(url, connect):
    migrate(url)
    run(connect, NEWER)
    for opening in (
        lambda: SqlSessionStore(url=url),
        lambda: SqlSessionStore(url=url, migrate="auto"),
        lambda: migrate(url),
        lambda: migrate(url, sql=True),
    ):
        with pytest.raises(Error, match="upgrade the program") as caught:
            opening()
        assert caught.value.code == "migration_required"
        assert caught.value.details["reason"] == "newer"
        assert caught.value.details["found"] == "99999"


# -- PostgreSQL is asked for, SQLite is not -------------------------------------------------------------------------


def test_a_postgresql_database_without_tables_is_refused_unless_told_otherwise(postgres):
    with postgres.database() as url:
        with pytest.raises(Error, match="asmctl migrate CONFIG") as caught:
            SqlSessionStore(url=url)
        error = caught.value
        assert (error.code, error.details["reason"], error.details["found"]) == ("migration_required", "absent", None)
        assert make_url(url).password not in f"{error} {error.details}"
        with SqlSessionStore(url=url, migrate="auto") as store:
            store.append_event(event())
        with SqlSessionStore(url=url) as store:
            assert store.get_latest_sequence("ses") == 1


@pytest.fixture
def next_version(tmp_path, monkeypatch):
    """A program that is one version ahead of this one."""
    ahead = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, ahead, ignore=shutil.ignore_patterns("__pycache__"))

    def make(code):
        (ahead / "versions" / "v9999_next.py").write_text(
            f"from alembic import op\nrevision = '9999'\ndown_revision = '{VERSIONS[-1]}'\ndef upgrade():\n    {code}\n"
        )
        monkeypatch.setattr(schema, "MIGRATIONS", ahead)
        monkeypatch.setattr(schema, "VERSIONS", (*VERSIONS, "9999"))

    return make


def test_a_database_that_is_behind(url, connect, next_version):
    migrate(url)
    next_version("op.execute('CREATE TABLE asm_next (id TEXT)')")
    script = migrate(url, sql=True)
    assert "asm_next" in script
    assert "asm_sessions" not in script
    if url.startswith("postgres"):
        with refused("migration_required", reason="behind", found=VERSIONS[-1], needed="9999"):
            SqlSessionStore(url=url)
        SqlSessionStore(url=url, migrate="auto").close()
    else:
        SqlSessionStore(url=url).close()
    assert tables(connect) == ALL | {"asm_next"}
    assert migrate(url, sql=True) == ""


# -- All or nothing -------------------------------------------------------------------------------------------------


def test_a_migration_that_fails_changes_nothing(url, connect, next_version):
    next_version("op.execute('CREATE TABLE asm_next (id TEXT)'); op.execute('this is no SQL')")
    with refused("storage_write_failed"):
        migrate(url)
    assert tables(connect) == set()


def test_migrations_at_once(url, connect):
    program = "import sys; from asm.adapters.sql.schema import migrate; sys.stdin.readline(); migrate(sys.argv[1])"
    command = [sys.executable, "-W", "error", "-c", program, url]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        outcomes = [*pool.map(lambda process: process.communicate("go\n")[1], processes)]
        assert outcomes == [""] * 3
        list(pool.map(lambda _: migrate(url), range(3)))
    assert tables(connect) == ALL


# -- Alembic --------------------------------------------------------------------------------------------------------


def test_alembic_is_loaded_only_to_migrate(url):
    program = (
        "import sys; from asm.adapters import SqlSessionStore\n"
        "SqlSessionStore(url=sys.argv[1], migrate='auto').close(); print('alembic' in sys.modules)"
    )
    said = [
        subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said == ["True\n", "False\n"]


def test_a_missing_alembic_is_named(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "alembic", None)
    monkeypatch.setitem(sys.modules, "alembic.config", None)
    with refused("dependency_not_available", package="alembic"):
        migrate(url)


def test_migrate_prints_nothing(url, capfd):
    migrate(url, sql=True)
    migrate(url)
    assert capfd.readouterr() == ("", "")


def test_nothing_stays_open(url):
    database = parse_url(url)
    migrate(url)
    with closing(Database(database, 0)) as opened:
        opened.write(lambda connection: connection.exec_driver_sql("DROP TABLE asm_runs"))
