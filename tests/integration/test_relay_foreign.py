"""The relay and what others did: ids that other messages have taken, rows that others wrote."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from seaway.brokers.jetstream import JetStreamBroker
from seaway.contracts import Message, OutboxEntry, Stored, StoredMessage
from seaway.databases import times
from seaway.events import RawEvent
from seaway.outbox import Outbox
from seaway.relay import Relay, loop
from seaway.retry import Backoff
from seaway.stores.postgres import PostgresStore
from seaway.stores.sqlite import SqliteStore
from seaway.telemetry import Parked, Relayed, Signal, Telemetry

pytestmark = pytest.mark.server

QUICK = Backoff(base=timedelta(milliseconds=20), cap=timedelta(milliseconds=100))
TIMEOUT = timedelta(seconds=5)
Writable = SqliteStore | PostgresStore


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted here is counted on a slow machine, too."""
    monkeypatch.setattr(loop, "LOOK_AGAIN", timedelta(hours=1))


class Bench:
    """An outbox that others can write to as well, and a relay for it."""

    def __init__(self, store: Writable, url: str, broker: JetStreamBroker) -> None:
        self.store = store
        self._url = url
        self.broker = broker
        self.said: list[Signal] = []

    @property
    def now(self) -> Any:
        """The time as the database has it."""
        moment = datetime.now(UTC)
        return times.microseconds(moment) if isinstance(self.store, SqliteStore) else moment

    async def insert(self, **columns: Any) -> str:
        """A row as another program writes it: what is not given is as it should be."""
        event_id = columns.setdefault("event_id", str(uuid.uuid4()))
        key = columns.get("ordering_key", event_id)
        pairs = {"Nats-Msg-Id": event_id, "X-Ordering-Key": key, **columns.get("more", {})}
        headers = columns.get("headers", json.dumps(pairs, separators=(",", ":")))
        row = (event_id, columns["subject"], key, columns.get("payload", b"{}"), headers)
        added_at = columns.get("added_at", self.now)
        if isinstance(self.store, SqliteStore):
            connection = sqlite3.connect(self._url)
            connection.execute("PRAGMA ignore_check_constraints = ON")
            with connection:
                connection.execute(
                    "INSERT INTO seaway_outbox"
                    " (event_id, subject, ordering_key, payload, headers, added_at)"
                    " VALUES (?, CAST(? AS TEXT), ?, ?, CAST(? AS TEXT), ?)",
                    (*row, added_at),
                )
            connection.close()
        else:
            other = await asyncpg.connect(self._url)
            try:
                await other.execute(
                    "INSERT INTO seaway_outbox"
                    " (event_id, subject, ordering_key, payload, headers, added_at)"
                    " VALUES ($1::text::uuid, $2, $3, $4, $5::text::json, $6)",
                    *(*row, added_at),
                )
            finally:
                await other.close()
        return str(event_id)

    async def write(self, context: str, count: int, *, keys: int = 5) -> list[str]:
        async with self.store.transaction() as transaction:
            kind = f"{context}.event.moved.v1"
            events = [RawEvent(kind, b"%d" % n, key=f"case-{n % keys}") for n in range(count)]
            return await Outbox().add(transaction.handle, *events)

    async def drain(self, **options: Any) -> int:
        telemetry = Telemetry()
        telemetry.subscribe(self.said.append)
        relay = Relay(self.store, self.broker, telemetry=telemetry, backoff=QUICK, **options)
        async with asyncio.timeout(30):
            return await relay.drain()

    def of(self, kind: type) -> list[Any]:
        return [signal for signal in self.said if isinstance(signal, kind)]

    async def parked(self) -> dict[str, str]:
        found = await self.store.entries(parked=True)
        return {entry.event_id: entry.last_error or "" for entry in found}

    async def stored(self, stream: str) -> list[StoredMessage]:
        return [each async for each in self.broker.admin.read(stream)]


