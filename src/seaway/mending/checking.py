"""Whether a consumer could read an event, before it is sent: by its handlers' own way of reading.

Owns: which class an event is held against: that of the failed consumer's handler where the
application is at hand, else the one that is registered for its subject in this process. Guarantees:
it calls no handler; where there is nothing to hold an event against it says so, and does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

from seaway.consumer import Consumer
from seaway.consumer.lanes import InHand
from seaway.contracts import Incoming, Message, Subscription
from seaway.dead_letters import Letter
from seaway.dead_letters.letter import redriven
from seaway.errors import DecodeError
from seaway.events import Registry, registry
from seaway.headers import Metadata

Check: TypeAlias = Callable[[Letter, Message], None]
"""``DecodeError`` names what of the event cannot be read."""

_WAY_OUT = "name the application that has one (--app), or have nothing checked (--no-check)"


class NothingToHoldAgainst(DecodeError):
    """No class is known for the event's subject."""


def checked_by(
    consumers: Mapping[str, Consumer] | None = None, known: Registry = registry
) -> Check:
    """By these ``consumers`` of an application, by name, else by the classes that are ``known``."""

    def check(letter: Letter, event: Message) -> None:
        incoming = as_redriven(letter, event)
        consumer = (consumers or {}).get(letter.consumer)
        found = None if consumer is None else consumer.handlers.find(letter.subject)
        if found is not None:
            item = InHand(incoming, cast(Subscription, None))
            item.read_headers()
            found.read(item)
            return
        Metadata.decode(incoming.message.headers, fallback_id=letter.event_id)
        try:
            known_as = known.type_of(letter.subject)
        except DecodeError as error:
            raise NothingToHoldAgainst(f"{error}: {_WAY_OUT}", field=error.field) from error
        known_as.decode(event.payload)

    return check


def as_redriven(letter: Letter, event: Message) -> Incoming:
    """``event`` as the failed consumer would be given it: sent again, for the first time."""
    stream, message = redriven(letter, event, edition=None, to_all=False)
    return Incoming(
        message=message,
        stream=stream,
        stream_seq=letter.stored.stream_seq,
        stored_at=letter.stored.stored_at,
        consumer=letter.consumer,
        consumer_seq=0,
        deliveries=1,
        pending=0,
    )
