"""The benchmarks: ours beside what others reach, in one run, because only the ratio says anything on a noisy machine.

    python tests/bench [CASE ...] [--rounds 3] [--size quick] [--peers-python PATH] [--json PATH] [--growth] [--steps]

Each round measures the anchor and ours one after the other; the figures are medians of the rounds, and a ratio is the median
of the rounds' ratios. Other stores and supervisors are measured when they are installed: those for Python in an environment
of their own, whose interpreter ``--peers-python`` names.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from cases import CASES
from growth import GROWTHS, grow
from measuring import SIZES, Bench
from steps import HEAD as STEPS_HEAD
from steps import TREE_HEAD, alone, in_a_tree
from table import HEAD, render, results

import asm


def main(arguments=None):
    """Measure, print the tables, write the file; return the exit code: 1 when a case could not be measured."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and not without ending what was started
    began = time.monotonic()
    machine = _machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="asm-bench-") as directory,
        Bench(SIZES[options.size], options.rounds, directory, options.peers_python) as bench,
    ):
        measured, failed = _measure(bench, options.case)
        if options.steps:
            print("\n" + render(STEPS_HEAD, alone(bench)) + "\n\n" + render(TREE_HEAD, in_a_tree(bench)))
        tables = {} if options.growth is None else grow(bench, options.growth or GROWTHS)
    seconds = round(time.monotonic() - began, 1)
    print(f"\n{options.rounds} rounds, size {options.size}, {seconds} s")
    report = {
        "machine": machine,
        "size": options.size,
        "rounds": options.rounds,
        "seconds": seconds,
        "results": [result.to_map() for result in measured],
        "failed": failed,
        "growth": tables,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False))
    return 1 if failed else 0


def _measure(bench, names):
    """Measure cases, and print the table; return its rows, and why a case has none."""
    measured, failed = [], {}
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        case = CASES[name]
        try:
            done = results(name, case.rows(bench.size), list(case.rounds(bench)), bench.absent)
        except Exception as error:  # noqa: BLE001  # the other cases are measured all the same
            traceback.print_exc()
            failed[name] = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        else:
            print("\n".join("  " + ", ".join(filter(None, line.cells())) for line in done), file=sys.stderr, flush=True)
            measured += done
    print("\n" + render(HEAD, [result.cells() for result in measured]))
    for command in dict.fromkeys(bench.absent.values()):
        missing = ", ".join(name for name, installs in bench.absent.items() if installs == command)
        print(f"not installed: {missing}: {command}")
    for name, error in failed.items():
        print(f"FAILED: {name}: {error}")
    return measured, failed


def _options(arguments):
    parser = argparse.ArgumentParser(prog="bench", description="Measure ours beside what others reach.")
    parser.add_argument("case", nargs="*", help=f"what to measure, by default all: {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the figures are medians (default: 3)")
    parser.add_argument("--size", choices=SIZES, default="full", help="how much of everything (default: full)")
    parser.add_argument("--peers-python", type=Path, metavar="PATH", help="the interpreter in which the peers are installed")
    parser.add_argument(
        "--growth",
        nargs="*",
        choices=GROWTHS,
        metavar="WHAT",
        help=f"show how cost grows, too: {', '.join(GROWTHS)} (default: all)",
    )
    parser.add_argument("--steps", action="store_true", help="show where the time of a call goes, too")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), metavar="PATH", help="the file to write")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("there must be a round")
    if unknown := [name for name in options.case if name not in CASES]:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    options.case = options.case or list(CASES)
    return options


def _machine():
    return {
        "asm": asm.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    sys.exit(main())
