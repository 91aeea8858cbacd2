"""The comparison: what was committed against what is somewhere, id by id.

Owns: the copy of all that is compared, and the questions, in SQL and on disk, so that memory does
not grow with the run. Guarantees: every committed event is looked for in every place that is
compared, and everything found there is looked for in the ledger.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seaway.contracts import BrokerAdmin, StoredMessage
from seaway.errors import NotFound
from seaway.headers import MSG_ID
from seaway.proof.stage import Stage

TABLES = """
CREATE TABLE ledger (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, key TEXT NOT NULL,
    number INTEGER NOT NULL, subject TEXT NOT NULL, tx INTEGER NOT NULL);
CREATE TABLE streamed (
    seq INTEGER PRIMARY KEY, message_id TEXT NOT NULL, event_id TEXT NOT NULL);
CREATE TABLE effects (
    seq INTEGER NOT NULL, consumer TEXT NOT NULL, event_id TEXT NOT NULL, number INTEGER,
    redriven INTEGER NOT NULL, handled_at REAL NOT NULL);
CREATE TABLE letters (consumer TEXT NOT NULL, event_id TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TEMP TABLE found (seq INTEGER NOT NULL, event_id TEXT NOT NULL, excused INTEGER NOT NULL);
"""

_AT_ONCE = 200

STREAM = "SELECT seq, message_id, 0 FROM streamed"
"""What is on the stream: to be compared."""
EFFECTS = "SELECT seq, event_id, 0 FROM effects WHERE consumer = ?"
"""What took effect in a consumer: to be compared."""
LETTERS = "SELECT rowid, event_id, 0 FROM letters"
"""All dead letters: to be compared."""

_REPEATED = "SELECT event_id FROM found GROUP BY event_id HAVING count(*) > 1"
_OUT_OF_ORDER = """
SELECT count(*) FILTER (WHERE NOT excused), count(DISTINCT key) FILTER (WHERE NOT excused),
    count(*) FILTER (WHERE excused)
FROM (
    SELECT ledger.key AS key, ledger.seq AS place, found.excused AS excused,
        max(ledger.seq) OVER (PARTITION BY ledger.key ORDER BY found.seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached
    FROM found JOIN ledger ON ledger.event_id = found.event_id)
WHERE place < reached
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one place holds, against the ledger."""

    rows: int
    events: int
    """Different ids among the rows."""
    missing: frozenset[str]
    """Committed, and not there."""
    twice: frozenset[str]
    """There more than once."""
    unknown: frozenset[str]
    """There, and never committed."""
    out_of_order: int
    """Rows after one of a later event of their key."""
    keys_out_of_order: int
    excused: int
    """Rows that would be out of order, and are excused."""


class Evidence:
    """The ledger, and all that is to be compared with it, in a database of its own that goes with
    it."""

    def __init__(self) -> None:
        # No name: a temporary file. The threads that use it take turns.
        self.database = sqlite3.connect("", check_same_thread=False)
        self.database.executescript(TABLES)

    def attach(self, database: Path, name: str) -> None:
        """Show another SQLite database under ``name``; before anything is added."""
        self.database.execute(f"ATTACH ? AS {name}", (str(database),))

    def do(self, statement: str, *values: object) -> None:
        """Execute it."""
        self.database.execute(statement, values)

    def close(self) -> None:
        """Forget it all."""
        self.database.close()

    def add(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        """Rows with all columns of one of the tables, in their order."""
        for row in rows:
            self.do(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)  # noqa: S608

    async def read(self, stage: Stage, *, of_leader: bool = False) -> None:
        """What the server holds: the ids of the stream's messages, and the letters."""
        admin = stage.app.broker.admin
        reading = leaders(admin, stage.stream) if of_leader else None
        async for stored in reading or admin.read(stage.stream, headers_only=True):
            message_id = stored.message.headers.get(MSG_ID, "")
            self.add("streamed", [(stored.stream_seq, message_id, stored.event_id)])
        letters = await stage.app.dead_letters.list(payloads=False)
        self.add("letters", [(one.consumer, one.event_id, one.reason) for one in letters])

    def one(self, query: str, *values: object) -> tuple[Any, ...]:
        """The first row of the answer."""
        return tuple(self.database.execute(query, values).fetchone())

    def ids(self, query: str, *values: object) -> frozenset[str]:
        """The first column of the answer."""
        return frozenset(row[0] for row in self.database.execute(query, values))

    def compare(self, found: str, *values: object) -> Comparison:
        """``found`` is a query for place, event id and whether it is excused from order."""
        self.do("DELETE FROM found")
        self.do(f"INSERT INTO found {found}", *values)
        rows, events = self.one("SELECT count(*), count(DISTINCT event_id) FROM found")
        out_of_order, keys, excused = self.one(_OUT_OF_ORDER)
        return Comparison(
            rows=rows,
            events=events,
            missing=self.ids("SELECT event_id FROM ledger EXCEPT SELECT event_id FROM found"),
            twice=self.ids(_REPEATED),
            unknown=self.ids("SELECT event_id FROM found EXCEPT SELECT event_id FROM ledger"),
            out_of_order=out_of_order,
            keys_out_of_order=keys,
            excused=excused,
        )


async def leaders(admin: BrokerAdmin, stream: str) -> AsyncGenerator[StoredMessage]:
    """What the stream's leader holds, asked for one by one. A reader is given what one replica has,
    and those of a cluster whose stores were put back may differ for a time."""
    held = await admin.stream(stream)
    if held is None:
        raise NotFound(f"there is no stream {stream}")
    places = range(held.first_seq, held.last_seq + 1)
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        for found in await asyncio.gather(*(admin.get(stream, place) for place in some)):
            if found is not None:
                yield found


async def gather(stage: Stage, *, of_leader: bool = False) -> Evidence:
    """All that a stage with one database has, once everything is at rest. ``of_leader``: of the
    stream, what its leader has."""
    evidence = Evidence()
    ledger = "SELECT seq, event_id, key, number, subject, tx FROM ledger"
    evidence.add("ledger", await stage.rows(ledger))
    effects = "SELECT seq, consumer, event_id, number, redriven, handled_at FROM effects"
    evidence.add("effects", await stage.rows(effects))
    await evidence.read(stage, of_leader=of_leader)
    return evidence
