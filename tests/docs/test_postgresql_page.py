"""The rights that the PostgreSQL page grants are enough, and the tables' owner's are not needed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seaway.config import settings_from_mapping
from seaway.contracts import Notice
from seaway.errors import ConfigError
from seaway.events import RawEvent, new_event_id
from seaway.outbox import Outbox
from seaway.stores import open_configured
from seaway.stores.postgres import PostgresStore
from seaway.testing.conformance.outbox import claim_all, fail, send
from seaway.testing.databases import Database, Databases

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "postgresql.md"
ROLES = ("writer", "relay", "consumer")
SUBJECT = "sea.event.case_moved.v1"


class Roles:
    """A database in which each role of the page has what the page grants, and nothing else."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._names = {role: f"seaway_{role}_{uuid.uuid4().hex[:8]}" for role in ROLES}

    def grant(self) -> None:
        (grants,) = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), flags=re.S | re.M)
        for role, name in self._names.items():
            grants = re.sub(rf"(TO .*)\b{role}\b", rf"\1{name}", grants)
            self.database.run(f"CREATE ROLE {name} LOGIN")
        self.database.run("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        self.database.run(grants)

    def drop(self) -> None:
        for name in self._names.values():
            self.database.run(f"DROP OWNED BY {name}; DROP ROLE {name}")

    async def open(self, role: str) -> PostgresStore:
        return await PostgresStore.open(
            self.database.url_of(self._names[role]), schema="events", connections=3
        )


@pytest.fixture
async def upgraded(empty_postgres_url: str, postgres_databases: Databases) -> Database:
    settings = settings_from_mapping(
        {"database": empty_postgres_url, "database_schema": "events"}, environ={}
    )
    owner = await open_configured(settings)
    await owner.schema.upgrade()
    await owner.close()
    return Database(empty_postgres_url, postgres_databases)


@pytest.fixture
def roles(upgraded: Database) -> Iterator[Roles]:
    made = Roles(upgraded)
    made.grant()
    yield made
    made.drop()


async def write(store: PostgresStore, *events: RawEvent) -> list[str]:
    async with store.transaction() as tx:
        outbox = Outbox(schema="events")
        return await outbox.add(tx.handle, *(events or (RawEvent(SUBJECT, b"{}"),)))


async def test_the_writers(roles: Roles) -> None:
    async with await roles.open("writer") as store:
        await store.schema.verify()
        known = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
        await write(store, known)
        with pytest.raises(ConfigError, match=str(known.event_id)):
            await write(store, RawEvent(SUBJECT, b"1"), known)
        async with await roles.open("relay") as relay:
            await send(relay)
        with pytest.raises(ConfigError, match=rf"{known.event_id} .* was sent"):
            await write(store, known)
        await write(store)
        with pytest.raises(ConfigError, match="permission denied"):
            await store.entries()
        with pytest.raises(ConfigError, match="permission denied"):
            await claim_all(store)
    assert roles.database.run("SELECT count(*) FROM events.seaway_outbox") == "1"


async def test_the_relays(roles: Roles) -> None:
    async with await roles.open("writer") as writer, await roles.open("relay") as store:
        (first,) = await write(writer)
        await store.schema.verify()
        await store.reshard(4)
        await fail(store, first, park=True)
        assert (await store.backlog()).parked == 1
        assert await store.unpark() == 1
        (second,) = await write(writer)
        await fail(store, second, park=True)
        assert await store.discard([second], "a typo") == [second]
        assert len(await store.discarded()) == 1
        assert len(await send(store)) == 1
        assert len(await store.sent()) == 2
        await store.prune(datetime.now(UTC))
        assert await store.sent() == []
        assert await store.processed("e1") == {}
        with pytest.raises(ConfigError, match="permission denied"):
            await store.forget(datetime.now(UTC))


@pytest.mark.parametrize("role", ["relay", "consumer"])
async def test_both_say_what_they_wait_for(roles: Roles, role: str) -> None:
    async with await roles.open(role) as store:
        await store.tell("a:1:x", [Notice("relay"), Notice("relay", "SEA_EVENTS", "no room")])
        await store.tell("a:1:x", [Notice("relay")])
        assert [one.about for one in await store.notices()] == [""]
        await store.tell("a:1:x", [])


async def test_the_relays_where_the_owner_made_the_days(roles: Roles) -> None:
    async with await PostgresStore.open(roles.database.url, schema="events") as owner:
        await owner.prune(datetime.now(UTC))
    async with await roles.open("writer") as writer, await roles.open("relay") as store:
        await write(writer)
        await send(store)
        await store.prune(datetime.now(UTC))
        assert len(await store.sent()) == 1  # The day has not ended.


async def test_the_consumers(roles: Roles) -> None:
    async with await roles.open("consumer") as store:
        await store.schema.verify()
        for new in (True, False):
            async with store.transaction() as tx:
                assert await tx.claim("case_mgmt__from_sea", "e1") is new
        assert set(await store.processed("e1")) == {"case_mgmt__from_sea"}
        with pytest.raises(ConfigError, match="permission denied"):
            await write(store)
        await store.forget(datetime.now(UTC))
        assert await store.processed("e1") == {}


async def test_the_consumers_where_the_owner_made_the_days(roles: Roles) -> None:
    event_id = new_event_id()
    async with await roles.open("consumer") as store:
        async with await PostgresStore.open(roles.database.url, schema="events") as owner:
            await owner.forget(datetime.now(UTC))
        async with store.transaction() as tx:
            assert await tx.claim("case_mgmt__from_sea", event_id)
        await store.forget(datetime.now(UTC) + timedelta(days=2))
        assert await store.processed(event_id) == {}


async def test_the_consumers_that_park(roles: Roles) -> None:
    durable = "case_mgmt__from_sea"
    async with await roles.open("consumer") as store:
        async with store.transaction() as tx:
            await tx.park(durable, "e1", "case-1", place=1, failed=True)
            await tx.set_letter(durable, "e1", 17)
            assert await tx.parked_keys(durable, ["case-1"]) == {"case-1"}
            await tx.park(durable, "e2", "case-1", place=2, failed=False)
            await tx.release(durable, ["e2"])
        [head] = await store.parked_heads(durable)
        assert await store.drop_parked(head)
