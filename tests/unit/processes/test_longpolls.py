"""Who is told of appends: those who wait for them, and nobody as long as nobody waits."""

import asyncio

from asm.adapters.appends import Appends
from asm.processes.longpolls import LongPolls
from asm.processes.loops import run


class Poll:
    def __init__(self):
        self.woken = asyncio.Event()

    def wake(self):
        self.woken.set()


def test_a_store_tells_of_its_appends_as_long_as_somebody_waits_for_any():
    class Counted(Appends):
        told = 0

        def subscribe(self, callback):
            def counting(session_id):
                self.told += 1
                callback(session_id)

            return super().subscribe(counting)

    async def scenario():
        appends = Counted()
        polls, one, other = LongPolls(appends), Poll(), Poll()
        appends.announce(["ses"])
        assert appends.told == 0
        polls.add("ses", one)
        polls.add("other", other)
        polls.remove("other", other)
        appends.announce(["ses"])
        await one.woken.wait()
        assert not other.woken.is_set()
        polls.remove("ses", one)
        appends.announce(["ses"])
        assert appends.told == 1
        polls.add("ses", other)
        appends.announce(None)
        await other.woken.wait()
        polls.close()
        appends.announce(["ses"])
        assert appends.told == 2

    run(scenario())
