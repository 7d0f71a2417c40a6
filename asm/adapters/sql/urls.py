"""The URL of a database: checked before anything is opened, and shown without what is secret in it."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Annotated, Any, Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from asm.adapters.sql import postgres, sqlite
from asm.core import checks
from asm.core.errors import Error

__all__ = ["PARTICULARS", "OptionalUrl", "Url", "check_listening", "parse_url", "secrets", "shown"]

DRIVERS: Final = {"sqlite": "pysqlite", "postgresql": "psycopg"}
"""The databases that can be used, and the driver of each."""

PARTICULARS: Final[dict[str, ModuleType]] = {"sqlite": sqlite, "postgresql": postgres}
"""Where the particulars of each are. All of the modules have the same functions."""


def parse_url(url: Any, field: str = "url") -> URL:
    """Check the URL of a database, and name its driver.

    :param field: the option to blame.
    :raises Error: ``validation_error``, which never shows the URL itself because that may hold a password;
        ``dependency_not_available`` when its driver is not installed.
    """
    text = checks.identifier(url, field)
    if not text.startswith("sqlite"):
        _check_quoting(text, field)
    try:
        parsed = make_url(text)
    except (SQLAlchemyError, ValueError):
        parsed = None
    if parsed is None:
        checks.refuse(
            field, "is no URL of a database; one looks like sqlite:///path/to/file.db or postgresql://user:password@host/name"
        )
    backend, _, driver = parsed.drivername.partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    if driver not in ("", DRIVERS.get(backend)) or backend not in DRIVERS:
        known = ", ".join(f"{name}:// ({driver})" for name, driver in DRIVERS.items())
        checks.refuse(field, f"begins with {parsed.drivername!r}, which is not supported; use one of: {known}")
    particulars = PARTICULARS[backend]
    if backend == "postgresql" and importlib.util.find_spec(DRIVERS[backend]) is None:
        raise _missing("is not installed")
    try:
        checked: URL = particulars.check_url(parsed, text, field)
    except ImportError as error:  # as when it finds no libpq
        raise _missing(f"cannot be used: {error}") from error
    return checked.set(drivername=f"{backend}+{DRIVERS[backend]}")


Url = Annotated[str, parse_url]
OptionalUrl = Annotated[str | None, checks.optional(parse_url)]
"""An option that is the URL of a database; its normal form is a :class:`~sqlalchemy.URL`."""


def check_listening(url: URL, listen_url: URL | None) -> None:
    """Check that a store can listen at one URL for what is appended at the other.

    :raises Error: ``validation_error``.
    """
    if listen_url is not None and {url.get_backend_name(), listen_url.get_backend_name()} != {"postgresql"}:
        checks.refuse("listen_url", "is for PostgreSQL: leave it out, or give both URLs as postgresql://…")


def _missing(problem: str) -> Error:
    package, remedy = DRIVERS["postgresql"], 'pip install "asm-store[postgres]"'
    message = f"postgresql needs the package {package!r}, which {problem}; to install: {remedy}"
    return Error("dependency_not_available", message, details={"package": package, "install": remedy})


def shown(url: URL) -> str:
    """Return a URL without what is secret in it."""
    return url.difference_update_query(_secret_parameters(url)).render_as_string()


def secrets(url: URL) -> list[str]:
    """Return what is secret in a URL."""
    values = [url.password, *(url.query[name] for name in _secret_parameters(url))]
    return [str(value) for value in values if value]


def _secret_parameters(url: URL) -> list[str]:
    return [name for name in url.query if name in postgres.SECRETS]


def _check_quoting(text: str, field: str) -> None:
    """Refuse a URL in which a user or a password would end too early, and the rest of it be taken for something else."""
    before, _, _ = text.partition("://")[2].rpartition("@")
    if any(character in before for character in "@/?"):
        checks.refuse(
            field,
            'has a "@", "/" or "?" in front of its last "@", so that nobody can tell where the password ends;'
            " in a user, a password or a parameter quote it: %40 is @, %2F is /, %3F is ?",
        )
