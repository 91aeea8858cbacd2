"""``seaway.django``: the tables as Django's migrations, and the outbox by alias."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.db.transaction import atomic
from django.test.utils import CaptureQueriesContext, override_settings

from drivers.framework import database
from seaway import Delivery, Depends, Poison
from seaway.consumer import Consumer
from seaway.contracts import SchemaChange
from seaway.databases.engines import ENGINES
from seaway.django import outbox
from seaway.django.testing import deliver, written
from seaway.errors import ConfigError, OutsideTransaction
from seaway.events import RawEvent, Registry, event
from seaway.naming import Durable
from seaway.outbox import Outbox
from seaway.stores import open_store
from seaway.stores.schema import migrations

EVENT = RawEvent("sea.event.case_created.v1", b"{}")
registry = Registry()


@event(context="sea", registry=registry)
@dataclass
class CaseOpened:
    title: str


@event(context="sea", registry=registry)
@dataclass
class TaskAdded:
    what: str


closed: list[str | None] = []


def desk(delivery: Delivery) -> Iterator[str]:
    yield f"desk of {delivery.key}"
    closed.append(delivery.key)


TABLES = {"seaway_inbox", "seaway_outbox", "seaway_schema", "seaway_sent"}


@pytest.fixture(params=["postgres", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.db'}"
    found: str = request.getfixturevalue("empty_postgres_url")
    return found


@pytest.fixture
def connection(url: str) -> Iterator[Any]:
    with database(url) as opened:
        yield opened


@pytest.fixture
def migrated(connection: Any) -> Any:
    migrate()
    return connection


def migrate(*arguments: str) -> str:
    out = StringIO()
    call_command("migrate", *arguments, stdout=out, verbosity=1)
    return out.getvalue()


def tables(connection: Any) -> set[str]:
    return {name for name in connection.introspection.table_names() if name.startswith("seaway")}


def upgrade(url: str, schema: str | None = None) -> list[SchemaChange]:
    """What ``seaway db upgrade`` had to do, after which ``seaway db verify`` agrees."""

    async def upgraded() -> list[SchemaChange]:
        store = await open_store(url, schema=schema)
        try:
            done = await store.schema.upgrade()
            await store.schema.verify()
            assert all(change.applied for change in await store.schema.plan())
            return list(done)
        finally:
            await store.close()

    return asyncio.run(upgraded())


def test_each_numbered_migration_is_one_of_djangos() -> None:
    known = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    ours = {name for label, name in known if label == "seaway"}
    assert ours == {
        f"{each.version:04d}_{each.name.replace('.', '_')}"
        for engine in ENGINES
        for each in migrations(engine)
    }


def test_migrated_tables_need_no_upgrade(migrated: Any, url: str) -> None:
    assert tables(migrated) >= TABLES
    assert upgrade(url) == []


def test_upgraded_tables_need_no_migration(connection: Any, url: str) -> None:
    assert upgrade(url)
    assert "0001_outbox_and_inbox... OK" in migrate()
    assert upgrade(url) == []


def test_backwards_the_tables_are_gone_and_forwards_they_are_back(migrated: Any, url: str) -> None:
    migrate("seaway", "zero")
    assert tables(migrated) == set()
    migrate()
    assert upgrade(url) == []


def test_backwards_loses_no_event(migrated: Any) -> None:
    with atomic():
        outbox.add(EVENT)
    with pytest.raises(ConfigError, match=r"1 event is .*seaway relay --drain"):
        migrate("seaway", "zero")
    assert tables(migrated) >= TABLES


def test_the_sql_can_be_read_before(connection: Any) -> None:
    out = StringIO()
    call_command("sqlmigrate", "seaway", "0001", stdout=out)
    for words in ("CREATE TABLE seaway_outbox", "INSERT INTO seaway_schema"):
        assert words in out.getvalue()
    assert tables(connection) == set()


def test_there_is_nothing_left_to_make_migrations_of(migrated: Any) -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


def test_a_router_keeps_the_tables_away(connection: Any) -> None:
    class Elsewhere:
        def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
            return app_label != "seaway"

    with override_settings(DATABASE_ROUTERS=[Elsewhere()]):
        migrate()
        migrate("seaway", "zero")
    assert tables(connection) == set()


def test_other_databases_are_refused_by_name(
    connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(connection), "vendor", "oracle")
    with pytest.raises(ConfigError, match="oracle"):
        Outbox().add(connection, EVENT)
    with pytest.raises(ConfigError, match=r"default is oracle.*router"):
        migrate("seaway")


def test_a_cache_is_no_database() -> None:
    handle: Any = cache
    with pytest.raises(ConfigError, match="Django"):
        Outbox().add(handle, EVENT)


def test_a_schema_holds_the_tables_and_nothing_else(empty_postgres_url: str) -> None:
    with (
        override_settings(SEAWAY={"database_schema": "events", "outbox": {"notify": True}}),
        database(empty_postgres_url) as connection,
    ):
        migrate()
        with atomic():
            (added,) = outbox.add(EVENT)
        with connection.cursor() as cursor:
            cursor.execute("SELECT event_id::text FROM events.seaway_outbox")
            assert cursor.fetchall() == [(added,)]
            cursor.execute("DELETE FROM events.seaway_outbox")
            cursor.execute("SELECT to_regclass('public.django_migrations') IS NOT NULL")
            assert cursor.fetchone() == (True,)
        assert upgrade(empty_postgres_url, "events") == []
        migrate("seaway", "zero")
        assert upgrade(empty_postgres_url, "events")


def test_an_alias_names_the_database(migrated: Any, tmp_path: Path) -> None:
    with database(f"sqlite:///{tmp_path / 'other.db'}", "other"):
        migrate("--database", "other")
        with atomic(using="other"):
            (added,) = outbox.add(EVENT, using="other", key="case-7")
            with pytest.raises(OutsideTransaction, match=r"atomic\(\)"):
                outbox.add(EVENT)
        with closing(sqlite3.connect(tmp_path / "other.db")) as db:
            rows = db.execute("SELECT event_id, ordering_key FROM seaway_outbox").fetchall()
        assert rows == [(added, "case-7")]


def test_a_block_that_must_roll_back_takes_no_event(migrated: Any) -> None:
    with atomic():
        with suppress(ZeroDivisionError), atomic(savepoint=False):
            1 / 0  # noqa: B018
        with pytest.raises(ConfigError, match="aborted"):
            outbox.add(EVENT)


def test_switching_autocommit_off_is_a_transaction(migrated: Any) -> None:
    for events in ([EVENT], [EVENT, EVENT]):
        migrated.set_autocommit(False)
        outbox.add(*events)
        migrated.rollback()
        outbox.add(*events)
        migrated.commit()
        migrated.set_autocommit(True)
    with migrated.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM seaway_outbox")
        assert cursor.fetchone() == (3,)


def test_django_sees_one_statement(postgres_url: str) -> None:
    with (
        database(postgres_url) as connection,
        CaptureQueriesContext(connection) as seen,
        atomic(),
    ):
        outbox.add(*[EVENT] * 100)
    assert len([each for each in seen if "seaway_outbox" in each["sql"]]) == 1
    assert "default" in connections


def test_handlers_are_called_by_hand_as_a_consumer_calls_them(migrated: Any) -> None:
    seen: list[Any] = []
    consumer = Consumer(Durable.parse("case_mgmt__from_sea"), stream="SEA_EVENTS")

    @consumer.handler(CaseOpened)
    def handle(event: CaseOpened, delivery: Delivery, where: Annotated[str, Depends(desk)]) -> None:
        seen.append((event.title, where, delivery.tx.in_atomic_block))
        delivery.add(TaskAdded(event.title))
        if not event.title:
            raise Poison("no title")

    @consumer.batch_handler(TaskAdded)
    def handle_all(events: list[TaskAdded], deliveries: list[Delivery]) -> None:
        seen.append(len(events))

    deliver(consumer, CaseOpened("one"), TaskAdded("a"), TaskAdded("b"), key="k")
    assert (seen, closed.pop()) == ([("one", "desk of k", True), 2], "k")
    with pytest.raises(Poison, match="no title"):
        deliver(consumer, CaseOpened("two"), CaseOpened(""))
    assert written(TaskAdded) == [TaskAdded("one")]
    (task,) = written()
    assert (task.subject, task.json()) == ("sea.event.task_added.v1", {"what": "one"})
    assert task.causation_id is not None
    with pytest.raises(ConfigError, match=r"no handler of case_mgmt__from_sea takes sea.event"):
        deliver(consumer, EVENT)
