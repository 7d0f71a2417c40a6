"""Imports multiprocess also where no temporary directory can be written to, such as in a container whose root is read-only.

multiprocess pickles with dill, and dill asks for the temporary directory when it is imported, for a default that nobody here
uses. Whoever asks for it later is told as ever that there is none.
"""

from __future__ import annotations

import tempfile

try:
    tempfile.gettempdir()
except OSError:
    tempfile.tempdir = "/"
    try:
        import multiprocess  # noqa: F401
    finally:
        tempfile.tempdir = None
