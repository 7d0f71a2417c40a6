"""A small supervision library in the manner of Erlang/OTP: processes that are started in order, watched, and restarted.

It owns processes, their listening sockets and the pipes to them, and knows nothing of what they do. Linux only: it
follows processes by pidfd.
"""

from asm_supervisor import anywhere  # noqa: F401  # first: what the others import needs it
from asm_supervisor.child import Child, StartFailed
from asm_supervisor.lifeline import Lifeline
from asm_supervisor.notify import Notifier
from asm_supervisor.outcomes import Exit, Reloaded
from asm_supervisor.restarts import Backoff, Restart
from asm_supervisor.snapshot import Snapshot
from asm_supervisor.sockets import Listener, ListenError, NameInUse
from asm_supervisor.spec import ChildSpec, SpecError
from asm_supervisor.states import State
from asm_supervisor.supervisor import Supervisor

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
