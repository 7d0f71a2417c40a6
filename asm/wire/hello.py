"""Hello: the question who the other side is, with which a connection begins, and what is made of the answer."""

from __future__ import annotations

from typing import Any

from asm._version import __version__
from asm.core.errors import Error
from asm.wire.messages import PROTOCOL, MessageError, decode_response

__all__ = ["Hello"]


class Hello:
    """The question, as what is in flight."""

    def respond(self, body: bytes) -> None:
        """Look at the answer. Who answers with an error does not say what it is, and is taken for one of ours."""
        try:
            _msgid, answer = decode_response(body)
        except Error:
            return
        if not isinstance(answer, dict):
            raise MessageError("hello is answered with a map")
        if answer.get("protocol") != PROTOCOL:
            raise _incompatible(answer)

    def carry(self, method: bytes, body: bytes, rest_at: int) -> None:
        """Refuse any stream."""
        raise MessageError("hello has no stream")


def _incompatible(answer: dict[str, Any]) -> Error:
    """Say that the other side speaks another version of the protocol, and who should be upgraded."""
    theirs, name, version = answer.get("protocol"), answer.get("name"), answer.get("version")
    newer = isinstance(theirs, int) and theirs > PROTOCOL
    remedy = "upgrade asm on this side" if newer else "upgrade asm where the store runs, and restart it"
    return Error(
        "capability_not_supported",
        f"{name} (asm {version}) speaks version {theirs} of the protocol, and this side (asm {__version__}) "
        f"version {PROTOCOL}: {remedy}",
        details={"reason": "protocol", "name": name, "ours": PROTOCOL, "theirs": theirs, "their_version": version},
    )
