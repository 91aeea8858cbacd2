"""Dead letters on a real server: stored, seen, redriven to the one that failed, discarded."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from seaway import topology
from seaway.brokers.jetstream import JetStreamBroker
from seaway.config import settings_from_mapping
from seaway.contracts import Incoming, Message, Stored
from seaway.dead_letters import DeadLetters, Letter, Selection, reading
from seaway.errors import BrokerUnavailable, ConfigError, DecodeError, NotFound, TransientError
from seaway.mending import Mending

pytestmark = pytest.mark.server
TIMEOUT = timedelta(seconds=5)
NOTHING = timedelta(milliseconds=150)


class Shop:
    """A context with two durables on a server, and its dead letters."""

    def __init__(self, broker: JetStreamBroker, context: str) -> None:
        self.broker = broker
        self.context = context
        self.stream = f"{context.upper()}_EVENTS"
        self.queue = f"{context.upper()}_DLQ"
        self.redrives = f"{context.upper()}_REDRIVE"
        self.failing = f"case_mgmt__from_{context}"
        self.other = f"analytics__from_{context}"
        self.letters = DeadLetters(broker)

    async def open(self) -> None:
        mapping = {
            "streams": [{"name": self.stream, "replicas": 1, "storage": "memory"}],
            "consumers": [
                {"stream": self.stream, "durable": name} for name in (self.failing, self.other)
            ],
        }
        wanted = topology.desired(settings_from_mapping(mapping, environ={}))
        admin = self.broker.admin
        await topology.apply(topology.plan(wanted, await topology.actual(admin, wanted)), admin)

    async def publish(self, count: int = 1, name: str = "case_created") -> None:
        messages = [
            Message(
                f"{self.context}.event.{name}.v1",
                b'{"n": %d}' % number,
                {"Nats-Msg-Id": uuid.uuid4().hex, "X-Ordering-Key": "case-1"},
            )
            for number in range(count)
        ]
        outcomes = await self.broker.publish(self.stream, messages, timeout=TIMEOUT)
        assert all(isinstance(one, Stored) for one in outcomes)

    async def take(
        self, durable: str, count: int = 1, stream: str | None = None
    ) -> Sequence[Incoming]:
        """``count`` deliveries, acknowledged."""
        taken: list[Incoming] = []
        async with self.broker.subscribe(stream or self.stream, durable) as source:
            while len(taken) < count:
                batch = await source.next(count - len(taken), timeout=TIMEOUT)
                assert batch, f"{durable} got {len(taken)} of {count}"
                assert all(await source.ack(*batch))
                taken += batch
        return taken

    async def waits(self, durable: str, stream: str) -> bool:
        async with self.broker.subscribe(stream, durable) as source:
            return bool(await source.next(1, timeout=NOTHING))

    async def bury(
        self, count: int = 1, error: BaseException | None = None, name: str = "case_created"
    ) -> list[Letter]:
        """Publish, let one consumer fail on all of it, and give the letters."""
        await self.publish(count, name)
        for incoming in await self.take(self.failing, count):
            await self.letters.store(incoming, reason="poison", error=error or ValueError("no"))
        return await self.here()

    async def ids(self, **more: object) -> list[str]:
        """Their ids."""
        return [letter.id for letter in await self.here(**more)]

    async def held(self, stream: str) -> int:
        """How many messages a stream has."""
        info = await self.broker.admin.stream(stream)
        assert info is not None
        return info.messages

    async def here(self, **more: object) -> list[Letter]:
        """The letters of this context: other tests share the server."""
        found = await self.letters.list(Selection(**more))  # type: ignore[arg-type]
        return [letter for letter in found if letter.stored.stream == self.queue]


@pytest.fixture
async def shop(broker: JetStreamBroker, context_name: str) -> Shop:
    made = Shop(broker, context_name)
    await made.open()
    return made


async def test_a_letter_is_stored_listed_and_shown(shop: Shop) -> None:
    [letter] = await shop.bury(error=DecodeError("not a case"))
    assert letter.subject == f"{shop.context}.event.case_created.v1"
    assert (letter.consumer, letter.stream, letter.stream_seq) == (shop.failing, shop.stream, 1)
    assert (letter.reason, letter.deliveries, letter.error) == ("poison", 1, "not a case")
    assert letter.error_type == "seaway.errors.DecodeError"
    assert letter.payload == b'{"n": 0}'
    for name in (letter.id, letter.event_id):
        found = await shop.letters.get(name)
        assert (found.summary(), found.stack) == (letter.summary(), letter.stack)
    assert (await shop.letters.count())[shop.queue] == 1


async def test_the_same_letter_stored_again_is_one(shop: Shop) -> None:
    await shop.publish()
    [incoming] = await shop.take(shop.failing)
    for error in (ValueError("a"), ValueError("b")):
        await shop.letters.store(incoming, reason="poison", error=error)
    assert [letter.error for letter in await shop.here()] == ["a"]


async def test_two_consumers_have_two_letters_of_one_event(shop: Shop) -> None:
    await shop.publish()
    for durable in (shop.failing, shop.other):
        [incoming] = await shop.take(durable)
        await shop.letters.store(incoming, reason="poison", error=None)
    with pytest.raises(ConfigError, match="several letters"):
        await shop.letters.get(incoming.event_id)
    letter = await shop.letters.get(incoming.event_id, consumer=shop.other)
    assert letter.consumer == shop.other


async def test_the_queue_tells_which_messages_have_letters(shop: Shop) -> None:
    await shop.publish(3)
    await shop.publish(1, "case_closed")
    messages = await shop.take(shop.failing, 4)
    for incoming in (messages[0], messages[3]):
        await shop.letters.store(incoming, reason="poison", error=None)
    has_letter = shop.letters.has_letter
    assert [await has_letter(one) for one in messages] == [True, False, False, True]
    others = [dataclasses.replace(one, consumer=shop.other) for one in messages]
    assert [await has_letter(one) for one in others] == [False] * 4
    other = dataclasses.replace(
        messages[0], message=Message(messages[0].message.subject, b"", {"Nats-Msg-Id": "other"})
    )
    assert not await has_letter(other), "it lies where another one lay"
    await shop.broker.admin.delete_stream(shop.queue)
    assert [await has_letter(one) for one in messages] == [False] * 4


@pytest.mark.seaway_since("2.12", "atomic batches")
async def test_messages_of_an_atomic_batch_can_be_buried(shop: Shop) -> None:
    letters = await shop.bury(count=3)
    events = [stored async for stored in shop.broker.admin.read(shop.stream)]
    batched = [name for one in events for name in one.message.headers]
    assert "Nats-Batch-Id" in batched, "the broker wrote them as one batch"
    assert [letter.stream_seq for letter in letters] == [1, 2, 3]
    for letter in letters:
        await shop.letters.redrive(letter)
    assert len(await shop.take(shop.failing, 3, shop.redrives)) == 3


async def test_redrive_reaches_the_failed_consumer_alone(shop: Shop) -> None:
    [letter] = await shop.bury()
    await shop.take(shop.other)
    await shop.letters.redrive(letter)
    [incoming] = await shop.take(shop.failing, 1, shop.redrives)
    assert incoming.message.payload == letter.payload
    assert incoming.event_id == letter.event_id
    assert incoming.message.headers["X-Ordering-Key"] == "case-1"
    assert not await shop.waits(shop.other, shop.redrives)
    assert not await shop.waits(shop.other, shop.stream)
    assert await shop.here() == []
    assert await shop.held(shop.redrives) == 0, "what is acknowledged leaves it"


async def test_a_redriven_event_that_fails_again_is_a_letter_again(shop: Shop) -> None:
    [letter] = await shop.bury()
    await shop.letters.redrive(letter)
    [incoming] = await shop.take(shop.failing, 1, shop.redrives)
    await shop.letters.store(incoming, reason="poison", error=ValueError("still no"))
    [again] = await shop.here()
    assert (again.subject, again.event_id) == (letter.subject, letter.event_id)
    assert (again.stream, again.error) == (shop.redrives, "still no")
    await shop.letters.redrive(again)
    [incoming] = await shop.take(shop.failing, 1, shop.redrives)
    assert incoming.event_id == letter.event_id


async def test_redrive_with_a_corrected_payload(shop: Shop) -> None:
    [letter] = await shop.bury()
    await shop.letters.redrive(letter, payload=b'{"n": "mended"}')
    [incoming] = await shop.take(shop.failing, 1, shop.redrives)
    assert incoming.message.payload == b'{"n": "mended"}'
    assert incoming.event_id == letter.event_id


async def test_redrive_to_all_reaches_every_consumer(shop: Shop) -> None:
    [letter] = await shop.bury()
    await shop.take(shop.other)
    await shop.letters.redrive(letter, to="all")
    for durable in (shop.failing, shop.other):
        [incoming] = await shop.take(durable)
        assert (incoming.event_id, incoming.stream_seq) == (letter.event_id, 2)
    assert await shop.here() == []


@pytest.mark.parametrize("to", ["consumer", "all"])
async def test_a_repeated_redrive_is_stored_once(shop: Shop, to: str) -> None:
    [letter] = await shop.bury()
    for _ in range(2):
        await shop.letters.redrive(letter, to="all" if to == "all" else "consumer")
    assert await shop.held(shop.stream if to == "all" else shop.redrives) == (
        2 if to == "all" else 1
    )


async def test_without_its_redrive_durable_the_letter_stays(shop: Shop) -> None:
    [letter] = await shop.bury()
    await shop.broker.admin.delete_consumer(shop.redrives, shop.failing)
    with pytest.raises(NotFound, match="topology apply"):
        await shop.letters.redrive(letter)
    assert await shop.ids() == [letter.id]
    assert await shop.held(shop.redrives) == 0


async def test_one_that_stays_does_not_hold_up_the_others(shop: Shop) -> None:
    [first] = await shop.bury()
    foreign = Message(f"{shop.context}.dlq.whatever", b"x", {"Nats-Msg-Id": uuid.uuid4().hex})
    await shop.broker.publish(shop.queue, [foreign], timeout=TIMEOUT)
    [*_, last] = await shop.bury(name="case_moved")
    letters = await shop.here()
    assert [bool(letter.problem) for letter in letters] == [False, True, False]
    done = [(one.id, error) async for one, error in shop.letters.redrive_all(letters, rate=500)]
    assert [place for place, _ in done] == [letter.id for letter in letters]
    assert [error is None for _, error in done] == [True, False, True]
    assert isinstance(done[1][1], ConfigError)
    assert {first.event_id, last.event_id} == {
        one.event_id for one in await shop.take(shop.failing, 2, shop.redrives)
    }
    [stays] = await shop.here()
    assert await shop.letters.discard(stays), "what is no letter can be discarded"


async def test_discard_takes_one_letter_for_good(shop: Shop) -> None:
    first, second = await shop.bury(count=2)
    assert await shop.letters.discard(first)
    assert not await shop.letters.discard(first)
    assert await shop.ids() == [second.id]
    with pytest.raises(NotFound):
        await shop.letters.get(first.id)


async def test_letters_are_selected(shop: Shop) -> None:
    [created] = await shop.bury()
    [_, moved] = await shop.bury(error=DecodeError("x"), name="case_moved")
    [incoming, _] = await shop.take(shop.other, 2)
    await shop.letters.store(incoming, reason="exhausted", error=None)
    [exhausted] = await shop.here(consumer=shop.other)
    context = shop.context
    assert await shop.ids(consumer=shop.failing) == [created.id, moved.id]
    assert await shop.ids(subject=f"{context}.event.case_moved.v1") == [moved.id]
    assert await shop.ids(subject=f"{context}.event.*.v1") == [created.id, moved.id, exhausted.id]
    assert await shop.ids(subject=f"{context}.event.case_closed.>") == []
    assert await shop.ids(reason="exhausted") == [exhausted.id]
    assert await shop.ids(error_type="DecodeError") == [moved.id]
    assert await shop.ids(error_type="seaway.errors.DecodeError") == [moved.id]
    assert await shop.ids(since=moved.failed_at) == [moved.id, exhausted.id]
    assert await shop.ids(until=moved.failed_at) == [created.id]
    assert await shop.ids(since=datetime.now(UTC) + timedelta(hours=1)) == []
    assert await shop.ids(ids=(moved.id, created.event_id)) == [created.id, moved.id, exhausted.id]
    assert await shop.ids(ids=(moved.id, created.id, moved.id)) == [moved.id, created.id]
    assert len(await shop.letters.list(limit=1)) == 1


async def test_a_payload_that_leaves_no_room_is_left_where_it_lies(shop: Shop) -> None:
    limit = (await shop.broker.admin.server_info()).max_payload_bytes
    body = b"x" * (limit - 200)
    message = Message(f"{shop.context}.event.case_created.v1", body, {"Nats-Msg-Id": "big"})
    [outcome] = await shop.broker.publish(shop.stream, [message], timeout=TIMEOUT)
    assert isinstance(outcome, Stored)
    [incoming] = await shop.take(shop.failing)
    await shop.letters.store(incoming, reason="poison", error=ValueError("too much"))
    [letter] = await shop.here()
    assert (letter.by_reference, letter.payload, letter.error) == (True, b"", "too much")
    assert await shop.letters.payload(letter) == body
    with pytest.raises(ConfigError, match="max_payload"):
        await shop.letters.redrive(letter)
    await shop.letters.redrive(letter, payload=b"less")
    [incoming] = await shop.take(shop.failing, 1, shop.redrives)
    assert (incoming.message.payload, incoming.event_id) == (b"less", "big")


async def test_a_payload_that_has_gone_from_its_stream_is_said_to_be_gone(shop: Shop) -> None:
    limit = (await shop.broker.admin.server_info()).max_payload_bytes
    message = Message(f"{shop.context}.event.case_created.v1", b"x" * (limit - 100), {})
    await shop.broker.publish(shop.stream, [message], timeout=TIMEOUT)
    [incoming] = await shop.take(shop.failing)
    await shop.letters.store(incoming, reason="poison", error=None)
    [letter] = await shop.here()
    await shop.broker.admin.delete_message(shop.stream, letter.stream_seq)
    with pytest.raises(NotFound, match="does not hold it any more"):
        await shop.letters.redrive(letter)
    assert await shop.ids() == [letter.id]


async def test_without_a_queue_the_message_must_stay_where_it_is(shop: Shop) -> None:
    await shop.publish()
    [incoming] = await shop.take(shop.failing)
    await shop.broker.admin.delete_stream(shop.queue)
    with pytest.raises(TransientError, match="topology apply") as caught:
        await shop.letters.store(incoming, reason="poison", error=None)
    assert isinstance(caught.value, BrokerUnavailable)


async def test_reading_the_queue_leaves_no_consumer_behind(shop: Shop) -> None:
    await shop.bury(count=3)
    await shop.letters.list(limit=1)
    assert await shop.broker.admin.consumers(shop.queue) == []


# ------------------------------------------------------------------------------- many letters


def shelf(shop: Shop) -> Mending:
    """This context's queue alone: other tests share the server."""
    return Mending(shop.broker, queues=[shop.queue])


