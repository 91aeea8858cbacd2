"""The log of a command that keeps running: ``run``, ``relay``, ``serve``.

Owns: its form and its level. On a terminal it is for eyes; elsewhere a record is a line, or a JSON
object on a line. Guarantees: an application that has set up logging by itself when it was imported
keeps it, and nothing is added to it: where Seaway's records go to its handlers, ours are left out;
where it has handlers for some loggers of its own, what those write is theirs alone.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from seaway import logs
from seaway.cli import printing
from seaway.events import current_chain

logger = logs.logger("seaway")

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_KNOWN = ("event_id", "consumer", "correlation_id")
_LIBRARIES = ("aiosqlite", "asyncio", "nats", "psycopg")
"""What they do in detail drowns everything else."""


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
    LogFormat | None,
    typer.Option(
        "--log-format",
        envvar="SEAWAY_LOG_FORMAT",
        case_sensitive=False,
        help="Text, or a JSON object a line. Default: text.",
    ),
]


def set_up(level: LogLevel | None, form: LogFormat | None) -> None:
    """Log to stderr what is ``level`` or worse, unless somebody else has set up where Seaway's
    records go: then neither option has an effect, which is said once."""
    logs.switch_on()
    if logger.hasHandlers():
        printing.also_complain = logger.error
        given = [name for name, value in (("level", level), ("format", form)) if value is not None]
        if given:
            logger.warning(
                "%s no effect: the application has set up logging of its own (handlers of the root "
                "logger, or of seaway)",
                " and ".join(f"--log-{name}" for name in given)
                + (" has" if len(given) == 1 else " have"),
            )
        return
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if form is LogFormat.JSON:
        handler.setFormatter(JsonLines())
        printing.note, printing.complain = logger.info, logger.error
    elif sys.stderr.isatty():
        from seaway.cli.screen import Screen

        handler = Screen(console=printing.err(), show_path=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter(_LINE, "%Y-%m-%d %H:%M:%S"))
        printing.note = logger.info
    handler.addFilter(_nobody_else_shows)
    wanted = logging.INFO if level is None else logging.getLevelNamesMapping()[level.name]
    logging.basicConfig(level=wanted, handlers=[handler])
    for name in _LIBRARIES:
        library = logging.getLogger(name)
        if library.level == logging.NOTSET and wanted < logging.INFO:
            library.setLevel(logging.INFO)


def _nobody_else_shows(record: logging.LogRecord) -> bool:
    """Whether no logger between the record's and the root has a handler, which shows it already."""
    found: logging.Logger | None = logging.getLogger(record.name)
    while found is not None and found is not logging.root:
        if any(not isinstance(one, logging.NullHandler) for one in found.handlers):
            return False
        found = found.parent
    return True


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
        return printing.json_text(said)
