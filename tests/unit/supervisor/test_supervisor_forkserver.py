"""The fork server, as the process that has started it knows it."""

import os

from asm_supervisor.forkserver import ForkServer


def test_of_one_that_has_ended_nothing_is_closed_or_killed_again(in_a_fork):
    """Its descriptors have gone, and their numbers are somebody else's."""
    server = ForkServer([])
    server.stop()
    ends = [end for _ in range(4) for end in os.pipe()]
    assert in_a_fork(lambda: [os.fstat(end) for end in ends]) == 0
    server.kill()
    server.abandon()
    for end in ends:
        os.close(end)
    assert not server.alive
