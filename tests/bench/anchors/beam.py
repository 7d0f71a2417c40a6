"""The shape on the BEAM: a caller on one node, the composite and its backend on another, both on this machine."""

import contextlib
import secrets
import shutil
import socket

from anchors.outside import HERE, NotInstalledError, Outside

INSTALL = "apt-get install elixir"


@contextlib.contextmanager
def nodes():
    """Start two nodes; the value is what to ``ask``: ``one COUNT`` (microseconds), ``together CALLERS COUNT`` (calls/s)."""
    if shutil.which("elixir") is None:
        raise NotInstalledError(INSTALL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Without the port mapper, which would stay behind: both nodes are told the port.
    shared = f"-start_epmd false -erl_epmd_port {port}"
    cookie = secrets.token_hex(8)
    with (
        _node("store", f"{shared} -kernel inet_dist_use_interface {{127,0,0,1}}", cookie, "serve"),
        _node("caller", f"{shared} -dist_listen false", cookie, "call", "store@127.0.0.1") as caller,
    ):
        yield caller


def _node(name, options, cookie, *arguments):
    command = ["elixir", "--erl", options, "--name", f"{name}@127.0.0.1", "--cookie", cookie, HERE / "beam.exs"]
    return Outside(*command, *arguments)
