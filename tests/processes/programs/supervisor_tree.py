"""A program that supervises the children which its argument describes, and says on its output what happens.

The argument is a JSON map: ``specs``, and the settings of a supervisor. Each line of the output is a JSON map. Each line of
the input is a JSON map, too, and asks for something: ``restart`` a child, ``reload`` other specs, ``stop`` for a reason.
"""

import json
import logging
import os
import sys
import threading
from pathlib import Path

import supervisor_targets

from asm_supervisor import Backoff, ChildSpec, Notifier, Supervisor


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def described(specs):
    return [
        ChildSpec(
            **{
                **spec,
                "target": getattr(supervisor_targets, spec["target"]),
                "listen": Path(spec["listen"]) if "listen" in spec else None,
            }
        )
        for spec in specs
    ]


def lines():
    """Yield the lines of the input. Not from ``sys.stdin``: a thread that reads there holds its lock, and a fork needs that."""
    with open(0, "rb", buffering=0, closefd=False) as file:
        yield from file


def obey(tree):
    """Do what the lines of the input ask for, until its end."""
    asked = {
        "restart": tree.restart,
        "stop": tree.stop,
        "reload": lambda specs: tree.reload(described(specs)),
        "troubles": lambda _: [child.trouble for child in tree.children if child.listen],
        "children": lambda _: [(child.name, child.state, dict(child.stats), len(child.history)) for child in tree.children],
    }
    for line in lines():
        ((name, argument),) = json.loads(line).items()
        try:
            result = tree.post(lambda name=name, argument=argument: asked[name](argument)).result()
        except Exception as error:  # noqa: BLE001  # whoever asked is told
            say(refused=name, error=type(error).__name__, text=str(error))
        else:
            say(done=name, result=result if name in {"children", "troubles"} else repr(result))


def main():
    settings = json.loads(sys.argv[1])
    files = os.listdir("/proc/self/fd")
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(process)d %(message)s")
    specs = described(settings.pop("specs"))
    os.environ.update(settings.pop("environment", {}))
    directory = settings.pop("prepare", None)
    tree = Supervisor(
        specs,
        name="tree",
        notifier=Notifier.from_environment(),
        on_hangup=lambda: say(hangup=True),
        backoff=Backoff(**settings.pop("backoff", {})),
        on_change=lambda child: say(
            child=child.name, state=child.state, pid=child.pid, reason=child.reason, restarts=child.restarts, since=child.since
        ),
        on_ready=lambda children: say(
            ready={child.name: child.pid for child in children}, info=[dict(c.info) for c in children]
        ),
        on_message=lambda child, message, body: say(child=child.name, message=message, body=body),
        prepare=directory and (lambda: Path(directory).mkdir(exist_ok=True)),
        **settings,
    )
    reader = threading.Thread(target=obey, args=(tree,))
    reader.start()
    end = tree.run(last=True)
    # The one who runs this looks at what is left, and then closes our input.
    say(
        exit=end.kind,
        reason=end.reason,
        child=end.child,
        error=end.error,
        files_before=files,
        files_after=os.listdir("/proc/self/fd"),
    )
    reader.join()


if __name__ == "__main__":
    main()
