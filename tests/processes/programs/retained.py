"""Applies retention to the store of a tree, and writes a line after each step: ``retained.py RUNTIME_DIR``."""

import sys
from datetime import timedelta

import asm
from asm import retention

POLICY = retention.RetentionPolicy(max_events_per_session=4, archive=True, batch_size=3)


def main(runtime_dir):
    """Small steps, and nothing too young to be deleted."""
    retention.STEP, retention.GRACE = 2, timedelta(0)
    with asm.connect("MyApp.Store", runtime_dir=runtime_dir, timeout=30) as store:
        report = retention.apply(store, POLICY, progress=lambda _: print("step", flush=True))
    assert not report.errors, report.errors
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
