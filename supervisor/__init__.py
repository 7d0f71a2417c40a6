"""A small supervision library in the manner of Erlang/OTP: processes that are started in order, watched, and restarted.

It owns processes, their listening sockets and the pipes to them, and knows nothing of what they do. Linux only: it
follows processes by pidfd.
"""

from supervisor.child import Child, Snapshot, StartFailed
from supervisor.lifeline import Lifeline
from supervisor.notify import Notifier
from supervisor.restarts import Backoff, Restart
from supervisor.sockets import Listener, ListenError, NameInUse
from supervisor.spec import ChildSpec, SpecError
from supervisor.states import State
from supervisor.supervisor import Exit, Reloaded, Supervisor

__all__ = [
    "Backoff",
    "Child",
    "ChildSpec",
    "Exit",
    "Lifeline",
    "ListenError",
    "Listener",
    "NameInUse",
    "Notifier",
    "Reloaded",
    "Restart",
    "Snapshot",
    "SpecError",
    "StartFailed",
    "State",
    "Supervisor",
]
