"""Calls functions, each in a process forked from this one, so that a hundred processes that die cost few seconds.

forks.py MODULE...        all that is worth importing beforehand

A line of the input is a call, ["module:function", {arguments}] in JSON; a line of the output is how its process ended: its
exit code, or the number of the signal that killed it, negative. An exception is told on stderr, and is 1.
"""

import importlib
import json
import os
import sys
import traceback


def call(reference, arguments):
    module, _, function = reference.partition(":")
    try:
        getattr(importlib.import_module(module), function)(**arguments)
    except BaseException:  # noqa: BLE001  # this process ends here
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(modules):
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            call(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
