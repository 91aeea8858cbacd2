"""What a letter's test is made of, and what is said where some of it has gone; on streams in
memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from seaway import Delivery, Seaway, event, topology
from seaway.contracts import Message, Stored
from seaway.errors import ConfigError, NotFound, StoreUnavailable
from seaway.mending import Mending
from seaway.testing.memory_broker import MemoryBroker
from seaway.testing.memory_store import MemoryStore

SUBJECT = "gathered.event.case_opened.v1"
DURABLE = "case_mgmt__from_gathered"


@event(context="gathered")
@dataclass
class CaseOpened:
    case_id: str
    owner: dict[str, str]


@pytest.fixture
def app() -> Seaway:
    made = Seaway.from_config(
        {
            "streams": [{"name": "GATHERED_EVENTS", "replicas": 1}],
            "consumers": [{"stream": "GATHERED_EVENTS", "durable": DURABLE}],
        }
    )

    @made.consumer("case_mgmt", from_context="gathered").handler(CaseOpened)
    async def handle(event: CaseOpened, delivery: Delivery) -> None: ...

    return made


class Desk:
    """Letters, and what is made of them."""

    def __init__(self, app: Seaway, broker: MemoryBroker) -> None:
        self.broker = broker
        self.store = MemoryStore()
        self.letters = Mending(broker, opening=self.database)
        self.letters.application = app

    async def database(self) -> MemoryStore:
        return self.store

    async def put(self, subject: str, payload: bytes, **headers: str) -> int:
        message = Message(subject, payload, {k.replace("_", "-"): v for k, v in headers.items()})
        stream = "GATHERED_DLQ" if ".dlq." in subject else "GATHERED_EVENTS"
        [done] = await self.broker.publish(stream, [message], timeout=timedelta(seconds=1))
        assert isinstance(done, Stored)
        return done.stream_seq

    async def bury(self, payload: bytes, *, of: int = 1, **headers: str) -> str:
        own = {
            "X_Event_Id": f"e-{of}",
            "X_Dlq_Stream": "GATHERED_EVENTS",
            "X_Dlq_Stream_Sequence": str(of),
            "X_Dlq_Consumer": DURABLE,
            "X_Dlq_Reason": "poison",
            "X_Dlq_Deliveries": "1",
            "X_Dlq_Failed_At": "2026-11-24T08:00:00.000000Z",
        }
        seq = await self.put(f"gathered.dlq.{SUBJECT}", payload, **own | headers)
        return f"GATHERED_DLQ:{seq}"

    async def test_of(self, letter_id: str, *redact: str) -> tuple[str, str]:
        """Its source and its notes, each on one line."""
        letter = await self.letters.get(letter_id)
        made = await self.letters.as_test(letter, redact=redact, app="shop:app")
        assert str(made) == made.source
        return " ".join(made.source.split()), " ".join(made.notes)


@pytest.fixture
async def desk(app: Seaway) -> Desk:
    broker = MemoryBroker()
    wanted = topology.desired(app.settings)
    await topology.apply(
        topology.plan(wanted, await topology.actual(broker.admin, wanted)), broker.admin
    )
    return Desk(app, broker)


async def test_what_lies_in_the_stream_is_fetched_and_missed(desk: Desk) -> None:
    seq = await desk.put(SUBJECT, b'{"case_id":"c"}', Nats_Msg_Id="e-1", X_Tenant="t-1")
    whole = await desk.bury(b"", X_Dlq_Payload="by-reference", X_Dlq_Headers="by-reference")
    headless = await desk.bury(b"{}", X_Dlq_Headers="by-reference", X_Ordering_Key="c-1")
    source, notes = await desk.test_of(whole)
    assert '{ "case_id": "c", }, headers={ "Nats-Msg-Id": "e-1", "X-Tenant": "t-1", }' in source
    assert not notes
    await desk.broker.admin.delete_message("GATHERED_EVENTS", seq)
    with pytest.raises(
        NotFound, match="payload was left in GATHERED_EVENTS:1, which does not hold"
    ):
        await desk.test_of(whole)
    source, notes = await desk.test_of(headless)
    assert 'headers={ "Nats-Msg-Id": "e-1", "X-Ordering-Key": "c-1", }' in source
    assert "some headers were left in GATHERED_EVENTS:1" in notes


async def test_what_cannot_be_tested_is_refused(desk: Desk, app: Seaway) -> None:
    foreign = await desk.bury(b"", X_Dlq_Reason="mood")
    others = await desk.bury(b"", X_Dlq_Consumer="other__from_gathered")
    seq = await desk.put(
        "gathered.dlq.gathered.event.case_lost.v1",
        b"",
        **(await desk.letters.get(await desk.bury(b""))).stored.message.headers,
    )
    bytes_only = await desk.bury(b"\xff")
    text = await desk.bury(b'{"case_id":"c","owner":{}}')
    for letter_id, fields, said in (
        (foreign, (), "'mood' is none of .* so no test can be made of it"),
        (others, (), f"is of other__from_gathered, which shop:app does not declare .* {DURABLE}"),
        (f"GATHERED_DLQ:{seq}", (), "has no handler for gathered.event.case_lost.v1 any more"),
        (bytes_only, ("a",), "its payload is not JSON that a test could show"),
        (
            text,
            ("case_id", "owner.name"),
            r"'owner.name' is not in the payload .there are: case_id",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            await desk.test_of(letter_id, *fields)
    letter = await desk.letters.get(text)
    with pytest.raises(ConfigError, match="no module has this application"):
        await desk.letters.as_test(letter)
    module = sys.modules["an_app_of_letters"] = ModuleType("an_app_of_letters")
    try:
        module.app = app  # type: ignore[attr-defined]
        made = await desk.letters.as_test(letter)
    finally:
        del sys.modules["an_app_of_letters"]
    assert "from an_app_of_letters import app" in made.source
    desk.letters.application = None
    with pytest.raises(ConfigError, match=r"use app.dead_letters"):
        await desk.letters.as_test(letter)


async def test_what_waits_comes_after_what_failed(desk: Desk) -> None:
    key = {"X_Ordering_Key": "c-1"}
    waits = await desk.bury(b'{"case_id":"c"}', of=7, X_Dlq_Reason="parked", **key)
    source, notes = await desk.test_of(waits)
    assert source.count("stage.deliver") == 1
    assert "may pass" in notes
    await desk.bury(b"other", of=3, X_Ordering_Key="c-2")
    await desk.bury(b"second", of=6, X_Dlq_Reason="parked", **key)
    first = await desk.bury(
        b'{"id":"c"}', of=5, X_Dlq_Error_Type="ValueError", X_Dlq_Error="is c-9", **key
    )
    source, notes = await desk.test_of(waits, "case_id", "id")
    assert source.count("stage.deliver") == 2
    assert source.index('"e-5"') < source.index('"e-7"')
    assert f"It waits behind {first}: ValueError: is c-9." in source
    assert "Redacted: id, case_id." in source
    assert not notes
    source, _ = await desk.test_of(first)
    assert "Behind it wait 2 events of its key" in source


async def test_what_is_hidden_is_hidden_everywhere_or_told_of(desk: Desk) -> None:
    body = b'{"case_id":"Jane Doe","owner":{"name":"Jane Doe"}}'
    letter = await desk.bury(
        body, X_Ordering_Key="Jane Doe", X_Dlq_Error="no Jane Doe", X_Dlq_Error_Type="KeyError"
    )
    source, notes = await desk.test_of(letter, "owner.name")
    assert source.count("Jane Doe") == 1
    assert '"X-Ordering-Key": "Aaaa Aaa", # redacted' in source
    assert "--redact 'case_id' hides that" in notes
    source, notes = await desk.test_of(letter, "*")
    assert "Jane" not in source
    assert not notes


async def test_what_the_database_knows(desk: Desk) -> None:
    letter = await desk.bury(b"{}")
    source, _ = await desk.test_of(letter)
    assert "The inbox has no effects of it." in source
    async with desk.store.transaction() as tx:
        await tx.claim(DURABLE, "e-1")
    source, _ = await desk.test_of(letter)
    assert "Its inbox has it as handled since " in source

    class Away(MemoryStore):
        async def rows_of(self, event_ids: Any) -> Any:
            raise StoreUnavailable("it is away")

    desk.store = Away()
    source, notes = await desk.test_of(letter)
    assert "inbox" not in source
    assert "The database was not asked: it is away" in notes


async def test_the_database_of_the_application_says_which_fixture(desk: Desk, app: Seaway) -> None:
    letter = await desk.bury(b"{}")
    assert "def test_letter_1(seaway_database: str)" in (await desk.test_of(letter))[0]
    app.settings = app.settings.model_copy(update={"database": "postgresql://u@h/db"})
    assert "def test_letter_1(seaway_postgres_url: str)" in (await desk.test_of(letter))[0]
    app.consumers[DURABLE].tx = "own.db"
    source, _ = await desk.test_of(letter)
    assert "so the test needs a fixture seaway_postgres_url that names their database" in source
