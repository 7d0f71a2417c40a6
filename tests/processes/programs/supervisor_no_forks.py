"""A module whose import has every later fork of the process fail once, as on a system without room for one more process."""

import os

_fork = os.fork


def _refuse():
    os.fork = _fork
    raise BlockingIOError(11, "Resource temporarily unavailable")


os.fork = _refuse
