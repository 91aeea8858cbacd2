"""What every ``contracts.Broker`` does with a message that is to be sent later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from seaway import headers as h
from seaway import naming
from seaway.brokers.jetstream import api
from seaway.contracts import Broker, Message, PublishOutcome, Stored
from seaway.testing.conformance.broker_words import (
    DURABLE,
    SOON,
    TIMEOUT,
    everything,
    expect_refused,
    make,
    receive,
    refusal,
)

FAR = timedelta(hours=1)


@pytest.mark.seaway_since("2.12", "messages that are sent later")
class LaterConformance:
    """Fixtures to give: ``broker`` and ``context``."""

    async def test_what_is_stored_for_later_is_sent_at_its_time_and_once(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        durable = {"filter_subject": subject}
        await make(
            broker, context, durable=durable, retention="workqueue", allow_msg_schedules=True
        )
        info = await broker.admin.stream(stream)
        assert info is not None
        assert info.schedules
        now = info.asked_at or datetime.now(UTC)
        headers = {h.MSG_ID: "later:e1", h.EVENT_ID: "e1", "X-Tenant": "süd"}

        async def later(under: str, payload: bytes, at: datetime, **more: str) -> PublishOutcome:
            return await broker.schedule(
                stream,
                Message(subject, payload, {**headers, **more}),
                at=at,
                subject=f"{context}.event.later.{under}",
                timeout=TIMEOUT,
            )

        # Put off, and put off anew; known by its id; taken out; and one that is to come.
        assert await later("one", b"replaced", now + FAR) == Stored(1)
        assert await later("one", b"known", now + FAR, **{h.MSG_ID: "later:e1:2"}) == Stored(2)
        again = await later("one", b"again", now + FAR, **{h.MSG_ID: "later:e1:2"})
        assert again == Stored(2, duplicate=True)
        assert await later("two", b"cancelled", now + FAR, **{h.MSG_ID: "b"}) == Stored(3)
        assert await broker.admin.delete_message(stream, 3)
        assert not await broker.admin.delete_message(stream, 3)
        assert await later("three", b"to come", now + FAR, **{h.MSG_ID: "c"}) == Stored(4)
        waiting = await everything(broker, context)
        assert [one.message.payload for one in waiting] == [b"known", b"to come"]
        assert waiting[0].message.headers[h.SCHEDULE_TARGET] == subject
        assert h.parse_schedule(waiting[0].message.headers[h.SCHEDULE]) == now + FAR
        at = now + timedelta(seconds=1)
        assert await later("one", b"moved", at, **{h.MSG_ID: "later:e1:3"}) == Stored(5)
        async with broker.subscribe(stream, DURABLE) as pull:
            [sent] = await receive(pull, 1)
            assert sent.stored_at >= at - timedelta(milliseconds=50)
            assert (sent.message.subject, sent.message.payload) == (subject, b"moved")
            own = {name: sent.message.headers.get(name) for name in headers}
            assert own == {h.MSG_ID: None, h.EVENT_ID: "e1", "X-Tenant": "süd"}
            assert h.SCHEDULE not in sent.message.headers
            assert await pull.ack(sent) == [True]
            assert await pull.next(1, timeout=SOON) == []
        left = await everything(broker, context)
        assert [one.message.payload for one in left] == [b"to come"]

    async def test_what_is_late_already_is_sent_at_once(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        durable = {"filter_subject": subject}
        await make(broker, context, durable=durable, allow_msg_schedules=True)
        past = datetime.now(UTC) - timedelta(days=2)
        under = f"{context}.event.later.one"
        outcome = await broker.schedule(
            stream, Message(subject, b"late"), at=past, subject=under, timeout=TIMEOUT
        )
        assert isinstance(outcome, Stored)
        async with broker.subscribe(stream, DURABLE) as pull:
            [sent] = await receive(pull, 1)
        assert sent.message.payload == b"late"

    async def test_where_it_cannot_be_sent_it_is_not_stored(
        self, broker: Broker, context: str, stream: str, subject: str
    ) -> None:
        await make(broker, context, discard="new")
        at, under = datetime.now(UTC) + FAR, f"{context}.event.later.one"

        async def later(target: str = subject, under: str = under, size: int = 1) -> PublishOutcome:
            message = Message(target, b"x" * size)
            return await broker.schedule(stream, message, at=at, subject=under, timeout=TIMEOUT)

        info = await broker.admin.stream(stream)
        assert info is not None
        assert not info.schedules
        assert not expect_refused(await later()).heals, "it is not allowed here"
        sends = {**info.config, "allow_msg_schedules": True}
        assert await refusal(broker.admin.update_stream(sends)) == api.STREAM_INVALID
        await broker.admin.update_stream({**sends, "discard": "old"})
        assert await refusal(broker.admin.update_stream(info.config)) == api.STREAM_INVALID
        assert not expect_refused(await later(target=f"{context}.dlq.elsewhere")).heals
        assert expect_refused(await later(target="a b")).why == "unfit"
        nobody = f"{naming.check_part(context, 'context')}.nobody.takes"
        assert expect_refused(await later(under=nobody)).why == "unheard"
        limit = (await broker.admin.server_info()).max_payload_bytes
        assert expect_refused(await later(size=limit + 1)).why == "too_large"
        assert await everything(broker, context) == []
        assert isinstance(await later(), Stored)
