"""For ``TestCase`` and ``TransactionTestCase``: what was written, and handlers called by hand.

    class CaseTests(TestCase):
        def test_a_case_is_opened(self):
            self.client.post("/cases", {"title": "Broken window"})
            [event] = written(CaseOpened)
            deliver(case_mgmt, event)
            self.assertEqual(Task.objects.get().what, "look into: Broken window")

Needs neither server nor relay. Guarantees: all of it is in the test's own transaction, if there is
one, and goes with it; a ``TransactionTestCase`` empties the outbox as it does other tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar, overload

from django.db import connections
from django.db.transaction import atomic

from seaway import headers as h
from seaway.codec import compact
from seaway.consumer import Consumer
from seaway.consumer.calling import Failure, call_plain, deliveries_of, plan
from seaway.consumer.handlers import raw_event
from seaway.consumer.lanes import InHand
from seaway.contracts import Incoming, Message, StoredMessage
from seaway.django.configuration import alias
from seaway.django.models import OutboxEvent
from seaway.django.outbox import the_outbox
from seaway.errors import ConfigError
from seaway.events import RawEvent, event_type_of
from seaway.inside import Inside
from seaway.naming import stream_context
from seaway.outbox.encoding import Limits, Wishes, encode

E = TypeVar("E")


@overload
def written(*, using: str | None = None) -> list[RawEvent]: ...
@overload
def written(kind: type[E], *, using: str | None = None) -> list[E]: ...
def written(kind: type[Any] = RawEvent, *, using: str | None = None) -> list[Any]:
    """The events of that class that lie in the outbox, in the order in which they were written.

    ``RawEvent``, the default, is for those of any class, with subject, key, ids and headers.
    ``using``: default ``settings.SEAWAY["using"]``. Empty where there are none.
    """
    rows = OutboxEvent.objects.using(using or alias()).order_by("position")
    if kind is RawEvent:
        return [_raw(row) for row in rows]
    event_type = event_type_of(kind)
    found = rows.filter(subject=str(event_type.subject))
    return [event_type.decode(bytes(row.payload)) for row in found]


def deliver(
    consumer: Consumer, *events: object, key: str | None = None, using: str | None = None
) -> None:
    """Call the consumer's plain handlers with ``events``, in one ``atomic()`` block.

    What a handler raises is raised, with nothing of that call left; a ``Retry`` is tried by nobody.
    There is no inbox row: an event that is delivered twice is handled twice. ``ConfigError`` where
    no handler takes an event, or handlers are ``async def``.
    """
    rows = encode(events, Wishes(key, None, None, {}), Limits(1 << 30, {}))
    messages = [Message(row.subject, row.payload, json.loads(row.headers)) for row in rows]
    _call(consumer, messages, 1, using)


def redeliver(
    consumer: Consumer,
    subject: str,
    payload: object,
    *,
    headers: Mapping[str, str] | None = None,
    deliveries: int = 1,
    redriven: bool = False,
    using: str | None = None,
) -> None:
    """``deliver`` with one message as its stream held it, say that of a dead letter.

    ``payload``: bytes as they are; anything else becomes JSON as Seaway writes it. ``headers``: as
    on the wire, id and key among them. ``deliveries``: which delivery of it this is, from 1 on.
    ``redriven``: it comes from the dead letter queue. ``DecodeError`` for what is not the event.
    """
    body = payload if isinstance(payload, bytes) else compact(payload)
    if redriven:
        subject = f"{stream_context(consumer.stream)}.redrive.{consumer.durable}.{subject}"
    _call(consumer, [Message(subject, body, headers or {})], deliveries, using)


def _call(
    consumer: Consumer, messages: Sequence[Message], deliveries: int, using: str | None
) -> None:
    if not consumer.plain:
        raise ConfigError(
            f"the handlers of {consumer.durable} are async: call them by `seaway.testing.rehearsal`"
        )
    now = datetime.now(UTC)
    items = [
        InHand(
            Incoming.read(
                StoredMessage(message, consumer.stream, at, now),
                str(consumer.durable),
                deliveries=deliveries,
            ),
            source=None,  # type: ignore[arg-type]
        )
        for at, message in enumerate(messages, 1)
    ]
    steps, ignored = plan(items, consumer.handlers, ordered=True)
    if ignored:
        raise ConfigError(f"no handler of {consumer.durable} takes {ignored[0].subject}")
    where = using or alias()
    with atomic(using=where):
        connection = connections[where]
        for step in steps:
            if isinstance(step, Failure):
                raise step.error
            for call in step:
                given = [call.registration.read(item) for item in call.items]
                with Inside(connection):
                    call_plain(
                        call, given, deliveries_of(call, connection, the_outbox()), nullcontext()
                    )


def _raw(row: OutboxEvent) -> RawEvent:
    found = h.Metadata.decode(row.headers, fallback_id=row.event_id)
    return raw_event(row.subject, bytes(row.payload), found, row.headers)
