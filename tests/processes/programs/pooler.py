"""Poolers before a PostgreSQL server: PgBouncer, where it is installed, and one of the tests' own."""

import contextlib
import os
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

SOCKET = ".s.PGSQL.5432"
PATIENCE = 60


class SharedConnection:
    """A pooler that has one connection to the server, and gives it to whichever client has a transaction to make.

    It speaks as much of the protocol (version 3) as it takes to find the ends of transactions. Every client logs in at the
    server itself, over a connection that is used for nothing else then.

    :param directory: where the server has its socket.
    :param sharing: whether the connection is shared, or each client keeps the one that it logged in with.
    """

    def __init__(self, directory, *, sharing=True):
        self._upstream = os.path.join(directory, SOCKET)
        self._sharing = sharing
        self.directory = tempfile.mkdtemp(prefix="asm-pool-")
        self.silent = False
        """Whether notifications are lost."""
        self._turn = threading.Lock()
        self._shared = None
        self._open = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.path.join(self.directory, SOCKET))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        shutil.rmtree(self.directory)

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client):
        server = socket.socket(socket.AF_UNIX)
        self._open += [client, server]
        with contextlib.suppress(OSError, EOFError), client:
            server.connect(self._upstream)
            self._log_in(client, server)
            if self._sharing:
                with self._turn:
                    if self._shared is None:
                        self._shared = server
                server = self._shared
            while True:
                first = _message(client)  # the first of a transaction
                if first[:1] == b"X":
                    return
                with self._turn if self._sharing else contextlib.nullcontext():
                    self._transaction(client, server, first)

    def _log_in(self, client, server):
        while (request := _startup(client))[4:8] == struct.pack("!i", 80877103):  # for TLS
            client.sendall(b"N")
        server.sendall(request)
        while True:
            answer = _message(server)
            client.sendall(answer)
            if answer[:1] == b"Z":
                return
            if answer[:1] == b"R" and struct.unpack("!i", answer[5:9])[0] in (3, 5, 10, 11):  # wants to hear something
                server.sendall(_message(client))

    def _transaction(self, client, server, first):
        """Pass on what both say until the server is ready, outside of a transaction, and has answered everything."""
        asked = 0
        message = first
        while True:
            if message:
                asked += message[:1] in b"QSF"
                server.sendall(message)
                message = b""
            ready, _, _ = select.select([client, server], [], [])
            if server in ready:
                answer = _message(server)
                if not (self.silent and answer[:1] == b"A"):
                    client.sendall(answer)
                if answer[:1] == b"Z":
                    asked -= 1
                    if self._sharing and not asked and answer[5:6] == b"I":
                        return
            elif client in ready:
                message = _message(client)


def _exactly(connection, count):
    data = b""
    while len(data) < count:
        if not (more := connection.recv(count - len(data))):
            raise EOFError
        data += more
    return data


def _message(connection):
    head = _exactly(connection, 5)
    return head + _exactly(connection, struct.unpack("!i", head[1:])[0] - 4)


def _startup(connection):
    head = _exactly(connection, 4)
    return head + _exactly(connection, struct.unpack("!i", head)[0] - 4)


class PgBouncer:
    """The real thing, in transaction mode.

    :param directory: where the server has its socket.
    :param password: of the user ``postgres``.
    """

    def __init__(self, directory, password):
        self.directory = tempfile.mkdtemp(prefix="asm-pool-")
        path = Path(self.directory)
        (path / "users").write_text(f'"postgres" "{password}"\n')
        (path / "ini").write_text(
            f"[databases]\n* = host={directory}\n[pgbouncer]\npool_mode = transaction\nlisten_addr =\nlisten_port = 5432\n"
            f"unix_socket_dir = {path}\nauth_type = plain\nauth_file = {path}/users\n"
            "default_pool_size = 2\nmax_client_conn = 100\nlogfile =\n"
        )
        user = "nobody" if os.geteuid() == 0 else None  # it refuses to be root
        if user:
            for item in (path, path / "users", path / "ini"):
                shutil.chown(item, user)
        command = [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "--quiet", path / "ini"]
        self._process = subprocess.Popen(command, user=user, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not (path / SOCKET).exists():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @staticmethod
    def is_installed():
        return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None

    def close(self):
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory)
