"""Names: where the socket of a store is, and that nobody else put it there.

A name is the path ``<runtime_dir>/<name>.sock``. The runtime directory is, in this order: the argument,
``ASM_RUNTIME_DIR``, ``$XDG_RUNTIME_DIR/asm``, ``/run/asm`` for root, and a private directory under the temporary one.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from typing import Final

from asm.core.errors import Error
from asm.wire.credentials import credentials, trusted_users

__all__ = ["check_listener", "check_name", "check_owner", "find_runtime_dir", "prepare_runtime_dir", "socket_path"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
OPEN_MODE: Final = 0o711
"""What a runtime directory may let others do at the most: pass through it to a name that they know."""

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
    :raises Error: ``storage_connection_failed`` when none of them can be found: no temporary directory can be written to, or
        a relative path is given and the working directory is gone.
    """
    try:
        if given := runtime_dir or os.environ.get("ASM_RUNTIME_DIR"):
            return os.path.abspath(given)
        if session := os.environ.get("XDG_RUNTIME_DIR"):
            return os.path.join(session, "asm")
        if os.geteuid() == 0:
            return "/run/asm"
        from tempfile import gettempdir  # noqa: PLC0415  # slow to import, and seldom needed

        return os.path.join(gettempdir(), f"asm-{os.geteuid()}")
    except OSError as error:
        raise Error(
            "storage_connection_failed",
            f"there is no runtime directory: {error.strerror}; set ASM_RUNTIME_DIR to the full path of a directory of yours",
        ) from error


def prepare_runtime_dir(path: str, mode: int = 0o700) -> None:
    """Make the directory, and verify that it is ours alone and that nobody else has put anything there.

    :param path: the runtime directory.
    :param mode: its permissions: 0700, or 0711 when other users may connect. One of ours with 0700 is opened to them; one with
        0711 is left so, because another tree may have opened it, and what lets nobody list or make a name harms no other.
    :raises Error: ``storage_connection_failed`` when it cannot be made, is no directory, belongs to someone else, lets others
        in, or holds a symbolic link or a file of someone else's.
    """
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise _unusable(path, "is no directory")
        if found.st_uid != os.geteuid():
            raise _unusable(path, f"belongs to the user {found.st_uid}, not to {os.geteuid()}")
        if (given := stat.S_IMODE(found.st_mode)) & 0o777 & ~OPEN_MODE:
            raise _unusable(path, f"lets others in (mode {given:04o}); it must have mode {mode:04o}")
        if given & mode != mode:
            os.chmod(path, mode)
        with os.scandir(path) as entries:
            for entry in entries:
                _check_entry(path, entry)
    except OSError as error:
        raise _unusable(path, f"cannot be made: {error.strerror}") from error


def check_owner(path: str) -> None:
    """Verify, before anything is sent, that a socket and its directory are those of a user whom we trust, if they are there.

    Anybody can make a directory below the temporary one, and would be sent whatever a client stores.

    :raises Error: ``storage_connection_failed``.
    """
    trusted = trusted_users()
    directory = os.path.dirname(path)
    for place, kind in ((directory, stat.S_ISDIR), (path, stat.S_ISSOCK)):
        try:
            found = os.lstat(place)
        except OSError:
            return
        if found.st_uid not in trusted:
            raise _unusable(directory, f"{'' if place == directory else 'has a socket that '}{_not_trusted(found.st_uid)}")
        if not kind(found.st_mode):
            raise _unusable(directory, "is no directory" if place == directory else f"has no socket at {path}")


def check_listener(connection: socket.socket, path: str) -> None:
    """Verify, before anything is sent, that a user whom we trust listens at the other end.

    The files were looked at before the connection was made; who made the socket, the kernel knows for certain.

    :raises Error: ``storage_connection_failed``.
    """
    if (uid := credentials(connection).uid) not in trusted_users():
        raise _unusable(os.path.dirname(path), f"has a socket that {_not_trusted(uid)}")


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


def _check_entry(path: str, entry: os.DirEntry[str]) -> None:
    """Refuse what somebody else, or a symbolic link, has put in the place of a file of ours."""
    try:
        owner = entry.stat(follow_symlinks=False).st_uid
    except FileNotFoundError:
        return  # another tree stopped just now
    if owner != os.geteuid():
        raise _unusable(path, f"holds {entry.name!r}, which belongs to the user {owner}; remove it")
    if entry.is_symlink():
        raise _unusable(path, f"holds {entry.name!r}, a symbolic link; remove it")


def _not_trusted(uid: int) -> str:
    return f"belongs to the user {uid}, not to {os.geteuid()}, to root, or to one whom ASM_TRUST_USERS names"


def _unusable(path: str, problem: str) -> Error:
    return Error(
        "storage_connection_failed",
        f"the runtime directory {path} {problem}; set ASM_RUNTIME_DIR to a directory of yours",
        details={"path": path},
    )
