"""The four contracts: what a session store and an artifact store are, and what a session store may be beside that.

Each operation is spelled out here and nowhere else. The checks of its arguments, the proxies of the clients,
the routing of the composite and the dispatch of the workers follow from these signatures
(:mod:`asm.operations`).

Guarantees, in every implementation and through the composite:

1. Appended events never change and never move. A sequence number, once answered, is that event's for good. What was deleted of
   them leaves a gap that stays.
2. Sequences are per session, start at 1 and have no gap and no duplicate, however many processes and hosts append at once.
3. Read after write: what a call acknowledged, every later call by anyone sees.
4. A call that returns normally is durable to the degree the store promises.
5. A call that raises has changed nothing, unless its time was up or the way to the store was lost in the middle of it: the
   outcome of ``timeout``, of ``storage_connection_failed``, and of a ``storage_error`` with the reason ``backend_exited`` or
   ``shutting_down`` is unknown. Appends, puts and deletes are idempotent: repeating them is safe. Repeating a ``save_*`` may
   undo what somebody else saved in between; with ``replacing`` it does not.
6. Events need no saved session, and a run no saved session: the stores do not enforce that relation.
7. Writing is strict, and reading is tolerant: what a caller gives is checked before anything is done, and what is stored comes
   back as it is, also what another version stored. A type or status that is not known is a string then.

In every store alike an id, and an ``agent_id``, ``run_id``, ``provider``, ``correlation_id`` or ``parent_session_id``, has at
most 1,024 bytes of UTF-8 and no NUL; a free-form map nests at most 64 levels deep and has at most 1,000,000 values (keys,
elements, maps and lists counted). So has one call as a whole when the store is in another process, and at most 16 MiB.
"""

from asm.core.arguments import Data
from asm.ports.artifacts import ArtifactStore
from asm.ports.maintenance import Maintenance
from asm.ports.queries import SessionQueries
from asm.ports.sessions import ExecutionResult, SessionStore

__all__ = ["ArtifactStore", "Data", "ExecutionResult", "Maintenance", "SessionQueries", "SessionStore"]
