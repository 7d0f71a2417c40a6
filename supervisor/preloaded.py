"""What the fork server imports last. See :mod:`supervisor.preloading`."""

from supervisor.preloading import finish

finish()