@pytest.fixture(params=["sqlite", "postgres"])
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, broker: JetStreamBroker
) -> AsyncIterator[Bench]:
    opened: Writable
    if request.param == "sqlite":
        url = str(tmp_path / "outbox.db")
        opened = await SqliteStore.open(url)
        await opened.schema.upgrade()
    else:
        url = request.getfixturevalue("postgres_url")
        opened = await PostgresStore.open(url)
    async with opened:
        yield Bench(opened, url, broker)


async def make_stream(broker: JetStreamBroker, context: str, **config: Any) -> str:
    name = f"{context.upper()}_EVENTS"
    wanted = {"name": name, "subjects": [f"{context}.event.>"], "allow_atomic": True, **config}
    await broker.admin.create_stream(wanted)
    return name


async def publish(broker: JetStreamBroker, stream: str, messages: Sequence[Message]) -> None:
    outcomes = await broker.publish(stream, messages, timeout=TIMEOUT)
    assert all(isinstance(outcome, Stored) for outcome in outcomes)


def forged(entry: OutboxEntry) -> Message:
    return replace(entry.message, payload=b"forged")


# ------------------------------------------------------------------------------ ids


@pytest.mark.parametrize("atomic", [True, False])
async def test_an_event_whose_id_another_message_has_is_parked_and_said(
    bench: Bench, context_name: str, atomic: bool
) -> None:
    stream = await make_stream(bench.broker, context_name, allow_atomic=atomic)
    written = await bench.write(context_name, 100)
    entries = await bench.store.entries(limit=100)
    await publish(bench.broker, stream, [forged(entries[7])])
    # Later ones of its key wait behind it, as behind any that is parked.
    behind = [n for n in range(7, 100) if n % 5 == 2]
    assert await bench.drain() == 100 - len(behind)
    assert list(await bench.parked()) == [written[7]]
    [said] = bench.of(Parked)
    assert f"{stream}:1" in said.error
    assert "new id" in said.error
    found = [each.event_id for each in await bench.stored(stream)]
    assert found[1:] == sorted(found[1:], key=written.index)
    assert len(found) == 1 + 100 - len(behind)


async def test_an_id_taken_longer_ago_than_the_stream_remembers_settles_nothing(
    bench: Bench, context_name: str
) -> None:
    stream = await make_stream(bench.broker, context_name, duplicate_window=100_000_000)
    written = await bench.write(context_name, 60, keys=60)
    entries = await bench.store.entries(limit=60)
    early = [forged(entries[3]), *(entry.message for entry in entries[10:20]), forged(entries[30])]
    await publish(bench.broker, stream, early)
    await asyncio.wait_for(forgotten(bench.broker, stream, entries[3].message), 20)
    assert await bench.drain() == 58
    assert sorted(await bench.parked()) == sorted([written[3], written[30]])
    assert {signal.event_id for signal in bench.of(Parked)} == {written[3], written[30]}
    assert sum(signal.duplicates for signal in bench.of(Relayed)) == 10
    ids = [each.event_id for each in await bench.stored(stream)]
    assert all(ids.count(each) == 1 for each in written)


async def forgotten(broker: JetStreamBroker, stream: str, known: Message) -> None:
    """Poll until the stream takes an id, stored after ``known``, a second time."""
    subject = known.subject.replace(".v1", ".v2")
    probe = Message(subject, b"", {"Nats-Msg-Id": str(uuid.uuid4())})
    stored = 0
    while stored < 2:
        [outcome] = await broker.publish(stream, [probe], timeout=TIMEOUT)
        assert isinstance(outcome, Stored)
        stored += not outcome.duplicate
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("same", [True, False])
async def test_an_id_added_again_is_there_or_parked_as_its_content_is_the_same_or_not(
    bench: Bench, context_name: str, same: bool
) -> None:
    stream = await make_stream(bench.broker, context_name)
    kind = f"{context_name}.event.moved.v1"
    event_id = await bench.insert(subject=kind, payload=b"1", ordering_key="a")
    assert await bench.drain() == 1
    again = b"1" if same else b"2"
    await bench.insert(event_id=event_id, subject=kind, payload=again, ordering_key="a")
    assert await bench.drain() == int(same)
    assert list(await bench.parked()) == ([] if same else [event_id])
    assert [each.message.payload for each in await bench.stored(stream)] == [b"1"]


