"""HTTP services of a test's own, which answer as it says."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def service(answer):
    """An HTTP server on this machine; ``answer(request)`` writes the answers. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def do_HEAD(self):
            answer(self)

        def do_PUT(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def send(request, status, body, size=None, tag=None):
    request.send_response(status)
    if tag:
        request.send_header("ETag", tag)
    request.send_header("Content-Length", str(len(body) if size is None else size))
    request.end_headers()
    request.wfile.write(body)


def refusing(status, code):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said {code}</Message></Error>".encode()
    return service(lambda request: send(request, status, body))
