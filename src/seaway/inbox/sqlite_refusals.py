"""SQLite's refusals, through whichever driver. Told by code, never by text."""

from __future__ import annotations

import sqlite3

from seaway.databases import sqlite_codes
from seaway.inbox.driver import Refusal


def refusal_of(error: sqlite3.Error) -> Refusal:
    """What ``error`` says of the transaction."""
    if sqlite_codes.is_transient(error):
        return Refusal.AWAY
    # Of the savepoint that spans the transaction, it says that there is none.
    ended = sqlite_codes.primary_code(error) == sqlite3.SQLITE_ERROR
    return Refusal.ENDED if ended else Refusal.OTHER