@pytest.mark.parametrize("keys", [1, 50, 1000])
async def test_a_batch_that_was_stored_unsettled_costs_one_look(
    bench: Bench, context_name: str, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await make_stream(bench.broker, context_name)
    written = await bench.write(context_name, 1000, keys=keys)
    entries = await bench.store.entries(limit=1000)
    await publish(bench.broker, stream, [entry.message for entry in entries[:900]])
    looks: list[str] = []
    admin = bench.broker.admin
    for name in ("read", "get"):
        asked = getattr(admin, name)

        def counted(*args: Any, _name: str = name, _asked: Any = asked, **more: Any) -> Any:
            looks.append(_name)
            return _asked(*args, **more)

        monkeypatch.setattr(admin, name, counted)
    assert await bench.drain() == 1000
    assert looks == ["read"]
    monkeypatch.undo()
    assert [each.event_id for each in await bench.stored(stream)] == written
    assert sum(signal.duplicates for signal in bench.of(Relayed)) == 900


async def test_what_was_consumed_under_a_known_id_is_taken_for_the_event(
    bench: Bench, context_name: str
) -> None:
    """In a work queue nothing tells otherwise, and the common retry must not park events."""
    stream = await make_stream(bench.broker, context_name, retention="workqueue")
    await bench.write(context_name, 10)
    entries = await bench.store.entries(limit=10)
    await publish(bench.broker, stream, [entry.message for entry in entries])
    assert await bench.broker.admin.delete_message(stream, 4)
    assert await bench.drain() == 10
    assert await bench.parked() == {}


# ------------------------------------------------------------------------------ rows

ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "number": ({"headers": "5"}, "not a JSON object of texts"),
    "text": ({"headers": '"x"'}, "not a JSON object of texts"),
    "list": ({"headers": '["a","b"]'}, "not a JSON object of texts"),
    "null": ({"headers": "null"}, "not a JSON object of texts"),
    "nothing": ({"headers": "{}"}, "Nats-Msg-Id"),
    "deep": ({"headers": "[" * 900 + "]" * 900}, "not a JSON object of texts"),
    "nested": ({"more": {"X-Deep": {"a": "b"}, "X-Last": "c"}}, "not a JSON object of texts"),
    "numbers": ({"more": {"X-Number": 5, "X-Last": "c"}}, "not a JSON object of texts"),
    "another id": ({"more": {"Nats-Msg-Id": str(uuid.uuid4())}}, "Nats-Msg-Id"),
    "another event": ({"more": {"X-Event-Id": "other"}}, "X-Event-Id"),
    "rollup": ({"more": {"Nats-Rollup": "all"}}, "Nats-Rollup"),
    "rollup of a subject": ({"more": {"Nats-Rollup": "sub"}}, "Nats-Rollup"),
    "expected stream": ({"more": {"Nats-Expected-Stream": "X"}}, "Nats-Expected-Stream"),
    "expected sequence": ({"more": {"Nats-Expected-Last-Sequence": "9"}}, "Nats-Expected"),
    "expected id": ({"more": {"Nats-Expected-Last-Msg-Id": "x"}}, "Nats-Expected"),
    "ttl": ({"more": {"Nats-TTL": "1s"}}, "Nats-TTL"),
    "schedule": ({"more": {"Nats-Schedule": "@every 1s"}}, "Nats-Schedule"),
    "batch": ({"more": {"Nats-Batch-Id": "x", "Nats-Batch-Sequence": "1"}}, "Nats-Batch"),
    "counter": ({"more": {"Nats-Incr": "+1"}}, "Nats-Incr"),
    "api level": ({"more": {"Nats-Required-Api-Level": "99"}}, "Nats-Required"),
    "large": ({"more": {"X-Note": "x" * 70_000}}, "64k"),
    "line end": ({"more": {"X-Note": "a\r\nX-Forged: b"}}, "X-Note"),
    "nul": ({"more": {"X-Note": "a\0b"}}, "X-Note"),
    "surrogate": ({"more": {"X-Note": "\ud800"}}, "X-Note"),
    "name": ({"more": {"X Note": "\\"}}, "X Note"),
    "subject with a line end": ({"subject": "{c}.event.a\r\nb.v1"}, "subject"),
    "subject with blanks": ({"subject": "{c}.event.a b.v1"}, "subject"),
    "wildcard": ({"subject": "{c}.event.*.v1"}, "subject"),
    "no subject": ({"subject": ""}, "subject"),
    "no event": ({"subject": "{c}.event"}, "not an event subject"),
    "dead letter": ({"subject": "{c}.dlq.{c}.event.moved.v1"}, "not an event subject"),
    "api": ({"subject": "$JS.API.STREAM.PURGE.{C}_EVENTS"}, "not an event subject"),
}
ONLY_SQLITE: dict[str, tuple[dict[str, Any], str]] = {
    "no json": ({"headers": '{"a":"b"'}, "not a JSON object of texts"),
    "bare line end": (
        {"headers": '{"Nats-Msg-Id":"{id}","X-Note":"a\r\nX-Forged: b"}'},
        "not a JSON object of texts",
    ),
    "empty": ({"headers": ""}, "not a JSON object of texts"),
    "subject with NUL": ({"subject": "{c}.event.a\0b.v1"}, "subject"),
    "id that is none": ({"event_id": ""}, "no event id"),
    "headers in no encoding": ({"headers": b'{"X-Note":"\xff"}'}, "not a JSON object of texts"),
    "subject in no encoding": ({"subject": b"sea.event.\xff.v1"}, "\\xff"),
}


