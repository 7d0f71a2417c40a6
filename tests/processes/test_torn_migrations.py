"""Migrations that are killed at each of their steps: the tables are of the one version or of the other, and can be used.

See ``programs/kills.py``, and ``test_torn_writes.py`` for what becomes of other writes.
"""

import functools
import itertools
import shutil
from pathlib import Path

import pytest
import writes
from kills import Forks, bare, killed_at_every_byte, killed_at_every_step, nothing_is_left, settle
from sqlalchemy import make_url

from asm.adapters import SqlSessionStore
from asm.adapters.sql import schema
from asm.adapters.sql.tables import METADATA

PAGE = 4096 + 24
"""What a page of SQLite takes in its log."""

PRESENT, NEXT = schema.VERSIONS[-1], "9999"

MIGRATION = f"""
from alembic import op

revision, down_revision = "{NEXT}", "{PRESENT}"


def upgrade():
    op.execute("ALTER TABLE asm_sessions ADD COLUMN colour TEXT")
    op.execute("UPDATE asm_sessions SET colour = 'red'")
    op.execute("CREATE TABLE asm_colours (name TEXT PRIMARY KEY)")
    op.execute("INSERT INTO asm_colours VALUES ('red')")
"""


@pytest.fixture(scope="module")
def forks():
    with Forks() as made:
        yield made


@pytest.fixture
def fuse(tmp_path):
    """The file that says at which step a process dies."""
    return tmp_path / "fuse"


@pytest.fixture
def stride(campaign):
    """How many bytes of a file lie between two kills."""
    return 97 if campaign else 5 * PAGE // 2


@pytest.fixture
def ahead(tmp_path):
    """What makes a program one that is a version ahead."""
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations / "versions" / f"v{NEXT}_next.py").write_text(MIGRATION)
    return {"migrations": str(migrations), "versions": [*schema.VERSIONS, NEXT]}


COLUMNS = {
    "sqlite": "SELECT t.name, count(*) FROM sqlite_master AS t, pragma_table_info(t.name) WHERE t.type = 'table' GROUP BY 1",
    "postgresql": "SELECT table_name, count(*) FROM information_schema.columns WHERE table_schema = current_schema GROUP BY 1",
}
"""Queries for the tables of a database and how many columns they have."""


def outline(url):
    """The version of a database, its tables, and how many columns they have."""
    with bare(url).connect() as connection:
        tables = dict(connection.exec_driver_sql(COLUMNS[connection.dialect.name]).all())
        version = None
        if schema.VERSION_TABLE in tables:
            version = connection.exec_driver_sql(f"SELECT version_num FROM {schema.VERSION_TABLE}").scalar()
    return version, tables


OUTLINES = {
    "absent": (None, {}),
    "present": (PRESENT, {**{name: len(table.columns) for name, table in METADATA.tables.items()}, schema.VERSION_TABLE: 1}),
}
TABLES = OUTLINES["present"][1]
OUTLINES["next"] = (NEXT, {**TABLES, "asm_sessions": TABLES["asm_sessions"] + 1, "asm_colours": 1})


def look_at_tables(url, version, ahead):
    """See that a database is as it was, or that it is of the new version and can be used, with all that it held."""
    found = outline(url)
    if found == OUTLINES[version]:
        return "old"
    assert found == OUTLINES["next"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", Path(ahead["migrations"]))
        patch.setattr(schema, "VERSIONS", tuple(ahead["versions"]))
        with SqlSessionStore(url=url) as store:
            if version != "absent":
                assert writes.state(store, "ses") == writes.states("flush", "ses")[0]
            store.flush(writes.result("other", "old"))
    return "new"


def prepare(url, version):
    """Make a database of a version; return its URL."""
    if version != "absent":
        schema.migrate(url)
        with SqlSessionStore(url=url) as store:
            store.flush(writes.result("ses", "old"))
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def new_url(request, tmp_path):
    """A function that returns the URL of an empty database; in PostgreSQL, a schema has all that is needed of one."""
    numbers = itertools.count()
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path}/{next(numbers)}/sessions.db"
        return
    server = request.getfixturevalue("postgres")
    with server.database() as url, server.connect(make_url(url).database) as admin:

        def make():
            name = f"schema_{next(numbers)}"
            admin.execute(f"CREATE SCHEMA {name}")
            asked = make_url(url).update_query_dict({"options": f"-c search_path={name}"})
            return asked.render_as_string(hide_password=False)

        yield make


class Migrations:
    """Migrations, one after another, of a database of a version: the same for as long as it is of that version."""

    def __init__(self, new_url, version, ahead):
        self._new_url, self._version, self._ahead = new_url, version, ahead
        self._url = None

    def attempt(self, migrate):
        """Have it migrated by a process; return how that ended, and what was found then."""
        if self._url is None:
            self._url = prepare(self._new_url(), self._version)
        ended = migrate(url=self._url, **self._ahead)
        settle(self._url)
        found = look_at_tables(self._url, self._version, self._ahead)
        if found == "new":
            if self._url.startswith("sqlite"):
                nothing_is_left(Path(make_url(self._url).database))
            self._url = None
        return ended, found


@pytest.mark.parametrize("version", ["absent", "present"])
def test_a_migration(forks, fuse, new_url, ahead, version, campaign):
    migrations = Migrations(new_url, version, ahead)
    migrate = functools.partial(forks.call, "migrate", fuse=str(fuse))
    killed_at_every_step(fuse, lambda _: migrations.attempt(migrate), stride=1 if campaign else 3)


@pytest.mark.parametrize("new_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("version", ["absent", "present"])
def test_a_migration_of_sqlite_that_ends_in_the_middle_of_a_page(forks, new_url, ahead, stride, version):
    migrations = Migrations(new_url, version, ahead)
    migrate = functools.partial(forks.call, "migrate_until_full")
    killed_at_every_byte(stride, lambda most: migrations.attempt(functools.partial(migrate, most=most)))
