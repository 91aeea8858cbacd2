"""Writes outbox rows through ``asyncpg`` connections, pooled or not. Never commits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from seaway.outbox import postgres_statements as s
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of

Handle: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"


def require_transaction(handle: Handle) -> None:
    """See ``Adapter``."""
    try:
        is_open = not handle.is_closed()
        within = is_open and handle.is_in_transaction()
    except asyncpg.InterfaceError as error:
        raise refusals.closed(error) from error
    if not is_open:
        raise refusals.closed("it is closed")
    if not within:
        raise refusals.outside()


async def insert(handle: Handle, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. One statement, one round trip."""
    try:
        statement, parameters = s.adding(rows, place, in_binary=True)
        found = await handle.fetch(statement, *parameters)
        added = [event_id for (event_id,) in found]
        refusal = s.known(rows, added)
        if refusal is not None:
            await handle.execute(s.take_back_statement(place), added)
            raise refusal
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise s.explain(error, getattr(error, "sqlstate", None), handle) from error
    return ids_of(rows)
