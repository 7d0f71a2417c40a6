"""What SQLite does by itself: one connection in one process, ``synchronous=FULL``, appended to as plainly as can be."""

import contextlib
import json
import sqlite3
import time

_TABLE = """
CREATE TABLE events (session_id TEXT NOT NULL, sequence_number INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, body TEXT NOT NULL,
PRIMARY KEY (session_id, sequence_number)) WITHOUT ROWID
"""
_INSERT = "INSERT INTO events VALUES (?, ?, ?, ?)"


@contextlib.contextmanager
def one_connection(path, data):
    """Make a database; the value is a function that appends so many batches of some size, and returns events a second."""
    number = 0
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_TABLE)

        def append(batches, size):
            nonlocal number
            began = time.perf_counter()
            for _ in range(batches):
                rows = [("ses", number + at, f"evt_{number + at:032x}", json.dumps(data)) for at in range(size)]
                number += size
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_INSERT, rows)
                connection.execute("COMMIT")
            return batches * size / (time.perf_counter() - began)

        yield append
