"""The root of a file store: made, recognised, and told from whatever else may come to stand in its place.

::

    beside/.<name>.asm-store.json      a note that there is a store in the directory <name>, and its id
    beside/<name>/asm-store.json       the marker of the root, with the id of the store
    beside/<name>/objects, tmp, …      what :mod:`asm.adapters.files` keeps

A directory that is not there any more, because a volume is not mounted, looks like one that never was, and an empty mount
point looks like a new one. So a root bears a marker, every call makes sure of it, and works below a descriptor of the very
directory in which the marker was seen: nothing is looked up in, written to or made in another one, whatever is mounted or
moved meanwhile. The descriptor is held for no longer than a call, because a volume that is held cannot be unmounted.

The marker is away with its volume. That there was a store is told by the note, which stands beside the root and, if the root
is part of a mounted volume, beside the mount point, too, as far as somebody may write there. It is never needed as long as
the root is there, and is made again when it is missing.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from asm.adapters.artifact_file import MAGIC, failure
from asm.adapters.directories import check_place, make_directories, sync_directory
from asm.core import checks
from asm.core.errors import Error

__all__ = ["DIRECTORY", "INDEX", "MARKER", "NAME", "OBJECTS", "TMP", "Root", "examine"]

MARKER: Final = "asm-store.json"
INDEX: Final = "asm-index.sqlite"
OBJECTS: Final = "objects"
TMP: Final = "tmp"

DIRECTORY: Final = re.compile(r"[0-9a-f]{2}")
"""The names of the directories in ``objects``."""

NAME: Final = re.compile(r"[0-9a-f]{64}")
"""The names of the files in those."""

FORMAT: Final = 1
"""The version of the tree below a root, as its marker tells it."""

ROOM: Final = 4096
"""More than a marker has, in bytes."""

PLAIN: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""How files of ours are opened: whatever somebody else put there is neither followed nor waited for."""

