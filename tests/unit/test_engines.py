"""What an engine says of itself in ``ENGINES`` is all that settings, stores and tables ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError as DjangoOperationalError
from sqlalchemy import BigInteger, Connection, DateTime, create_engine
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from seaway import drivers
from seaway.config import settings_from_mapping
from seaway.databases import engines
from seaway.databases.engines import ENGINES, POSTGRES, SQLITE, Engine
from seaway.databases.queries import Query, Steps
from seaway.databases.refusals import Refusal
from seaway.drivers import django as django_driver
from seaway.drivers import sqlalchemy
from seaway.errors import ConfigError
from seaway.events import RawEvent
from seaway.inbox.opening import inbox_for
from seaway.outbox import Outbox
from seaway.outbox.table import Moment
from seaway.stores import schema_script

LAKE = SQLITE._replace(
    name="lake", shown="Lake", article="a", place="server", dialect="lake", schemes="lake"
)


@pytest.fixture(autouse=True)
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third engine, of which nobody has heard."""
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, LAKE))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"database_schema": "a"}, "a Lake server has no schemas"),
        ({"outbox": {"notify": True}}, "a Lake database cannot notify its relay"),
        ({"outbox": {"shards": 2}}, "a Lake outbox has one shard.*or use PostgreSQL"),
    ],
)
def test_settings_are_refused_in_the_engines_words(asked: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_from_mapping({"database": "lake://here/a", **asked}, environ={})


def test_and_taken_where_it_has_what_they_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    able = LAKE._replace(schemas=True, notifies=True, shards=True)
    monkeypatch.setattr(engines, "ENGINES", (*ENGINES, able))
    asked = {"database_schema": "a", "outbox": {"notify": True, "shards": 2}}
    settings = settings_from_mapping({"database": "lake://here/a", **asked}, environ={})
    assert settings.outbox.shards == 2


def test_a_store_refuses_a_schema_in_the_same_words() -> None:
    with pytest.raises(ConfigError, match="a Lake server has no schemas"):
        schema_script("lake://here/a", "events")


@pytest.mark.parametrize(
    ("module", "counted"), [(sqlite, True), (postgresql, False), (mysql, False)]
)
def test_times_are_held_as_the_engine_holds_them(module: Any, counted: bool) -> None:
    moment, at = Moment(), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    dialect: Dialect = module.dialect()
    kind = moment.load_dialect_impl(dialect)
    assert isinstance(kind, BigInteger if counted else DateTime)
    held = moment.process_bind_param(at, dialect)
    assert held == (timedelta(seconds=1) // timedelta(microseconds=1) if counted else at)
    assert moment.process_result_value(held, dialect) == at
    assert moment.process_bind_param(None, dialect) is None


@contextmanager
def over(errors: type[Exception]) -> Iterator[Connection]:
    """SQLAlchemy on Lake, which is SQLite under another name, over a driver with such errors."""
    with create_engine("sqlite://").begin() as connection:
        driver: Any = ModuleType("laked")
        driver.Error = errors
        dialect = connection.dialect
        was = dialect.name, dialect.dbapi
        dialect.name, dialect.dbapi = LAKE.dialect, driver
        yield connection
        dialect.name, dialect.dbapi = was


def test_an_engine_whose_errors_no_driver_tells_apart_is_refused_by_name() -> None:
    words = r"dialect lake.* cannot tell apart: laked.*driver of Lake.*psycopg"
    with over(LookupError) as connection, pytest.raises(ConfigError, match=words):
        Outbox().add(connection, RawEvent("sea.event.case_created.v1", b"{}"))


async def test_an_inbox_refuses_it_too() -> None:
    lake, driver = create_async_engine("sqlite+aiosqlite://"), ModuleType("laked")
    dialect: Any = lake.dialect
    dialect.name, dialect.dbapi = LAKE.dialect, driver
    with pytest.raises(ConfigError, match=r"dialect lake.* cannot tell apart: laked"):
        async with inbox_for(lake).transaction():
            pass


def test_and_so_does_django() -> None:
    handle: Any = SimpleNamespace(vendor=LAKE.dialect, Database=ModuleType("laked"))
    with pytest.raises(ConfigError, match=r"Django's lake.* cannot tell apart: laked"):
        django_driver.require_transaction(handle)


def test_and_taken_where_one_does() -> None:
    def work(engine: Engine) -> Steps[Any]:
        return (yield Query(f"SELECT '{engine.shown}', :here", {"here": 1}))

    with over(sqlite3.Error) as connection:
        assert sqlalchemy.run(connection, work) == [("Lake", 1)]


@pytest.mark.parametrize(
    ("code", "means"),
    [
        (sqlite3.SQLITE_BUSY, Refusal.AWAY),
        (sqlite3.SQLITE_ERROR, Refusal.ENDED),
        (sqlite3.SQLITE_CONSTRAINT, Refusal.OTHER),
    ],
)
def test_frameworks_ask_the_driver_below_what_its_errors_mean(code: int, means: Refusal) -> None:
    below = sqlite3.OperationalError("no")
    below.sqlite_errorcode = code
    above = OperationalError("SELECT 1", {}, below)
    assert sqlalchemy.refusal(above) is means
    assert type(sqlalchemy.translated(above, "here")) is type(drivers.translated(below, "here"))
    django = DjangoOperationalError("no")
    django.__cause__ = below
    assert django_driver.refusal(django) is means
    assert type(django_driver.translated(django, "here")) is type(drivers.translated(below, "here"))


def test_hints_name_what_each_driver_has() -> None:
    assert "psycopg, aiosqlite, SQLAlchemy and Django, and" in drivers.HANDLES_TAKEN
    assert drivers.SOURCES_TAKEN.startswith("an asyncpg Pool, a psycopg AsyncConnectionPool, a")
    assert drivers.KEPT_TAKEN == "a psycopg AsyncConnection or an aiosqlite Connection"
    assert POSTGRES.one == "a PostgreSQL"
