"""A service that stands before another one, and misbehaves on command."""

import http.client
import socketserver
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy:
    """An HTTP server on this machine that passes on what it is asked.

    :param url: of the service behind it.
    """

    def __init__(self, url):
        self._host = urlsplit(url).netloc
        self._answer, self._changed = self._pass_on, threading.Event()
        answer = self._take

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self):
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815  # as the library wants them

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.handle_error = lambda *_: None  # who asked may be gone
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def misbehaving(self, how):
        """Answer in another way: with the function of this name."""
        self._answer, self._changed = getattr(self, how), threading.Event()
        try:
            yield
        finally:
            self._answer = self._pass_on
            self._changed.set()

    def close(self):
        self._changed.set()
        self._server.shutdown()
        self._thread.join()
        socketserver.TCPServer.server_close(self._server)  # the threads of connections that stay open are not waited for

    def _take(self, request):
        self._answer(request)

    def _pass_on(self, request):
        send(request, *self._ask(request))

    def _ask(self, request):
        """Ask the service; return its status, its body and its headers."""
        with closing(http.client.HTTPConnection(self._host)) as connection:
            connection.request(request.command, request.path, request.body, dict(request.headers))
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name not in ("Connection", "Transfer-Encoding")}
            return answer.status, answer.read(), headers

    # -- Ways to misbehave ------------------------------------------------------------------------------------------------

    def broken(self, request):
        refuse(request, 500, "InternalError")

    def overloaded(self, request):
        refuse(request, 503, "SlowDown")

    def forbidding(self, request):
        refuse(request, 403, "InvalidAccessKeyId")

    def slow(self, request):
        """Answer when the time that a store waits is nearly up."""
        self._changed.wait(0.1)
        self._pass_on(request)

    def silent(self, request):
        """Never answer, and hang up when better times come."""
        self._changed.wait()
        request.close_connection = True

    def deaf(self, request):
        """Hang up at once."""
        request.close_connection = True

    def stammering(self, request):
        """Do what is asked, and break off in the first words of the answer."""
        self._ask(request)
        request.wfile.write(b"HTTP/1")
        request.close_connection = True


def send(request, status, body, headers):
    request.send_response_only(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


def refuse(request, status, code):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said {code}</Message></Error>".encode()
    send(request, status, body, {})