async def test_a_queue_is_read_page_by_page_from_either_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever holes it has, and however it grows meanwhile."""
    monkeypatch.setattr(reading, "_WINDOW", 4)
    await shop.bury(count=40)
    for seq in (*range(3, 7), *range(12, 29), 40):
        await shop.broker.admin.delete_message(shop.queue, seq)
    [moved, *_] = [one for one in await shop.bury(name="case_moved") if "moved" in one.subject]
    desk = shelf(shop)
    left = [f"{shop.queue}:{seq}" for seq in (1, 2, *range(7, 12), *range(29, 40), 41)]
    for newest in (False, True):
        expected, seen, after = left[::-1] if newest else left, [], None
        while True:
            page = await desk.page(limit=5, after=after, newest=newest)
            assert (page.held, set((page.behind or {}).values())) == (len(left), {0})
            seen += [one.id for one in page.letters]
            if not page.more:
                break
            after = seen[-1]
        assert seen == expected
        first = await desk.page(Selection(subject="*.event.case_moved.v1"), newest=newest)
        assert [one.id for one in first.letters] == [moved.id]
        gone = await desk.page(after=f"{shop.queue}:12", limit=1, newest=newest)
        assert [one.id for one in gone.letters] == [f"{shop.queue}:{11 if newest else 29}"]
        recent = Selection(since=datetime.now(UTC) - timedelta(minutes=1))
        assert [one.id for one in (await desk.page(recent, newest=newest)).letters] == expected
        later = Selection(since=datetime.now(UTC) + timedelta(days=1))
        assert (await desk.page(later, newest=newest)).letters == []
    with pytest.raises(ConfigError, match=f"no letter of these queues: {shop.queue}"):
        await desk.page(after="OTHER_DLQ:1")
    for grouped in (await desk.causes(), await desk.causes(Selection(reason="poison"))):
        assert sorted(one.count for one in grouped) == [1, len(left) - 1]
        assert {tuple(one.consumers) for one in grouped} == {(shop.failing,)}
    [same] = await desk.causes(Selection(cause=grouped[1].cause.id))
    assert (same.count, same.sample, same.error) == (1, moved.id, "no")


async def test_letters_are_found_by_what_their_events_hold(shop: Shop) -> None:
    limit = (await shop.broker.admin.server_info()).max_payload_bytes
    big = b'{"n": 7, "note": "%s"}' % (b"x" * (limit - 200))
    subject = f"{shop.context}.event.case_created.v1"
    bodies = (b'{"n": 1}', big, b'{"n": 12}', b"\xff", b'{"m": 12}')
    for number, body in enumerate(bodies):
        headers = {"Nats-Msg-Id": uuid.uuid4().hex, "X-Ordering-Key": f"case-{number}"}
        message = Message(subject, body, {**headers, "X-Tenant": f"t-{number % 2}"})
        await shop.broker.publish(shop.stream, [message], timeout=TIMEOUT)
    for incoming in await shop.take(shop.failing, len(bodies)):
        error = ValueError(f"No owner of {incoming.key}")
        await shop.letters.store(incoming, reason="poison", error=error)
    ids = [one.id for one in await shop.here()]
    desk = shelf(shop)

    async def found(**more: Any) -> list[int]:
        bare = await desk.list(Selection(**more), payloads=False)
        assert [one.id for one in await desk.list(Selection(**more))] == [one.id for one in bare]
        assert all(one.bare and not one.stored.message.payload for one in bare)
        return [ids.index(one.id) for one in bare]

    assert await found(where=("payload.n>=7",)) == [1, 2], "also where it was left in its stream"
    assert await found(where=("payload.n>=7", "headers.x-tenant=t-0")) == [2]
    assert await found(where=("headers.x-tenant=t-0",)) == [0, 2, 4]
    assert await found(where=("payload.n!=1",)) == [1, 2], "what has none is not found"
    assert await found(error="no OWNER of case-1") == [1]
    assert await found(error="valueerror") == [0, 1, 2, 3, 4]
    assert await found(key="case-3") == [3]
    assert await found(key="case-9") == []
    await shop.broker.admin.delete_message(shop.stream, 2)
    assert await found(where=("payload.n>=7",)) == [2]
    [one] = await desk.list(Selection(ids=tuple(ids), where=("payload.m=12",)))
    assert one.id == ids[4]


async def test_what_another_program_put_into_a_queue_goes_to_all(shop: Shop) -> None:
    """Nobody knows who failed: to one consumer it cannot go. Nor does it leave its context."""
    subject = f"{shop.context}.event.case_created.v1"
    named = {"Nats-Msg-Id": "theirs", "X-Ordering-Key": "case-1", "X-Note": "kept"}
    written: list[tuple[str, dict[str, str]]] = [
        (subject, {}),
        (subject, named),
        ("bank.event.paid.v1", {}),
        (subject, {"X-Dlq-Version": "2", "X-Dlq-Reason": "quarantined"}),
        (subject, {"X-Dlq-Stream": "BANK_EVENTS"}),
    ]
    messages = [Message(f"{shop.context}.dlq.{to}", b"{}", headers) for to, headers in written]
    await shop.broker.publish(shop.queue, messages, timeout=TIMEOUT)
    desk = shelf(shop)
    letters = await desk.list(payloads=False)
    assert [one.foreign for one in letters] == [True, True, False, False, False]
    assert all(one.problem for one in letters)
    assert "X-Dlq-Version '2': a newer Seaway" in letters[3].problem
    assert [one.id for one in await desk.list(Selection(reason="foreign"))] == [
        one.id for one in letters[:2]
    ]
    outcomes = [error async for _, error in desk.redrive_all(letters)]
    assert all(isinstance(one, ConfigError) for one in outcomes)
    assert ["--to all" in str(one) for one in outcomes] == [one.foreign for one in letters]
    outcomes = [error async for _, error in desk.redrive_all(letters, to="all")]
    assert [error is None for error in outcomes] == [one.foreign for one in letters]
    first, second = await shop.take(shop.other, 2)
    assert (first.event_id, second.event_id) == (f"{shop.queue}:1", "theirs")
    assert (second.key, second.message.headers["X-Note"]) == ("case-1", "kept")
    assert [one.id for one in await desk.list()] == [one.id for one in letters[2:]]
    edited = Message(f"{shop.context}.dlq.{subject}", b"{", {})
    await shop.broker.publish(shop.queue, [edited], timeout=TIMEOUT)
    *_, last = await desk.list()
    await desk.redrive(last, payload=b'{"n": 1}', to="all")
    [incoming] = await shop.take(shop.other)
    assert incoming.message.payload == b'{"n": 1}'
    for letter in letters[2:]:
        assert await desk.discard(letter, for_good=True)
