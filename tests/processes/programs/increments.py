"""A program that counts the turns of a run, one after the other: increments.py RUNTIME_DIR RUN_ID TIMES."""

import sys

import asm


def main(runtime_dir, run_id, times):
    with asm.connect("MyApp.Store", runtime_dir=runtime_dir, timeout=60) as store:
        for _ in range(int(times)):
            store.update_run(run_id, lambda run: run.increment_turn())


main(*sys.argv[1:])
