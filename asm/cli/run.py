"""``asm-supervise CONFIG``: runs a tree in the foreground.

Exit codes: 0 stopped as asked; 2 usage; 69 a child did not come up; 70 too many restarts; 78 configuration (the last three as
in sysexits.h); and 128 + N when a second signal N cut the stop of the tree short.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import setproctitle
import typer
from rich.console import Console
from rich.table import Table

from asm.cli.common import EXIT_SOFTWARE, EXIT_UNAVAILABLE, Config, Version, read_config
from asm.core.errors import Error
from asm.processes.descriptors import room_for_children
from asm.processes.logs import LogStyle, log_to_stderr
from asm.running import Exit, RunningTree, Snapshot
from asm.settings import Settings

__all__ = ["app"]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    config: Config,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration, and start nothing.")] = False,
    version: Version = False,  # noqa: ARG001  # its callback has answered already
) -> None:
    """Run the stores of CONFIG as a tree of processes, in the foreground.

    SIGTERM and SIGINT stop the tree in reverse order of its start. A second one kills it. SIGHUP has CONFIG read again;
    when it comes because the terminal is gone, it stops the tree.
    """
    settings = read_config(config)
    if check:
        order = ", ".join([*(table.name for table in settings.backend), *(table.name for table in settings.composite)])
        typer.echo(f"{config}: good; starts {order}, in this order")
        return
    raise typer.Exit(_run(config, settings))


def _run(config: Path, settings: Settings) -> int:
    """Run a tree until it ends; return the exit code."""
    name = settings.supervisor.name
    setproctitle.setproctitle(f"asm: {name} (asm-supervise {config})")
    style = LogStyle(pretty=sys.stderr.isatty(), level=settings.supervisor.log_level)
    log_to_stderr(name, style)
    room_for_children(len(settings.backend) + len(settings.composite))
    try:
        ended = RunningTree(config, settings, style, on_ready=lambda children: _announce(settings, children)).run()
    except Error as error:
        typer.echo(f"{config}: {error.message}", err=True)
        return EXIT_UNAVAILABLE
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
    for child in children:
        if child.reason and child.state == "waiting":
            typer.echo(f"degraded: {child.name} {child.reason}")


def _reason(ended: Exit) -> str:
    """Say why a tree ended, in the words of the child that was the cause, if it said anything."""
    return f"{ended.child} did not come up: {ended.error['message']}" if ended.error else ended.reason
