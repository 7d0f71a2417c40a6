"""A map and a list that cannot be changed, for the free-form fields of the values.

They are a ``dict`` and a ``list`` to everything that reads (``==``, ``json``, ``msgpack``, ``**``), and refuse
everything that writes. So a stored event can be handed to any number of callers without a copy.
``dict(m)`` and ``list(l)`` return copies that can be changed.
"""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["FrozenList", "FrozenMap"]


def _refuse(self: object, *_args: Any, **_kwargs: Any) -> NoReturn:
    message = (
        f"{type(self).__name__} cannot be changed; make a copy with {type(self).__mro__[1].__name__}(…) and a new value from it"
    )
    raise TypeError(message)


class FrozenMap(dict[str, Any]):
    """A ``dict`` that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> FrozenMap:
        """Return itself: it never changes."""
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> FrozenMap:
        """Return itself: what it holds never changes either."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by way of a plain ``dict``, because unpickling would set items."""
        return FrozenMap, (dict(self),)


class FrozenList(list[Any]):
    """A ``list`` that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> FrozenList:
        """Return itself: it never changes."""
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> FrozenList:
        """Return itself: what it holds never changes either."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by way of a plain ``list``, because unpickling would append."""
        return FrozenList, (list(self),)
