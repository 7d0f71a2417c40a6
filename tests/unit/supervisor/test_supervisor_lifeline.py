"""The lifeline: its frames, and both ends of it in one process."""

import os
import select
import signal
import socket
import struct
import threading

import msgpack
import multiprocess
import pytest

from asm_supervisor.lifeline import Lifeline
from asm_supervisor.pipe import MAX_MESSAGE, End, Frames, encode


def framed(packed):
    return struct.pack("!i", len(packed)) + packed


@pytest.fixture
def pipe():
    ours, theirs = multiprocess.Pipe()
    yield ours, theirs
    ours.close()
    theirs.close()


def fill(end):
    """Send until there is no more room; return how many messages went out."""
    count = 0
    while end.write(encode("fill", {"x": "x" * 10_000})):
        count += 1
    return count


def test_messages_come_out_whole_wherever_the_stream_is_cut():
    stream = encode("ready", {"a": [1, None, "ä"]}) + encode("stop") + encode("x", {})
    for size in (1, 2, 3, 7, len(stream)):
        frames, messages = Frames(), []
        for start in range(0, len(stream), size):
            messages += frames.feed(stream[start : start + size])
        assert messages == [("ready", {"a": [1, None, "ä"]}), ("stop", {}), ("x", {})]
        assert frames.broken is None


@pytest.mark.parametrize(
    "broken",
    [
        struct.pack("!i", MAX_MESSAGE + 1),
        struct.pack("!i", -1),
        b"GET / HTTP/1.1\r\n",
        framed(b""),
        framed(b"\xc1"),
        framed(msgpack.packb(["x", {}]) + b"\x00"),
        framed(msgpack.packb("x")),
        framed(msgpack.packb(["x"])),
        framed(msgpack.packb([1, {}])),
        framed(msgpack.packb(["x", [1]])),
        framed(msgpack.packb(["x", {1: 2}])),
        framed(b"\x91" * 2000),
        framed(b"\x92\xa1\xff\x80"),
    ],
)
def test_what_is_no_message_breaks_the_stream_and_not_what_came_before(broken):
    frames = Frames()
    assert frames.feed(encode("ready") + broken) == [("ready", {})]
    assert frames.broken
    assert frames.feed(encode("ready")) == []


def test_the_longest_message_fits():
    frame = encode("x", {"x": b"x" * (MAX_MESSAGE - 9)})
    assert len(frame) == MAX_MESSAGE + 4
    assert len(Frames().feed(frame)) == 1
    with pytest.raises(ValueError, match="'x' has 65537 bytes; a lifeline takes 65536"):
        encode("x", {"x": b"x" * (MAX_MESSAGE - 8)})


def test_frames_are_those_of_multiprocess(pipe):
    ours, theirs = pipe
    ours.send_bytes(msgpack.packb(["ready", {"a": 1}]))
    assert End(theirs).read() == [("ready", {"a": 1})]
    assert End(theirs).write(encode("stop"))
    assert msgpack.unpackb(ours.recv_bytes()) == ["stop", {}]


def test_an_end_reads_what_is_there_and_sees_the_other_one_close(pipe):
    ours, theirs = map(End, pipe)
    assert ours.read() == []
    assert not ours.is_hung_up()
    theirs.write(encode("a"))
    os.write(theirs.fileno(), encode("b")[:5])
    theirs.close()
    assert ours.is_hung_up()
    assert ours.read(everything=True) == [("a", {})]
    assert ours.eof


def test_unread_messages_do_not_hide_that_the_other_end_closed(pipe):
    ours, theirs = map(End, pipe)
    ours.write(encode("stop"))
    theirs.write(encode("last"))
    theirs.close()  # without having read: a reset
    assert ours.read(everything=True) == [("last", {})]
    assert ours.eof


def test_one_end_can_hang_up_and_still_listen(pipe):
    ours, theirs = map(End, pipe)
    ours.hang_up()
    assert theirs.read() == []
    assert theirs.eof
    theirs.write(encode("bye"))
    assert ours.read() == [("bye", {})]


def test_a_full_pipe_drops_whole_messages(pipe):
    ours, theirs = map(End, pipe)
    sent = fill(theirs)
    assert not theirs.write(encode("x"))
    messages = ours.read(everything=True)
    assert theirs.write(encode("last"))
    messages += ours.read(everything=True)
    assert [name for name, _ in messages] == ["fill"] * sent + ["last"]
    assert ours.broken is None


def test_a_closed_other_end_is_no_error(pipe):
    ours, theirs = map(End, pipe)
    ours.close()
    assert not theirs.write(encode("x"))
    assert not theirs.write(encode("x"))


