"""Stores whose process kills itself in the middle of a write, at the step that a test asks for.

A step is what others can see the outcome of: a system call, a statement of SQL, a request. The first write that finds the
fuse, a file with a number, takes it away and dies right before its step of that number: so the outcome of the step before
is there, and nothing of this one. A system call that writes is two steps: at the second it dies half-way. Behind the last
step of a store there is one more, before anybody is told. What comes between two steps is Python, and leaves nothing.
"""

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, Pool, event

from asm.adapters import FileArtifactStore, S3ArtifactStore, SqlSessionStore
from asm.adapters.sql import upkeep, writer


class Steps:
    """Counts the steps of one write.

    :param fuse: the path of the file with the number; ``None`` has every write live.
    """

    def __init__(self, fuse):
        self._fuse = fuse
        self._lock = threading.Lock()
        self._left = 0
        self._uncounted = None

    @contextmanager
    def uncounted(self):
        """Have nothing that this thread does be a step."""
        self._uncounted = threading.get_ident()
        yield
        self._uncounted = None

    def light(self):
        """Count from now on, if there is a fuse."""
        if self._fuse is not None and (fuse := Path(self._fuse)).exists():
            self._left = int(fuse.read_text())
            fuse.unlink()

    def take(self, last_act=None):
        """Take a step, or do the last act and die."""
        if self._uncounted == threading.get_ident():
            return
        with self._lock:
            if self._left == 1:
                if last_act is not None:
                    last_act()
                os.kill(os.getpid(), signal.SIGKILL)
            self._left = max(self._left - 1, 0)

    def put_out(self):
        """Take the step behind the last one, and count no more."""
        self.take()
        self._left = 0


# -- Files ----------------------------------------------------------------------------------------------------------------

CALLS = ("open", "fsync", "mkdir", "rename", "unlink", "close")
WRITES = ("write", "pwrite")


@contextmanager
def system_calls(steps):
    """Have the system calls of this thread be steps."""
    thread, real = threading.get_ident(), {name: getattr(os, name) for name in (*CALLS, *WRITES)}

    def call(name):
        def stepping(*args, **kwargs):
            if threading.get_ident() == thread:
                steps.take()
            return real[name](*args, **kwargs)

        return stepping

    def write(name):
        def stepping(descriptor, data, *offset):
            if threading.get_ident() == thread:
                steps.take()
                steps.take(lambda: real[name](descriptor, data[: len(data) // 2], *offset))
            return real[name](descriptor, data, *offset)

        return stepping

    try:
        for name in real:
            setattr(os, name, (write if name in WRITES else call)(name))
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


class Files(FileArtifactStore):
    """Dies in a ``put`` or a ``delete``."""

    def __init__(self, *, root: str, fuse: str | None = None):
        super().__init__(root=root)
        self._steps = Steps(fuse)

    def put(self, key, data):
        self._dying(lambda: super(Files, self).put(key, data))

    def delete(self, key):
        self._dying(lambda: super(Files, self).delete(key))

    def _dying(self, write):
        self._steps.light()
        with system_calls(self._steps):
            write()
        self._steps.put_out()


# -- SQL ------------------------------------------------------------------------------------------------------------------


def statements(steps, thread):
    """Have all statements of the thread that writes, the one of that name, be steps, and each of both ends of a commit."""

    def take(last_act=None):
        if threading.current_thread().name == thread:
            steps.take(last_act)

    @event.listens_for(Engine, "before_cursor_execute")
    def executing(*_):
        take()

    @event.listens_for(Engine, "commit")
    def committing(connection):
        take()
        if connection.dialect.name == "postgresql":
            server = connection.connection.dbapi_connection.pgconn
            take(lambda: server.send_query(b"COMMIT"))  # nobody is there any more to be told the outcome

    @event.listens_for(Pool, "checkin")
    def committed(*_):
        take()


class Sql(SqlSessionStore):
    """Dies in whatever it writes."""

    def __init__(self, *, url: str, fuse: str | None = None):
        self._steps = steps = Steps(fuse)

        class Uncounted(upkeep.Upkeep):
            """Has its turn when nobody writes, and in it nobody dies: it is no part of a write."""

            def step(self, *, idle):
                with steps.uncounted():
                    super().step(idle=idle)

        writer.Upkeep = Uncounted
        super().__init__(url=url)
        statements(steps, "asm-sql-writer")

    def submit(self, operation, arguments, done):
        def answer(*outcome):
            self._steps.put_out()
            done(*outcome)

        self._steps.light()
        return super().submit(operation, arguments, answer)


# -- S3 -------------------------------------------------------------------------------------------------------------------


class S3(S3ArtifactStore):
    """Dies in a ``put``: of a large artifact at any of its requests."""

    def __init__(self, *, bucket: str, endpoint_url: str, fuse: str | None = None):
        super().__init__(bucket=bucket, endpoint_url=endpoint_url)
        self._steps = Steps(fuse)
        self._client.meta.events.register("before-send.s3", lambda **_: self._steps.take())

    def put(self, key, data):
        self._steps.light()
        super().put(key, data)
        self._steps.put_out()
