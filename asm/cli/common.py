"""What both command lines have in common: their exit codes, and how a configuration is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from asm._version import __version__
from asm.cli import EXIT_UNAVAILABLE
from asm.config import ConfigError, read
from asm.settings import Settings

__all__ = ["EXIT_CONFIG", "EXIT_SOFTWARE", "EXIT_UNAVAILABLE", "EXIT_USAGE", "Config", "Version", "read_config"]

EXIT_USAGE: Final = 2
EXIT_SOFTWARE: Final = 70
"""As the next one, from sysexits.h."""
EXIT_CONFIG: Final = 78


def _version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(f"{context.find_root().info_name} {__version__}")
        raise typer.Exit


Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration of the tree, a TOML file.")]
Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")]


def read_config(config: Path) -> Settings:
    """Read a configuration, or say what is wrong with it and exit."""
    try:
        return read(config)
    except ConfigError as error:
        typer.echo(error, err=True)
        raise typer.Exit(EXIT_CONFIG) from error
