"""Alembic's autogenerate leaves Seaway's tables alone, and SQLAlchemy can query them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    NullPool,
    Table,
    create_engine,
    insert,
    inspect,
    select,
)

from seaway.errors import ConfigError
from seaway.events import RawEvent
from seaway.outbox import Outbox, outbox_table
from seaway.outbox.alembic import include_name, include_object
from seaway.stores import schema_script
from seaway.tables import is_ours

SUBJECT = "sea.event.case_created.v1"


@pytest.fixture(params=["postgres", "sqlite"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """To a database with Seaway's tables, a day's partition among them."""
    if request.param == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", poolclass=NullPool)
        with closing(engine.raw_connection()) as raw:
            raw.driver_connection.executescript(schema_script("sqlite:///app.db"))  # type: ignore[union-attr]
    else:
        url = request.getfixturevalue("postgres_url")
        with psycopg.connect(url) as db:
            db.execute(
                "CREATE TABLE seaway_sent_20261124 PARTITION OF seaway_sent "
                "FOR VALUES FROM ('2026-11-24') TO ('2026-11-25')"
            )
        engine = create_engine(url.replace("://", "+psycopg://", 1), poolclass=NullPool)
    with engine.connect() as connected:
        yield connected


@pytest.fixture
def metadata() -> MetaData:
    """An application's: a table of its own that is not in the database yet."""
    metadata = MetaData()
    Table("cases", metadata, Column("id", Integer, primary_key=True))
    return metadata


def differences(connection: Connection, metadata: MetaData, **hooks: Any) -> list[str]:
    """What autogenerate would write: operations and the tables that they are about."""
    context = MigrationContext.configure(connection, opts={"compare_type": True, **hooks})
    found = []
    for name, about, *_ in compare_metadata(context, metadata):
        found.append(f"{name} {getattr(about, 'name', about)}")
    return sorted(found)


HOOKS = [
    {"include_object": include_object},
    {"include_object": include_object, "include_name": include_name},
]


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("with_table", [False, True])
def test_autogenerate_sees_the_applications_tables_alone(
    connection: Connection, metadata: MetaData, hooks: Any, with_table: bool
) -> None:
    with connection.begin():
        Table("seaway_shipments", MetaData(), Column("id", Integer)).create(connection)
        if with_table:
            outbox_table(metadata)
        expected = ["add_table cases", "remove_table seaway_shipments"]
        assert differences(connection, metadata, **hooks) == expected


def test_without_the_hook_it_would_drop_them(connection: Connection, metadata: MetaData) -> None:
    with connection.begin():
        assert "remove_table seaway_outbox" in differences(connection, metadata)


def test_every_table_of_ours_is_known_as_such(connection: Connection) -> None:
    names = inspect(connection).get_table_names()
    assert {"seaway_outbox", "seaway_inbox", "seaway_sent", "seaway_schema"} <= set(names)
    assert [name for name in names if not is_ours(name)] == []


def test_the_outbox_can_be_queried(connection: Connection) -> None:
    table = outbox_table(MetaData())
    before = datetime.now(UTC)
    with connection.begin():
        event = RawEvent(SUBJECT, b"\x00", headers={"X-Note": "n"})
        (added,) = Outbox().add(connection, event, key="case-7")
        row = connection.execute(
            select(table).where(table.c.added_at >= before - timedelta(seconds=1))
        ).one()
        later = select(table).where(table.c.added_at > datetime.now(UTC) + timedelta(days=1))
        assert connection.execute(later).all() == []
    assert (row.event_id, row.subject, row.ordering_key) == (added, SUBJECT, "case-7")
    assert (row.payload, row.headers["X-Note"], row.attempts) == (b"\x00", "n", 0)
    assert abs(row.added_at - before) < timedelta(minutes=1)
    assert row.parked_at is None
    assert str(table.c.event_id == added)


def test_its_columns_are_the_databases(connection: Connection) -> None:
    found = [column["name"] for column in inspect(connection).get_columns("seaway_outbox")]
    assert list(outbox_table(MetaData()).columns.keys()) == found


def test_sqlalchemy_neither_makes_nor_drops_it(connection: Connection, metadata: MetaData) -> None:
    table = outbox_table(metadata)
    assert outbox_table(metadata) is table
    with connection.begin():
        metadata.create_all(connection)  # It is there already.
        connection.execute(insert(metadata.tables["cases"]).values(id=1))
        with pytest.raises(ConfigError, match="MetaData of its own"):
            metadata.drop_all(connection)
    with connection.begin():
        assert inspect(connection).has_table("seaway_outbox")
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect() as bare, pytest.raises(ConfigError, match="seaway db upgrade"):
        metadata.create_all(bare)


@pytest.mark.parametrize("schema", [None, "events"])
def test_it_is_where_the_tables_are(schema: str | None) -> None:
    assert outbox_table(MetaData(), schema=schema).schema == schema
    assert outbox_table(MetaData(schema="events")).schema == "events"


def test_the_hook_needs_neither_alembic_nor_sqlalchemy() -> None:
    code = (
        "import seaway.outbox.alembic, sys; "
        "sys.exit('sqlalchemy' in sys.modules or 'alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
