"""The one suite that every ``contracts.Broker`` passes.

Derive from ``BrokerConformance`` in a test module and give it the fixtures ``broker`` (connected)
and ``context`` (a context whose streams nobody else uses). Tests are public: a new broker is done
when they pass.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from seaway import headers as h
from seaway import naming
from seaway.brokers.jetstream import api
from seaway.contracts import (
    JSON,
    Broker,
    Held,
    Message,
    Stored,
)
from seaway.errors import ApiError, NotFound
from seaway.testing.conformance.broker_words import (
    DURABLE,
    TIMEOUT,
    consumer,
    durable_config,
    events,
    everything,
    expect_refused,
    make,
    nanoseconds,
    payloads,
    publish,
    receive,
    refusal,
)
from seaway.testing.conformance.later import LaterConformance
from seaway.testing.conformance.subscription import SubscriptionConformance


class BrokerConformance(SubscriptionConformance, LaterConformance):
    """Fixtures to give: ``broker`` and ``context``."""

    # ----------------------------------------------------------------- publishing

    async def test_outcomes_come_in_order(self, broker: Broker, context: str) -> None:
        await make(broker, context)
        outcomes = await publish(broker, *events(context, 5))
        assert outcomes == [Stored(n) for n in range(1, 6)]
        assert payloads(await everything(broker, context)) == [b"0", b"1", b"2", b"3", b"4"]

    async def test_nothing_to_publish(self, broker: Broker, context: str) -> None:
        await make(broker, context)
        assert await publish(broker, stream=naming.events_stream(context)) == []

    async def test_a_stored_message_is_what_was_published(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context)
        before = datetime.now(UTC) - timedelta(minutes=1)
        sent = Message(subject, b"\x00\xff", {h.MSG_ID: "one", "X-Tenant": "süd", "x-lower": "k"})
        await publish(broker, sent)
        stored = await broker.admin.get(stream, 1)
        assert stored is not None
        assert stored.message == sent
        assert (stored.stream, stored.stream_seq, stored.event_id) == (stream, 1, "one")
        assert before < stored.stored_at < datetime.now(UTC) + timedelta(minutes=1)

    async def test_a_known_id_is_a_duplicate(self, broker: Broker, context: str) -> None:
        await make(broker, context)
        known, *fresh = events(context, 3, ids=True)
        assert await publish(broker, known) == [Stored(1)]
        assert await publish(broker, known) == [Stored(1, duplicate=True)]
        outcomes = await publish(broker, known, *fresh)
        # Its key waits until somebody has looked whether that is the message.
        assert outcomes == [Stored(1, duplicate=True), Held(), Held()]
        assert await publish(broker, *fresh) == [Stored(2), Stored(3)]
        assert len(await everything(broker, context)) == 3

    @pytest.mark.parametrize("atomic", [True, False])
    async def test_an_id_that_another_message_has_is_a_duplicate_too(
        self, broker: Broker, context: str, stream: str, subject: str, atomic: bool
    ) -> None:
        await make(broker, context, allow_atomic=atomic)
        one = Message(subject, b"forged", {h.MSG_ID: "one", h.ORDERING_KEY: "a"})
        assert await publish(broker, one) == [Stored(1)]
        own = Message(subject, b"own", {h.MSG_ID: "one", h.ORDERING_KEY: "a"})
        behind = Message(subject, b"behind", {h.MSG_ID: "two", h.ORDERING_KEY: "a"})
        other = Message(subject, b"other", {h.MSG_ID: "three", h.ORDERING_KEY: "b"})
        outcomes = await publish(broker, own, behind, other)
        assert outcomes == [Stored(1, duplicate=True), Held(), Stored(2)]
        assert payloads(await everything(broker, context)) == [b"forged", b"other"]

    async def test_no_stream_takes_it(self, broker: Broker, context: str) -> None:
        [outcome] = await publish(broker, *events(context, 1))
        refused = expect_refused(outcome)
        assert (refused.heals, refused.code, refused.why) == (True, 503, "unheard")

    async def test_a_message_too_large_for_the_stream(
        self, broker: Broker, context: str, subject: str
    ) -> None:
        await make(broker, context, max_msg_size=100)
        large = Message(subject, b"x" * 101, {h.ORDERING_KEY: "a"})
        behind = Message(subject, b"behind", {h.ORDERING_KEY: "a"})
        other = Message(subject, b"other", {h.ORDERING_KEY: "b"})
        outcomes = await publish(broker, large, behind, other)
        refused = expect_refused(outcomes[0])
        assert (refused.heals, refused.why, refused.hopeless) == (False, "too_large", True)
        assert (refused.code, refused.err_code) == (400, api.TOO_LARGE)
        assert outcomes[1:] == [Held(), Stored(1)]
        assert payloads(await everything(broker, context)) == [b"other"]

    async def test_a_message_too_large_for_the_server(
        self, broker: Broker, context: str, subject: str
    ) -> None:
        await make(broker, context)
        limit = (await broker.admin.server_info()).max_payload_bytes
        large = Message(subject, b"x" * (limit + 1), {h.ORDERING_KEY: "a"})
        other = Message(subject, b"other", {h.ORDERING_KEY: "b"})
        outcomes = await publish(broker, large, other)
        refused = expect_refused(outcomes[0])
        assert (refused.heals, refused.why) == (False, "too_large")
        assert outcomes[1] == Stored(1)

    async def test_a_full_stream_heals(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context, max_msgs=1, discard="new")
        first, second = events(context, 2)
        assert await publish(broker, first) == [Stored(1)]
        [outcome] = await publish(broker, second)
        refused = expect_refused(outcome)
        assert (refused.heals, refused.full) == (True, True)
        assert (refused.code, refused.err_code) == (503, api.STREAM_FULL)
        assert await broker.admin.delete_message(stream, 1)
        assert await publish(broker, second) == [Stored(2)]

    @pytest.mark.parametrize("atomic", [True, False])
    @pytest.mark.parametrize("retention", ["limits", "workqueue", "interest"])
    async def test_what_fits_into_a_bounded_stream_is_stored_in_order_by_key(
        self, broker: Broker, context: str, stream: str, retention: str, atomic: bool
    ) -> None:
        await make(
            broker,
            context,
            durable={},
            max_msgs=5,
            discard="new",
            retention=retention,
            allow_atomic=atomic,
        )
        sent = [message for n in range(6) for message in events(context, 2, key=f"k{n}")]
        outcomes = await publish(broker, *sent)
        stored = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Stored)]
        assert len(stored) == len(await everything(broker, context)) == 5
        assert all(n % 2 == 0 or n - 1 in stored for n in stored)
        assert await broker.admin.delete_message(stream, 1)
        again = await publish(broker, *(m for n, m in enumerate(sent) if n not in stored))
        assert sum(isinstance(outcome, Stored) for outcome in again) == 1

    @pytest.mark.parametrize("atomic", [True, False])
    async def test_a_subject_without_room_holds_up_its_keys_alone(
        self, broker: Broker, context: str, subject: str, atomic: bool
    ) -> None:
        await make(
            broker,
            context,
            max_msgs_per_subject=2,
            discard="new",
            discard_new_per_subject=True,
            allow_atomic=atomic,
        )
        full = [Message(subject, b"%d" % n, {h.ORDERING_KEY: f"k{n}"}) for n in range(4)]
        wide = f"{context}.event.other.v1"
        behind = Message(wide, b"behind", {h.ORDERING_KEY: "k3"})
        other = Message(wide, b"other", {h.ORDERING_KEY: "k4"})
        outcomes = await publish(broker, *full, behind, other)
        assert [isinstance(one, Stored) for one in outcomes[:4]].count(True) == 2
        lacking = [one for one in outcomes[:4] if not isinstance(one, Stored)]
        assert all(expect_refused(one).full for one in lacking)
        assert isinstance(outcomes[5], Stored)
        assert isinstance(outcomes[4], Stored) == isinstance(outcomes[3], Stored)

    @pytest.mark.parametrize("atomic", [True, False])
    async def test_what_is_small_enough_finds_room_behind_what_is_not(
        self, broker: Broker, context: str, subject: str, atomic: bool
    ) -> None:
        await make(broker, context, max_bytes=2000, discard="new", allow_atomic=atomic)
        large = Message(subject, b"x" * 3000, {h.ORDERING_KEY: "a"})
        behind = Message(subject, b"behind", {h.ORDERING_KEY: "a"})
        small = Message(subject, b"small", {h.ORDERING_KEY: "b"})
        outcomes = await publish(broker, large, behind, small)
        assert expect_refused(outcomes[0]).full
        assert outcomes[1:] == [Held(), Stored(1)]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("Nats-Rollup", "all"),
            ("Nats-Expected-Stream", "OTHER"),
            ("Nats-Expected-Last-Sequence", "7"),
            ("Nats-TTL", "1s"),
            ("Nats-Batch-Id", "theirs"),
            ("Nats-Schedule", "@at 2099-01-01T00:00:00Z"),
        ],
    )
    @pytest.mark.parametrize("stored_headers", [True, False])
    async def test_no_header_of_a_message_is_an_order_to_the_server(
        self,
        broker: Broker,
        context: str,
        subject: str,
        name: str,
        value: str,
        *,
        stored_headers: bool,
    ) -> None:
        await make(broker, context, allow_rollup_hdrs=True)
        before = Message(subject, b"before", {h.ORDERING_KEY: "a"})
        pairs = {h.MSG_ID: "one", h.ORDERING_KEY: "b", name: value}
        headers = h.StoredHeaders(json.dumps(pairs, separators=(",", ":")))
        order = Message(subject, b"order", headers if stored_headers else pairs)
        after = Message(subject, b"after", {h.ORDERING_KEY: "c"})
        outcomes = await publish(broker, before, order, after)
        assert expect_refused(outcomes[1]).heals is False
        assert payloads(await everything(broker, context)) == [b"before", b"after"]

    async def test_nothing_of_a_key_is_stored_behind_a_gap(
        self, broker: Broker, context: str
    ) -> None:
        await make(broker, context, max_msgs=2, discard="new")
        outcomes = await publish(broker, *events(context, 4, key="a"))
        stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        assert outcomes[: len(stored)] == stored
        found = payloads(await everything(broker, context))
        assert found == [b"0", b"1", b"2", b"3"][: len(found)]
        assert len(found) >= len(stored)

    async def test_nothing_is_stored_before_its_leave(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, allow_atomic=True)
        sent = events(context, 5)
        leave: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        waiting = asyncio.ensure_future(broker.publish(stream, sent, timeout=TIMEOUT, after=leave))
        assert await publish(broker, *events(context, 1)) == [Stored(1)]
        assert payloads(await everything(broker, context)) == [b"0"]
        leave.set_result(True)
        assert list(await waiting) == [Stored(n) for n in range(2, 7)]
        found = payloads(await everything(broker, context))
        assert found == [b"0", b"0", b"1", b"2", b"3", b"4"]

    @pytest.mark.parametrize("count", [1, 5])
    async def test_nothing_is_stored_without_leave(
        self, broker: Broker, context: str, stream: str, count: int
    ) -> None:
        await make(broker, context, allow_atomic=True)
        sent = events(context, count, ids=True)
        leave: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        leave.set_result(False)
        outcomes = await broker.publish(stream, sent, timeout=TIMEOUT, after=leave)
        assert list(outcomes) == [Held()] * count
        assert await publish(broker, *sent) == [Stored(n + 1) for n in range(count)]
        assert len(await everything(broker, context)) == count

    async def test_an_invalid_subject_is_refused(self, broker: Broker, context: str) -> None:
        await make(broker, context)
        [outcome] = await publish(broker, Message(f"{context}.event.a b.v1", b"x"))
        refused = expect_refused(outcome)
        assert (refused.heals, refused.why, refused.hopeless) == (False, "unfit", True)

    # ----------------------------------------------------------------- administration

    async def test_streams_are_created_changed_and_deleted(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        admin = broker.admin
        assert await admin.stream(stream) is None
        created = await make(broker, context)
        assert created.subjects == (naming.events_filter(context),)
        assert h.parse_time(created.created) <= datetime.now(UTC) + timedelta(minutes=1)
        changed = await admin.update_stream({**created.config, "max_msgs": 7})
        assert changed.max_messages == 7
        found = await admin.stream(stream)
        assert found is not None
        assert found.config == changed.config
        assert stream in [info.name for info in await admin.streams()]
        assert await admin.delete_stream(stream) is True
        assert await admin.delete_stream(stream) is False
        assert await admin.stream(stream) is None

    async def test_a_streams_configuration_is_read(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        plain = await make(broker, context)
        assert (plain.retention, plain.storage, plain.replicas) == ("limits", "memory", 1)
        assert (plain.max_bytes, plain.max_messages, plain.max_message_bytes) == (None, None, None)
        assert (plain.max_messages_per_subject, plain.refuses_when_full) == (None, False)
        assert (plain.fill, plain.metadata.get("team")) == (None, None)
        config: JSON = {
            "retention": "interest",
            "max_bytes": 4096,
            "max_msgs": 40,
            "max_msgs_per_subject": 20,
            "max_msg_size": 1000,
            "discard": "new",
            "discard_new_per_subject": True,
            "duplicate_window": nanoseconds(timedelta(seconds=1.5)),
        }
        assert await broker.admin.delete_stream(stream)
        full = await make(broker, context, **config)
        assert (full.max_bytes, full.max_messages, full.max_message_bytes) == (4096, 40, 1000)
        assert (full.max_messages_per_subject, full.refuses_per_subject) == (20, True)
        assert (full.retention, full.refuses_when_full) == ("interest", True)
        assert full.duplicate_window == timedelta(seconds=1.5)
        assert full.created != plain.created, "another one"
        assert full.first_at is full.last_at is None
        assert {name: full.config[name] for name in config} == config

    async def test_a_durables_configuration_is_read(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, durable={})
        plain = await consumer(broker, stream)
        assert (plain.filters, plain.max_deliver, plain.pulled) == ((), None, True)
        assert (plain.ack_wait, plain.exclusive) == (timedelta(seconds=30), False)
        assert (plain.ephemeral, plain.paused_until, plain.last_active_at) == (False, None, None)
        assert plain.never_pulled
        assert plain.settled
        config: JSON = {
            "filter_subject": subject,
            "ack_wait": nanoseconds(timedelta(seconds=1.5)),
            "max_deliver": 3,
            "max_ack_pending": 7,
        }
        full = await broker.admin.update_consumer(stream, durable_config(**config))
        assert (full.filters, full.max_deliver, full.max_ack_pending) == ((subject,), 3, 7)
        assert (full.ack_wait, full.created) == (timedelta(seconds=1.5), plain.created)
        assert {name: full.config[name] for name in config} == config

    async def test_a_streams_state(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 3))
        await broker.admin.delete_message(stream, 1)
        info = await broker.admin.stream(stream)
        assert info is not None
        assert (info.messages, info.first_seq, info.last_seq, info.num_subjects) == (2, 2, 3, 1)
        assert info.consumer_count == 1
        assert info.bytes > 0
        assert info.first_at is not None
        assert info.last_at is not None
        assert info.first_at <= info.last_at

    async def test_a_streams_subjects_are_counted_where_asked_for(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context)
        sent = events(context, 3)
        await publish(broker, *sent)
        subject = sent[0].subject
        info = await broker.admin.stream(stream, subjects=f"{context}.event.>")
        assert info is not None
        assert info.subject_messages == {subject: 3}
        plain = await broker.admin.stream(stream)
        assert plain is not None
        assert not plain.subject_messages
        assert await broker.admin.stream(f"{stream}X", subjects=">") is None

    @pytest.mark.seaway_since("2.10", "creating that does not update")
    async def test_refusals_say_why(self, broker: Broker, context: str, stream: str) -> None:
        admin = broker.admin
        no_stream = api.STREAM_NOT_FOUND
        assert await refusal(admin.update_stream({"name": stream, "subjects": ["a"]})) == no_stream
        assert await refusal(admin.create_consumer(stream, durable_config())) == no_stream
        await make(broker, context, durable={})
        assert await refusal(make(broker, context, max_msgs=3)) == api.STREAM_EXISTS
        overlapping: JSON = {
            "name": naming.dlq_stream(context),
            "subjects": [naming.events_filter(context)],
            "storage": "memory",
        }
        with pytest.raises(ApiError) as caught:
            await admin.create_stream(overlapping)
        refused = (caught.value.err_code, caught.value.why)
        assert refused == (api.SUBJECTS_OVERLAP, "subjects_taken")
        other = durable_config(max_deliver=9)
        assert await refusal(admin.create_consumer(stream, other)) == api.CONSUMER_EXISTS
        missing = {**other, "name": "other", "durable_name": "other"}
        unknown = api.CONSUMER_DOES_NOT_EXIST
        assert await refusal(admin.update_consumer(stream, missing)) == unknown

    async def test_creating_the_same_again_changes_nothing(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 1))
        await make(broker, context, durable={})
        assert len(await everything(broker, context)) == 1

    async def test_durables_are_created_changed_and_deleted(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        admin = broker.admin
        assert await admin.consumer(stream, DURABLE) is None
        await make(broker, context, durable={})
        changed = await admin.update_consumer(stream, durable_config(max_deliver=9))
        assert changed.max_deliver == 9
        assert (await consumer(broker, stream)).max_deliver == 9
        assert [info.durable for info in await admin.consumers(stream)] == [DURABLE]
        assert await admin.delete_consumer(stream, DURABLE) is True
        assert await admin.delete_consumer(stream, DURABLE) is False
        assert await admin.consumers(stream) == []

    async def test_a_durables_progress(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 4))
        async with broker.subscribe(stream, DURABLE) as pull:
            incoming = await receive(pull, 3)
            await pull.ack(incoming[0])
            info = await consumer(broker, stream)
            assert info.last_active_at is not None
        assert (info.stream_seq, info.consumer_seq, info.ack_floor) == (3, 3, 1)
        assert (info.num_ack_pending, info.num_pending, info.num_redelivered) == (2, 1, 0)
        assert info.key == (stream, DURABLE)

    async def test_a_new_durable_may_begin_later(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context)
        await publish(broker, *events(context, 3))
        start = {"deliver_policy": "by_start_sequence", "opt_start_seq": 3}
        await broker.admin.create_consumer(stream, durable_config(**start))
        async with broker.subscribe(stream, DURABLE) as pull:
            assert payloads(await receive(pull, 1)) == [b"2"]

    async def test_messages_are_looked_up_and_deleted(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        assert await broker.admin.get(stream, 1) is None
        assert await broker.admin.delete_message(stream, 1) is False
        await make(broker, context)
        await publish(broker, *events(context, 1))
        assert await broker.admin.get(stream, 2) is None
        assert await broker.admin.delete_message(stream, 1) is True
        assert await broker.admin.delete_message(stream, 1) is False
        assert await broker.admin.get(stream, 1) is None

    async def test_reading_ends_and_touches_no_durable(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, durable={})
        assert await everything(broker, context) == []
        closed = Message(f"{context}.event.case_closed.v1", b"closed", {"X-Tenant": "a"})
        await publish(broker, *events(context, 2))
        await publish(broker, closed)
        await broker.admin.delete_message(stream, 1)
        assert payloads(await everything(broker, context)) == [b"1", b"closed"]
        assert payloads(await everything(broker, context, from_seq=3)) == [b"closed"]
        assert await everything(broker, context, from_seq=4) == []
        future = datetime.now(UTC) + timedelta(hours=1)
        assert await everything(broker, context, from_time=future) == []
        past = datetime.now(UTC) - timedelta(hours=1)
        assert len(await everything(broker, context, from_time=past)) == 2
        [one] = await everything(broker, context, filter_subjects=[closed.subject])
        assert one.message == closed
        [one] = await everything(broker, context, from_seq=3, headers_only=True)
        assert (one.message.payload, one.message.headers["X-Tenant"]) == (b"", "a")
        assert [info.durable for info in await broker.admin.consumers(stream)] == [DURABLE]
        assert (await consumer(broker, stream)).num_pending == 2

    async def test_reading_a_work_queue_takes_nothing_from_it(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={}, retention="workqueue")
        await publish(broker, *events(context, 3))
        await broker.admin.delete_message(stream, 2)
        assert payloads(await everything(broker, context)) == [b"0", b"2"]
        assert payloads(await everything(broker, context, from_seq=2)) == [b"2"]
        [one] = await everything(broker, context, from_seq=3, headers_only=True)
        assert one.message.payload == b""
        nothing = await everything(broker, context, filter_subjects=[f"{context}.event.other.v1"])
        assert nothing == []
        assert (await consumer(broker, stream)).num_pending == 2

    async def test_reading_an_unknown_stream(self, broker: Broker, context: str) -> None:
        with pytest.raises(NotFound):
            await everything(broker, context)
        with pytest.raises(NotFound):
            await broker.admin.count(naming.events_stream(context))

    async def test_readers_of_one_name_do_not_disturb_one_another(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, allow_atomic=True)
        sent = events(context, 2500)
        await publish(broker, *sent)

        async def read(first: int) -> list[int]:
            found = broker.admin.read(stream, from_seq=first, headers_only=True, reader="relay")
            return [stored.stream_seq async for stored in found]

        starts = [1, 1, 700, 2000, 2400]
        for first, found in zip(starts, await asyncio.gather(*map(read, starts)), strict=True):
            assert found == list(range(first, 2501))
        assert await broker.admin.consumers(stream) == []

    async def test_a_reader_that_is_left_early_keeps_nothing(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, allow_atomic=True)
        await publish(broker, *events(context, 200))
        found = broker.admin.read(stream)
        assert (await anext(found)).stream_seq == 1
        assert await broker.admin.consumers(stream) == [], "nor while its caller thinks"
        await found.aclose()

    async def test_counting(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context)
        closed = Message(f"{context}.event.case_closed.v1", b"closed")
        await publish(broker, *events(context, 3), closed, *events(context, 2))
        await broker.admin.delete_message(stream, 5)
        count = broker.admin.count
        assert await count(stream) == 5
        assert await count(stream, from_seq=3) == 3
        assert await count(stream, filter_subjects=[closed.subject]) == 1
        assert await count(stream, filter_subjects=[closed.subject], from_seq=5) == 0
        assert await count(stream, from_seq=7) == 0
        assert await broker.admin.consumers(stream) == []

    async def test_the_server_says_who_it_is(self, broker: Broker) -> None:
        info = await broker.admin.server_info()
        assert info.jetstream is True
        assert info.version
        assert info.max_payload_bytes > 0
