"""A program that changes one run again and again, while others do the same.

counting.py NAME RUNTIME_DIR RUN_ID TIMES [async]

Each change leaves a mark of its own, so that none passes for another. When what became of one is unknown, as somebody else has
changed the run since, it is looked for, and made again if it is not there.
"""

import asyncio
import os
import sys

import asm

NAME, RUNTIME_DIR, RUN_ID, TIMES, *HOW = sys.argv[1:]
OPTIONS = {"runtime_dir": RUNTIME_DIR, "timeout": 60.0, "retries": 1000}


async def count(store, do):
    """Make the changes; ``do`` awaits what a handle of asyncio returns, and passes on what another one does."""
    for number in range(int(TIMES)):
        mark = f"{os.getpid()}-{number}"

        def change(run, mark=mark):
            assert mark not in run.metadata, "made twice"
            return run.increment_turn().changed(metadata={**run.metadata, mark: True})

        while True:
            try:
                await do(store.update_run(RUN_ID, change))
                break
            except asm.Error as error:
                if not error.retryable:
                    raise
            if mark in (await do(store.get_run(RUN_ID))).metadata:
                break


async def same(value):
    return value


async def awaited(value):
    return await value


async def main():
    if HOW:
        async with asm.aio.connect(NAME, **OPTIONS) as store:
            await count(store, awaited)
    else:
        with asm.connect(NAME, **OPTIONS) as store:
            await count(store, same)


asyncio.run(main())
