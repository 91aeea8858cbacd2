"""A connection whose thread is late: its statement ended, or itself cut off, from another thread.

Told by what a connection can, whichever driver's: psycopg's and psycopg2's on PostgreSQL, the
standard library's on SQLite. Others are left alone: their statements end by themselves. Raises
nothing: the connection may be ending by itself meanwhile.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

_CANCEL_SECONDS = 5.0


def interrupt(below: Any) -> bool:
    """Have the statement that runs on it now fail; whether that may have ended its transaction.

    PostgreSQL is asked to by a connection of its own, and has answered afterwards. SQLite ends the
    whole transaction with a write that it interrupts, so it is let be where the next write of a
    handler that passes over that would commit by itself.
    """
    with suppress(Exception):
        if hasattr(below, "cancel_safe"):
            below.cancel_safe(timeout=_CANCEL_SECONDS)
        elif hasattr(below, "cancel"):
            below.cancel()
        elif hasattr(below, "interrupt") and not _commits_each(below):
            below.interrupt()
            return True
    return False


def cut(below: Any) -> None:
    """Nothing commits on it any more, and the database drops its locks.

    The memory of libpq is the other thread's, which may be inside it; the socket below is not: the
    server and that thread both see its end. On SQLite only a connection that was made for any
    thread (``check_same_thread=False``) can be ended: another keeps its locks.
    """
    if hasattr(below, "fileno"):
        with suppress(Exception), socket.socket(fileno=os.dup(below.fileno())) as ours:
            ours.shutdown(socket.SHUT_RDWR)
    elif hasattr(below, "interrupt"):
        # In this order: between the two the thread could write what commits by itself.
        for statement in ("PRAGMA query_only = ON", "ROLLBACK"):
            with suppress(Exception):
                below.execute(statement)
        with suppress(Exception):
            below.close()


def _commits_each(below: Any) -> bool:
    """Whether a statement outside of a transaction commits by itself."""
    return below.isolation_level is None or getattr(below, "autocommit", None) is True
