"""A consumer's inbox for the length of its run, and whether it is the application's own database.

If it were not, effects would be committed where no relay looks for the events beside them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from seaway import logs
from seaway.contracts import InboxStore, Store
from seaway.errors import ConfigError, SchemaMismatch, StoreUnavailable
from seaway.inbox.dispatch import inbox_for
from seaway.retry import Backoff
from seaway.waiting import set_within

logger = logs.logger("seaway.inbox")

_OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))


@asynccontextmanager
async def inbox_of(
    tx: object, store: Store, *, schema: str | None, consumer: str, stop: asyncio.Event
) -> AsyncIterator[InboxStore]:
    """``store`` for ``"store"`` and ``None``, else the inbox over what ``tx`` gives, closed after.

    Writes a probe row through the inbox, and gives the inbox once ``store`` shows that row, or
    ``stop`` is set; waits for a database that is away. That leaves no row. ``ConfigError`` where
    the two are not the same database, ``SchemaMismatch`` where the handle finds no inbox; both name
    the consumer.
    """
    if tx is None:
        logger.warning("%s has no database: its effects are at least once", consumer)
    if tx is None or tx == "store":
        yield store
        return
    inbox = inbox_for(tx, schema=schema, committed=store.nudge)
    try:
        await _reached(inbox, store, consumer, stop)
        yield inbox
    finally:
        await inbox.close()


async def _reached(
    inbox: InboxStore, store: InboxStore, consumer: str, stop: asyncio.Event
) -> None:
    attempt = 0
    while not stop.is_set():
        try:
            await _reach(inbox, store, consumer)
            return
        except StoreUnavailable as error:
            attempt += 1
            logger.warning("%s waits for its database: %s", consumer, error)
            await set_within(_OUTAGE.delay(attempt), stop)


async def _reach(inbox: InboxStore, store: InboxStore, consumer: str) -> None:
    probe = f"seaway-start-{uuid.uuid4()}"
    try:
        async with inbox.transaction() as tx:
            await tx.claim_many(consumer, [])
            await tx.trying(consumer, [probe])
    except SchemaMismatch as error:
        raise SchemaMismatch(
            f"consumer {consumer} finds no inbox through the handle given as tx=: run seaway db "
            f"upgrade on that database, which must be the application's own ({error})"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"consumer {consumer}: {error}") from error
    async with store.transaction() as own:
        tried = await own.trying(consumer, [probe])
        await own.release(consumer, [probe])
    if tried[probe] == 1:
        async with inbox.transaction() as tx:
            await tx.release(consumer, [probe])
        raise ConfigError(
            f"consumer {consumer} works in another database than the application's: events added "
            "there would never be published",
            hint="let tx= and database: name the same one, and the same database_schema",
        )
