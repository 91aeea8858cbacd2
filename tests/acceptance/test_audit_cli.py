"""``seaway audit``: nothing is found where nothing is wrong, and each difference is named."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import Message, OutboxEntry, Sent, Store, Stored
from seaway.contracts.audit import Committed
from seaway.dead_letters import DeadLetters
from seaway.embedded.nats_server import NatsServer
from seaway.errors import ConfigError
from seaway.events import RawEvent, new_event_id
from seaway.history.audit import Audit
from seaway.history.following import Follower
from seaway.history.gauges import families
from seaway.monitor import Database, Sample, Snapshot, Station, exposition
from seaway.outbox import Outbox
from seaway.stores import open_store

pytestmark = pytest.mark.server
SEAWAY = Path(sys.executable).with_name("seaway")
TIMEOUT = timedelta(seconds=10)


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Room:
    """A context with a writing service and one consumer in one database, and ``seaway`` beside."""

    def __init__(
        self, broker: JetStreamBroker, store: Store, context: str, server: str, url: str, at: Path
    ) -> None:
        self.broker, self.store, self.context, self.at = broker, store, context, at
        self.stream, self.queue = f"{context.upper()}_EVENTS", f"{context.upper()}_DLQ"
        self.durable = f"case_mgmt__from_{context}"
        self.subject = f"{context}.event.case_created.v1"
        self.mapping: dict[str, Any] = {
            "database": url,
            "nats": {"url": server},
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [{"stream": self.stream, "durable": self.durable, "max_ack_pending": 500}],
        }
        self.settings = settings_from_mapping(self.mapping, environ={})
        (at / "seaway.yaml").write_text(json.dumps(self.mapping))
        hidden = ("NATS_", "SEAWAY_")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}

    async def open(self) -> None:
        wanted, admin = topology.desired(self.settings), self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def write(self, count: int, subject: str | None = None) -> list[str]:
        events = [RawEvent(subject or self.subject, b"{}") for _ in range(count)]
        async with self.store.transaction() as tx:
            written = Outbox().add(tx.handle, *events)
            return list(written if isinstance(written, list) else await written)

    async def relay(self) -> list[Sent]:
        sent: list[Sent] = []
        async with self.store.lease() as lease:
            assert lease is not None
            while entries := await lease.claim(100):
                sent += await self._publish(entries)
            await lease.settle(sent)
        return sent

    async def _publish(self, entries: Sequence[OutboxEntry]) -> list[Sent]:
        messages = [one.message for one in entries]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        places = [one.stream_seq for one in outcomes if isinstance(one, Stored)]
        return [Sent(one, self.stream, place) for one, place in zip(entries, places, strict=True)]

    async def handle(self, *, but: str = "", bury: str = "") -> None:
        """Take everything: an effect and an acknowledgement; a letter for ``bury``."""
        letters = DeadLetters(self.broker)
        async with self.broker.subscribe(self.stream, self.durable) as source:
            while taken := await source.next(100, timeout=timedelta(milliseconds=300)):
                ids = [one.event_id for one in taken if one.event_id not in (but, bury)]
                async with self.store.transaction() as tx:
                    await tx.claim_many(self.durable, ids)
                for one in taken:
                    if one.event_id == bury:
                        await letters.store(one, reason="poison", error=None)
                assert all(await source.ack(*taken))

    async def publish(self, message: Message) -> int:
        [outcome] = await self.broker.publish(self.stream, [message], timeout=TIMEOUT)
        assert isinstance(outcome, Stored)
        return outcome.stream_seq

    def audit(self, **more: Any) -> Audit:
        async def broker() -> JetStreamBroker:
            return self.broker

        async def database() -> Database:
            return Database(self.store)

        return Audit(Station("s", broker), Station("d", database), self.settings, **more)

    async def run(self, *arguments: str, stdin: str = "") -> Ended:
        process = await asyncio.create_subprocess_exec(
            str(SEAWAY),
            *arguments,
            cwd=self.at,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), 60)
        assert process.returncode is not None
        assert b"Traceback" not in err, err.decode()
        return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture(params=["sqlite", "postgres"])
async def room(
    request: pytest.FixtureRequest,
    broker: JetStreamBroker,
    nats_server: NatsServer,
    context_name: str,
    tmp_path: Path,
) -> AsyncIterator[Room]:
    url = f"sqlite:///{tmp_path}/cases.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    store = await open_store(url)
    try:
        await store.schema.upgrade()
        made = Room(broker, store, context_name, nats_server.url, url, tmp_path)
        await made.open()
        yield made
    finally:
        await store.close()


def kinds(found: Any) -> dict[str, str]:
    return {one["event_id"]: one["kind"] for one in found["findings"]}


async def test_each_difference_is_named_and_what_can_be_mended_is_mended(room: Room) -> None:
    ids = await room.write(8)
    sent = await room.relay()
    await room.handle(but=ids[1], bury=ids[2])
    waits = await room.write(1)
    same = await room.run("audit", "--json")
    found = json.loads(same.out)
    assert (same.code, kinds(found)) == (1, {ids[1]: "no_effect"}), same
    [stream] = found["streams"]
    assert stream["waiting"] == 1
    assert stream["proven_until"]
    assert stream["consumers"][0]["events"] == 8
    async with room.store.transaction() as tx:
        await tx.claim(room.durable, ids[1])
    same = await room.run("audit")
    assert same.code == 0, same
    assert "All is the same." in same.out
    assert waits[0] not in same.out

    admin = room.broker.admin
    assert await admin.delete_message(room.stream, sent[3].stream_seq)
    foreign = new_event_id()
    place = await room.publish(Message(room.subject, b"{}", {"Nats-Msg-Id": foreign}))
    odd = await room.publish(Message(room.subject, b"{}", {"Nats-Msg-Id": "no uuid"}))
    twice = await room.publish(Message(room.subject, b"{}", {"X-Event-Id": ids[4]}))
    for event_id in (ids[5], copied := new_event_id()):
        named = {"Nats-Msg-Id": f"copy:{event_id}", "X-Event-Id": event_id}
        await room.publish(Message(room.subject, b"{}", named))
    async with room.store.transaction() as tx:
        await tx.claim(room.durable, ids[2])
    letter = Message(
        f"{room.context}.dlq.{room.subject}",
        b"{}",
        {
            "X-Event-Id": new_event_id(),
            "X-Dlq-Stream": room.stream,
            "X-Dlq-Stream-Sequence": "3",
            "X-Dlq-Consumer": room.durable,
            "X-Dlq-Reason": "poison",
            "X-Dlq-Deliveries": "1",
            "X-Dlq-Failed-At": "2026-01-01T00:00:00Z",
        },
    )
    await room.broker.publish(room.queue, [letter], timeout=TIMEOUT)
    await room.handle(but=foreign)

    before = await admin.stream(room.stream)
    ended = await room.run("audit", "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert sorted((one["kind"], one["event_id"]) for one in found["findings"]) == sorted(
        [
            ("missing", ids[3]),
            ("twice", ids[4]),
            ("foreign", foreign),
            ("foreign", "no uuid"),
            ("foreign", copied),
            ("no_effect", foreign),
            ("effect_and_letter", ids[2]),
            ("letter_without_event", letter.headers["X-Event-Id"]),
        ]
    ), found
    by_kind = {(one["kind"], one["event_id"]): one for one in found["findings"]}
    assert by_kind["missing", ids[3]]["note"] == "its place holds nothing"
    assert by_kind["foreign", foreign]["stream_seq"] == place
    assert by_kind["foreign", "no uuid"]["stream_seq"] == odd
    assert str(twice) in by_kind["twice", ids[4]]["note"]
    asked = await room.run("audit", "--mend", stdin="n\n")
    assert asked.code == 1
    assert "missing on the stream: 1 event" in asked.out
    assert ids[3] in asked.out
    assert f"would publish {ids[3]} again" in asked.err
    assert "order by key is not kept" in asked.err
    after = await admin.stream(room.stream)
    assert before is not None
    assert after is not None
    assert before.last_seq == after.last_seq
    assert not await room.store.log()

    mended = await room.run("audit", "--mend", "--yes", "--json")
    said = json.loads(mended.out)
    assert mended.code == 1
    # Its stream still knows the id of the deleted message, for as long as its duplicate window.
    assert {one["event_id"] for one in said["stays"]} == {ids[3]}, said
    assert {one["event_id"] for one in said["mended"]} == {foreign}
    [entry] = await room.store.log(action="mended")
    assert entry.detail["ids"] == [foreign]
    left = json.loads((await room.run("audit", "--json")).out)
    assert "no_effect" not in {one["kind"] for one in left["findings"]}


async def test_what_is_under_way_is_no_finding(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks foreign or twice is asked for once more before it is told."""
    ids = await room.write(2)
    await room.relay()
    late, copied, gone = (new_event_id() for _ in range(3))
    copy = Message(room.subject, b"{}", {"Nats-Msg-Id": "copy", "X-Event-Id": copied})
    again = Message(room.subject, b"{}", {"X-Event-Id": ids[0]})
    await room.publish(Message(room.subject, b"{}", {"Nats-Msg-Id": late}))
    taken = [await room.publish(Message(room.subject, b"{}", {"Nats-Msg-Id": gone}))]
    taken.append(await room.publish(again))
    await room.publish(copy)
    found = await room.audit().look()
    assert sorted((one.kind, one.event_id) for one in found.findings) == sorted(
        [("foreign", late), ("foreign", copied), ("foreign", gone), ("twice", ids[0])]
    )

    ask, asked = room.store.committed, Counter[str]()

    async def committed(event_ids: Sequence[str]) -> Mapping[str, Committed]:
        """What goes on between the first time that an id is asked for and the second."""
        known = await ask(event_ids)
        new = [one for one in (late, copied) if one in event_ids and one not in asked]
        asked.update(event_ids)
        async with room.store.transaction() as tx:
            for one in new:
                written = Outbox().add(tx.handle, RawEvent(room.subject, b"{}", event_id=one))
                assert written if isinstance(written, list) else await written
        for place in taken if late in new else ():
            assert await room.broker.admin.delete_message(room.stream, place)
        return known

    monkeypatch.setattr(room.store, "committed", committed)
    found = await room.audit().look()
    assert found.code == 0, found.as_json()
    assert {asked[one] for one in (copied, gone, late)} == {2}


