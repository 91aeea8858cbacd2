"""Seaway's loggers: what they say is one printable line, whoever wrote the texts in it.

Owns: the one place where foreign text (ids, subjects, errors, a server's complaint) is made fit for
a log. Knows nothing else of the package. Guarantees: no record of a ``seaway`` logger holds a
control character, so that no message on a stream adds a line of its own to a log, or writes to the
terminal that shows it; the lines of a traceback are indented, and so are no lines of the log.
"""

from __future__ import annotations

import logging

_TRACEBACKS = logging.Formatter()


def logger(name: str) -> logging.Logger:
    """The logger of this name, which begins with ``seaway``."""
    found = logging.getLogger(name)
    found.addFilter(_printable_record)  # The same one again is not added.
    return found


def switch_on() -> None:
    """Undo what ``disable_existing_loggers`` of a ``dictConfig``, which is its default, does to the
    loggers that it does not name: they would be silent, and nobody had said so."""
    for name, found in logging.root.manager.loggerDict.items():
        if isinstance(found, logging.Logger) and name.partition(".")[0] == "seaway":
            found.disabled = False


def printable(text: str) -> str:
    """``text`` on one line: what is not printable (control characters, line ends, what changes the
    direction of writing) stands there as an escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """What the error says, as much as a line may hold of it; a hostile ``str`` says nothing."""
    try:
        line, *_ = str(error).strip().splitlines() or [""]
    except Exception:
        return ""
    return "".join(char if char.isprintable() else " " for char in line[:200])


def _printable_record(record: logging.LogRecord) -> bool:
    try:
        said = record.getMessage()
    except Exception:
        return True  # Its handler will tell of it, and goes on.
    if not said.isprintable():
        record.msg, record.args = printable(said), ()
    if record.exc_info and not record.exc_text:
        try:
            trace = _TRACEBACKS.formatException(record.exc_info)
        except Exception as error:  # It is somebody else's exception: telling of it may fail too.
            trace = f"(its traceback cannot be had: {type(error).__name__})"
        record.exc_text = "\n".join(f"  {printable(line)}" for line in trace.split("\n"))
    return True
