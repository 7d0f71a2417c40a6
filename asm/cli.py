"""The command lines: ``asm-supervise CONFIG`` runs a tree, ``asmctl`` looks after it.

Exit codes: 0 done, or stopped as asked; 2 usage; 69 a child or a database did not come up; 70 too many restarts; 78
configuration (the last three as in sysexits.h); and 128 + N when a second signal N cut the stop of a tree short.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import setproctitle
import typer
from rich.console import Console
from rich.table import Table

from asm._version import __version__
from asm.adapters import load
from asm.config import ConfigError, Settings, read
from asm.core.errors import Error
from asm.processes.logs import LogStyle, log_to_stderr
from asm.tree import Exit, Snapshot, build

__all__ = ["control", "supervise"]

EXIT_UNAVAILABLE: Final = 69
EXIT_SOFTWARE: Final = 70
EXIT_CONFIG: Final = 78


def _version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{context.info_name} {__version__}")
        raise typer.Exit


_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_ctl = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration of the tree, a TOML file.")]
Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")]


def supervise() -> None:
    """Run ``asm-supervise``."""
    _app(prog_name="asm-supervise")


def control() -> None:
    """Run ``asmctl``."""
    _ctl(prog_name="asmctl")


@_app.command()
def main(
    config: Config,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration, and start nothing.")] = False,
    version: Version = False,  # noqa: ARG001  # its callback has answered already
) -> None:
    """Run the stores of CONFIG as a tree of processes, in the foreground.

    SIGTERM and SIGINT stop the tree in reverse order of its start. A second one kills it.
    """
    settings = _read(config)
    if check:
        order = ", ".join([*(table.name for table in settings.backend), *(table.name for table in settings.composite)])
        typer.echo(f"{config}: good; starts {order}, in this order")
        return
    raise typer.Exit(_run(config, settings))


@_ctl.callback()
def _look_after(version: Version = False) -> None:
    """Look after a tree of stores."""


@_ctl.command()
def migrate(
    config: Config,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that would be run, and change nothing.")] = False,
) -> None:
    """Bring the databases of CONFIG to the schema of this version."""
    for name, store, options in _read(config).stores():
        migrate_schema = getattr(load(store), "migrate_schema", None)
        if migrate_schema is None:
            continue
        try:
            script = migrate_schema(sql=sql, **options)
        except Error as error:
            typer.echo(f"{name}: {error.message}", err=True)
            raise typer.Exit(EXIT_UNAVAILABLE) from error
        typer.echo(script if sql else f"{name}: the schema is that of this version")


def _read(config: Path) -> Settings:
    try:
        return read(config)
    except ConfigError as error:
        typer.echo(error, err=True)
        raise typer.Exit(EXIT_CONFIG) from error


def _run(config: Path, settings: Settings) -> int:
    """Run a tree until it ends; return the exit code."""
    name = settings.supervisor.name
    setproctitle.setproctitle(f"asm: {name} (asm-supervise {config})")
    style = LogStyle(pretty=sys.stderr.isatty(), level=settings.supervisor.log_level)
    log_to_stderr(name, style)
    try:
        tree = build(settings, style, on_ready=lambda children: _announce(settings, children))
    except Error as error:
        typer.echo(f"{config}: {error.message}", err=True)
        return EXIT_UNAVAILABLE
    ended = tree.run()
    if ended.kind != "stopped":
        typer.echo(f"{config}: {_reason(ended)}", err=True)
    if ended.cut_short_by is not None:
        return 128 + ended.cut_short_by
    return {"stopped": 0, "start_failed": EXIT_UNAVAILABLE, "restarts_exceeded": EXIT_SOFTWARE}[ended.kind]


def _announce(settings: Settings, children: Sequence[Snapshot]) -> None:
    """Say that the tree is up; on a terminal, with a table of its children in the order in which they started."""
    console = Console(highlight=False)
    if console.is_terminal:
        table = Table(box=None)
        for column in ("NAME", "WHAT", "PID", "STATE"):
            table.add_column(column)
        for child in children:
            table.add_row(child.name, child.description, str(child.pid), child.state)
        console.print(table)
    composites = ", ".join(composite.name for composite in settings.composite)
    backends = ", ".join(backend.name for backend in settings.backend)
    directly = f"; directly to {backends}" if backends else ""
    typer.echo(f"ready: connect to {composites}{directly} (in {settings.runtime_dir})")


def _reason(ended: Exit) -> str:
    """Say why a tree ended, in the words of the child that was the cause, if it said anything."""
    return f"{ended.child} did not come up: {ended.error['message']}" if ended.error else ended.reason
