"""``Outbox.add`` through every kind of handle, on real databases: one suite for all of them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from drivers import DRIVERS, Driver
from seaway.errors import (
    ConfigError,
    EventTooLarge,
    OutsideTransaction,
    SchemaMismatch,
    StoreUnavailable,
)
from seaway.events import RawEvent, new_event_id
from seaway.outbox import Outbox
from seaway.stores import schema_script

if TYPE_CHECKING:
    from seaway.testing.databases import Databases

SUBJECT = "sea.event.case_created.v1"
EVENT = RawEvent(SUBJECT, b"{}")
CASES = "CREATE TABLE cases (id int)"
COUNTED = """
    CREATE TABLE statements (rows bigint);
    CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO statements SELECT count(*) FROM added; RETURN NULL; END $$;
    CREATE TRIGGER counted AFTER INSERT ON seaway_outbox REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_it();
"""

outbox = Outbox()


class Undo(Exception):
    """Leaves a transaction or a savepoint so that it is rolled back."""


async def add(handle: Any, *events: object, through: Outbox = outbox, **wishes: Any) -> list[str]:
    """What ``add`` gives, awaited where the handle is asynchronous."""
    added: Any = through.add(handle, *events, **wishes)
    found: list[str] = added if isinstance(added, list) else await added
    return found


async def query(driver: Driver, sql: str) -> list[Any]:
    """Rows as somebody else sees them."""
    if driver.engine == "sqlite":
        with closing(sqlite3.connect(driver.url.removeprefix("sqlite:///"))) as db:
            rows = db.execute(sql).fetchall()
            db.commit()
            return rows
    other = await asyncpg.connect(driver.url)
    try:
        return [tuple(row) for row in await other.fetch(sql)]
    finally:
        await other.close()


async def stored(driver: Driver) -> list[str]:
    rows = await query(driver, "SELECT event_id FROM seaway_outbox ORDER BY position")
    return [str(event_id) for (event_id,) in rows]


async def cases(driver: Driver) -> int:
    return len(await query(driver, "SELECT id FROM cases"))


@pytest.fixture(scope="module")
def postgres_prepared(postgres_databases: Databases) -> Iterator[str]:
    """One database for all tests, with tables twice, that counts the statements that add."""
    name = postgres_databases.create()
    url = postgres_databases.url(name)
    postgres_databases.run(f"{schema_script(url, 'events')}{CASES}; {COUNTED}", name)
    yield url
    postgres_databases.drop(name)


@pytest.fixture(scope="module")
def postgres_bare(postgres_databases: Databases) -> Iterator[str]:
    """A database without Seaway's tables."""
    name = postgres_databases.create(tables=False)
    yield postgres_databases.url(name)
    postgres_databases.drop(name)


@pytest.fixture
def postgres_clean(postgres_prepared: str, postgres_databases: Databases) -> str:
    """The one database, with nothing in its tables."""
    name = postgres_prepared.rpartition("/")[2]
    postgres_databases.run(
        "TRUNCATE seaway_outbox, seaway_sent, events.seaway_outbox, cases, statements", name
    )
    return postgres_prepared


@pytest.fixture
def sqlite_clean(tmp_path: Path) -> str:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"{schema_script('sqlite:///app.db')}{CASES};")
    return f"sqlite:///{path}"


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Driver:
    kind: type[Driver] = request.param
    return kind(request.getfixturevalue(f"{kind.engine}_clean"))


@pytest.fixture
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> Driver:
    """A driver on a database without Seaway's tables."""
    kind: type[Driver] = request.param
    if kind.engine == "sqlite":
        return kind(f"sqlite:///{tmp_path / 'bare.db'}")
    return kind(request.getfixturevalue("postgres_bare"))


def on(name: str, kinds: Sequence[type[Driver]]) -> pytest.MarkDecorator:
    """Once for each of ``kinds``."""
    return pytest.mark.parametrize(name, kinds, ids=lambda kind: kind.__name__, indirect=True)


every = on("driver", DRIVERS)
every_postgres = on("driver", [kind for kind in DRIVERS if kind.engine == "postgres"])


@every
async def test_it_is_there_when_the_transaction_commits(driver: Driver) -> None:
    async with driver.transaction() as tx:
        await driver.execute(tx, "INSERT INTO cases VALUES (1)")
        added = await add(tx, EVENT, EVENT)
        added += await add(tx, EVENT)
        assert await stored(driver) == []
    assert await stored(driver) == added
    assert len(set(added)) == 3
    assert await cases(driver) == 1


