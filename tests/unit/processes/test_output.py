"""Output that never waits for its reader."""

import os
import signal
import threading

import pytest

from asm.processes import output
from asm.processes.output import Outlet

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for file in (reader, writer):
        try:
            os.close(file)
        except OSError:
            continue


def read_until(reader, text):
    got = b""
    while text not in got:
        got += os.read(reader, 65536)
    return got


def test_what_nobody_reads_is_counted_and_said_when_somebody_does(pipe, caplog):
    reader, writer = pipe
    outlet = Outlet(writer)
    number = 3 * output.ROOM // len(LINE)
    for _ in range(number):
        assert outlet.write(LINE) == len(LINE)
    outlet.flush()  # in vain, and not for ever
    said = threading.Event()
    caplog.handler.emit = lambda record: (caplog.records.append(record), said.set())
    got = b""
    while not said.is_set():
        got += os.read(reader, 65536)
    outlet.write(b"end\n")
    got += read_until(reader, b"end\n")
    (lost,) = [record.lost for record in caplog.handler.records if hasattr(record, "lost")]
    assert got.count(LINE) == number - lost
    assert got == LINE * (number - lost) + b"end\n"  # in order, and none of them torn


def test_text_goes_out_line_by_line_and_whole(pipe):
    reader, writer = pipe
    text = Outlet(writer).text()
    print("a", "b", file=text)
    print("c", end="", file=text)
    assert read_until(reader, b"\n") == b"a b\n"
    text.flush()
    assert read_until(reader, b"c") == b"c"
    assert (text.fileno(), text.isatty()) == (writer, False)


def test_a_fork_says_only_what_is_its_own(pipe):
    reader, writer = pipe
    outlet = Outlet(writer)
    full = LINE * (200_000 // len(LINE))  # more than the pipe takes, so some of it waits
    outlet.write(full)
    outlet.write(b"half a line")
    pid = os.fork()
    if pid == 0:
        outlet.write(b"from the fork\n")
        outlet.flush()
        os._exit(0)
    got = read_until(reader, b"from the fork\n")
    os.waitpid(pid, 0)
    outlet.write(b", and the rest\n")
    while not got.endswith(b"half a line, and the rest\n"):
        got += os.read(reader, 65536)
    assert got.replace(b"from the fork\n", b"") == full + b"half a line, and the rest\n"


def test_somebody_has_made_the_descriptor_non_blocking(pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    outlet = Outlet(writer)
    outlet.write(LINE * (200_000 // len(LINE)))
    outlet.write(b"end\n")
    assert read_until(reader, b"end\n") == LINE * (200_000 // len(LINE)) + b"end\n"


def test_the_reader_is_gone(pipe):
    reader, writer = pipe
    os.close(reader)
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    outlet = Outlet(writer)
    outlet.write(LINE)
    outlet.flush()
    outlet.write(LINE)
