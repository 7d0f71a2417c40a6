"""A server that says what a test tells it to: the other side of a client, on a real socket."""

import contextlib
import os
import socket
import threading
import time

import msgpack

from asm.wire import messages
from asm.wire.frames import Splitter, frame, framed
from asm.wire.messages import PROTOCOL, decode
from asm.wire.streams import chunk, more

PATIENCE = 30.0


class Gone(Exception):  # noqa: N818  # no failure
    """The client has closed the connection."""


class Wire:
    """One connection, as a server sees it. It answers ``hello`` by itself."""

    def __init__(self, connection, hello=None):
        self._connection = connection
        self._splitter = Splitter()
        self._unread = []
        self._hello = {"name": "S", "protocol": PROTOCOL, "version": "1", "contracts": []} | (hello or {})

    def read(self):
        """Return the next message."""
        if self._unread:
            return self._unread.pop()
        while not self._splitter.arrived:
            try:
                data = self._connection.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Gone
            self._splitter.feed(data)
        return decode(self._splitter.arrived.popleft())

    def unread(self, message):
        """Have a message come once more."""
        self._unread.append(message)

    def request(self):
        """Return the next request."""
        while (message := self.read())[0] != 0 or message[2] == "hello":
            if message[0] == 0:
                self.answer(message[1], self._hello)
        return message

    def send(self, data):
        """Say anything."""
        try:
            self._connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Gone from None

    def wait_given_up(self):
        """Wait until the client waits no more."""
        with contextlib.suppress(Gone):
            while self.read()[1] != "cancel":
                pass

    def close(self):
        """Close the connection."""
        self._connection.close()
        raise Gone

    def answer(self, msgid, result):
        """Answer a call."""
        self.send(frame(messages.result(msgid, result)))

    def fail(self, msgid, error):
        """Answer a call with an error."""
        self.send(frame(messages.error(msgid, error)))

    def refuse(self, error):
        """Refuse the connection."""
        self.send(frame(messages.refusal(error)))

    def notify(self, method, params):
        """Send a notification."""
        self.send(frame(msgpack.packb([2, method, params])))

    def chunk(self, msgid, piece):
        """Send the next bytes of a stream."""
        self.send(b"".join(framed(*chunk(msgid, piece))))

    def more(self, msgid, size):
        """Let more bytes of a stream come."""
        self.send(frame(more(msgid, size)))


class Server:
    """Serves connections in threads, each with the script, until it is closed.

    :param script: is given the :class:`Wire` of each connection; it is closed when the script returns.
    :param hello: what is said otherwise in the answer to ``hello``.
    """

    def __init__(self, runtime_dir, script, name="S", hello=None):
        self.connections = 0
        self.failures = []
        self._script, self._hello = script, hello
        self._open, self._threads = [], []
        self._listener = socket.socket(socket.AF_UNIX)
        self._path = os.fspath(runtime_dir / f"{name}.sock")
        self._listener.bind(self._path)
        self._listener.listen()
        self._listener.settimeout(PATIENCE)
        self._over = False
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._over = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._path)
        self._accepting.join(PATIENCE)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        self._listener.close()
        os.unlink(self._path)
        assert not self.failures, self.failures

    def wait_closed(self):
        """Wait until the first connection is closed."""
        deadline = time.monotonic() + PATIENCE
        while not self._threads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self._threads[0].join(PATIENCE)

    def _accept(self):
        while True:
            connection, _address = self._listener.accept()
            if self._over:
                connection.close()
                return
            self.connections += 1
            connection.settimeout(PATIENCE)
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            # Only now: `wait_closed` joins what it finds here.
            self._threads.append(thread)

    def _serve(self, connection):
        with connection:
            try:
                self._script(Wire(connection, self._hello))
            except Gone:
                pass
            except Exception as error:  # noqa: BLE001  # said by the thread of the test
                self.failures.append(error)
