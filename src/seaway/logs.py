"""Seaway's loggers: what they say is one printable line, whoever wrote the texts in it; and
tracebacks as whoever wrote the failing code reads them.

Owns: the one place where foreign text (ids, subjects, errors, a server's complaint) is made fit for
a log; which frames of a traceback are Seaway's, which are the user's own. Guarantees: no record of
a ``seaway`` logger holds a control character, so that no message on a stream adds a line of its own
to a log, or writes to the terminal that shows it; the lines of a traceback are indented, and so are
no lines of the log.
"""

from __future__ import annotations

import logging
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType, TracebackType

from seaway.errors import SeawayError

_OURS = f"{Path(__file__).parent}/"
_INSTALLED = tuple(
    f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PARTS = 100
"""How many errors one is followed into: its causes, and a group's members."""
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


# ------------------------------------------------------------------------ tracebacks


def without_ours(error: BaseException) -> BaseException:
    """``error``, its traceback, and those of its causes and of a group's members, without Seaway's
    frames. Those of a bug of ours stay, from the first frame on that it was called from: they tell
    of it. Idempotent."""
    parts = [(one, list(_steps(one.__traceback__))) for one in _parts(error)]
    on_purpose = isinstance(error, SeawayError) or any(
        not _is_ours(step.tb_frame) for _, steps in parts for step in steps
    )
    for one, steps in parts:
        kept = [step for step in steps if not _is_ours(step.tb_frame)]
        if not isinstance(one, SeawayError) and steps and _is_ours(steps[-1].tb_frame):
            if not kept and not on_purpose:
                continue
            kept = steps[steps.index(kept[0]) :] if kept else []
        trace = None
        for step in reversed(kept):
            trace = TracebackType(trace, step.tb_frame, step.tb_lasti, step.tb_lineno)
        # Not by assignment: an exception may be a frozen dataclass.
        BaseException.with_traceback(one, trace)
    return error


def innermost(error: BaseException, home: str) -> tuple[str, int]:
    """File and line of the user's own code where ``error`` came from; else of any code.

    ``home``: the module of the handler; what is installed beside it in its package is the user's.
    """
    package, last = home.partition(".")[0], ("", 0)
    for one in _parts(error):
        found = None
        for trace in _steps(one.__traceback__):
            place = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            last = last if last[0] else place
            if _is_users(trace.tb_frame, package):
                found = place
        if found:
            return found
    return last


def _parts(error: BaseException) -> Iterator[BaseException]:
    """It, what it came from, and what it is a group of, as far as a traceback shows that."""
    left: list[BaseException | None] = [error]
    for _ in range(_PARTS):
        if not left:
            return
        one = left.pop(0)
        if one is None:
            continue
        yield one
        try:
            left.append(one.__cause__ or (None if one.__suppress_context__ else one.__context__))
            left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        except Exception:  # It is somebody else's class.
            continue


def _steps(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_OURS)


def _is_users(frame: FrameType, package: str) -> bool:
    file = frame.f_code.co_filename
    if file.startswith((_OURS, "<")):
        return False
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return True
    return _is_written_here(file)


@lru_cache(maxsize=1024)
def _is_written_here(file: str) -> bool:
    """Whether it is a source file that nobody has installed. What was compiled elsewhere (Cython)
    names a file of its maker's, which is not there."""
    if file.startswith(_INSTALLED) or "-packages/" in file:
        return False
    path = Path(file)
    return path.is_absolute() and path.is_file()
