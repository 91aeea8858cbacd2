"""Writes outbox rows through SQLAlchemy's asynchronous sessions and connections. Never commits.

Runs ``sqlalchemy_adapter`` on the synchronous session or connection inside, as SQLAlchemy itself
runs every statement of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from seaway.outbox import refusals, sqlalchemy_adapter
from seaway.outbox.adapters import Place
from seaway.outbox.encoding import OutboxRow

Handle: TypeAlias = "AsyncSession | async_scoped_session[AsyncSession] | AsyncConnection"


def require_transaction(handle: Handle) -> None:
    """See ``Adapter``."""
    if isinstance(handle, async_scoped_session):
        handle = handle()
    if isinstance(handle, AsyncConnection) and handle.closed:
        raise refusals.closed("it is closed")
    if not handle.in_transaction():
        raise refusals.outside()


async def insert(handle: Handle, rows: Sequence[OutboxRow], place: Place) -> list[str]:
    """See ``Adapter``. On PostgreSQL one statement, one round trip."""
    if isinstance(handle, async_scoped_session):
        handle = handle()
    return await handle.run_sync(sqlalchemy_adapter.insert, rows, place)
