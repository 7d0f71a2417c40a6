"""What other processes do with a handle that they were sent."""

import asyncio

import asm


def append(store):
    """Append an event; return its number."""
    return store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses_1")).sequence_number


def append_in_a_loop(store):
    """Append an event with asyncio; return its number."""
    return asyncio.run(store.append_event_with_sequence(asm.Event.new(type="message_sent", session_id="ses_1"))).sequence_number
