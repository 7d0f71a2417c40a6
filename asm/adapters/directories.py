"""Directories that stores keep their files in: checked before, made durable, private to their owner."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from asm.core import checks

__all__ = ["check_path", "check_place", "make_directories", "sync_directory"]


def check_path(path: Any, field: str) -> Path:
    """Check an option that holds a path; return it, absolute.

    :raises Error: ``validation_error``.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        checks.refuse(field, f"must be a path, not {checks.kind(path)}")
    return Path(checks.identifier(os.fspath(path), field)).absolute()


def check_place(directory: Path, field: str) -> None:
    """Check that a directory is there and can be written to, or could be made, and make nothing.

    :param field: the option to blame.
    :raises Error: ``validation_error``.
    """
    place = directory.absolute()
    while True:
        try:
            mode = place.stat().st_mode
            break
        except FileNotFoundError:
            place = place.parent
        except (OSError, ValueError) as error:
            checks.refuse(field, f"cannot be used: {place}: {getattr(error, 'strerror', error)}", path=str(place))
    if not stat.S_ISDIR(mode):
        checks.refuse(field, f"cannot be used: {place} is not a directory; choose another place", path=str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        checks.refuse(
            field, f"cannot be used: no permission to write to {place}; change it or choose another place", path=str(place)
        )


def make_directories(directory: Path) -> None:
    """Make the directory and the missing ones above it, readable by their owner only, to last through a power loss.

    :raises OSError: when one cannot be made.
    """
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
        sync_directory(path.parent)


def sync_directory(directory: str | Path, *, dir_fd: int | None = None) -> None:
    """Make the entries of a directory last through a power loss.

    :param dir_fd: the descriptor of the directory that a relative path begins at.
    :raises OSError: when that failed.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
