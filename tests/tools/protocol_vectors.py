"""Print the test vectors of asm/wire/PROTOCOL.md, made with the code: python tests/tools/protocol_vectors.py."""

import json
from datetime import UTC, datetime

from asm.core.errors import Error
from asm.core.results import Page
from asm.core.values import Event
from asm.operations import OPERATIONS
from asm.wire import messages
from asm.wire.calls import encode_arguments, encode_result
from asm.wire.frames import frame
from asm.wire.messages import CANCEL, MALFORMED, PROTOCOL, decode, packed
from asm.wire.streams import chunk, more, opened

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
APPEND = OPERATIONS["append_event_with_sequence"]
SEARCH = OPERATIONS["search_events"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def vectors() -> list[bytes]:
    """Return the frames."""
    event = Event.new(id="evt_1", type="message_received", session_id="ses_1", timestamp=WHEN, data={"content": "Hi"})
    error = Error("session_not_found", "there is no session 'ses_1'", details={"session_id": "ses_1"}, timestamp=WHEN)
    rows = b"".join(packed(event.sequenced(number).held_fields()) for number in (1, 2))
    bodies = [
        messages.request(1, "session.get_session", {"session_id": "ses_1"}, {"timeout_ms": 5000}),
        messages.error(1, error),
        messages.request(2, "session.append_event_with_sequence", encode_arguments(APPEND, {"event": event})),
        messages.result(2, encode_result(APPEND, event.sequenced(1))),
        messages.request(
            6, "session.append_event_with_sequence", encode_arguments(APPEND, {"event": event}), {"numbers": True}
        ),
        messages.result(6, encode_result(APPEND, event.sequenced(1), {"event": event})),
        messages.request(3, "artifact.put", {"key": "patch-1", "data": b"\x00\xff"}),
        messages.result(3, None),
        messages.request(5, "artifact.put", {"key": "patch-2", "data": None}, {"stream": True}),
        b"".join(chunk(5, b"piece")),
        more(5, 5),
        b"".join(chunk(5, 5)),
        messages.result(5, None),
        messages.request(4, "hello", {"relay": True}),
        messages.result(
            4, {"name": "MyApp.Store", "protocol": PROTOCOL, "version": "0.1.0", "contracts": ["session", "artifact"]}
        ),
        messages.request(7, "session.get_events", {"session_id": "ses_1"}, {"stream": True, "traceparent": TRACE}),
        b"".join(chunk(7, rows[:100])),
        messages.result(7, [rows[100:], len(rows)]),
        messages.request(8, "query.search_events", {"session_ids": ["ses_1"]}, {"stream": True}),
        b"".join(chunk(8, rows[:100])),
        messages.result(8, [rows[100:] + packed("next"), len(rows) + 5]),
        messages.request(9, "query.search_events", {"session_ids": ["ses_2"]}, {"stream": True}),
        messages.result(9, encode_result(SEARCH, Page([], None))),
        messages.request(11, "artifact.open", {"key": "patch-2"}, {"stream": True, "info": True}),
        messages.result(11, [opened(5, "5e5e") + b"piece", len(opened(5, "5e5e")) + 5]),
        messages.request(10, "artifact.open", {"key": "patch-2"}, {"stream": True, "offset": 3, "version": "5e5e"}),
        messages.result(10, [b"ce", 2]),
        messages.refusal(Error("storage_error", "full", details={"reason": "overloaded"}, timestamp=WHEN)),
        messages.notification(CANCEL, [3]),
        messages.notification(MALFORMED, [3]),
    ]
    return [frame(body) for body in bodies]


def meaning(data: bytes) -> str:
    """Say in JSON what a frame holds; a time as {"time": …}, bytes as {"bin": hexadecimal}."""

    def shown(value: object) -> object:
        if isinstance(value, datetime):
            return {"time": value.isoformat()}
        return {"bin": bytes(value).hex()}

    return json.dumps(decode(data[4:]), default=shown)


if __name__ == "__main__":
    print("\n\n".join(f"{meaning(data)}\n{data.hex()}" for data in vectors()))
