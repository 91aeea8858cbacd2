"""Finds what no consumer could bury: messages whose last delivery died with its process.

The server stops delivering at ``max_deliver`` and says so once, in an advisory that the stream
``SEAWAY_ADVISORIES`` keeps; nothing else shows it (``num_ack_pending`` is 0 again). The sweeper
turns each advisory into a letter and acknowledges it afterwards. Advisories may repeat, and a
consumer may have stored the letter itself before it lost its acknowledgement: the letter's id is
the same, so the queue takes it once; for an advisory that is older than the queue's memory of ids
(it had waited for a sweeper), the queue is searched first.

Whoever may publish on the advisories' subjects can write one himself. So none is believed against
what the server says of the durable: what it has not delivered yet is passed over, and what it may
still be delivering is waited for.

What another service's durable gave up on is left to that service's own sweeper, which knows what
took effect and who is to wait; some seconds later to whoever has it.

At start it also looks for what no advisory says (``unreported``), and once a minute again while
some of that may still be on its way to a handler; and every few seconds whether a queue has lost
letters (``relettering``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from seaway import logs
from seaway.contracts import (
    Broker,
    DeadLetterReason,
    Incoming,
    Subscription,
)
from seaway.dead_letters.queue import DeadLetters
from seaway.dead_letters.relettering import Relettering
from seaway.dead_letters.unreported import Swept, SweptStore, Unreported
from seaway.errors import (
    ApiError,
    ConfigError,
    DecodeError,
    NotFound,
    SeawayError,
    StoreRefused,
    TransientError,
)
from seaway.inbox.letters import note_stored, to_letter
from seaway.inbox.places import note_stored_now
from seaway.naming import (
    ADVISORY_STREAM,
    MAX_DELIVERIES_PREFIX,
    SWEEPER,
    SWEEPER_DURABLE,
    dlq_stream,
    is_durable,
    kind_of,
    redrive_stream,
    stream_context,
)
from seaway.retry import Backoff
from seaway.telemetry import DeadLettered, Telemetry
from seaway.waiting import done_before, result_before, set_within

logger = logs.logger("seaway.sweeper")

_BATCH = 100
_POLL = timedelta(seconds=5)
_BACKOFF = Backoff(timedelta(milliseconds=500), timedelta(seconds=30))
_AGAIN = timedelta(minutes=1)
_TURN = timedelta(milliseconds=250)
_TURNS = 40
_KNOWN = 1000
_PATIENCE = 20
"""How many ``ack_wait`` a message that may still be pending is waited for at the most."""
_PENDING = timedelta(seconds=1)
_RETRY = Backoff(timedelta(seconds=1), timedelta(minutes=5), timedelta(seconds=1))


@dataclass(frozen=True, slots=True)
class Advisory:
    """What the server said of a message that a durable does not get any more."""

    reason: DeadLetterReason
    stream: str
    consumer: str
    stream_seq: int
    deliveries: int
    domain: str | None = None

    @classmethod
    def parse(cls, subject: str, payload: bytes) -> Advisory:
        """``DecodeError`` where it is not what the server writes."""
        try:
            said = json.loads(payload)
            stream, consumer = said["stream"], said["consumer"]
            stream_seq, deliveries = said["stream_seq"], said.get("deliveries", 0)
            domain = said.get("domain")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"an advisory cannot be read: {payload[:200]!r}") from error
        texts, numbers = (stream, consumer, domain or ""), (stream_seq, deliveries)
        if not all(type(text) is str for text in texts) or not all(
            type(number) is int and 0 <= number < 2**63 for number in numbers
        ):
            raise DecodeError(f"an advisory cannot be read: {payload[:200]!r}")
        exhausted = subject.startswith(MAX_DELIVERIES_PREFIX)
        return cls(
            "exhausted" if exhausted else "terminated",
            *(stream, consumer, stream_seq, deliveries, domain),
        )

    @property
    def ours(self) -> bool:
        """Whether a durable of an event or redrive stream is meant."""
        return kind_of(self.stream) in ("events", "redrive") and is_durable(self.consumer)


class Sweeper:
    """One sweep of the advisories, by any number of processes: they share a durable.

    ``store``: the inbox of ``consumers``, which are given by the names of their durables.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        store: SweptStore | None = None,
        consumers: Mapping[str, Swept] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._broker = broker
        self._letters = DeadLetters(broker, reader=SWEEPER)
        self._store = store
        self._consumers = consumers or {}
        self._unreported = (
            None if store is None else Unreported(broker, self._letters, store, self._consumers)
        )
        self._telemetry = telemetry or Telemetry()
        self._relettering = (
            None
            if store is None
            else Relettering(broker, self._letters, store, store, self._consumers, self._telemetry)
        )
        self._look_again = math.inf
        self._relettered = -math.inf
        self._domain: str | None = None
        self._postponed: set[int] = set()
        self._others: dict[int, float] = {}
        """When an advisory about another service's durable was first given to us, to be settled."""

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until ``stop``. Heals outages by itself; says once where the stream is missing."""
        attempt, said = 0, False
        while not stop.is_set():
            try:
                # Whole streams may be read: a stop does not wait for that.
                if not await done_before(stop, self.reletter()):
                    return
                if not await done_before(stop, self.sweep_unreported()):
                    return
                attempt, said = 0, False
                async with self._broker.subscribe(ADVISORY_STREAM, SWEEPER_DURABLE) as source:
                    self._telemetry.going_on("sweeper", ADVISORY_STREAM)
                    await self._sweep(source, stop)
            except (TransientError, NotFound, ApiError) as error:
                attempt += 1
                self._telemetry.waiting("sweeper", ADVISORY_STREAM, str(error))
                if not said:
                    logger.warning("the sweeper waits: %s", error)
                    said = True
                await set_within(_BACKOFF.delay(attempt), stop)

    async def _sweep(self, source: Subscription, stop: asyncio.Event) -> None:
        while (batch := await result_before(stop, source.next(_BATCH, timeout=_POLL))) is not None:
            for incoming in batch:
                await self._settle(source, incoming)
            with contextlib.suppress(TransientError, ApiError, NotFound):  # Soon again.
                await done_before(stop, self.reletter())
            due = asyncio.get_running_loop().time() >= self._look_again
            if due and self._unreported is not None and self._unreported.undecided:
                await done_before(stop, self.sweep_unreported())

    async def _settle(self, source: Subscription, incoming: Incoming) -> None:
        try:
            advisory = Advisory.parse(incoming.message.subject, incoming.message.payload)
            if advisory.ours and not await self._is_another_domains(advisory):
                if await self._may_be_pending(advisory, incoming.stored_at):
                    await source.nak(incoming, delay=_PENDING)
                    return
                if self._is_another_services(advisory, incoming):
                    await source.nak(incoming, delay=_TURN)
                    return
                await self._take(advisory, incoming.stored_at)
        except DecodeError as error:
            logger.error("%s", error)
        except ConfigError:
            raise
        except SeawayError as error:
            # One message that cannot be buried now must not keep the others from it.
            again = incoming.stream_seq in self._postponed
            self._postponed.add(incoming.stream_seq)
            log = logger.debug if again else logger.warning
            log("the sweeper tries again later: %s", error)
            await source.nak(incoming, delay=_RETRY.delay(incoming.deliveries))
            return
        self._postponed.discard(incoming.stream_seq)
        self._others.pop(incoming.stream_seq, None)
        await source.ack(incoming)

    async def _is_another_domains(self, advisory: Advisory) -> bool:
        """Leaf nodes hear each other's advisories, and may have streams of the same name."""
        if advisory.domain is None:
            return False
        if self._domain is None:
            info = await self._broker.admin.stream(ADVISORY_STREAM)
            self._domain = (info and info.domain) or ""
        return bool(self._domain) and self._domain != advisory.domain

    def _is_another_services(self, advisory: Advisory, incoming: Incoming) -> bool:
        """Whether to leave it to a sweeper that has its durable. The pulls are served in turn."""
        if advisory.consumer in self._consumers:
            return False
        now, known = asyncio.get_running_loop().time(), self._others
        since = known.setdefault(incoming.stream_seq, now)
        if len(known) > _KNOWN:
            del known[next(iter(known))]  # Most likely settled elsewhere.
        return now - since < _TURNS * _TURN.total_seconds()

    async def _may_be_pending(self, advisory: Advisory, said_at: datetime) -> bool:
        """Whether its durable may still be at work on the message. ``DecodeError`` where it was
        not given it at all: the server did not say so, or of a durable that is gone."""
        stream, consumer, stream_seq = advisory.stream, advisory.consumer, advisory.stream_seq
        info = await self._broker.admin.consumer(stream, consumer)
        if info is None or stream_seq > info.stream_seq:
            raise DecodeError(
                f"an advisory says that {consumer} gave up on {stream}:{stream_seq}, which it was "
                "never given: it is passed over"
            )
        if stream_seq <= info.ack_floor or not info.num_ack_pending:
            return False
        return datetime.now(UTC) - said_at < _PATIENCE * info.ack_wait

    async def _take(self, advisory: Advisory, said_at: datetime) -> None:
        stream, stream_seq = advisory.stream, advisory.stream_seq
        found = await self._broker.admin.get(stream, stream_seq)
        if found is None:
            logger.warning(
                "%s gave up on %s:%d, which is gone", advisory.consumer, stream, stream_seq
            )
            return
        incoming = Incoming.read(found, advisory.consumer, deliveries=advisory.deliveries)
        if await self._is_there(incoming, said_at):
            await self._forget(incoming)
        else:
            await self._bury(incoming, advisory.reason)

    async def reletter(self) -> int:
        """Make the letters again that a queue has lost, if it is some seconds since the last time;
        how many."""
        now = asyncio.get_running_loop().time()
        if self._relettering is None or now < self._relettered + _POLL.total_seconds() / 2:
            return 0
        made = await self._relettering.look()
        self._relettered = now
        return made

    async def sweep_unreported(self) -> int:
        """Bury what durables gave up on without an advisory; how many letters were written."""
        self._look_again = asyncio.get_running_loop().time() + _AGAIN.total_seconds()
        if self._unreported is None:
            return 0
        buried = 0
        async with aclosing(self._unreported.find()) as found:
            async for incoming in found:
                buried += await self._bury(incoming, "exhausted")
        return buried

    async def _bury(self, incoming: Incoming, reason: DeadLetterReason) -> bool:
        """Whether a letter was written.

        The server delivers the message no more, so that nothing is lost if we die before there is a
        letter: we come back to it.
        """
        swept = self._consumers.get(incoming.consumer)
        decided: DeadLetterReason | None = reason
        store = None if swept is None else self._store
        if store is not None and swept is not None:
            if not swept.handles(incoming.event_subject):
                decided = None  # Nobody takes it: acknowledged, and without a row.
            else:
                decided = await to_letter(store, incoming, reason, parks=swept.parks)
        if decided is not None:
            letter = await self._letters.store(incoming, reason=decided, error=None)
            if store is not None and swept is not None:
                await note_stored(store, incoming, letter, parks=swept.parks)
                queue = dlq_stream(stream_context(incoming.stream))
                with contextlib.suppress(StoreRefused):  # It may have an id that no row can hold.
                    await note_stored_now(
                        *(self._broker.admin, store, queue, letter, incoming.event_id)
                    )
            self._telemetry.emit(
                DeadLettered(
                    *(incoming.stream, incoming.consumer, incoming.event_id, decided, ""),
                    correlation_id=incoming.correlation_id,
                )
            )
        await self._forget(incoming)
        return decided is not None

    async def _forget(self, incoming: Incoming) -> None:
        """A work queue keeps what nobody acknowledges: its letter stands for it now."""
        if incoming.stream == redrive_stream(stream_context(incoming.stream)):
            await self._broker.admin.delete_message(incoming.stream, incoming.stream_seq)

    async def _is_there(self, incoming: Incoming, since: datetime) -> bool:
        """Whether the queue holds the letter, though it may have forgotten the letter's id."""
        queue = dlq_stream(stream_context(incoming.stream))
        info = await self._broker.admin.stream(queue)
        window = info.duplicate_window if info else timedelta()
        # The consumer's own letter is older than the advisory by its ack_wait: half is on the safe
        # side, and searching the queue for each advisory of a flood would take for ever.
        if datetime.now(UTC) - since < window / 2:
            return False
        return await self._letters.has_letter(incoming)