@every
async def test_it_needs_no_change_before_it(driver: Driver) -> None:
    async with driver.transaction() as tx:
        added = await add(tx, EVENT, EVENT)
        await driver.execute(tx, "INSERT INTO cases VALUES (1)")
        assert await stored(driver) == []
    assert await stored(driver) == added
    assert await cases(driver) == 1


@every
@pytest.mark.parametrize("events", [1, 2])
async def test_it_is_not_there_when_the_transaction_rolls_back(driver: Driver, events: int) -> None:
    with suppress(Undo):
        async with driver.transaction() as tx:
            await add(tx, *[EVENT] * events)
            await driver.execute(tx, "INSERT INTO cases VALUES (1)")
            raise Undo
    assert await stored(driver) == []
    assert await cases(driver) == 0


@every
async def test_a_savepoint_takes_its_own_events_along(driver: Driver) -> None:
    async with driver.transaction() as tx:
        await driver.execute(tx, "INSERT INTO cases VALUES (1)")
        kept = await add(tx, EVENT)
        with suppress(Undo):
            async with driver.savepoint(tx):
                await add(tx, EVENT, EVENT)
                await add(tx, EVENT)
                raise Undo
        async with driver.savepoint(tx):
            kept += await add(tx, EVENT, EVENT)
    assert await stored(driver) == kept


@every
async def test_every_value_arrives_as_it_was_given(driver: Driver) -> None:
    payload, key = bytes(range(256)), "a'b\\c\"{d},%s:x$1 süd"
    event = RawEvent(SUBJECT, payload, headers={"X-Note": 'q"uo\\te, {%s}'})
    async with driver.transaction() as tx:
        added = await add(tx, event, EVENT, key=key)
    columns = "event_id, subject, ordering_key, payload, headers"
    first, _ = await query(driver, f"SELECT {columns} FROM seaway_outbox ORDER BY position")  # noqa: S608
    assert (str(first[0]), *first[1:4]) == (added[0], SUBJECT, key, payload)
    headers = json.loads(first[4])
    assert headers["X-Note"] == 'q"uo\\te, {%s}'
    assert headers["Nats-Msg-Id"] == added[0]
    moment = (
        "to_char(added_at AT TIME ZONE 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        if driver.engine == "postgres"
        else "strftime('%Y-%m-%dT%H:%M:%S', added_at / 1000000, 'unixepoch') "
        "|| printf('.%06dZ', added_at % 1000000)"
    )
    (at, _) = await query(driver, f"SELECT {moment} FROM seaway_outbox ORDER BY position")  # noqa: S608
    if driver.engine == "postgres":  # The server's clock dates its rows.
        dated, occurred = map(datetime.fromisoformat, (at[0], headers["X-Occurred-At"]))
        assert abs(dated - occurred) < timedelta(minutes=1)
    else:
        assert at == (headers["X-Occurred-At"],)


@every
async def test_a_thousand_events_keep_their_order(driver: Driver) -> None:
    async with driver.transaction() as tx:
        added = await add(tx, *[EVENT] * 1000)
    assert await stored(driver) == added
    assert len(set(added)) == 1000


@every_postgres
@pytest.mark.parametrize("events", [1, 1000])
async def test_one_statement_writes_any_number(driver: Driver, events: int) -> None:
    async with driver.transaction() as tx:
        await add(tx, *[EVENT] * events)
    assert await query(driver, "SELECT rows FROM statements") == [(events,)]


@every
async def test_no_events_are_no_rows(driver: Driver) -> None:
    async with driver.transaction() as tx:
        assert await add(tx) == []
    assert await stored(driver) == []


@every
async def test_without_a_transaction_it_is_refused(driver: Driver) -> None:
    async with driver.connected() as handle:
        with pytest.raises(OutsideTransaction, match="atomic"):
            await add(handle, EVENT)
        async with driver.begun(handle):
            pass
        with pytest.raises(OutsideTransaction):
            await add(handle, EVENT)
    assert await stored(driver) == []


@every
async def test_in_autocommit_mode_it_is_refused(driver: Driver) -> None:
    async with driver.committing_each() as handle:
        for events in ([EVENT], [EVENT, EVENT]):
            with pytest.raises(OutsideTransaction, match=r"atomic|autocommit"):
                await add(handle, *events)
    assert await stored(driver) == []


@every
async def test_a_closed_handle_is_refused(driver: Driver) -> None:
    async with driver.connected() as handle:
        await driver.close(handle)
        with pytest.raises(ConfigError, match=r"cannot be used|atomic"):
            await add(handle, EVENT)


