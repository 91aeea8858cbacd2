"""The dead letters of the run: noted, and brought back after the fix.

Owns: the note of every letter in the ledger's database, since the queue forgets what it gave back.
Guarantees: a run that was killed between a redrive and its note finds out: a noted letter that is
no longer in the queue has been redriven, for nobody here discards any.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from seaway.app import Seaway
from seaway.demo.scenario import repaired
from seaway.demo.writer import in_thread


@dataclass(frozen=True, slots=True)
class Letters:
    """The letters in ``app``'s queues, noted in ``database``."""

    app: Seaway
    database: Path

    async def record(self) -> int:
        """Note the letters in the queue, and which noted ones have left it; how many wait."""
        found = await self.app.dead_letters.list()
        rows = [(one.consumer, one.event_id, one.id, one.reason) for one in found]
        waiting = {letter.id for letter in found}

        def note(ledger: sqlite3.Connection) -> None:
            ledger.executemany(
                "INSERT OR IGNORE INTO letters (consumer, event_id, letter_id, reason)"
                " VALUES (?, ?, ?, ?)",
                rows,
            )
            noted = ledger.execute("SELECT letter_id FROM letters WHERE redriven_at IS NULL")
            gone = [(time.time(), row[0]) for row in noted if row[0] not in waiting]
            ledger.executemany("UPDATE letters SET redriven_at = ? WHERE letter_id = ?", gone)

        await self._note(note)
        return len(found)

    async def redrive(self) -> int:
        """Bring every letter back to the consumer that failed, repairing what can be; how many.

        A payload that could not be read is corrected on the way; one that the handler refused
        goes as it is, to the handler that now understands it.
        """
        found = await self.app.dead_letters.list()
        for letter in found:
            payload = repaired(letter.payload) if letter.reason == "undecodable" else None
            await self.app.dead_letters.redrive(letter, payload=payload)
        await self.record()
        return len(found)

    async def _note(self, work: Callable[[sqlite3.Connection], None]) -> None:
        def transact() -> None:
            with closing(sqlite3.connect(self.database, timeout=30)) as ledger, ledger:
                work(ledger)

        await in_thread(transact)
