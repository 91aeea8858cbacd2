"""What a type checker knows of ``Outbox.add``: checked by ``make types``."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, assert_type

from seaway.outbox import Outbox

if TYPE_CHECKING:
    import sqlite3

    import aiosqlite
    import asyncpg
    import psycopg
    from asyncpg.pool import PoolConnectionProxy
    from django.db import connection, connections
    from django.db.backends.base.base import BaseDatabaseWrapper
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    def synchronous(
        outbox: Outbox,
        a: sqlite3.Connection,
        b: sqlite3.Cursor,
        c: psycopg.Connection[Any],
        d: psycopg.Cursor[Any],
        e: Connection,
        f: Session,
        g: scoped_session[Session],
        h: BaseDatabaseWrapper,
    ) -> None:
        assert_type(outbox.add(a), list[str])
        assert_type(outbox.add(b), list[str])
        assert_type(outbox.add(c), list[str])
        assert_type(outbox.add(d), list[str])
        assert_type(outbox.add(e), list[str])
        assert_type(outbox.add(f), list[str])
        assert_type(outbox.add(g), list[str])
        assert_type(outbox.add(h), list[str])
        assert_type(outbox.add(connection), list[str])
        assert_type(outbox.add(connections["reports"]), list[str])

    def asynchronous(
        outbox: Outbox,
        a: aiosqlite.Connection,
        b: asyncpg.Connection[asyncpg.Record],
        c: PoolConnectionProxy[asyncpg.Record],
        d: psycopg.AsyncConnection[Any],
        e: psycopg.AsyncCursor[Any],
        f: AsyncConnection,
        g: AsyncSession,
        h: async_scoped_session[AsyncSession],
    ) -> None:
        assert_type(outbox.add(a), Awaitable[list[str]])
        assert_type(outbox.add(b), Awaitable[list[str]])
        assert_type(outbox.add(c), Awaitable[list[str]])
        assert_type(outbox.add(d), Awaitable[list[str]])
        assert_type(outbox.add(e), Awaitable[list[str]])
        assert_type(outbox.add(f), Awaitable[list[str]])
        assert_type(outbox.add(g), Awaitable[list[str]])
        assert_type(outbox.add(h), Awaitable[list[str]])
