"""Some events are published a second time, as a careless publisher would.

Owns: which ones, how, and the record of it. Guarantees: half of them go under the same message
id, which the stream itself suppresses, and half under another, which only the inbox can know;
an event whose stream window may have passed is never sent under its first id again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from seaway.contracts import Broker, Refused, Stored, StoredMessage
from seaway.demo.writer import in_thread
from seaway.errors import ApiError, BrokerUnavailable
from seaway.headers import EVENT_ID, MSG_ID
from seaway.proof.faults import draw

_SHARE = 0.01
_YOUNG = timedelta(seconds=60)
_TIMEOUT = timedelta(seconds=5)
_PAUSE = timedelta(milliseconds=300)


@dataclass(slots=True)
class Doubles:
    """Follows the stream and repeats a share of it. ``stop`` ends it after a last look."""

    broker: Broker
    stream: str
    database: Path
    seed: int

    async def run(self, stopped: Callable[[], bool]) -> None:
        """Until ``stopped``, and then through what the stream still holds. May be repeated."""
        next_seq = 1
        with closing(_open(self.database)) as ledger:
            known = {row[0] for row in ledger.execute("SELECT event_id FROM doubles")}
            last = False
            while not last:
                last = stopped()
                try:
                    async for stored in self.broker.admin.read(
                        self.stream, from_seq=next_seq, headers_only=True
                    ):
                        await self._consider(stored, known, ledger)
                        next_seq = stored.stream_seq + 1
                except BrokerUnavailable:
                    # The server is away: what was not looked at is looked at when it is back.
                    last = False
                if not last:
                    await asyncio.sleep(_PAUSE.total_seconds())

    async def _consider(
        self, stored: StoredMessage, known: set[str], ledger: sqlite3.Connection
    ) -> None:
        event_id = stored.event_id
        chance = draw(self.seed, "double", event_id)
        is_copy = stored.message.headers.get(MSG_ID) != event_id
        if chance >= _SHARE or is_copy or event_id in known:
            return
        whole = await self.broker.admin.get(self.stream, stored.stream_seq)
        if whole is None:
            return
        young = datetime.now(UTC) - stored.stored_at < _YOUNG
        under_its_id = chance < _SHARE / 2 and young
        # Without the server's own headers: those of the batch it came in would call for the rest.
        headers = {
            name: value
            for name, value in whole.message.headers.items()
            if not name.startswith("Nats-")
        }
        if under_its_id:
            headers[MSG_ID] = event_id
        else:
            headers |= {MSG_ID: f"again:{event_id}", EVENT_ID: event_id}
        message = replace(whole.message, headers=headers)
        (outcome,) = await self.broker.publish(self.stream, [message], timeout=_TIMEOUT)
        if isinstance(outcome, Refused) and not outcome.heals:
            raise ApiError(outcome.description, code=outcome.code, err_code=outcome.err_code)
        if not isinstance(outcome, Stored):
            raise BrokerUnavailable("the second publication was not confirmed")
        known.add(event_id)
        row = (event_id, outcome.duplicate)
        await in_thread(
            lambda: ledger.execute(
                "INSERT OR IGNORE INTO doubles (event_id, suppressed) VALUES (?, ?)", row
            )
        )


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=30, isolation_level=None, check_same_thread=False)
