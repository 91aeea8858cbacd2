"""Writes outbox rows through ``psycopg`` connections and cursors. Never commits.

Through a cursor of its own, so the caller's row factory, cursor class and pending results are left
alone. In pipeline mode it waits for what was sent before: an error of an earlier statement is
raised as it is, and only then is the transaction's state known.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from seaway.outbox import postgres_statements as s
from seaway.outbox import refusals
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow, ids_of

Handle: TypeAlias = "psycopg.Connection[Any] | psycopg.Cursor[Any]"
AnyConnection: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"


def require_transaction(handle: Handle) -> None:
    """See ``Adapter``."""
    require_transaction_of(_connection(handle))


def insert(handle: Handle, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. One statement, one round trip."""
    connection = _connection(handle)
    with connection.pipeline() if in_pipeline(connection) else nullcontext():
        with connection.lock:
            settled(connection)
        try:
            with psycopg.RawCursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(*s.adding(rows, place))
                added = [event_id for (event_id,) in cursor.fetchall()]
                refusal = s.known(rows, added)
                if refusal is not None:
                    cursor.execute(s.take_back_statement(place), [added])
                    raise refusal
        except psycopg.Error as error:
            raise s.explain(error, error.sqlstate, connection) from error
    return ids_of(rows)


def require_transaction_of(connection: AnyConnection) -> None:
    """What ``require_transaction`` says of a connection of either kind.

    While a statement runs nothing can be said; ``settled`` decides when it has ended.
    """
    if connection.closed:
        raise refusals.closed("it is closed")
    status = connection.info.transaction_status
    if status != TransactionStatus.ACTIVE and not in_pipeline(connection):
        settled(connection)


def settled(connection: AnyConnection) -> None:
    """Refuse unless a transaction is open. Inside the connection's lock, where none of another
    task's or thread's statements can be about to begin or end one."""
    match connection.info.transaction_status:
        case TransactionStatus.IDLE:
            raise refusals.outside()
        case TransactionStatus.INERROR:
            raise refusals.aborted(connection)
        case TransactionStatus.ACTIVE:
            raise refusals.closed("another statement is running on it")
        case _:
            pass


def in_pipeline(connection: AnyConnection) -> bool:
    """Whether statements are sent without waiting for their results."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def _connection(handle: Handle) -> psycopg.Connection[Any]:
    return handle.connection if isinstance(handle, psycopg.Cursor) else handle
