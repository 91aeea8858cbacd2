"""The log of a command that stays: ``run``, ``relay``, ``serve``.

Owns: its form and its level. On a terminal it is for eyes; elsewhere a record is a line, or a JSON
object on a line. Guarantees: an application that has set up logging by itself when it was imported
keeps it, and nothing is added to it.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.logging import RichHandler

from seaway import logs
from seaway.chain import current_chain
from seaway.cli import session

logger = logs.logger("seaway")

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KNOWN = ("event_id", "consumer", "correlation_id")


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


Level = Annotated[
    LogLevel | None,
    typer.Option(
        "--log-level",
        envvar="SEAWAY_LOG_LEVEL",
        case_sensitive=False,
        help="What is logged: this and worse. Default: info.",
    ),
]
Format = Annotated[
    LogFormat,
    typer.Option(
        "--log-format",
        envvar="SEAWAY_LOG_FORMAT",
        case_sensitive=False,
        help="Text, or a JSON object a line.",
    ),
]


def set_up(level: LogLevel | None, form: LogFormat) -> None:
    """Log to stderr, unless somebody else has set up where Seaway's records go; then ``level`` is
    that of Seaway's own records, and otherwise everybody's."""
    number = None if level is None else logging.getLevelNamesMapping()[level.name]
    if logger.hasHandlers():
        if number is not None:
            logger.setLevel(number)
        session.also_complain = logger.error
        return
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if form is LogFormat.JSON:
        handler.setFormatter(JsonLines())
        session.note, session.complain = logger.info, logger.error
    elif sys.stderr.isatty():
        handler = RichHandler(console=session.err, show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter(_LINE, "%Y-%m-%d %H:%M:%S"))
        session.note = logger.info
    logging.basicConfig(level=logging.INFO if number is None else number, handlers=[handler])


class JsonLines(logging.Formatter):
    """``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``; where they are known,
    ``event_id``, ``consumer``, ``correlation_id`` and ``exception``, the traceback.

    What a handler logs belongs to the event that it handles.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        chain = current_chain()
        known = {"event_id": chain.causation_id, "correlation_id": chain.correlation_id}
        known |= {name: vars(record)[name] for name in _KNOWN if name in vars(record)}
        said |= {name: str(value) for name, value in known.items() if value}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            said["exception"] = record.exc_text
        if record.stack_info:
            said["stack"] = record.stack_info
        return session.json_text(said)
