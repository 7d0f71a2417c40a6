"""A client that behaves: it makes calls until its input ends, checks every answer, and tells how long they took.

good_client.py RUNTIME_DIR NAME
"""

import json
import sys
import threading
import time

import asm

SESSION = "ses_good"


def main(runtime_dir, name):
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    seconds, number = [], 0
    with asm.connect(name, runtime_dir=runtime_dir, timeout=30) as store:
        while number == 0 or not ended.is_set():
            number += 1
            event = asm.Event.new(type="message_sent", session_id=SESSION, data={"number": number})
            for call, wanted in (
                (lambda: store.append_event_with_sequence(event).sequence_number, number),  # noqa: B023  # called at once
                (lambda: store.get_events(SESSION, after=number - 1)[0].data, {"number": number}),  # noqa: B023
                (lambda: store.put("good", str(number).encode()), None),  # noqa: B023
                (lambda: store.get("good"), str(number).encode()),
            ):
                began = time.monotonic()
                answer = call()
                seconds.append(time.monotonic() - began)
                assert answer == wanted, (answer, wanted)
            print(len(seconds), flush=True)
    seconds.sort()
    print(json.dumps({"calls": len(seconds), "p50": seconds[len(seconds) // 2], "p99": seconds[int(len(seconds) * 0.99)]}))


main(*sys.argv[1:])