@every
async def test_a_known_id_refuses_the_call_and_nothing_else(driver: Driver) -> None:
    known = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
    async with driver.transaction() as tx:
        kept = await add(tx, known)
        for events in ([known], [EVENT, known, EVENT]):
            with pytest.raises(ConfigError, match=rf"{known.event_id} is in the outbox already"):
                await add(tx, *events)
        with pytest.raises(EventTooLarge):
            await add(tx, EVENT, RawEvent(SUBJECT, bytes(1024 * 1024)))
        await driver.execute(tx, "INSERT INTO cases VALUES (1)")
        kept += await add(tx, EVENT)
    assert await stored(driver) == kept
    assert await cases(driver) == 1


@every
async def test_the_id_of_a_sent_event_refuses_the_call_and_nothing_else(driver: Driver) -> None:
    sent = RawEvent(SUBJECT, b"{}", event_id=new_event_id())
    columns = "position, event_id, subject, ordering_key, payload, headers, added_at, attempts"
    async with driver.transaction() as tx:
        await add(tx, sent)
        await driver.execute(
            tx,
            f"INSERT INTO seaway_sent ({columns}, stream, stream_seq, sent_at) "  # noqa: S608
            f"SELECT {columns}, 'SEA_EVENTS', 1, added_at FROM seaway_outbox",
        )
        await driver.execute(tx, "DELETE FROM seaway_outbox")
    async with driver.transaction() as tx:
        for events in ([sent], [EVENT, sent, EVENT]):
            with pytest.raises(ConfigError, match=rf"{sent.event_id} .* was sent"):
                await add(tx, *events)
        await driver.execute(tx, "INSERT INTO cases VALUES (1)")
        fresh = [RawEvent(SUBJECT, b"{}", event_id=new_event_id()) for _ in range(2)]
        kept = await add(tx, fresh[0])
        kept += await add(tx, fresh[1], *[EVENT] * 100)
    assert await stored(driver) == kept
    assert await cases(driver) == 1


@on("bare", DRIVERS)
async def test_missing_tables_say_what_to_run(bare: Driver) -> None:
    for events in ([EVENT], [EVENT, EVENT]):
        with suppress(Undo):
            async with bare.transaction() as tx:
                with pytest.raises(SchemaMismatch, match="seaway db upgrade"):
                    await add(tx, *events)
                raise Undo


@every_postgres
async def test_an_aborted_transaction_is_said_to_be_one(driver: Driver) -> None:
    with suppress(Undo):
        async with driver.transaction() as tx:
            with suppress(Exception):
                await driver.execute(tx, "SELECT 1 / 0")
            with pytest.raises(ConfigError, match="aborted") as raised:
                await add(tx, EVENT)
            assert driver.undoing in str(raised.value)
            raise Undo


@every_postgres
async def test_a_server_that_went_away_is_no_other_trouble(driver: Driver) -> None:
    refused: ConfigError | StoreUnavailable | None = None
    with suppress(Exception):
        async with driver.transaction() as tx:
            await driver.execute(tx, "INSERT INTO cases VALUES (1)")
            await query(
                driver,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            try:
                await add(tx, EVENT)
            except (ConfigError, StoreUnavailable) as error:
                refused = error
                raise
    # A driver may have noticed that the connection is gone before it is used again.
    assert isinstance(refused, StoreUnavailable) or "cannot be used" in str(refused)
    assert await stored(driver) == []


@every_postgres
async def test_the_tables_may_be_in_a_schema(driver: Driver) -> None:
    there, known = Outbox(schema="events"), RawEvent(SUBJECT, b"{}", event_id=new_event_id())
    async with driver.transaction() as tx:
        added = await add(tx, known, through=there)
        with pytest.raises(ConfigError, match="already"):
            await add(tx, EVENT, known, through=there)
    rows = await query(driver, "SELECT event_id::text FROM events.seaway_outbox")
    assert rows == [(event_id,) for event_id in added]
    assert await stored(driver) == []


@every_postgres
async def test_a_transaction_notifies_once_if_it_commits(driver: Driver) -> None:
    heard: list[str] = []
    notifying = Outbox(notify=True)
    listener = await asyncpg.connect(driver.url)
    try:
        await listener.add_listener("seaway_outbox", lambda *_: heard.append(_[-1]))
        with suppress(Undo):
            async with driver.transaction() as tx:
                await add(tx, EVENT, through=notifying)
                raise Undo
        async with driver.transaction() as tx:
            await add(tx, EVENT)
        await listener.execute("NOTIFY seaway_outbox, 'between'")
        async with driver.transaction() as tx:
            added = await add(tx, EVENT, EVENT, through=notifying)
            added += await add(tx, EVENT, through=notifying)
        # What is sent on a connection comes before its next answer.
        await listener.execute("NOTIFY seaway_outbox, 'end'")
    finally:
        await listener.close()
    assert heard == ["between", "", "end"]
    assert (await stored(driver))[1:] == added
