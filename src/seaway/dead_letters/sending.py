"""Letters and redrives on their way into their streams, one at a time.

Guarantees: what is called stored, is this message, and not another one under its id; the caller
deletes or acknowledges what it came from.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from seaway import headers as h
from seaway.contracts import Broker, Message, PublishOutcome, Refused, Stored, Unconfirmed
from seaway.errors import BrokerUnavailable, NotPermitted, SeawayError

_TIMEOUT = timedelta(seconds=5)
_IDS = 100


class Sender:
    """Publishes over ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def send(self, stream: str, message: Message) -> PublishOutcome:
        """What became of one message.

        Its id can be foreseen: what somebody else stored under it must not stand for it. Then it
        goes under the next of its ids, the same ones whoever sends it: so it is stored once.
        """
        first = message.headers.get(h.MSG_ID)  # Without one, nothing is a duplicate.
        for number in range(1, _IDS + 1):
            if number > 1:
                headers = {**message.headers, h.MSG_ID: f"{first}:{number}"}
                message = replace(message, headers=headers)
            [outcome] = await self._broker.publish(stream, [message], timeout=_TIMEOUT)
            if not isinstance(outcome, Stored) or not outcome.duplicate:
                return outcome
            try:
                found = await self._broker.admin.get(stream, outcome.stream_seq)
            except SeawayError:
                return outcome
            if found is None or _is_same(found.message, message):
                return outcome
        return Unconfirmed(f"others have stored messages under {_IDS} of its ids")

    async def refusal(
        self, stream: str, message: Message, outcome: PublishOutcome
    ) -> BrokerUnavailable:
        """Why nothing was stored, for whoever tries again."""
        if isinstance(outcome, Refused) and outcome.why == "denied":
            return NotPermitted("publish", message.subject, message.subject)
        if await self._broker.admin.stream(stream) is None:
            return BrokerUnavailable(f"there is no stream {stream}: run `seaway topology apply`")
        reason = outcome.description if isinstance(outcome, Refused) else str(outcome)
        return BrokerUnavailable(f"{stream} did not take {message.subject!r}: {reason}")

    async def room_of(self, queue: str, refused: PublishOutcome) -> int:
        """How many bytes a letter may have where the queue itself says so (``max_msg_size``); 0
        where that is not why it refused one."""
        if not isinstance(refused, Refused) or refused.why != "too_large":
            return 0
        info = await self._broker.admin.stream(queue)
        return (info.max_message_bytes or 0) if info else 0


def _is_same(found: Message, message: Message) -> bool:
    """Whether it is the same letter, written again, or the same redrive."""
    return (found.subject, found.payload) == (message.subject, message.payload) and all(
        found.headers.get(name) == message.headers.get(name)
        for name in (h.EVENT_ID, h.DLQ_STREAM, h.DLQ_STREAM_SEQUENCE, h.DLQ_CONSUMER)
    )
