"""What a service manager is told: systemd's ``sd_notify`` protocol, as far as a supervisor needs it.

``NOTIFY_SOCKET`` names a datagram socket; each message is lines of ``NAME=value`` (sd_notify(3)). With ``WATCHDOG_USEC`` the
manager expects a sign of life at least that often, and restarts the service if none comes (sd_watchdog_enabled(3)).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Final, Self

__all__ = ["Notifier"]

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells a service manager how the service is. Whatever is wrong with that does not keep the service from its work.

    :param path: the manager's socket; ``@`` at its beginning stands for the abstract namespace; ``None``: nobody is told.
    :param watchdog: within how many seconds a sign of life is expected; ``None``: none is.
    :ivar interval: every how many seconds to call :meth:`alive`; ``None``: never.
    """

    def __init__(self, path: str | None = None, watchdog: float | None = None) -> None:
        self._address = None if not path else f"\0{path[1:]}" if path.startswith("@") else path
        self.interval = None if self._address is None or watchdog is None else watchdog / 2

    @classmethod
    def from_environment(cls) -> Self:
        """Make the one that the environment describes, and remove it from there: it is not for this process's children."""
        path, usec, pid = (os.environ.pop(name, None) for name in VARIABLES)
        ours = pid is None or pid == str(os.getpid())
        return cls(path, int(usec) / 1e6 if usec and usec.isdigit() and int(usec) and ours else None)

    def ready(self) -> None:
        """Tell that the service is up, or that it has taken its new configuration."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Tell how the service is, in one line for a person."""
        self._send(f"STATUS={' '.join(text.split())}")

    def reloading(self) -> None:
        """Tell that the service reads its configuration again; :meth:`ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Tell that the service is going down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
            manager.sendto(message.encode(), self._address)
