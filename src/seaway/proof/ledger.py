"""What was committed and what took effect, written by those who did it.

Owns: the tables ``ledger`` and ``effects`` beside the library's own, on SQLite and PostgreSQL.
Guarantees: a row of the ledger commits with its event, so that a commit whose answer was lost is
counted for what it was; an effect is one plain insert in the delivery's transaction, and nothing
in the table would stop a second one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import aiosqlite

from seaway.consumer import Delivery
from seaway.contracts import Store
from seaway.events import RawEvent
from seaway.outbox import Outbox

TABLES = """
CREATE TABLE IF NOT EXISTS ledger (
    seq {serial} PRIMARY KEY, event_id text NOT NULL UNIQUE, key text NOT NULL,
    number bigint NOT NULL, subject text NOT NULL, tx bigint NOT NULL);
CREATE TABLE IF NOT EXISTS effects (
    seq {serial} PRIMARY KEY, consumer text NOT NULL, event_id text NOT NULL, number bigint,
    redriven int NOT NULL, note text NOT NULL, handled_at double precision NOT NULL)
"""
"""``seq``: of each key, the order of the commits. ``number``: what the writer calls the event.
``tx``: the same for what was committed together."""

NOTE = "INSERT INTO ledger (event_id, key, number, subject, tx) VALUES (?, ?, ?, ?, ?)"
"""To be executed in the transaction that adds the events."""

_EFFECT = """
INSERT INTO effects (consumer, event_id, number, redriven, note, handled_at)
VALUES (?, ?, ?, ?, ?, ?)
"""


async def create(store: Store, tables: str = "") -> None:
    """The tables and those of ``tables``, where they are missing."""
    async with store.transaction() as tx:
        serial = "integer" if isinstance(tx.handle, aiosqlite.Connection) else "bigserial"
        for table in filter(str.strip, f"{TABLES};{tables}".split(";")):
            await tx.handle.execute(table.format(serial=serial))


async def add(
    handle: Any, outbox: Outbox, events: Sequence[RawEvent], numbers: Sequence[int]
) -> Sequence[str]:
    """The events, each with a key, and their rows in the ledger; the events' ids."""
    added = outbox.add(handle, *events)
    ids = added if isinstance(added, list) else await added
    rows = [
        (id_, event.key, number, event.subject, numbers[0])
        for id_, event, number in zip(ids, events, numbers, strict=True)
    ]
    await put(handle, NOTE, rows)
    return ids


async def take_effect(delivery: Delivery, number: int | None = None, note: str = "") -> None:
    """An effect of this delivery, in its transaction."""
    whose = (delivery.consumer, delivery.event_id, number, int(delivery.redriven))
    await put(delivery.tx, _EFFECT, [(*whose, note, time.time())])


async def put(handle: Any, query: str, rows: Iterable[Sequence[object]]) -> None:
    """Execute ``query``, written with ``?`` for every database, with each of ``rows``."""
    if not isinstance(handle, aiosqlite.Connection):
        places = count(1)
        query = "".join(f"${next(places)}" if sign == "?" else sign for sign in query)
    await handle.executemany(query, rows)


async def rows(handle: Any, query: str) -> Sequence[Any]:
    """What the database answers."""
    if isinstance(handle, aiosqlite.Connection):
        cursor = await handle.execute(query)
        return list(await cursor.fetchall())
    found: Sequence[Any] = await handle.fetch(query)
    return found
