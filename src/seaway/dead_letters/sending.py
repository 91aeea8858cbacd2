"""Letters and redrives on their way into their streams.

Guarantees: what is called stored, is this message, and not another one under its id; the caller
deletes or acknowledges what it came from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from seaway import headers as h
from seaway.contracts import (
    Broker,
    DeadLetterReason,
    Held,
    Incoming,
    Message,
    PublishOutcome,
    Refused,
    Stored,
    Unconfirmed,
)
from seaway.dead_letters.letter import HEADERS, PAYLOAD
from seaway.dead_letters.writing import queue_of, size_of, write
from seaway.errors import BrokerUnavailable, NotPermitted, SeawayError

_TIMEOUT = timedelta(seconds=5)
_IDS = 100


class Sender:
    """Publishes over ``broker``."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def store(
        self,
        incoming: Incoming,
        *,
        reason: DeadLetterReason,
        error: BaseException | None,
        lost: bool = False,
    ) -> int:
        """The letter for a message, as much of it as its queue has room for: its sequence there.

        ``lost``: also where its queue still remembers one that is not there any more.
        """
        queue, _ = queue_of(incoming)
        info = await self._broker.admin.server_info()
        room, failed_at = info.max_payload_bytes, datetime.now(UTC)
        written = partial(write, incoming, reason=reason, error=error, failed_at=failed_at)
        while True:
            letter = written(room=room)
            if {PAYLOAD, HEADERS} & letter.headers.keys() and not await self._keeps(incoming):
                letter = written(room=room, kept=False)
            outcome = await self.send(queue, letter, lost=lost)
            if isinstance(outcome, Stored):
                return outcome.stream_seq
            smaller = await self._room_of(queue, outcome)
            if not smaller:
                raise await self.refusal(queue, letter, outcome)
            if smaller >= room:
                raise BrokerUnavailable(
                    f"{queue} takes no message of more than {smaller} bytes, and this letter has "
                    f"{size_of(letter)}: raise the stream's max_msg_size"
                )
            room = smaller

    async def _keeps(self, incoming: Incoming) -> bool:
        """Whether it stays in its stream after its acknowledgement: a letter by reference is only
        as good as the message that it refers to."""
        info = await self._broker.admin.stream(incoming.stream)
        return info is not None and info.retention == "limits"

    async def send(self, stream: str, message: Message, *, lost: bool = False) -> PublishOutcome:
        """What became of one message. See ``send_all``."""
        [outcome] = await self.send_all(stream, [message], lost=lost)
        return outcome

    async def schedule(
        self, stream: str, message: Message, *, at: datetime, under: str
    ) -> PublishOutcome:
        """What became of one message that lies ``under`` that subject until ``at``."""

        async def put(message: Message) -> PublishOutcome:
            return await self._broker.schedule(
                stream, message, at=at, subject=under, timeout=_TIMEOUT
            )

        outcome = await put(message)
        if not isinstance(outcome, Stored) or not outcome.duplicate:
            return outcome
        return await self._own(stream, message, outcome, lost=False, put=put, under=under)

    async def send_all(
        self, stream: str, messages: Sequence[Message], *, lost: bool = False
    ) -> list[PublishOutcome]:
        """What became of each. Those of one key are stored in the order given; one that can never
        be stored, or was there, holds up none of them. ``Held``: not sent, since the stream took
        nothing more.

        An id can be foreseen: what somebody else stored under it must not stand for a message. Then
        that goes under the next of its ids, the same ones whoever sends it: so it is stored once.
        ``lost``: nor does one that was stored under its id and is not there any more.
        """
        outcomes: list[PublishOutcome] = [Held()] * len(messages)
        left = list(range(len(messages)))
        while left:
            some = [messages[place] for place in left]
            found = await self._broker.publish(stream, some, timeout=_TIMEOUT)
            held = []
            for place, outcome in zip(left, found, strict=True):
                if isinstance(outcome, Held):
                    held.append(place)
                elif isinstance(outcome, Stored) and outcome.duplicate:
                    outcomes[place] = await self._own(stream, messages[place], outcome, lost)
                else:
                    outcomes[place] = outcome
            if len(held) == len(left) or any(map(_comes_to_nothing, found)):
                break
            left = held
        return outcomes

    async def _own(
        self,
        stream: str,
        message: Message,
        outcome: PublishOutcome,
        lost: bool,
        *,
        put: Callable[[Message], Awaitable[PublishOutcome]] | None = None,
        under: str = "",
    ) -> PublishOutcome:
        """What became of a message of whose id the stream says that it is a duplicate. ``put``:
        how it is stored, ``under`` which subject, where it is not published."""
        first = message.headers.get(h.MSG_ID)  # Without one, nothing is a duplicate.
        for number in range(2, _IDS + 2):
            if not isinstance(outcome, Stored) or not outcome.duplicate:
                return outcome
            try:
                found = await self._broker.admin.get(stream, outcome.stream_seq)
            except SeawayError:
                return outcome
            lies = replace(message, subject=under) if under else message
            if _is_same(found.message, lies) if found else not lost:
                return outcome
            if number > _IDS:
                break
            headers = {**message.headers, h.MSG_ID: f"{first}:{number}"}
            another = replace(message, headers=headers)
            if put is not None:
                outcome = await put(another)
            else:
                [outcome] = await self._broker.publish(stream, [another], timeout=_TIMEOUT)
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

    async def _room_of(self, queue: str, refused: PublishOutcome) -> int:
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


def _comes_to_nothing(outcome: PublishOutcome) -> bool:
    """Whether others of the same stream had better wait."""
    return isinstance(outcome, Unconfirmed) or (isinstance(outcome, Refused) and outcome.heals)