async def test_a_stream_that_lost_its_tail_is_mended_and_followed(room: Room) -> None:
    ids = await room.write(5)
    await room.relay()
    await room.handle()
    follower = Follower(room.audit())
    first = await follower.look()
    assert first.code == 0, first.as_json()
    proven = first.streams[0].proven
    admin = room.broker.admin
    await admin.delete_stream(room.stream)
    await room.open()
    assert [(one.kind, one.event_id) for one in (await follower.look()).findings] == [
        ("missing", one) for one in ids
    ]
    assert follower.report is not None
    assert follower.report.streams[0].proven is not None
    assert proven is not None
    assert follower.report.streams[0].proven < proven
    text = exposition(Sample(Snapshot(datetime.now(UTC))), more=families(follower.report))
    assert f'seaway_audit_missing_events{{stream="{room.stream}"}} 5.0' in text
    assert f'no_effect_events{{consumer="{room.durable}",stream="{room.stream}"}} 0.0' in text
    assert "seaway_audit_up_bool 1.0" in text
    mended = await room.run("audit", "--mend", "--yes")
    assert mended.code == 0, mended
    again = await follower.look()
    assert not [one for one in again.findings if one.kind == "missing"], again.as_json()
    await room.handle()
    more = await room.write(3)
    await room.relay()
    await room.handle(but=more[1])
    last = await follower.look()
    assert [(one.kind, one.event_id) for one in last.findings] == [("no_effect", more[1])]


