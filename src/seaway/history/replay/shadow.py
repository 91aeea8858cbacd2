"""What a handler makes of events now, beside what the inbox says became of them then.

| then | how that is known |
| --- | --- |
| ``effect`` | its inbox row |
| ``letter`` | the row that decided so, and its reason; redriven with success it is an effect |
| ``nothing`` | its durable has settled it, and there is no row: no handler took it |
| ``pending`` | its durable has not settled it, or waits behind another of its key |
| ``unknown`` | it is so old that the inbox has forgotten |

Owns: that, and what counts as a difference. Changes nothing. Of events whose end is not known only
a failure differs: what they would do well, nobody had to say before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from seaway.consumer.trials import Tried
from seaway.contracts import DeadLetterReason, InboxStore, Incoming, StoredMessage
from seaway.history.replay.ordering import in_order
from seaway.inbox.letters import letter_rows, reasons_of

Known: TypeAlias = Literal["effect", "letter", "nothing", "pending", "unknown"]
Try: TypeAlias = Callable[[Incoming], Awaitable[Tried]]

_AT_ONCE = 200
"""Events that the inbox is asked about in one question."""


@dataclass(frozen=True, slots=True)
class Then:
    """What became of an event; ``reason``: of its letter."""

    known: Known
    reason: DeadLetterReason | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """An event, then and now."""

    message: StoredMessage
    then: Then
    now: Tried

    @property
    def differs(self) -> bool:
        """Whether it ends in another way."""
        then, now = self.then, self.now.verdict
        fails = now in ("letter", "failed")
        match then.known:
            case "effect" | "nothing":
                return now != then.known
            case "letter":
                return not fails or self.now.reason != _in_the_end(then.reason)
            case _:
                return fails


def _in_the_end(reason: DeadLetterReason | None) -> DeadLetterReason | None:
    return "exhausted" if reason == "terminated" else reason


@dataclass(frozen=True, slots=True)
class _Asked:
    """An event of which is known what became of it."""

    message: StoredMessage
    then: Then

    @property
    def key(self) -> str:
        return self.message.key


async def compared(
    source: AsyncIterator[StoredMessage],
    tried: Try,
    store: InboxStore,
    consumer: str,
    *,
    floor: int,
    retention: timedelta | None,
    workers: int = 1,
) -> AsyncGenerator[Compared]:
    """Each event of ``source``, in order; those of a key are tried one after the other.

    ``floor``: up to where its durable has settled everything; 0 for one that is new.
    ``retention``: how long the inbox remembers; ``None``: for ever.
    """

    async def one(asked: _Asked) -> Tried:
        return await tried(Incoming.read(asked.message, consumer, deliveries=1))

    asking = _asked(source, store, consumer, floor, retention)
    async for asked, now in in_order(asking, one, workers=workers):
        yield Compared(asked.message, asked.then, now)


async def _asked(
    source: AsyncIterator[StoredMessage],
    store: InboxStore,
    consumer: str,
    floor: int,
    retention: timedelta | None,
) -> AsyncGenerator[_Asked]:
    since = None if retention is None else datetime.now(UTC) - retention
    chunk: list[StoredMessage] = []
    async for one in source:
        chunk.append(one)
        if len(chunk) == _AT_ONCE:
            for asked in await _known(chunk, store, consumer, floor, since):
                yield asked
            chunk = []
    for asked in await _known(chunk, store, consumer, floor, since):
        yield asked


async def _known(
    chunk: Sequence[StoredMessage],
    store: InboxStore,
    consumer: str,
    floor: int,
    since: datetime | None,
) -> list[_Asked]:
    if not chunk:
        return []
    effects = await store.claimed(consumer, {one.event_id for one in chunk})
    _, rows = letter_rows(consumer, (one for one in chunk if one.event_id not in effects))
    reasons = {rows[row]: why for row, why in (await reasons_of(store, consumer, rows)).items()}
    found = []
    for one in chunk:
        if one.event_id in effects:
            then = Then("effect")
        elif one.place in reasons and reasons[one.place] != "parked":
            then = Then("letter", reasons[one.place])
        elif one.stream_seq > floor or one.place in reasons:
            then = Then("pending")
        elif since is not None and one.stored_at < since:
            then = Then("unknown")
        else:
            then = Then("nothing")
        found.append(_Asked(one, then))
    return found