def test_a_child_may_wait_and_be_ready_any_number_of_times(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    said = [("waiting", {"message": "away"}), ("ready", {"port": 1})] * 2
    for word, info in said:
        getattr(lifeline, word)(info)
        assert lifeline.told == word
    assert ours.read(everything=True) == said


@pytest.mark.parametrize("first", ["waiting", None])
def test_a_child_that_has_failed_says_nothing_more(pipe, first):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    if first:
        lifeline.waiting({"message": "away"})
    lifeline.failed({"code": "x", "message": "wrong"})
    lifeline.ready()
    lifeline.waiting({"message": "away"})
    lifeline.failed({"code": "y", "message": "late"})
    assert [word for word, _ in ours.read(everything=True)] == [*([first] if first else []), "failed"]
    assert lifeline.told == "failed"


def test_a_child_that_is_ready_has_come_up_whatever_happens_then(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    lifeline.ready()
    lifeline.failed({"code": "x", "message": "late"})
    assert ours.read(everything=True) == [("ready", {})]
    assert lifeline.told == "ready"


def test_a_child_that_has_nothing_fit_to_say_is_told_so(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    with pytest.raises(TypeError):
        lifeline.ready({"port": object()})
    with pytest.raises(ValueError, match="a lifeline takes"):
        lifeline.send("x", {"x": "x" * MAX_MESSAGE})
    assert ours.read() == []


@pytest.mark.parametrize("details", [object(), "\ud800", 2**64])
def test_an_error_arrives_whatever_it_holds(pipe, details):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    lifeline.failed({"code": "c", "message": "m\ud800", "details": details})
    assert ours.read() == [("failed", {"code": "c", "message": "m?"})]


def test_ready_waits_for_room(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    sent = 0
    while lifeline.send("fill", {"x": "x" * 10_000}):
        sent += 1
    thread = threading.Thread(target=lifeline.ready)
    thread.start()
    names = []
    while "ready" not in names:
        names += [name for name, _ in ours.read()]
    thread.join()
    assert names == ["fill"] * sent + ["ready"]


def test_a_child_learns_that_it_is_to_stop(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    assert not lifeline.stop_requested()
    assert not lifeline.wait(0)
    ours.write(encode("something newer"))
    assert not lifeline.stop_requested()
    ours.write(encode("stop"))
    assert lifeline.wait()
    assert lifeline.stop_requested()


@pytest.mark.parametrize("what", ["close", "hang_up", "break"])
def test_a_child_learns_that_its_parent_is_gone(pipe, what):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    if what == "break":
        os.write(ours.fileno(), b"\xff" * 8)
    else:
        getattr(ours, what)()
    assert lifeline.wait(30)
    assert not (lifeline.send("x") and what == "close")


def test_a_fork_of_a_child_has_no_lifeline(pipe):
    ours, _lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        pipe[1].close()
        assert select.select([ours], [], [], 30)[0]
        assert ours.read(everything=True) == []
        assert ours.eof
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_lifeline_has_the_name_and_the_socket(pipe):
    with socket.socket(socket.AF_UNIX) as listening:
        lifeline = Lifeline("a", pipe[1], listening)
        assert (lifeline.name, lifeline.socket, lifeline.fileno()) == ("a", listening, pipe[1].fileno())


def test_a_child_is_told_its_settings_anew(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1], settings={"level": 1})
    told = []
    lifeline.on_settings = told.append
    assert lifeline.settings == {"level": 1}
    ours.write(encode("settings", {"level": 2}))
    assert not lifeline.stop_requested()
    assert lifeline.settings == {"level": 2}
    assert told == [{"level": 2}]


def test_a_child_is_handed_another_socket(pipe, tmp_path):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    handed = []
    lifeline.on_socket = handed.append
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        assert ours.write(encode("settings", {"level": 2}))
        assert ours.write(encode("socket"), file=listening.fileno())
        assert ours.write(encode("settings", {"level": 3}))
    while lifeline.settings != {"level": 3}:
        assert not lifeline.stop_requested()
    assert handed == [lifeline.socket]
    assert not os.get_inheritable(lifeline.socket.fileno())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        lifeline.socket.accept()[0].close()
    lifeline.socket.close()


def test_a_socket_for_which_there_is_no_room_is_not_sent(pipe):
    ours, lifeline = End(pipe[0]), Lifeline("a", pipe[1])
    fill(ours)
    while ours.write(encode("x")):
        pass
    assert not ours.write(encode("socket"), file=0)
    while not lifeline.stop_requested() and lifeline.wait(0.01):
        pass
    ours.write(encode("stop"))
    assert lifeline.wait(30)
    assert lifeline.socket is None


def test_a_parent_takes_no_descriptors(pipe):
    ours, theirs = map(End, pipe)
    before = len(os.listdir("/proc/self/fd"))
    assert theirs.write(encode("socket"), file=0)
    assert ours.read() == [("socket", {})]
    assert len(os.listdir("/proc/self/fd")) == before
