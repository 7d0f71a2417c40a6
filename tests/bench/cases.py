"""The cases by name, in the order in which they run."""

from collections.abc import Callable
from typing import NamedTuple

import artifacts
import calls
import durable
import listing
import queries
import reading
import upkeep
import whole


class Case(NamedTuple):
    """Something to measure."""

    rounds: Callable
    """Called with the run; an iterator of the figures of each round, by their names."""
    rows: Callable
    """Called with the size; the rows that its figures fill."""


CASES = {
    "one-client": Case(calls.one_client, lambda _: calls.ONE_CLIENT),
    "many-clients": Case(calls.many_clients, lambda _: calls.MANY_CLIENTS),
    "async-client": Case(calls.async_client, lambda _: calls.ASYNC_CLIENT),
    "durable-single": Case(durable.single_appends, lambda _: durable.SINGLE_APPENDS),
    "durable-batches": Case(durable.batched_appends, lambda _: durable.BATCHED_APPENDS),
    "much": Case(reading.much, reading.much_rows),
    "usage": Case(queries.usage, queries.usage_rows),
    "polls": Case(reading.polls, reading.polls_rows),
    "expecting": Case(whole.expecting, lambda _: whole.EXPECTING),
    "whole": Case(whole.whole, whole.whole_rows),
    "artifacts": Case(artifacts.large, artifacts.large_rows),
    "listed": Case(listing.listed, listing.listed_rows),
    "restart": Case(upkeep.killed, lambda _: upkeep.KILLED),
    "import": Case(upkeep.imported, lambda _: upkeep.IMPORTED),
    "idle": Case(upkeep.idle, lambda _: upkeep.IDLE),
}
