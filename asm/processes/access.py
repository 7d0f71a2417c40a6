"""Who may connect: decided by what the kernel says of the peer, at every accept.

    [supervisor]
    allow_users = ["www-data", 1001]
    allow_groups = ["agents"]

The user of the tree, and root, may always. As long as nobody else may, the files keep others out as well: the runtime
directory has the mode 0700 and each socket 0600. When others are allowed, the directory has 0711 and the sockets 0666, so that
anybody may knock, and nobody can list the names or put a file there. Handing the files to a group instead would need the tree
to be a member of it, and could express neither two groups nor a user; and whatever the files say, the kernel is asked.
"""

from __future__ import annotations

import grp
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from asm.core.errors import Error
from asm.wire.credentials import credentials

__all__ = ["Access", "find_group"]

SO_PEERGROUPS: Final = getattr(socket, "SO_PEERGROUPS", 59)
"""The peer's supplementary groups (Linux 4.13, ``asm-generic/socket.h``); Python has no name for it."""

_GROUPS_BYTES: Final = 1024
"""What Python reads of a socket option at the most: 256 groups. A process with more counts with its primary group alone."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may connect, beside the user of the tree and root.

    :param users: their uids.
    :param groups: gids; a process is let in that has one of them as its primary or as a supplementary group.
    """

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    @property
    def directory_mode(self) -> int:
        """The permissions of the runtime directory."""
        return 0o711 if self.users or self.groups else 0o700

    @property
    def socket_mode(self) -> int:
        """The permissions of a socket."""
        return 0o666 if self.users or self.groups else 0o600

    def refusal(self, connection: socket.socket, name: str) -> Error | None:
        """Return why the process at the other end may not connect to what has this name; ``None`` if it may."""
        _pid, uid, gid = credentials(connection)
        if uid in {0, os.geteuid()} or uid in self.users:
            return None
        if self.groups and (gid in self.groups or not self.groups.isdisjoint(_peer_groups(connection))):
            return None
        message = f"{name} does not let the user {uid} in; allow_users and allow_groups in its configuration may"
        return Error("storage_connection_failed", message, details={"reason": "not_allowed", "name": name})


def find_group(group: str | int) -> int:
    """Return the gid of a group.

    :param group: a name, or a gid, which needs no entry in the system's list of groups.
    :raises KeyError: when there is no group of this name.
    """
    return group if isinstance(group, int) else grp.getgrnam(group).gr_gid


def _peer_groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the process at the other end."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return ()  # more than fit, or a kernel that does not tell
    return struct.unpack(f"{len(raw) // 4}I", raw)
