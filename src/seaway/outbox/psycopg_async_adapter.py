"""Writes outbox rows through ``psycopg``'s asynchronous connections and cursors. Never commits.

As ``psycopg_adapter`` does, awaited.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import psycopg
from psycopg.rows import tuple_row

from seaway.outbox import postgres_statements as s
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of
from seaway.outbox.psycopg_adapter import (
    in_pipeline,
    require_transaction_of,
    settled,
)

Handle: TypeAlias = "psycopg.AsyncConnection[Any] | psycopg.AsyncCursor[Any]"


def require_transaction(handle: Handle) -> None:
    """See ``Adapter``."""
    require_transaction_of(_connection(handle))


async def insert(handle: Handle, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. One statement, one round trip."""
    connection = _connection(handle)
    async with connection.pipeline() if in_pipeline(connection) else nullcontext():
        async with connection.lock:
            settled(connection)
        try:
            async with psycopg.AsyncRawCursor(connection, row_factory=tuple_row) as cursor:
                await cursor.execute(*s.adding(rows, place))
                added = [event_id for (event_id,) in await cursor.fetchall()]
                refusal = s.known(rows, added)
                if refusal is not None:
                    await cursor.execute(s.take_back_statement(place), [added])
                    raise refusal
        except psycopg.Error as error:
            raise s.explain(error, error.sqlstate, connection) from error
    return ids_of(rows)


def _connection(handle: Handle) -> psycopg.AsyncConnection[Any]:
    return handle.connection if isinstance(handle, psycopg.AsyncCursor) else handle
