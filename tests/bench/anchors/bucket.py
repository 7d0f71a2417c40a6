"""A service with one bucket of empty artifacts, for as long as stdin is open.

    python bucket.py COUNT

It has its names in order, and lists what is asked for. The usual fakes sort all their names for every list, and would be
measured instead of us.
"""

import bisect
import hashlib
import http.server
import sys
import threading
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from asm.adapters.s3.names import object_name
from asm.adapters.s3.objects import pack_trailer
from asm.core.values import ArtifactInfo

NOTHING = hashlib.sha256(b"").hexdigest()


def key(number):
    """Return a key: ten artifacts a session."""
    return f"ses_{number // 10:032x}/patch-{number % 10}"


def info(number):
    """Return what is known of an artifact."""
    return ArtifactInfo(key=key(number), byte_size=0, checksum_sha256=NOTHING, updated_at=datetime.now(UTC))


def _main(count):
    objects = {f"artifacts/{object_name(key(number))}": pack_trailer(info(number)) for number in range(count)}
    names = sorted(objects)

    class Answering(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if data := objects.get(path.partition("/bucket/")[2]):
                self.answer(206, data, f"bytes 0-{len(data) - 1}/{len(data)}")
            elif "list-type" in query:
                prefix, most = query.get("prefix", [""])[0], int(query.get("max-keys", ["1000"])[0])
                start = bisect.bisect_left(names, prefix)
                if after := query.get("start-after"):
                    start = max(start, bisect.bisect_right(names, after[0]))
                found = [name for name in names[start : start + most] if name.startswith(prefix)]
                self.answer(200, f"<R>{''.join(f'<Contents><Key>{name}</Key></Contents>' for name in found)}</R>".encode())
            else:
                self.answer(200, b"<R></R>")

        def answer(self, status, data, part=None):
            head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(data)}\r\nETag: tag\r\n"
            head += f"Content-Range: {part}\r\n" if part else ""
            self.wfile.write(f"{head}\r\n".encode() + data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
