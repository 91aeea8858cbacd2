"""What an engine says of itself in ``ENGINES`` is all that settings, stores and tables ask."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import BigInteger, DateTime
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect

from seaway import drivers
from seaway.config import settings_from_mapping
from seaway.databases import engines
from seaway.databases.engines import ENGINES, POSTGRES, SQLITE
from seaway.errors import ConfigError
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


def test_hints_name_what_each_driver_has() -> None:
    assert "psycopg, aiosqlite, SQLAlchemy and Django, and" in drivers.HANDLES_TAKEN
    assert drivers.SOURCES_TAKEN.startswith("an asyncpg Pool, a psycopg AsyncConnectionPool, a")
    assert drivers.KEPT_TAKEN == "a psycopg AsyncConnection or an aiosqlite Connection"
    assert POSTGRES.one == "a PostgreSQL"
