"""Credentials: which process is at the other end of a Unix socket, as the kernel knows it, and which users are trusted.

Nothing that a process says of itself counts here, and no permission of a file: these can be lifted by hand.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from typing import Final, NamedTuple

from asm.core.errors import Error

__all__ = ["Credentials", "credentials", "find_user", "trusted_users"]

_UCRED: Final = struct.Struct("iII")
"""``struct ucred``: pid, uid, gid (unix(7), SO_PEERCRED)."""


class Credentials(NamedTuple):
    """Who made a connection, or, at its other end, who listens for it."""

    pid: int
    uid: int
    gid: int


def credentials(connection: socket.socket) -> Credentials:
    """Return the credentials of the process at the other end, as they were when it connected or began to listen."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Credentials(*_UCRED.unpack(raw))


def find_user(user: str | int) -> int:
    """Return the uid of a user.

    :param user: a name, or a uid, which needs no entry in the system's list of users.
    :raises KeyError: when there is no user of this name.
    """
    return user if isinstance(user, int) else pwd.getpwnam(user).pw_uid


def trusted_users() -> frozenset[int]:
    """Return the uids of those whose stores a program connects to: itself, root, and whom ``ASM_TRUST_USERS`` names.

    That variable holds names or uids with commas between them. Whoever is not among them would be sent what the program stores.

    :raises Error: ``validation_error`` when it names a user who does not exist.
    """
    trusted = {0, os.geteuid()}
    for user in filter(None, (part.strip() for part in os.environ.get("ASM_TRUST_USERS", "").split(","))):
        try:
            trusted.add(find_user(int(user) if user.isdecimal() else user))
        except KeyError:
            problem = f"ASM_TRUST_USERS: there is no user {user!r} on this host; give names or uids, with commas between them"
            raise Error("validation_error", problem, details={"field": "ASM_TRUST_USERS"}) from None
    return frozenset(trusted)
