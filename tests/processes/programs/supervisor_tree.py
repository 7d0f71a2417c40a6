"""A program that supervises the children which its argument describes, and says on its output what happens.

The argument is a JSON map: ``specs``, and the settings of a supervisor. Each line of the output is a JSON map.
"""

import json
import logging
import os
import sys
from pathlib import Path

import supervisor_targets

from supervisor import Backoff, ChildSpec, Supervisor


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def main():
    settings = json.loads(sys.argv[1])
    files = os.listdir("/proc/self/fd")
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(process)d %(message)s")
    specs = [
        ChildSpec(
            **{
                **spec,
                "target": getattr(supervisor_targets, spec["target"]),
                "listen": Path(spec["listen"]) if "listen" in spec else None,
            }
        )
        for spec in settings.pop("specs")
    ]
    os.environ.update(settings.pop("environment", {}))
    tree = Supervisor(
        specs,
        name="tree",
        backoff=Backoff(**settings.pop("backoff", {})),
        on_change=lambda child: say(
            child=child.name, state=child.state, pid=child.pid, reason=child.reason, restarts=child.restarts, since=child.since
        ),
        on_ready=lambda children: say(
            ready={child.name: child.pid for child in children}, info=[dict(c.info) for c in children]
        ),
        on_message=lambda child, message, body: say(child=child.name, message=message, body=body),
        **settings,
    )
    end = tree.run()
    # The one who runs this looks at what is left, and then closes our input.
    say(
        exit=end.kind,
        reason=end.reason,
        child=end.child,
        error=end.error,
        files_before=files,
        files_after=os.listdir("/proc/self/fd"),
    )
    sys.stdin.read()


if __name__ == "__main__":
    main()
