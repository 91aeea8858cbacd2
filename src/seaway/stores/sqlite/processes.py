"""Who works on an SQLite file: the statements of ``contracts.ProcessStore``, on a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from seaway.contracts import Notice
from seaway.databases import statements, times

_SQL = statements.load("sqlite/processes.sql")


def tell(db: sqlite3.Connection, process: str, notices: Sequence[Notice]) -> None:
    """See ``ProcessStore``; in the open transaction."""
    now = times.now()
    db.execute(_SQL["forget"], {"process": process, "now": now})
    db.executemany(
        _SQL["tell"],
        [
            {
                "process": process,
                "part": one.part,
                "about": one.about,
                "reason": one.reason,
                "since_at": now - times.span(one.lasts),
                "now": now,
            }
            for one in notices
        ],
    )


def notices(db: sqlite3.Connection) -> Sequence[Notice]:
    """See ``ProcessStore``."""
    found = db.execute(_SQL["notices"], {"now": times.now()}).fetchall()
    return [
        Notice(part, about, reason, times.as_span(lasts), process, times.as_span(silent))
        for part, about, reason, lasts, process, silent in found
    ]