async def test_types_that_nobody_handles_and_what_cannot_be_asked(room: Room) -> None:
    await room.write(2)
    other = f"{room.context}.event.case_read.v1"
    [ignored] = await room.write(1, other)
    await room.relay()
    await room.handle(but=ignored)
    found = await room.audit().look()
    assert found.code == 0
    assert found.streams[0].consumers[0].ignored == {other: 1}
    found = await room.audit(handles={room.durable: lambda subject: True}).look()
    assert [(one.kind, one.event_id) for one in found.findings] == [("no_effect", ignored)]

    early, late = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    with pytest.raises(ConfigError, match="ends before it begins"):
        await room.audit().look(since=late, until=early)
    with pytest.raises(ConfigError, match="lies in the future"):
        await room.audit().look(since=late.replace(year=2999))
    if room.settings.database.startswith("postgres"):
        return
    nowhere = await room.run("audit", "--context", "nowhere")
    assert nowhere.code == 3, nowhere
    assert "NOWHERE_EVENTS: there is no such stream" in nowhere.err
    away = await room.run("--server", "nats://127.0.0.1:1", "audit", "--timeout", "1s")
    assert away.code == 3, away
    assert "the outbox holds 0 events" in away.err
    empty = f"sqlite:///{room.at}/empty.db"
    lacking = await room.run("--database", empty, "audit")
    assert lacking.code in (2, 3), lacking
    assert "empty.db" in lacking.err
