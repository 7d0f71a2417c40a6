"""What is called from other threads, and when what is sent goes out."""

import asyncio
import itertools
import selectors
import threading

import pytest

from asm.processes.loops import Loop, run


def test_posts_of_many_threads_are_all_called_in_the_loop_each_threads_in_order():
    async def scenario():
        loop, called, all_called = Loop.running(), [], asyncio.Event()

        def note(*item):
            called.append((item, threading.current_thread()))
            if len(called) == 4000:
                all_called.set()

        def post(name):
            for number in range(1000):
                loop.post(note, name, number)

        threads = [threading.Thread(target=post, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        await all_called.wait()
        for thread in threads:
            thread.join()
        assert {thread for _item, thread in called} == {threading.main_thread()}
        for name in range(4):
            assert [number for (whose, number), _thread in called if whose == name] == list(range(1000))

    run(scenario())


def test_a_post_that_fails_is_told_and_keeps_nobody_else_waiting():
    async def scenario():
        loop, told, called = Loop.running(), [], asyncio.Event()
        loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
        loop.post(lambda: 1 / 0)
        loop.post(called.set)
        await called.wait()
        assert [type(error) for error in told] == [ZeroDivisionError]

    run(scenario())


def test_a_closed_loop_takes_no_posts():
    loop = Loop()
    loop.close()
    with pytest.raises(RuntimeError):
        loop.post(print)


def test_what_is_sent_in_a_turn_goes_out_at_its_end_even_if_nothing_else_happens():
    class Sender:
        flushed = 0

        def flush(self):
            self.flushed += 1
            loop.call_soon(done.set)  # must not have to wait for an event

    async def scenario():
        sender = Sender()
        loop.unflushed.append(sender)
        await done.wait()
        assert sender.flushed == 1

    done = asyncio.Event()
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        runner.run(scenario())


def test_it_looks_for_an_answer_before_it_sleeps_unless_the_last_one_took_long(monkeypatch):
    class Sender:
        def flush(self):
            timeouts.clear()

    def select(selector, timeout=None):
        timeouts.append(timeout)
        return waits(selector, timeout)

    async def send_and_sleep():
        Loop.running().unflushed.append(Sender())
        await asyncio.sleep(0.5)  # is longer than the machine may be busy with something else
        return len(list(itertools.takewhile(lambda timeout: timeout == 0, timeouts)))

    async def scenario():
        assert await send_and_sleep() > 1
        assert await send_and_sleep() == 1  # of those who may have to do something now

    timeouts, waits = [], selectors.EpollSelector.select
    monkeypatch.setattr(selectors.EpollSelector, "select", select)
    run(scenario())
