"""The service that the hostile publisher is aimed at: ``python -m seaway.testing.drills.target``.

Two durables: ``worker`` goes on behind a failed event, ``keeper`` keeps the later ones of its key.
Every text that a delivery brings is written into the effects' table beside the event's number.
Ends at once when its standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from seaway.app import Seaway
from seaway.config import load_settings
from seaway.consumer import Delivery
from seaway.contracts import Store
from seaway.demo.worker import end_with_parent, loop_factory
from seaway.events import RawEvent, event
from seaway.naming import Durable
from seaway.retry import Backoff

CONTEXT = "drill"
WORKER, KEEPER = "worker", "keeper"
DURABLES = tuple(str(Durable.from_context(service, CONTEXT)) for service in (WORKER, KEEPER))

TABLES = """
CREATE TABLE effects (
    seq {serial}, consumer text NOT NULL, event_id text NOT NULL, key text, number int NOT NULL,
    texts text NOT NULL)
"""
_COLUMNS = "INSERT INTO effects (consumer, event_id, key, number, texts) VALUES"


@event(context=CONTEXT, version=1)
@dataclass
class CaseMoved:
    """What the honest write."""

    number: int
    note: str


def is_sqlite(database: str) -> bool:
    """Whether the URL is that of an SQLite file."""
    return database.startswith("sqlite")


async def rows(store: Store, query: str, *, sqlite: bool) -> Sequence[Any]:
    """What the database answers."""
    async with store.transaction() as tx:
        if sqlite:
            cursor = await tx.handle.execute(query)
            return list(await cursor.fetchall())
        found: Sequence[Any] = await tx.handle.fetch(query)
        return found


def declare(app: Seaway, service: str, *, sqlite: bool) -> None:
    """Tie the handlers to the service's durable."""
    consumer = app.consumer(
        service,
        from_context=CONTEXT,
        workers=4,
        batch=20,
        retry=Backoff(timedelta(milliseconds=50), timedelta(milliseconds=200)),
        on_failure="park" if service == KEEPER else "continue",
    )

    async def take_effect(number: int, note: str, delivery: Delivery) -> None:
        chain = (delivery.correlation_id, delivery.causation_id or "", delivery.subject, note)
        row = (delivery.consumer, delivery.event_id, delivery.key, number, " ".join(chain))
        if sqlite:
            await delivery.tx.execute(f"{_COLUMNS} (?, ?, ?, ?, ?)", row)
        else:
            await delivery.tx.execute(f"{_COLUMNS} ($1, $2, $3, $4, $5)", *row)

    @consumer.handler(CaseMoved)
    async def moved(what: CaseMoved, delivery: Delivery) -> None:
        await take_effect(what.number, what.note, delivery)

    @consumer.handler(RawEvent)
    async def anything(what: RawEvent, delivery: Delivery) -> None:
        await take_effect(int(what.json()["number"]), "", delivery)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m seaway.testing.drills.target")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--service", choices=(WORKER, KEEPER), required=True)
    given = parser.parse_args()
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = load_settings(given.config, environ={})
    app = Seaway(settings, wait=True)
    declare(app, given.service, sqlite=is_sqlite(str(settings.database)))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(app.run(relay=False))


if __name__ == "__main__":
    main()
