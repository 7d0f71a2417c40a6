"""What our stores have in common beside their contract: how they are checked, closed and started in a process.

A store need not derive from :class:`Adapter`. Whatever has the operations of a contract is one; see :mod:`asm.registry`.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from asm.core.errors import Error
from asm.core.options import options_of
from asm.registry import missing

if TYPE_CHECKING:
    from asm.linked import Handle

__all__ = ["Adapter"]


class Adapter:
    """The base of our stores."""

    blocking: ClassVar[bool] = True
    """Whether calls may wait for a disk or a network. A worker runs such calls in threads, others in its event loop; an
    artifact that moves in pieces is put and opened in a thread in any case."""

    closed: bool = False
    """Whether :meth:`close` was called, or the store is another process's."""

    _inherited: bool = False
    """Whether it is that of the process from which this one was forked."""

    def close(self) -> None:
        """Give back what the store holds. Closing twice is no error; calls that come after it are refused."""
        self.closed = True

    def require_open(self) -> None:
        """Refuse a call that comes after :meth:`close`, or in a process that was forked from the one that opened the store.

        :raises Error: ``storage_error`` with the reason ``closed`` or ``forked``.
        """
        if self.closed:
            name = type(self).__name__
            if self._inherited:
                problem = f"this {name} was opened before this process was forked, and is its parent's; open it anew here"
                raise Error("storage_error", problem, details={"reason": "forked"})
            raise Error("storage_error", f"this {name} is closed; make a new one", details={"reason": "closed"})

    def _forked(self) -> None:
        """Leave the store to the parent, in a forked process that was promised to be told (:mod:`asm.core.forks`).

        Nothing of it is closed here: its threads are not in this process, and its connections are in use in the other.
        """
        if not self.closed:
            self.closed = self._inherited = True

    @classmethod
    def preflight(cls, **options: Any) -> None:
        """Check options before anything is started or made. Nothing on disk is touched.

        :param options: the keyword arguments of the constructor.
        :raises Error: ``validation_error`` for options that can never work, with the name of the option in
            ``details["field"]``; ``dependency_not_available`` when a package is missing.
        """
        options_of(cls).check(options)

    @classmethod
    def start_link(
        cls, *, name: str | None = None, runtime_dir: str | None = None, timeout: float = 5.0, **options: Any
    ) -> Handle:
        """Start the store in a process of its own that dies with this one.

        :param name: the name that others can connect to; one is made up unless given.
        :param runtime_dir: where names live.
        :param timeout: seconds that a call through the handle may take.
        :param options: the keyword arguments of the constructor.
        :returns: a handle with the operations of the store, which is a context manager.
        :raises Error: as :meth:`preflight`, and whatever kept the store from starting.
        """
        try:
            from asm.linked import start_link  # noqa: PLC0415  # a store that is used without processes does not load them
        except ModuleNotFoundError as error:
            raise missing("start_link", error) from error

        return start_link(cls, options, name=name, runtime_dir=runtime_dir, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
