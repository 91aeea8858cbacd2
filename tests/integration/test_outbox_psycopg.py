"""What is special to psycopg: pipelines, pending results, and what others left on a connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import psycopg
import pytest

from seaway.errors import ConfigError, OutsideTransaction
from seaway.events import RawEvent
from seaway.outbox import Outbox

EVENT = RawEvent("sea.event.case_created.v1", b"{}")
outbox = Outbox()


def count(url: str) -> int:
    with psycopg.connect(url) as other:
        row = other.execute("SELECT count(*) FROM seaway_outbox").fetchone()
    assert row is not None
    return int(row[0])


def test_in_a_pipeline_it_waits_for_what_was_sent(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as db:
        with db.pipeline(), db.transaction():
            db.execute("SELECT 1")
            outbox.add(db, EVENT)
            outbox.add(db.cursor(), EVENT, EVENT)
            known = RawEvent(EVENT.subject, b"", event_id=outbox.add(db, EVENT)[0])
            with pytest.raises(ConfigError, match="already"):
                outbox.add(db, EVENT, known)
            db.execute("SELECT 1")
        assert count(postgres_url) == 4
        with db.pipeline():
            with pytest.raises(OutsideTransaction):
                outbox.add(db, EVENT)
            db.execute("SELECT 1")
            outbox.add(db, EVENT)
            db.rollback()
    assert count(postgres_url) == 4


def test_an_error_before_it_in_the_pipeline_is_the_callers(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as db:
        with suppress(psycopg.errors.DivisionByZero), db.pipeline():
            db.execute("SELECT 1 / 0")
            with pytest.raises(psycopg.errors.DivisionByZero):
                outbox.add(db, EVENT)
        with pytest.raises(ConfigError, match="aborted"):
            outbox.add(db, EVENT)
    assert count(postgres_url) == 0


async def test_in_an_asynchronous_pipeline_likewise(postgres_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url) as db:
        async with db.pipeline():
            with pytest.raises(OutsideTransaction):
                await outbox.add(db, EVENT)
            async with db.transaction():
                await db.execute("SELECT 1")
                await outbox.add(db, EVENT, EVENT)
        with suppress(psycopg.errors.DivisionByZero):
            async with db.pipeline():
                await db.execute("SELECT 1 / 0")
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await outbox.add(db, EVENT)
    assert count(postgres_url) == 2


def test_a_cursors_pending_rows_stay(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as db, db.cursor() as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        outbox.add(cursor, EVENT)
        assert cursor.fetchall() == [(1,), (2,), (3,)]
    assert count(postgres_url) == 1


async def test_two_tasks_take_turns_on_one_connection(postgres_url: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as db,
        db.transaction(),
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(5):
            tasks.create_task(_added(db))
    assert count(postgres_url) == 5


async def _added(db: psycopg.AsyncConnection) -> None:
    await outbox.add(db, EVENT)
