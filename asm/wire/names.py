"""Names: where the socket of a store is, and that nobody else put it there.

A name is the path ``<runtime_dir>/<name>.sock``. The runtime directory is, in this order: the argument,
``ASM_RUNTIME_DIR``, ``$XDG_RUNTIME_DIR/asm``, ``/run/asm`` for root, and a private directory under the temporary one.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from asm.core.errors import Error

__all__ = ["check_name", "check_owner", "find_runtime_dir", "prepare_runtime_dir", "socket_path"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_PATH_BYTES: Final = 107
"""``sun_path`` has 108 bytes, the last of them NUL (unix(7))."""


def check_name(name: object) -> str:
    """Return the name.

    :raises Error: ``validation_error`` for one that is no name.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Error(
            "validation_error",
            f"{name!r} is no name; a name has letters, digits, '.', '_' and '-', and begins with a letter or digit",
            details={"field": "name"},
        )
    return name


def find_runtime_dir(runtime_dir: str | os.PathLike[str] | None = None) -> str:
    """Return the absolute path of the directory with the sockets, which may not exist yet.

    :param runtime_dir: where to look instead of the usual places.
    """
    if runtime_dir is not None:
        return os.path.abspath(runtime_dir)
    if given := os.environ.get("ASM_RUNTIME_DIR"):
        return os.path.abspath(given)
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(session, "asm")
    if os.geteuid() == 0:
        return "/run/asm"
    from tempfile import gettempdir  # noqa: PLC0415  # slow to import, and seldom needed

    return os.path.join(gettempdir(), f"asm-{os.geteuid()}")


def prepare_runtime_dir(path: str) -> None:
    """Make the directory, mode 0700, and verify that it is ours alone.

    :raises Error: ``storage_connection_failed`` when it cannot be made, is no directory, belongs to someone else, or lets
        others in.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise _unusable(path, f"cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(path, "is no directory")
    if found.st_uid != os.geteuid():
        raise _unusable(path, f"belongs to the user {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & 0o077:
        raise _unusable(path, f"lets others in (mode {stat.S_IMODE(found.st_mode):04o}); it must have mode 0700")


def check_owner(path: str) -> None:
    """Verify that the directory of a socket belongs to us or to root, unless it is not there at all.

    Anybody can make a directory below the temporary one, and would be sent whatever a client stores.

    :raises Error: ``storage_connection_failed``.
    """
    directory = os.path.dirname(path)
    try:
        owner = os.stat(directory).st_uid
    except OSError:
        return
    if owner not in (0, os.geteuid()):
        raise _unusable(directory, f"belongs to the user {owner}, not to {os.geteuid()} or root")


def socket_path(name: str, runtime_dir: str | os.PathLike[str] | None = None) -> str:
    """Return the path of a name's socket.

    :raises Error: ``validation_error`` for what is no name, or when the path is too long for a Unix socket.
    """
    path = os.path.join(find_runtime_dir(runtime_dir), f"{check_name(name)}.sock")
    if (size := len(os.fsencode(path))) > MAX_PATH_BYTES:
        raise Error(
            "validation_error",
            f"{path} is too long for a Unix socket ({size} bytes of at most {MAX_PATH_BYTES}); "
            "set ASM_RUNTIME_DIR to a shorter directory, or choose a shorter name",
            details={"field": "name", "path": path},
        )
    return path


def _unusable(path: str, problem: str) -> Error:
    return Error(
        "storage_connection_failed",
        f"the runtime directory {path} {problem}; set ASM_RUNTIME_DIR to a directory of yours",
        details={"path": path},
    )
