"""Logs: one line an event on stderr, pretty on a terminal and JSON otherwise, each tagged with the child it comes from.

Everything logs through the standard library; this module only says how it looks.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TextIO

import structlog

from asm.processes.output import never_wait

__all__ = ["LogStyle", "log_to_stderr"]


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How a tree logs."""

    pretty: bool
    """For a person at a terminal, instead of JSON lines."""
    level: str = "INFO"


def log_to_stderr(child: str, style: LogStyle | None) -> None:
    """Send every log record of this process to stderr, without ever waiting for whoever reads that.

    :param child: which process of the tree this is.
    :param style: how; ``None``: as Python does where nothing is set up, the text of warnings and of what is worse.
    """
    never_wait()
    handler = _Handler(sys.stderr)
    if style is not None:
        handler.setFormatter(_formatter(child, style))
        logging.root.setLevel(style.level)
        logging.captureWarnings(True)
    logging.root.handlers[:] = [handler]


class _Handler(logging.StreamHandler[TextIO]):
    """Writes, and does not wait until that has gone out."""

    def flush(self) -> None:
        """Do nothing: the end of the process flushes."""


def _formatter(child: str, style: LogStyle) -> logging.Formatter:
    """Return what makes a line of a record, tagged with the child it comes from."""

    def tag(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        said = {key: value for key, value in event.items() if value is not None and value != ""}
        return {"child": child} | said

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.ExtraAdder(),
        tag,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if style.pretty:
        last: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=True)]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
