"""The command lines: ``asm-supervise CONFIG`` runs a tree, ``asmctl`` looks after it."""

from __future__ import annotations

__all__ = ["control", "supervise"]


def supervise() -> None:
    """Run ``asm-supervise``."""
    from asm.cli.run import app  # noqa: PLC0415  # neither program needs what the other one imports

    app(prog_name="asm-supervise")


def control() -> None:
    """Run ``asmctl``."""
    from asm.cli.ctl import app  # noqa: PLC0415  # likewise

    app(prog_name="asmctl")
