"""``asmctl``: looks after trees that run, by the names on which their supervisors answer.

Exit codes: 0 done, or every child is ready; 1 refused, or a tree is degraded; 2 usage; 3 there is no such tree; 69 it does
not answer, or a database is not there; 78 configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from asm.cli.common import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE, Config, Version, read_config
from asm.client.control import NOT_RUNNING, Controller, attach, trees
from asm.core.errors import Error
from asm.registry import load
from asm.status import READY, ChildStatus, TreeStatus
from asm.wire.names import find_runtime_dir

__all__ = ["app"]

EXIT_REFUSED: Final = 1
EXIT_DEGRADED: Final = 1
"""As the next one, what ``systemctl status`` and LSB scripts say."""
EXIT_NOT_RUNNING: Final = 3

COLUMNS: Final = ("NAME", "STATE", "PID", "UPTIME", "RESTARTS", "CALLS", "ERRORS", "IN FLIGHT", "MEMORY", "WHAT")

Tree = Annotated[str | None, typer.Argument(metavar="[TREE]", help="The tree's name. Not needed when only one is running.")]
RuntimeDir = Annotated[Path | None, typer.Option(help="The directory with the sockets; by default that of asm-supervise.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main(version: Version = False) -> None:
    """Look after a tree of stores."""


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[TREE]", help="The tree's name. Without it: all that run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one tree, or a list without a name.")] = False,
    runtime_dir: RuntimeDir = None,
) -> None:
    """Show how a tree and its children are. Exit code 0: all are ready and well; 1: degraded; 3: not running."""
    with _errors():
        found = []
        for each in [name] if name is not None else _running(runtime_dir):
            with attach(each, runtime_dir=runtime_dir) as tree:
                found.append(tree.status())
    if as_json:
        maps = [tree.to_map() for tree in found]
        typer.echo(json.dumps(maps if name is None else maps[0], indent=2))
    else:
        for tree_status in found:
            _show(tree_status)
    raise typer.Exit(0 if all(tree_status.state == READY for tree_status in found) else EXIT_DEGRADED)


@app.command()
def restart(
    name: Annotated[str, typer.Argument(metavar="CHILD", help="The child's name.")],
    tree: Annotated[str | None, typer.Option(help="The tree's name. Not needed when only one is running.")] = None,
    runtime_dir: RuntimeDir = None,
) -> None:
    """Stop a child after the calls in flight and start it again; also one that failed."""
    with _errors(), _attach(tree, runtime_dir) as controller:
        controller.restart(name)
        typer.echo(f"{name}: is being restarted")


@app.command()
def reload(tree: Tree = None, runtime_dir: RuntimeDir = None) -> None:
    """Have the configuration read again, and restart only what changed. A bad one changes nothing: exit code 78."""
    with _errors(), _attach(tree, runtime_dir) as controller:
        changes = controller.reload()
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in changes.items() if names)
        typer.echo(f"{controller.name}: reloaded; {said or 'nothing has changed'}")


@app.command()
def stop(tree: Tree = None, runtime_dir: RuntimeDir = None) -> None:
    """Stop a tree, after the calls in flight, and wait until nothing of it is left."""
    with _errors(), _attach(tree, runtime_dir) as controller:
        controller.stop()
        typer.echo(f"{controller.name}: stopped")


@app.command()
def migrate(
    config: Config,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL that would be run, and change nothing.")] = False,
) -> None:
    """Bring the databases of CONFIG to the schema of this version."""
    for name, store, options in read_config(config).stores():
        migrate_schema = getattr(load(store), "migrate_schema", None)
        if migrate_schema is None:
            continue
        try:
            script = migrate_schema(sql=sql, **options)
        except Error as error:
            typer.echo(f"{name}: {error.message}", err=True)
            raise typer.Exit(EXIT_UNAVAILABLE) from error
        typer.echo(script if sql else f"{name}: the schema is that of this version")


@contextmanager
def _errors() -> Iterator[None]:
    """Tell an error, and exit with the code that it has."""
    try:
        yield
    except Error as error:
        typer.echo(error.message, err=True)
        raise typer.Exit(_exit_code(error)) from error


def _exit_code(error: Error) -> int:
    reason = error.details.get("reason")
    if reason == NOT_RUNNING:
        return EXIT_NOT_RUNNING
    if reason == "configuration":
        return EXIT_CONFIG
    return EXIT_UNAVAILABLE if error.code in {"storage_connection_failed", "timeout"} else EXIT_REFUSED


def _running(runtime_dir: Path | None) -> list[str]:
    """Return the names of the trees that run.

    :raises Error: when there is none.
    """
    if names := trees(runtime_dir):
        return names
    message = f"no tree is running in {find_runtime_dir(runtime_dir)}"
    raise Error("storage_connection_failed", message, details={"reason": NOT_RUNNING})


def _attach(name: str | None, runtime_dir: Path | None) -> Controller:
    """Connect to the tree that is meant."""
    if name is None:
        names = _running(runtime_dir)
        if len(names) > 1:
            typer.echo(f"several trees are running: {', '.join(names)}; say which one is meant", err=True)
            raise typer.Exit(EXIT_USAGE)
        (name,) = names
    return attach(name, runtime_dir=runtime_dir)


def _show(tree: TreeStatus) -> None:
    """Print a tree: as a table with colours on a terminal, and with plain columns otherwise."""
    console = Console(highlight=False)
    rows = [_row(child) for child in tree.children]
    title = f"{tree.name}: {tree.state} (pid {tree.pid}, up {_duration(tree.uptime_seconds)}, {tree.config})"
    notes = [f"{tree.name} {tree.trouble}"] if tree.trouble else []
    notes += [note for child in tree.children for note in _notes(child)]
    if console.is_terminal:
        console.print(f"[bold {_colour(tree.state)}]{escape(title)}[/]")
        table = Table(box=None)
        for column in COLUMNS:
            table.add_column(column)
        for row in rows:
            table.add_row(*map(escape, row), style="" if row[1] == READY else _colour(row[1]))
        console.print(table)
        for note in notes:
            console.print(escape(note))
    else:
        widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (COLUMNS, *rows)
        ]
        typer.echo("\n".join([title, *lines, *notes]))


def _row(child: ChildStatus) -> tuple[str, ...]:
    return (
        child.name,
        child.state,
        "-" if child.pid is None else str(child.pid),
        "-" if child.uptime_seconds is None else _duration(child.uptime_seconds),
        str(child.restarts),
        str(child.calls),
        str(child.errors),
        str(child.in_flight),
        "-" if child.memory_bytes is None else f"{child.memory_bytes / 2**20:.1f} MiB",
        child.description,
    )


def _notes(child: ChildStatus) -> Iterator[str]:
    """Say what is the matter with a child."""
    if child.trouble:
        yield f"{child.name} {child.trouble}"
    if child.reason and child.state != READY:
        due = "" if child.due_in_seconds is None else f"; the next try is in {_duration(child.due_in_seconds)}"
        yield f"{child.name} {child.reason}{due}"
    if child.health and child.state == READY:
        yield f"{child.name} is not well: {child.health}"


def _colour(state: str) -> str:
    return {READY: "green", "failed": "red"}.get(state, "yellow")


def _duration(seconds: float) -> str:
    """Say a time in its two largest units: ``3d 4h``, ``12m 5s``."""
    left = int(seconds)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
