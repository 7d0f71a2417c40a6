"""Artifacts that are opened: from which byte on, and which version of them that is.

Whoever reads parts of an artifact does so in several streams, between which it may be replaced. So the first stream can say
which version it is of, and the others are of the same, or refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

from asm.core.errors import Error
from asm.wire.streams import PIECE, opened

__all__ = ["Opener"]

ATTEMPTS: Final = 10
"""How often an artifact is opened that is replaced each time while that is done."""


class _Version(NamedTuple):
    """What tells one version of an artifact from another."""

    byte_size: int
    name: str


class Opener:
    """Opens artifacts of a store.

    A file of the store's may know its ``byte_size`` and its ``version``, a text, itself or in its ``raw``. Of any other they
    are what ``stat`` says, if it says the same before and after.

    :param methods: of the store, by name.
    """

    def __init__(self, methods: Mapping[str, Callable[..., Any]]) -> None:
        self._methods = methods
        self._files_know = True
        """Whether what was opened last knew its version: then none is asked for that is not needed."""

    def open(self, arguments: dict[str, Any], meta: Mapping[str, Any]) -> tuple[bytes, BinaryIO]:
        """Return what is to be said in front of the bytes, and a file that stands where they begin.

        :param arguments: of ``open``, checked.
        :param meta: of the call: ``offset`` is where the bytes are to begin, ``version`` of which version they must be, and
            with ``info`` it is said in front which it is.
        :raises Error: ``storage_read_failed`` with the reason ``changed`` when that version is not there any more;
            ``validation_error``; whatever the store raises.
        """
        wanted, offset, informs = meta.get("version"), meta.get("offset", 0), meta.get("info") is True
        if type(offset) is not int or offset < 0 or not isinstance(wanted, str | None):
            raise Error("validation_error", "offset must be a number of bytes, and version a text", details={"field": "offset"})
        if wanted is None and not informs:
            file, head = self._methods["open"](**arguments), b""
        else:
            file, version = self._open_again(arguments, wanted) if wanted is not None else self._open(arguments)
            head = opened(version.byte_size, version.name) if informs else b""
        try:
            _skip(file, offset)
        except BaseException:
            file.close()
            raise
        return head, file

    def _open_again(self, arguments: dict[str, Any], wanted: str) -> tuple[BinaryIO, _Version]:
        """Open a version that was opened before."""
        try:
            file, version = self._open(arguments)
        except Error as error:
            if error.code != "not_found":
                raise
            raise _changed(arguments) from error
        if version.name != wanted:
            file.close()
            raise _changed(arguments)
        return file, version

    def _open(self, arguments: dict[str, Any]) -> tuple[BinaryIO, _Version]:
        """Open an artifact; return with the file which version that is of."""
        stat, open_ = self._methods["stat"], self._methods["open"]
        before = None if self._files_know else stat(**arguments)
        for _ in range(ATTEMPTS):
            file: BinaryIO = open_(**arguments)
            try:
                if (version := _known(file)) is not None:
                    return file, version
                self._files_know = False
                after = stat(**arguments)
            except BaseException:
                file.close()
                raise
            if after == before:
                return file, _Version(after.byte_size, after.checksum_sha256)
            file.close()
            before = after
        raise _changed(arguments)


def _known(file: Any) -> _Version | None:
    """Return which version a file is of, if it knows that."""
    raw = getattr(file, "raw", file)
    name = getattr(raw, "version", None)
    return None if name is None else _Version(raw.byte_size, name)


def _skip(file: BinaryIO, offset: int) -> None:
    """Go on in a file behind so many bytes. One that cannot seek is read up to there."""
    if not offset:
        return
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (read := file.read(min(offset, PIECE))):
        offset -= len(read)


def _changed(arguments: dict[str, Any]) -> Error:
    message = "the artifact was replaced or deleted while it was read; open it again"
    return Error("storage_read_failed", message, details={**arguments, "reason": "changed"})