async def test_rows_that_nobody_can_publish_park_alone(bench: Bench, context_name: str) -> None:
    stream = await make_stream(
        bench.broker,
        context_name,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
        allow_msg_schedules=True,
    )
    written = await bench.write(context_name, 20)
    rows = dict(ROWS)
    if isinstance(bench.store, SqliteStore):
        rows |= ONLY_SQLITE
    expected: dict[str, str] = {}
    for name, (given, reason) in rows.items():
        event_id = str(uuid.uuid4())
        columns = {"subject": "{c}.event.moved.v1", "event_id": event_id, **given}
        named = {"{c}": context_name, "{C}": context_name.upper(), "{id}": event_id}
        for column in ("subject", "headers"):
            for mark, text in named.items():
                if isinstance(columns.get(column), str):
                    columns[column] = columns[column].replace(mark, text)
        try:
            expected[await bench.insert(**columns)] = f"{name}: {reason}"
        except asyncpg.PostgresError:
            assert name in ("surrogate", "nul"), name
    written += await bench.write(context_name, 20)
    assert await bench.drain() == 40
    parked = await bench.parked()
    for event_id, wanted in expected.items():
        assert wanted.partition(": ")[2] in parked.pop(event_id, ""), wanted
    assert parked == {}
    assert {signal.event_id for signal in bench.of(Parked)} == expected.keys()
    stored = [each.event_id for each in await bench.stored(stream)]
    assert [each for each in stored if each in written] == written
    assert all(entry.attempts == 1 for entry in await bench.store.entries(parked=True))


@pytest.mark.parametrize("last", [True, False])
async def test_a_time_that_no_calendar_has_is_no_obstacle(
    bench: Bench, context_name: str, last: bool
) -> None:
    await make_stream(bench.broker, context_name)
    if isinstance(bench.store, SqliteStore):
        moment: Any = 2**62 if last else -(2**62)
    else:  # What the driver sends as infinity.
        moment = datetime.max.replace(tzinfo=UTC) if last else datetime.min.replace(tzinfo=UTC)
    await bench.insert(subject=f"{context_name}.event.moved.v1", added_at=moment)
    assert len(await bench.store.entries()) == 1
    assert (await bench.store.backlog()).count == 1
    assert await bench.drain() == 1
