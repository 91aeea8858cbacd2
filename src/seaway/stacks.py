"""Tracebacks as whoever wrote the failing code reads them.

Owns: which frames of one are Seaway's, which are the user's own. Pure; knows nothing of logs.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

_OURS = f"{Path(__file__).parent}/"
_INSTALLED = tuple(
    f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_LINKS = 20
"""How long a chain of causes is followed."""


def without_ours(error: BaseException) -> BaseException:
    """``error``, its traceback and those of its causes begun at the first frame that is not
    Seaway's. One with Seaway's frames alone is left as it is. Idempotent."""
    for one in _chain(error):
        trace = one.__traceback__
        while trace is not None and _is_ours(trace.tb_frame):
            trace = trace.tb_next
        if trace is not None:
            # Not by assignment: an exception may be a frozen dataclass.
            BaseException.with_traceback(one, trace)
    return error


def innermost(error: BaseException, home: str) -> tuple[str, int]:
    """File and line of the user's own code where ``error`` came from; else of any code.

    ``home``: the module of the handler; what is installed beside it in its package is the user's.
    """
    package, last = home.partition(".")[0], ("", 0)
    for one in _chain(error):
        found = None
        for trace in _steps(one.__traceback__):
            place = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            last = last if last[0] else place
            if _is_users(trace.tb_frame, package):
                found = place
        if found:
            return found
    return last


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and what it came from, as far as a traceback shows that."""
    one: BaseException | None = error
    for _ in range(_LINKS):
        if one is None:
            return
        yield one
        try:
            one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
        except Exception:  # It is somebody else's class.
            return


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
    installed = file.startswith(_INSTALLED) or "-packages/" in file
    return not installed