NOT_AWAY: Final = {errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Why a root may fail to open although it is there."""

NEVER: Final = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""Why a path cannot be a root before somebody corrects something."""


def examine(path: Path, *, create: bool) -> str | None:
    """Look at what is to be the root of a store, and change nothing.

    :param path: absolute.
    :param create: whether a store may be made where there is none.
    :returns: the id of the store that is there; nothing where one is to be made, or to be marked because a version made it
        that had no markers.
    :raises Error: ``validation_error`` for what is no root and cannot become one; ``storage_read_failed`` with
        ``details["away"]`` when there should be a store and is none.
    """
    noted = _noted(path)
    found = _marker(path)
    names = set() if found is not None else _names(path)
    if MARKER in names:  # another process has made the store since then
        found = _marker(path)
    if found is not None:
        if set(noted.values()) - {found, None}:
            raise _away(path, f"it is another store than the one that was there; mount or restore that. {_forget(noted)}")
        if not _is_read_only(path):  # then there is still reading
            check_place(path, "root")
    elif noted:
        raise _away(path, f"there is no store any more; mount or restore it. {_forget(noted)}")
    elif any(place.is_symlink() and not place.exists() for place in (path, *path.parents)):
        raise _away(path, "a link leads nowhere; mount or restore what it leads to")
    elif not create:
        raise _away(path, f"there is no store (no {MARKER}), and with create = false none is made; mount or restore it")
    elif names and not _is_unmarked(path, names):
        checks.refuse(
            "root",
            f"cannot be used: {path} is not empty and holds no store of ours (no {MARKER}); nothing in it was touched. "
            "Choose an empty directory, or a new one below it",
            path=str(path),
        )
    else:
        check_place(path, "root")
    _check_one_file_system(path)
    return found


class Root:
    """The root of a store that is open. Safe to use from any thread.

    :param path: absolute.
    :param create: whether to make a store where there is none.
    :raises Error: as :func:`examine`, and ``storage_write_failed`` when the store cannot be made.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        found = examine(path, create=create)
        try:
            self._id = found or self._make()
        except OSError as error:
            raise failure("storage_write_failed", "make the artifact store", path, error) from error
        for note in _notes_to_write(path):
            with suppress(OSError):  # it can do without: then ``create = false`` has to tell that there is a store
                _write_note(note, self._id)

    @contextmanager
    def held(self, code: str, doing: str) -> Iterator[int]:
        """Hold the root while something is done below it: a descriptor of the directory that bears the marker.

        :param code: of the error: ``storage_read_failed`` or ``storage_write_failed``.
        :param doing: what is to be done, in words that fit behind "failed to".
        :raises Error: when the root is away, with ``details["away"]``, or cannot be opened.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._failure(code, doing, error) from error
        try:
            self._make_sure(descriptor, code, doing)
            yield descriptor
        finally:
            os.close(descriptor)

    def _make_sure(self, descriptor: int, code: str, doing: str) -> None:
        try:
            found = _id(_read(MARKER, dir_fd=descriptor))
        except OSError as error:
            raise self._failure(code, doing, error) from error
        if found != self._id:
            raise _away(self.path, "there is another store than the one that was opened", code, doing)

    def _failure(self, code: str, doing: str, error: OSError) -> Error:
        if error.errno in NOT_AWAY:
            return failure(code, doing, self.path, error)
        if error.errno == errno.ENOENT:
            return _away(self.path, f"there is no store any more (no {MARKER}); mount or restore it", code, doing)
        return _away(self.path, f"{error.strerror} ({errno.errorcode.get(error.errno or 0)})", code, doing)

    def _make(self) -> str:
        """Make what is missing, and the marker last: what has no marker is made again."""
        for name in (OBJECTS, TMP):
            make_directories(self.path / name)
        marker = self.path / MARKER
        content = json.dumps({"asm": "artifact store", "format": FORMAT, "id": secrets.token_hex(16)}) + "\n"
        temporary = self.path / TMP / f"{secrets.token_hex(8)}-0"
        try:
            _write(temporary, content, os.O_EXCL)
            with suppress(FileExistsError):  # another process was faster, and it is its store
                _give_name(temporary, marker)
        except FileNotFoundError:  # and has already removed what it takes for a leftover
            if not marker.exists():
                raise
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(self.path)
        made = _marker(self.path)
        if made is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(marker))
        return made


# -- What is there ----------------------------------------------------------------------------------------------------------


def _marker(path: Path) -> str | None:
    """Return the id that the marker of a root tells, if it has one.

    :raises Error: ``validation_error`` when there is something else in its place, or in that of the root.
    """
    try:
        content = _read(path / MARKER)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    found = _id(content)
    if found is None:
        checks.refuse(
            "root",
            f"cannot be used: {path / MARKER} is damaged, or of a newer version of asm; restore it, or install that version",
            path=str(path),
        )
    return found


def _names(path: Path) -> set[str]:
    """Return what else is in a root, which may not be there at all."""
    try:
        return set(os.listdir(path)) - {"lost+found"}  # noqa: PTH208  # names are what is needed
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> Error:
    """Return the error for a path that cannot be looked at: whether it is wrong, or away."""
    if error.errno not in NEVER:
        return _away(path, f"{error.strerror} ({errno.errorcode.get(error.errno or 0)})")
    check_place(path, "root")
    problem = f"root cannot be used: {error.strerror} at {path}"
    return Error("validation_error", problem, details={"field": "root", "path": str(path)})


def _is_unmarked(path: Path, names: set[str]) -> bool:
    """Tell whether a root is that of a store without a marker: it holds an artifact, or nothing but what such a store makes."""
    try:
        inside = list((path / OBJECTS).iterdir())
        ours = [directory for directory in inside if DIRECTORY.fullmatch(directory.name)]
        found = (file for directory in ours for file in directory.iterdir() if NAME.fullmatch(file.name))
        return any(map(_is_artifact, found)) or (names <= {OBJECTS, TMP, INDEX, f"{INDEX}-journal"} and ours == inside)
    except OSError:
        return False


def _is_artifact(file: Path) -> bool:
    try:
        return _read(file).startswith(MAGIC)
    except OSError:
        return False


