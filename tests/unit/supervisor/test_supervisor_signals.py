"""Signals as events of a loop."""

import os
import select
import signal

import pytest

from asm_supervisor.signals import Signals


def readable(signals):
    return bool(select.select([signals], [], [], 0)[0])


def test_signals_are_queued_in_order_and_everything_is_put_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Signals(signal.SIGTERM, signal.SIGINT) as signals:
        assert not readable(signals)
        assert signals.take() == []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert readable(signals)
        assert signals.take() == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
        assert not readable(signals)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_the_wakeup_descriptor_of_another_is_given_back():
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    with Signals(signal.SIGTERM):
        pass
    assert signal.set_wakeup_fd(-1) == writer
    os.close(reader)
    os.close(writer)


def test_a_fork_has_its_own_signals():
    with Signals(signal.SIGTERM) as signals:
        pid = os.fork()
        if pid == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        assert signals.take() == []


def test_two_thousand_signals_do_not_block():
    with Signals(signal.SIGUSR1) as signals:
        for _ in range(2000):
            signal.raise_signal(signal.SIGUSR1)
        assert len(signals.take()) == 2000


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_puts_everything_back_too(kind):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(kind), Signals(signal.SIGTERM):
        raise kind
    assert signal.getsignal(signal.SIGTERM) == before
