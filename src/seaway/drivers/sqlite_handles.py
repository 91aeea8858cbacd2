"""SQLite through handles that are not ours: sync or async, plain or inside a framework.

Owns: how a statement runs on one, whatever its row factory, and what its errors mean. Never begins
but where a framework's transaction is open before its driver has begun one: without a BEGIN our
savepoint would be the whole transaction, and its release the commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seaway.databases import sqlite_codes
from seaway.databases.queries import Query, Row
from seaway.databases.refusals import Refusal
from seaway.drivers import protocols
from seaway.drivers.protocols import Errors
from seaway.errors import OutsideTransaction, SeawayError

if TYPE_CHECKING:
    import aiosqlite


def rows(db: sqlite3.Connection, query: Query) -> Sequence[Row]:
    """Run ``query``; what it gives. ``ConfigError`` for a handle that cannot run any."""
    try:
        if query.many:
            db.executemany(query.statement, query.parameters)
        elif query.gives:
            cursor = db.cursor()
            cursor.row_factory = None
            return cursor.execute(query.statement, query.parameters).fetchall()
        else:
            db.execute(query.statement, query.parameters)
    except sqlite3.ProgrammingError as error:
        # Closed in the meantime, or another thread's.
        raise protocols.closed(error) from error
    return ()


async def awaited_rows(db: aiosqlite.Connection, query: Query) -> Sequence[Row]:
    """The same. What gives nothing takes one hop to the connection's thread."""
    if query.many:
        await db.executemany(query.statement, query.parameters)
    elif query.gives:
        async with db.cursor() as cursor:
            cursor.row_factory = None
            await cursor.execute(query.statement, query.parameters)
            return [tuple(row) for row in await cursor.fetchall()]
    else:
        await db.execute(query.statement, query.parameters)
    return ()


def must_begin(db: sqlite3.Connection | aiosqlite.Connection) -> bool:
    """Whether a framework's transaction has not begun yet on the driver's connection below it;
    ``OutsideTransaction`` where none ever does."""
    if db.in_transaction:
        return False
    # Python 3.12's attribute; before it, and by default, ``isolation_level`` decides.
    if db.isolation_level is None or getattr(db, "autocommit", -1) is True:
        raise protocols.autocommit()
    return True


def refusal(error: BaseException) -> Refusal | None:
    """See ``protocols.Errors``."""
    return sqlite_codes.refusal(error) if isinstance(error, sqlite3.Error) else None


def translated(error: BaseException, where: str) -> SeawayError | None:
    """See ``protocols.Errors``."""
    return sqlite_codes.translated(error, where) if isinstance(error, sqlite3.Error) else None


MEANS = Errors(refusal, translated, "SAVEPOINT and ROLLBACK TO", for_frameworks=True)


def outside() -> OutsideTransaction:
    """The refusal to write an event that would be atomic with nothing."""
    return protocols.outside(hint='make your own change first, or execute "BEGIN IMMEDIATE"')