def _is_read_only(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError as error:
        raise _unusable(path, error) from error


def _check_one_file_system(path: Path) -> None:
    """Refuse a root in which nothing can be renamed from ``tmp`` to its place."""
    tmp, objects = path / TMP, path / OBJECTS
    try:
        inside = sorted(entry for entry in objects.iterdir() if DIRECTORY.fullmatch(entry.name))
        apart = [directory for directory in (objects, *inside) if _are_apart(tmp, directory)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(path, error) from error
    if apart:
        checks.refuse(
            "root",
            f"cannot be used: {apart[0]} is on another file system than {tmp} or mounted by itself, and nothing can be renamed "
            f"from one to the other; mount all of {path} as one",
            path=str(apart[0]),
        )


def _are_apart(one: Path, other: Path) -> bool:
    """Tell whether no file can be renamed from one directory to another. None is: the kernel looks at the mounts first."""
    nothing = secrets.token_hex(16)
    try:
        (one / nothing).rename(other / nothing)
    except OSError as error:
        return error.errno == errno.EXDEV or one.stat().st_dev != other.stat().st_dev
    return False


# -- Notes ------------------------------------------------------------------------------------------------------------------


def _notes(path: Path) -> list[Path]:
    """Return where there may be a note of a root, from the nearest place on: its path from there is in its name."""
    paths = [(place, str(path.relative_to(place))) for place in path.parents]
    return [place / f".{name.replace('%', '%25').replace('/', '%2F')}.{MARKER}" for place, name in paths]


def _noted(path: Path) -> dict[Path, str | None]:
    """Return the notes of a root and the ids that they tell, which a torn one does not."""
    found: dict[Path, str | None] = {}
    for note in _notes(path):
        with suppress(OSError):
            found[note] = _id(_read(note))
    return found


def _notes_to_write(path: Path) -> list[Path]:
    """Return where a note is wanted: beside the root, and beside the point at which its volume is mounted."""
    beside, *further = _notes(path)
    with suppress(OSError):
        device = path.stat().st_dev
        if beside.parent.stat().st_dev == device:
            outside = [note for note in further if note.parent.stat().st_dev != device]
            return [beside, *(note for note in outside[:1] if note.parent != Path("/"))]  # that is no place for notes
    return [beside]


def _write_note(note: Path, store: str) -> None:
    with suppress(FileNotFoundError):
        if _id(_read(note)) == store:
            return
    content = {"asm": "there is an artifact store beside this file, or below it", "format": FORMAT, "id": store}
    _write(note, json.dumps(content) + "\n", os.O_TRUNC)  # torn, it still says that there is a store
    sync_directory(note.parent)


def _forget(noted: dict[Path, str | None]) -> str:
    return f"If it is gone for good, delete {' and '.join(map(str, noted))}, too"


def _away(path: Path, why: str, code: str = "storage_read_failed", doing: str = "open the artifact store") -> Error:
    details = {"away": True, "reason": "volume_away", "path": str(path)}
    return Error(code, f"failed to {doing}: the root {path} is away: {why}", details=details)


# -- Small files ------------------------------------------------------------------------------------------------------------


def _id(content: bytes) -> str | None:
    """Return the id of the store that a marker or a note tells, if it is one of a format that is known."""
    try:
        told = json.loads(content)
        return str(told["id"]) if told["format"] == FORMAT else None
    except (ValueError, TypeError, KeyError):
        return None


def _read(file: str | Path, *, dir_fd: int | None = None) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | PLAIN, dir_fd=dir_fd)
    try:
        return os.read(descriptor, ROOM)
    finally:
        os.close(descriptor)


def _write(file: Path, content: str, how: int) -> None:
    """Make a file, to last through a power loss once its directory is synced."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | how | PLAIN, 0o600)
    try:
        os.write(descriptor, content.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_name(temporary: Path, name: Path) -> None:
    """Give a file a name that nobody else has given to another one.

    :raises FileExistsError: when somebody has.
    """
    try:
        os.link(temporary, name)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without hard links
        temporary.rename(name)
