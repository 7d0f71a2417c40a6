"""Logs: one line an event on stderr, pretty on a terminal and JSON otherwise, each tagged with the child it comes from.

Everything logs through the standard library; this module only says how it looks.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

import structlog

__all__ = ["LogStyle", "log_to_stderr"]


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How a tree logs."""

    pretty: bool
    """For a person at a terminal, instead of JSON lines."""
    level: str = "INFO"


def log_to_stderr(child: str, style: LogStyle) -> None:
    """Send every log record of this process to stderr.

    :param child: which process of the tree this is.
    """

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
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(style.level)
    logging.captureWarnings(True)
