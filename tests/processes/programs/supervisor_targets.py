"""Targets of the children in the tests of the supervisor."""

import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from pathlib import Path


def note(journal, *words):
    """Append a line to a file, whole, and in the order in which all processes do so."""
    if journal:
        with open(journal, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")


def serve(lifeline, journal=None, ready=True):
    """Answer each connection with the pid, until SIGTERM or the parent's end."""
    note(journal, "start", lifeline.name)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    with reader, writer, selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        selector.register(lifeline, selectors.EVENT_READ)
        if lifeline.socket is not None:
            selector.register(lifeline.socket, selectors.EVENT_READ)
        lifeline.on_socket = lambda another: selector.register(another, selectors.EVENT_READ)
        if ready:
            lifeline.ready({"pid": os.getpid()})
        while True:
            files = [key.fileobj for key, _ in selector.select()]
            if reader in files or (lifeline in files and lifeline.stop_requested()):
                break
            if lifeline.socket in files:
                connection, _ = lifeline.socket.accept()
                with connection:
                    connection.sendall(b"%d" % os.getpid())
        signal.set_wakeup_fd(-1)
    note(journal, "stop", lifeline.name)


def end_when_told(lifeline, journal, status=0):
    """Exit with a status of one's own, at SIGTERM from anybody."""
    note(journal, "start", lifeline.name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    lifeline.ready()
    while True:
        time.sleep(1000)


def beat(lifeline, beats=None):
    """Beat as asked, but so many times at most; a thread lives on in any case."""
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    lifeline.ready()
    number = 0
    while not lifeline.wait(lifeline.heartbeat):
        if beats is None or number < beats:
            number += 1
            lifeline.beat({"number": number, "restarts": lifeline.restarts, "recovers": lifeline.recovers})


def say_as_told(lifeline, first=("ready",)):
    """Say of oneself what ``first`` has, and then what each connection writes: a word, and a message."""
    said = list(first)
    while True:
        if said:
            word, *message = said
            getattr(lifeline, word)({"code": "wrong", "message": " ".join(message)})
            if word == "failed":
                return
        connection, _ = lifeline.socket.accept()
        with connection:
            said = connection.recv(100).decode().split()


def with_a_grandchild(lifeline):
    """Have a child of one's own that ends after oneself."""
    pid = os.fork()
    if pid == 0:
        time.sleep(0.2)
        os._exit(0)
    lifeline.ready({"grandchild": pid})
    lifeline.wait()


def never_ready(lifeline, fifo=None):
    """Tell the pid to who reads the fifo, and wait for the end without ever being ready."""
    note(fifo, os.getpid())
    serve(lifeline, ready=False)


def block(lifeline):
    """Be ready, and then notice nothing any more: neither SIGTERM nor the parent's end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lifeline.ready()
    while True:
        time.sleep(1000)


def block_linked(lifeline):
    """Be ready and notice nothing, except that the parent is gone."""
    lifeline.exit_with_parent()
    block(lifeline)


def exit_early(lifeline, status):
    """Exit before being ready."""
    sys.exit(status)


def report_failure(lifeline, stay=False):
    """Say why this child cannot come up."""
    lifeline.failed({"code": "no_disk", "message": "there is no disk", "details": {"path": "/x"}})
    if stay:
        time.sleep(1000)


def raise_error(lifeline):
    """Die of an exception before being ready."""
    raise LookupError("no such thing")


def ready_once(lifeline, marker, status=7):
    """Come up the first time; after that, exit before being ready."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        sys.exit(status)
    lifeline.ready()
    lifeline.wait()


def serve_while_there_is(lifeline, marker):
    """Serve, if a file is there; without it, exit before being ready."""
    if not Path(marker).exists():
        sys.exit(7)
    serve(lifeline)


def follow_settings(lifeline):
    """Tell the parent which settings one has, at first and whenever there are others."""
    lifeline.on_settings = lambda settings: lifeline.send("told", settings)
    lifeline.ready(lifeline.settings)
    lifeline.wait()


def babble(lifeline):
    """Break the protocol of the lifeline."""
    lifeline.ready()
    os.write(lifeline.fileno(), b"\x7f\xff\xff\xffGET / HTTP/1.1\r\n")
    lifeline.wait()


def half_a_frame(lifeline):
    """Stop in the middle of a message, like a process that is stopped there."""
    lifeline.ready()
    os.write(lifeline.fileno(), b"\x00\x00\x00\x20\x92")
    os.kill(os.getpid(), signal.SIGSTOP)


def become_another(lifeline):
    """Become another program, which has no lifeline, and live on."""
    lifeline.ready()
    os.execvp("sleep", ["sleep", "1000"])


def stuck_thread(lifeline):
    """Return while another thread never will."""
    lifeline.ready()
    threading.Thread(target=time.sleep, args=(1000,)).start()
    lifeline.wait()


def tell_surroundings(lifeline, **kwargs):
    """Say what this process has of its parent."""
    files = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            files[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue
    own = {str(lifeline.fileno())} | ({str(lifeline.socket.fileno())} if lifeline.socket else set())
    lifeline.ready(
        {
            "files": {fd: file for fd, file in files.items() if fd not in own},
            "environment": os.environ.get("SUPERVISOR_TEST"),
            "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
            "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
            "wakeup": signal.set_wakeup_fd(-1),
            "sighup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
            "sigchld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            "directory": os.readlink("/proc/self/cwd"),
            "argv": sys.argv,
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "kwargs": json.dumps(kwargs, default=repr),
        }
    )
    lifeline.wait()


def say_through(lifeline, connection):
    """Say something through a connection that came with the arguments."""
    connection.send_bytes(b"%d" % os.getpid())
    lifeline.ready()
    lifeline.wait()


def count_messages(lifeline, number):
    """Send more than the pipe can hold, and tell how much was dropped."""
    lifeline.ready()
    sent = sum(lifeline.send("count", {"value": value, "padding": "x" * 1000}) for value in range(number))
    while not lifeline.send("sent", {"value": sent}):
        lifeline.wait(0.01)
    lifeline.wait()


class Unloadable:
    """Can be sent to a child, and cannot be unpacked there."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise BufferError("not here")


def fail_at_length(lifeline, size):
    """Report an error that is longer than a message may be."""
    lifeline.failed({"code": "long", "message": "x" * size})
