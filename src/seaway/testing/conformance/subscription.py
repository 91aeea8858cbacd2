"""The suite of pulling and settling, of every ``contracts.Broker``: see ``broker``."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from seaway import naming
from seaway.contracts import (
    Broker,
    Incoming,
    Message,
    StoredMessage,
)
from seaway.errors import BrokerUnavailable, NotFound
from seaway.testing.conformance.broker_words import (
    AT_ONCE,
    DURABLE,
    SOON,
    TIMEOUT,
    consumer,
    events,
    make,
    nanoseconds,
    payloads,
    publish,
    receive,
    until,
)

TURN = timedelta(seconds=5)
EXCLUSIVE = {
    "priority_policy": "pinned_client",
    "priority_groups": ["seaway"],
    "priority_timeout": nanoseconds(TURN),
}
REWINDS = pytest.mark.seaway_since("2.14", "giving out again what was on its way")
PAUSES = pytest.mark.seaway_since("2.11", "paused durables")


class SubscriptionConformance:
    """Fixtures to give: ``broker`` and ``context``."""

    @pytest.fixture
    def stream(self, context: str) -> str:
        """The name of the context's event stream."""
        return naming.events_stream(context)

    @pytest.fixture
    def subject(self, context: str) -> str:
        """An event's subject in that stream."""
        return f"{context}.event.case_created.v1"

    # ----------------------------------------------------------------- the end

    async def test_drained_it_hands_out_what_had_arrived_and_nothing_else(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, durable={"ack_wait": nanoseconds(timedelta(minutes=5))})
        async with broker.subscribe(stream, DURABLE) as pull:
            assert await pull.next(8, timeout=SOON) == []
            await publish(broker, *events(context, 8))
            await pull.drain()
            await pull.drain()
            arrived: list[Incoming] = []
            while batch := await pull.next(3, timeout=TIMEOUT):
                arrived += batch
            assert await pull.next(8, timeout=TIMEOUT) == []
            async with broker.subscribe(stream, DURABLE) as other:
                # What had not arrived has not been delivered either: nobody waits for it.
                rest = await receive(other, 8 - len(arrived))
            found = sorted([*arrived, *rest], key=lambda one: one.stream_seq)
            assert payloads(found) == [str(number).encode() for number in range(8)]
            assert {one.deliveries for one in found} == {1}
            assert all(await pull.ack(*arrived))

    async def test_what_nobody_took_comes_again_at_once(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, durable={"ack_wait": nanoseconds(timedelta(minutes=5))})
        async with broker.subscribe(stream, DURABLE) as pull:
            assert await pull.next(8, timeout=SOON) == []
            await publish(broker, *events(context, 8))
            await pull.drain()
        async with broker.subscribe(stream, DURABLE) as other:
            assert len(await receive(other, 8)) == 8

    # ----------------------------------------------------------------- delivery

    async def test_delivers_in_order_with_its_metadata(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 3))
        async with broker.subscribe(stream, DURABLE) as pull:
            incoming = await receive(pull, 3)
            assert payloads(incoming) == [b"0", b"1", b"2"]
            first = incoming[0]
            assert (first.stream, first.consumer, first.message.subject) == (
                stream,
                DURABLE,
                subject,
            )
            assert [one.stream_seq for one in incoming] == [1, 2, 3]
            assert [one.consumer_seq for one in incoming] == [1, 2, 3]
            assert [one.deliveries for one in incoming] == [1, 1, 1]
            assert [one.pending for one in incoming] == [2, 1, 0]
            assert list(await pull.ack(*incoming)) == [True] * 3
            assert await pull.next(1, timeout=AT_ONCE) == []

    async def test_gives_no_more_than_the_limit(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 3))
        async with broker.subscribe(stream, DURABLE) as pull:
            assert len(await receive(pull, 2)) == 2
            info = await consumer(broker, stream)
            assert (info.num_ack_pending, info.num_pending) == (2, 1)

    async def test_an_empty_stream_gives_nothing_in_time(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            async with asyncio.timeout(5):
                assert await pull.next(1, timeout=SOON) == []

    async def test_what_is_published_later_is_delivered(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            waiting = asyncio.create_task(receive(pull, 1))

            async def asked() -> bool:
                return (await consumer(broker, stream)).num_waiting > 0

            await until(asked)
            await publish(broker, *events(context, 1))
            assert payloads(await waiting) == [b"0"]

    async def test_a_cancelled_next_loses_nothing(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            waiting = asyncio.create_task(pull.next(1, timeout=TIMEOUT))

            async def asked() -> bool:
                return (await consumer(broker, stream)).num_waiting > 0

            await until(asked)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await publish(broker, *events(context, 1))
            [incoming] = await receive(pull, 1)
            assert (incoming.message.payload, incoming.deliveries) == (b"0", 1)

    async def test_only_what_its_filter_matches(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={"filter_subject": f"{context}.event.case_closed.v1"})
        closed = Message(f"{context}.event.case_closed.v1", b"closed")
        await publish(broker, *events(context, 2), closed)
        async with broker.subscribe(stream, DURABLE) as pull:
            assert payloads(await receive(pull, 1)) == [b"closed"]
            assert await pull.next(1, timeout=AT_ONCE) == []

    async def test_two_subscriptions_share_a_durable(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 2))
        async with (
            broker.subscribe(stream, DURABLE) as one,
            broker.subscribe(stream, DURABLE) as other,
        ):
            found = payloads([*await receive(one, 1), *await receive(other, 1)])
            assert sorted(found) == [b"0", b"1"]

    async def test_no_more_than_max_ack_pending_are_out(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={"max_ack_pending": 1})
        await publish(broker, *events(context, 2))
        async with broker.subscribe(stream, DURABLE) as pull:
            [first] = await receive(pull, 1)
            assert await pull.next(1, timeout=SOON) == []
            await pull.ack(first)
            assert payloads(await receive(pull, 1)) == [b"1"]

    # ----------------------------------------------------------------- taking turns

    @pytest.mark.seaway_since("2.11", "exclusive durables")
    async def test_one_subscription_of_an_exclusive_durable_is_given_messages(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable=EXCLUSIVE)
        await publish(broker, *events(context, 3))
        async with (
            broker.subscribe(stream, DURABLE) as one,
            broker.subscribe(stream, DURABLE) as other,
        ):
            assert (one.standby, one.gaps) == (True, 0)
            assert (await consumer(broker, stream)).given_to_one_since is None
            assert payloads(await receive(one, 2)) == [b"0", b"1"]
            turn = await consumer(broker, stream)
            assert turn.exclusive
            assert turn.given_to_one_since is not None
            assert (one.standby, one.gaps) == (False, 1)
            assert await other.next(3, timeout=SOON) == []
            assert payloads(await receive(one, 1)) == [b"2"]
            assert (one.standby, one.gaps) == (False, 1)
            assert (other.standby, other.gaps) == (True, 0)

    @pytest.mark.seaway_since("2.11", "exclusive durables")
    async def test_who_leaves_an_exclusive_durable_is_followed_at_once(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable=EXCLUSIVE)
        await publish(broker, *events(context, 4))
        async with broker.subscribe(stream, DURABLE) as other:
            async with broker.subscribe(stream, DURABLE) as one:
                taken = await receive(one, 2)
                waiting = asyncio.create_task(receive(other, 2))
                await one.drain()
                done, _ = await asyncio.wait({waiting}, timeout=SOON.total_seconds())
                assert not done  # What it has in hand is its own until it is left.
                assert list(await one.ack(*taken)) == [True, True]
            async with asyncio.timeout(TURN.total_seconds() / 2):
                assert payloads(await waiting) == [b"2", b"3"]
            assert (other.standby, other.gaps) == (False, 1)

    @pytest.mark.seaway_since("2.11", "exclusive durables")
    async def test_the_next_of_an_exclusive_durable_has_what_was_given_back(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable=EXCLUSIVE)
        await publish(broker, *events(context, 3))
        async with broker.subscribe(stream, DURABLE) as one:
            first, second = await receive(one, 2)
            assert list(await one.ack(first)) == [True]
            await one.nak(second, delay=AT_ONCE)
        async with broker.subscribe(stream, DURABLE) as other:
            found = await receive(other, 2)
            assert sorted(payloads(found)) == [b"1", b"2"]
            assert list(await other.ack(*found)) == [True, True]
            assert (await consumer(broker, stream)).num_ack_pending == 0

    @pytest.mark.seaway_since("2.11", "exclusive durables")
    async def test_an_exclusive_delivery_is_the_stored_message(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable=EXCLUSIVE)
        await publish(broker, *events(context, 1, key="case-1"))
        async with broker.subscribe(stream, DURABLE) as pull:
            [incoming] = await receive(pull, 1)
        stored = await broker.admin.get(stream, 1)
        assert stored is not None
        assert incoming.message == stored.message

    # ----------------------------------------------------------------- settling

    async def test_a_nak_brings_it_again(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 1))
        async with broker.subscribe(stream, DURABLE) as pull:
            [first] = await receive(pull, 1)
            await pull.nak(first, delay=AT_ONCE)
            [again] = await receive(pull, 1)
            assert (again.stream_seq, again.deliveries, again.consumer_seq) == (1, 2, 2)
            assert (await consumer(broker, stream)).num_redelivered == 1
            assert list(await pull.ack(again)) == [True]

    async def test_a_delayed_nak_waits(self, broker: Broker, context: str, stream: str) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 1))
        loop = asyncio.get_running_loop()
        async with broker.subscribe(stream, DURABLE) as pull:
            [first] = await receive(pull, 1)
            since = loop.time()
            await pull.nak(first, delay=timedelta(milliseconds=400))
            [again] = await receive(pull, 1)
            assert loop.time() - since >= 0.35
            assert again.deliveries == 2

    async def test_a_silent_consumer_gets_it_again(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={"ack_wait": nanoseconds(SOON)})
        await publish(broker, *events(context, 1))
        async with broker.subscribe(stream, DURABLE) as pull:
            await receive(pull, 1)
            [again] = await receive(pull, 1)
            assert again.deliveries == 2

    async def test_in_progress_restarts_the_ack_timer(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        wait = timedelta(milliseconds=1500)
        await make(broker, context, durable={"ack_wait": nanoseconds(wait)})
        await publish(broker, *events(context, 1))
        loop = asyncio.get_running_loop()
        async with broker.subscribe(stream, DURABLE) as pull:
            [first] = await receive(pull, 1)
            since = loop.time()
            assert await pull.next(1, timeout=wait / 2) == []
            await pull.in_progress(first)
            [again] = await receive(pull, 1)
            assert again.deliveries == 2
            assert loop.time() - since >= 1.5 * wait.total_seconds() * 0.9

    async def test_exhausted_deliveries_give_an_advisory(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        wanted = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.>"
        advisories = f"{context.upper()}_ADVISORIES"
        await broker.admin.create_stream(
            {"name": advisories, "subjects": [wanted], "storage": "memory"}
        )
        await make(broker, context, durable={"max_deliver": 2})
        await publish(broker, *events(context, 1))
        async with broker.subscribe(stream, DURABLE) as pull:
            for _ in range(2):
                [incoming] = await receive(pull, 1)
                await pull.nak(incoming, delay=AT_ONCE)

            async def advised() -> StoredMessage | None:
                assert await pull.next(1, timeout=timedelta(milliseconds=20)) == []
                return await broker.admin.get(advisories, 1)

            advisory = json.loads((await until(advised)).message.payload)
        assert (advisory["stream"], advisory["consumer"]) == (stream, DURABLE)
        assert (advisory["stream_seq"], advisory["deliveries"]) == (1, 2)
        assert await broker.admin.get(stream, 1) is not None

    async def test_a_work_queue_forgets_what_is_acknowledged(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={}, retention="workqueue")
        await publish(broker, *events(context, 2))
        async with broker.subscribe(stream, DURABLE) as pull:
            [first] = await receive(pull, 1)
            assert list(await pull.ack(first)) == [True]
        assert await broker.admin.get(stream, 1) is None
        assert await broker.admin.get(stream, 2) is not None

    async def test_leaving_gives_back_what_was_not_handed_out(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            assert await pull.next(5, timeout=AT_ONCE) == []
            await publish(broker, *events(context, 5))
        async with broker.subscribe(stream, DURABLE) as pull:
            found = await receive(pull, 5)
            assert sorted(payloads(found)) == [b"0", b"1", b"2", b"3", b"4"]

    # ----------------------------------------------------------------- giving out again

    @REWINDS
    async def test_rewound_it_gives_what_was_on_its_way_before_anything_newer(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={"max_ack_pending": 3})
        await publish(broker, *events(context, 5))
        async with broker.subscribe(stream, DURABLE) as former:
            first, _, third = await receive(former, 3)
            assert list(await former.ack(first, third)) == [True, True]
        async with broker.subscribe(stream, DURABLE) as pull:
            assert await pull.rewind() == 3
            found = await receive(pull, 3)
            # What was acknowledged behind what was not comes again.
            assert payloads(found) == [b"1", b"2", b"3"]
            assert [one.deliveries for one in found] == [1, 1, 1]
            assert list(await pull.ack(*found)) == [True] * 3
            assert payloads(await receive(pull, 1)) == [b"4"]
        info = await consumer(broker, stream)
        assert (info.ack_floor, info.num_ack_pending) == (4, 1)

    @REWINDS
    async def test_an_operator_has_a_durable_give_out_again(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 4))
        assert not await broker.admin.reset_consumer(stream, "nobody", 1)
        async with broker.subscribe(stream, DURABLE) as pull:
            first, *_ = await receive(pull, 3)
            assert list(await pull.ack(first)) == [True]
            assert await broker.admin.reset_consumer(stream, DURABLE)
            again = await receive(pull, 3)
            assert payloads(again) == [b"1", b"2", b"3"]
            assert list(await pull.ack(*again)) == [True] * 3
            assert await broker.admin.reset_consumer(stream, DURABLE, 1)
            assert payloads(await receive(pull, 4)) == [b"0", b"1", b"2", b"3"]

    @PAUSES
    async def test_a_paused_durable_gives_nothing_out(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 2))
        until = datetime.now(UTC) + timedelta(hours=1)
        assert not await broker.admin.pause_consumer(stream, "nobody", until)
        async with broker.subscribe(stream, DURABLE) as pull:
            held = await receive(pull, 1)
            assert await broker.admin.pause_consumer(stream, DURABLE, until)
            info = await consumer(broker, stream)
            assert info.paused_until is not None
            assert abs(info.paused_until - until) < timedelta(seconds=1)
            assert list(await pull.ack(*held)) == [True]
            assert await pull.next(1, timeout=timedelta(milliseconds=300)) == []
            assert await broker.admin.pause_consumer(stream, DURABLE, None)
            assert payloads(await receive(pull, 1)) == [b"1"]
        assert (await consumer(broker, stream)).paused_until is None

    @REWINDS
    async def test_where_nothing_is_on_its_way_there_is_nothing_to_rewind(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 2))
        async with broker.subscribe(stream, DURABLE) as pull:
            assert await pull.rewind() == 0
            assert list(await pull.ack(*await receive(pull, 2))) == [True, True]
            assert await pull.rewind() == 0
            await publish(broker, *events(context, 3)[2:])
            assert payloads(await receive(pull, 1)) == [b"2"]

    @REWINDS
    async def test_what_others_may_have_is_not_rewound(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 1))
        async with (
            broker.subscribe(stream, DURABLE) as other,
            broker.subscribe(stream, DURABLE) as pull,
        ):
            [held] = await receive(other, 1)
            waiting = asyncio.create_task(other.next(1, timeout=TIMEOUT))
            async with asyncio.timeout(TIMEOUT.total_seconds()):
                while not (await consumer(broker, stream)).num_waiting:
                    await asyncio.sleep(0)
            assert await pull.rewind() is None
            assert await pull.next(1, timeout=AT_ONCE) == []
            waiting.cancel()
            assert list(await other.ack(held)) == [True]

    @REWINDS
    async def test_what_was_handed_out_before_is_settled_all_the_same(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        await publish(broker, *events(context, 2))
        async with broker.subscribe(stream, DURABLE) as pull:
            early = await receive(pull, 2)
            async with asyncio.timeout(2 * TIMEOUT.total_seconds()):
                while await pull.rewind() is None:  # Our own question may still be out.
                    await asyncio.sleep(0.1)
            again = await receive(pull, 2)
            assert payloads(again) == payloads(early)
            assert list(await pull.ack(*early)) == [True, True]
        info = await consumer(broker, stream)
        assert (info.ack_floor, info.num_ack_pending) == (2, 0)

    @REWINDS
    async def test_who_has_an_exclusive_durable_rewinds_it(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable=EXCLUSIVE)
        await publish(broker, *events(context, 4))
        async with (
            broker.subscribe(stream, DURABLE) as one,
            broker.subscribe(stream, DURABLE) as other,
        ):
            assert await one.rewind() is None
            await receive(one, 3)
            assert await other.next(1, timeout=SOON) == []
            assert await other.rewind() is None
            assert await one.rewind() == 3
            assert payloads(await receive(one, 4)) == [b"0", b"1", b"2", b"3"]
            assert await other.next(1, timeout=AT_ONCE) == []
            assert (one.standby, other.standby) == (False, True)

    @REWINDS
    async def test_set_back_it_gives_everything_from_there_on(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        """Also from beyond the stream's end, and where others are given the durable's messages."""
        await make(broker, context, durable={})
        await publish(broker, *events(context, 4))
        async with (
            broker.subscribe(stream, DURABLE) as other,
            broker.subscribe(stream, DURABLE) as pull,
        ):
            await other.ack(*await receive(other, 4))
            assert await pull.rewind(9) == 4
            assert (await consumer(broker, stream)).stream_seq == 8
            assert await pull.rewind(2) == 8
            found = await receive(pull, 3)
            assert payloads(found) == [b"1", b"2", b"3"]
            assert [one.deliveries for one in found] == [1, 1, 1]
            assert list(await pull.ack(*found)) == [True] * 3
        info = await consumer(broker, stream)
        assert (info.ack_floor, info.num_ack_pending) == (4, 0)

    @REWINDS
    async def test_without_its_durable_there_is_nothing_to_rewind(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            await broker.admin.delete_consumer(stream, DURABLE)
            with pytest.raises(NotFound):
                await pull.rewind()

    # ----------------------------------------------------------------- what is not there

    async def test_no_subscription_without_its_durable(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        with pytest.raises(NotFound):
            async with broker.subscribe(stream, DURABLE):
                pass
        await make(broker, context)
        with pytest.raises(NotFound):
            async with broker.subscribe(stream, DURABLE):
                pass

    async def test_a_deleted_durable_ends_its_pulls(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            waiting = asyncio.create_task(pull.next(1, timeout=TIMEOUT))

            async def asked() -> bool:
                return (await consumer(broker, stream)).num_waiting > 0

            await until(asked)
            assert await broker.admin.delete_consumer(stream, DURABLE)
            with pytest.raises(NotFound):
                await waiting

    async def test_a_closed_broker_delivers_nothing(
        self, broker: Broker, context: str, stream: str
    ) -> None:
        await make(broker, context, durable={})
        async with broker.subscribe(stream, DURABLE) as pull:
            await broker.close()
            await broker.close()
            with pytest.raises(BrokerUnavailable):
                await pull.next(1, timeout=TIMEOUT)
