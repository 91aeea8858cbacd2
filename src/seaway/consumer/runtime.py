"""The consumer at work: pull -> lanes -> inbox and handler in one transaction -> settle.

    server ──pull──> in hand ──take──> running ──commit──> ack
                       ^  |               |  └─ refused by the handler ─> nak: lane held, comes back
                       |  |               |  └─ poison, exhausted ──────> dead letter stored, ack
                       |  └── heartbeat ──┘  └─ database away ─┐
                       └──────────── put back, pause, probe <──┘

Authoritative: the durable on the server for what is pending, the inbox for what has taken effect.
A crash anywhere leaves the message unacknowledged: it comes again after ``ack_wait`` and meets the
inbox.

Order: of one ordering key, effects follow the stream while one process runs the durable, over its
own crashes too (``recovery``). Several processes of one durable each keep the order of what they
are given, and the server deals a key's events to whichever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias

from seaway import headers as h
from seaway.chain import chained
from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.lanes import Lanes, Work
from seaway.consumer.outcomes import Bury, Keep, Limits, Step, TryAgain, decide
from seaway.consumer.ports import Options, Ports
from seaway.consumer.recovery import in_flight, unowned
from seaway.contracts import (
    JSON,
    InboxTransaction,
    Incoming,
    Subscription,
)
from seaway.errors import (
    AlreadyProcessed,
    BrokerUnavailable,
    ConfigError,
    NotFound,
    StoreUnavailable,
    TransientError,
)
from seaway.naming import original_subject
from seaway.retry import Backoff
from seaway.telemetry import (
    ConsumerPaused,
    ConsumerResumed,
    DeadLettered,
    Delivered,
    HandledAs,
    Reconnected,
    Signal,
)

logger = logging.getLogger("seaway.consumer")

_Trouble: TypeAlias = Literal["server", "database", "dead letters"]

_POLL = timedelta(seconds=5)
_OUTAGE = Backoff(timedelta(milliseconds=200), timedelta(seconds=5))


@dataclass(slots=True)
class _Results:
    done: list[tuple[Work, HandledAs, float]] = field(default_factory=list)
    failed: list[tuple[Work, BaseException, float]] = field(default_factory=list)
    skipped: list[Work] = field(default_factory=list)
    """Behind an earlier event of their key that has just failed."""

    def add(self, other: _Results) -> None:
        self.done += other.done
        self.failed += other.failed
        self.skipped += other.skipped


class Runtime:
    """One run of one consumer on its durable."""

    def __init__(
        self,
        durable: str,
        streams: Sequence[str],
        handlers: HandlerTable,
        options: Options,
        ports: Ports,
    ) -> None:
        self._durable = durable
        self._streams = streams
        self._handlers = handlers
        self._options = options
        self._ports = ports
        self._lanes = Lanes(ordered=options.ordered)
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._drained = asyncio.Event()
        self._stop = asyncio.Event()
        self._troubles: set[_Trouble] = set()
        self._epoch = 0
        self._outages = 0
        self._limits = Limits(timedelta(seconds=30), -1, 1)
        self._backoff = Backoff()
        self._deadline = timedelta(seconds=300)

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, then drain. Raises the first thing that no retry can mend."""
        self._stop = stop
        infos = [await self._info(stream) for stream in self._streams]
        if stop.is_set():
            return
        self._read_limits(infos[0]["config"])
        forget = self._ports.telemetry.subscribe(self._on_signal)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._heartbeat(), name=f"{self._durable} heartbeat")
                workers = [
                    tasks.create_task(self._work(), name=f"{self._durable} worker {number}")
                    for number in range(self._options.workers)
                ]
                for stream in self._streams:
                    tasks.create_task(self._pull(stream), name=f"{self._durable} {stream}")
                await stop.wait()
                self._wake.set()
                await self._drain(workers)
                self._drained.set()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            forget()

    def _on_signal(self, signal: Signal) -> None:
        if isinstance(signal, Reconnected):
            # What the server had sent may have been lost on the way.
            self._epoch += 1

    # ------------------------------------------------------------------ before the first pull

    async def _info(self, stream: str) -> JSON:
        attempt = 0
        while True:
            try:
                info = await self._ports.broker.admin.consumer(stream, self._durable)
            except BrokerUnavailable as error:
                self._pause("server", str(error))
                attempt += 1
                if await self._stopped_within(_OUTAGE.delay(attempt)):
                    return {}
                continue
            if info is None:
                raise NotFound(
                    f"there is no consumer {self._durable} on {stream}: run `seaway topology apply`"
                )
            self._resume("server")
            return info

    def _read_limits(self, config: JSON) -> None:
        ack_wait = timedelta(microseconds=int(config.get("ack_wait", 30 * 10**9)) // 1000)
        pending = int(config.get("max_ack_pending", 1000))
        self._limits = Limits(
            ack_wait=ack_wait,
            max_deliver=int(config.get("max_deliver", -1)),
            max_ack_pending=pending if pending > 0 else 1000,
        )
        self._backoff = self._options.backoff or Backoff(cap=ack_wait)
        self._deadline = self._options.deadline or 10 * ack_wait

    async def _recover(self, stream: str) -> None:
        """Handle first what was on its way when a process died or a connection was lost."""
        info = await self._info(stream)
        if self._stop.is_set():
            return
        async for found in in_flight(self._ports.broker.admin, info):
            if self._stop.is_set():
                break
            self._take_in([unowned(found, self._durable, deliveries=1)], None)
            while len(self._lanes) >= 2 * self._capacity and not self._stop.is_set():
                await self._room_or_stop()

    async def _read_overdue(self, now: float) -> None:
        """Read what should have come again from the stream: a nak or a delivery was lost, or
        another process has it, and then the inbox knows or will know."""
        for held in self._lanes.overdue(now):
            if self._ports.store is None:
                self._lanes.release(held.place)
                continue
            try:
                found = await self._ports.broker.admin.get(*held.place)
            except TransientError:
                return
            if found is None:
                self._lanes.release(held.place)
            else:
                again = unowned(found, self._durable, deliveries=held.deliveries + 1)
                self._take_in([again], None)

    # ------------------------------------------------------------------ pulling

    @property
    def _capacity(self) -> int:
        """Enough to fill the next transactions while these commit, and no more."""
        wanted = 2 * self._options.batch * self._options.workers
        return max(1, min(self._limits.max_ack_pending, max(wanted, 2)))

    async def _pull(self, stream: str) -> None:
        attempt = 0
        while not self._stop.is_set():
            try:
                async with self._ports.broker.subscribe(stream, self._durable) as source:
                    attempt = 0
                    await self._pull_from(stream, source)
                    await self._drained.wait()
            except BrokerUnavailable as error:
                attempt += 1
                self._pause("server", str(error))
                await self._stopped_within(_OUTAGE.delay(attempt))

    async def _recover_from(self, stream: str) -> None:
        if self._options.ordered and self._ports.store is not None:
            await self._recover(stream)

    async def _pull_from(self, stream: str, source: Subscription) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        epoch = -1
        try:
            while not self._stop.is_set():
                if epoch != self._epoch:
                    epoch = self._epoch
                    await self._recover_from(stream)
                # What waits behind a held delivery does not count: that one must be able to come.
                free = self._capacity - self._lanes.moving(source)
                if free < 1 or self._troubles - {"server"}:
                    await self._room_or_stop()
                    continue
                pull = asyncio.create_task(source.next(free, timeout=_POLL))
                try:
                    await asyncio.wait({pull, stopping}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not pull.done():
                        pull.cancel()
                        await asyncio.wait({pull})
                if pull.cancelled():
                    continue
                self._resume("server")
                if epoch != self._epoch:
                    epoch = self._epoch
                    await self._recover_from(stream)
                self._take_in(pull.result(), source)
        finally:
            stopping.cancel()

    async def _room_or_stop(self) -> None:
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.25):
                await self._room.wait()

    def _take_in(self, batch: Sequence[Incoming], source: Subscription | None) -> None:
        for incoming in batch:
            key = h.ordering_key(
                original_subject(incoming.message.subject), incoming.message.headers
            )
            self._lanes.push(Work(incoming, source, key))
        if batch:
            self._wake.set()

    # ------------------------------------------------------------------ working

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            self._wake.clear()
            if self._lanes.held:
                await self._read_overdue(loop.time())
            works = self._lanes.take(self._options.batch)
            if works:
                await self._process(works)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25 if self._lanes.held else 5):
                    await self._wake.wait()

    async def _process(self, works: list[Work]) -> None:
        """One transaction for all of them; afterwards each is settled, held, or put back."""
        try:
            results = await self._transact(works)
        except StoreUnavailable as error:
            self._lanes.put_back(works)
            await self._sit_out(str(error))
            return
        except BaseException:
            self._lanes.put_back(works)
            raise
        self._outages = 0
        self._resume("database")
        self._lanes.put_back(results.skipped)
        await self._acknowledge(results.done)
        for work, failure, took in results.failed:
            await self._settle_failure(work, failure, took)
        self._wake.set()
        self._room.set()

    async def _transact(self, works: list[Work]) -> _Results:
        began = asyncio.get_running_loop().time()
        results = _Results()
        try:
            await self._try_together(works, results)
            return results
        except StoreUnavailable:
            raise
        except Exception as error:
            # The transaction was refused, by a deferred constraint say, or ended by a full disk:
            # one of them is to blame. A handler that ends it itself stops everything.
            alone = len(works) == 1
            if isinstance(error, ConfigError) and (alone or not results.failed):
                raise
            if alone:
                took = asyncio.get_running_loop().time() - began
                return _Results(failed=[(works[0], error, took)])
        results = _Results()
        for work in works:
            if self._is_behind_a_failure(work, results):
                results.skipped.append(work)
            else:
                results.add(await self._transact([work]))
        return results

    async def _try_together(self, works: list[Work], results: _Results) -> None:
        store = self._ports.store
        if store is None:
            for work in works:
                await self._attempt(work, None, nullcontext(), results)
            return
        try:
            async with store.transaction() as tx:
                alone = len(works) == 1
                for work in works:
                    inner = nullcontext() if alone else tx.savepoint()
                    await self._attempt(work, tx, inner, results)
                if alone and results.failed:
                    # The store knows which of its driver's errors are its own: a full disk say.
                    raise results.failed[0][1]
        except Exception as error:
            if not any(error is failure for _, failure, _ in results.failed):
                raise

    def _is_behind_a_failure(self, work: Work, results: _Results) -> bool:
        return self._options.ordered and any(work.key == one.key for one, _, _ in results.failed)

    async def _attempt(
        self,
        work: Work,
        tx: InboxTransaction | None,
        inner: AbstractAsyncContextManager[None],
        results: _Results,
    ) -> None:
        if self._is_behind_a_failure(work, results):
            results.skipped.append(work)
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        failure: Exception | None = None
        try:
            async with inner:
                try:
                    outcome = await self._handle(work.incoming, tx)
                except Exception as error:
                    failure = error
                    raise
        except Exception as error:
            if error is not failure or isinstance(error, StoreUnavailable):
                # The database's doing, or the savepoint's: it went with its transaction.
                raise
            results.failed.append((work, error, loop.time() - began))
        else:
            results.done.append((work, outcome, loop.time() - began))

    async def _handle(self, incoming: Incoming, tx: InboxTransaction | None) -> HandledAs:
        message = incoming.message
        subject = original_subject(message.subject)
        registration = self._handlers.find(subject)
        if registration is None:
            return "ignored"
        metadata = h.Metadata.decode(
            message.headers, fallback_id=f"{incoming.stream}:{incoming.stream_seq}"
        )
        if tx is not None and not await tx.claim(self._durable, metadata.event_id):
            return "already_processed"
        event = registration.read(subject, message, metadata)
        delivery = Delivery(
            event_id=metadata.event_id,
            subject=subject,
            stream=incoming.stream,
            stream_seq=incoming.stream_seq,
            consumer=self._durable,
            deliveries=incoming.deliveries,
            correlation_id=metadata.correlation_id,
            causation_id=metadata.causation_id,
            key=metadata.key,
            occurred_at=metadata.occurred_at,
            stored_at=incoming.stored_at,
            headers=message.headers,
            redriven=subject != message.subject,
            _tx=None if tx is None else tx.handle,
            _outbox=self._ports.outbox,
        )
        with chained(
            metadata.correlation_id,
            metadata.event_id,
            traceparent=metadata.traceparent,
            tracestate=metadata.tracestate,
        ):
            try:
                async with asyncio.timeout(self._deadline.total_seconds()):
                    await registration.handler(event, delivery)
            except AlreadyProcessed:
                return "already_processed"
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not our cancellation: it would end this worker without a word.
                raise RuntimeError("the handler awaited something that was cancelled") from error
        return "handled"

    # ------------------------------------------------------------------ settling

    async def _acknowledge(self, done: list[tuple[Work, HandledAs, float]]) -> None:
        try:
            for source, batch in _by_source(work for work, _, _ in done):
                # What stays unconfirmed comes again, and meets the inbox.
                await source.ack(*batch)
        finally:
            for work, outcome, took in done:
                self._lanes.done(work)
                self._tell(work, outcome, took)

    async def _settle_failure(self, work: Work, error: BaseException, took: float) -> None:
        incoming, source = work.incoming, work.source
        step = decide(
            error, deliveries=incoming.deliveries, limits=self._limits, backoff=self._backoff
        )
        if source is None:
            self._settle_unowned(work, step)
            return
        match step:
            case Bury(reason):
                if await self._bury(work, step, error):
                    self._tell(work, "dead_lettered", took, error)
                    self._ports.telemetry.emit(
                        DeadLettered(
                            incoming.stream,
                            self._durable,
                            incoming.event_id,
                            reason,
                            type(error).__name__,
                        )
                    )
            case TryAgain(delay):
                logger.debug("%s: %s comes again: %r", self._durable, incoming.event_id, error)
                # Held first: without a delay it may be back before the nak returns.
                self._hold(work, delay + self._limits.ack_wait)
                await source.nak(incoming, delay=delay)
                self._tell(work, "retried", took, error)
            case Keep():
                self._lanes.put_back([work])

    def _settle_unowned(self, work: Work, step: Step) -> None:
        """Read from the stream, so nobody's to ack or nak: the server will deliver it in time."""
        match step:
            case TryAgain(delay):
                self._hold(work, delay)
            case Keep():
                self._lanes.put_back([work])
            case Bury():
                # Whoever is given it will bury it, and give it the letter.
                self._lanes.done(work)

    def _hold(self, work: Work, patience: timedelta) -> None:
        self._lanes.hold(work, asyncio.get_running_loop().time() + patience.total_seconds())

    async def _bury(self, work: Work, step: Bury, error: BaseException) -> bool:
        """Whether the letter is stored and the message acknowledged. Tries until it is stopped."""
        attempt = 0
        while True:
            try:
                await self._ports.dead_letters.store(work.incoming, reason=step.reason, error=error)
                break
            except TransientError as failure:
                # Not acknowledged, and kept alive by the heartbeat: on its last delivery a nak
                # would lose it to everyone but the sweeper.
                attempt += 1
                self._pause("dead letters", f"a dead letter cannot be stored: {failure}")
                if await self._stopped_within(_OUTAGE.delay(attempt)):
                    self._lanes.put_back([work])
                    return False
        self._resume("dead letters")
        if work.source is not None:
            await work.source.ack(work.incoming)
        self._lanes.done(work)
        return True

    def _tell(
        self, work: Work, outcome: HandledAs, took: float, error: BaseException | None = None
    ) -> None:
        incoming = work.incoming
        self._ports.telemetry.emit(
            Delivered(
                stream=incoming.stream,
                consumer=self._durable,
                event_id=incoming.event_id,
                subject=incoming.message.subject,
                outcome=outcome,
                deliveries=incoming.deliveries,
                took=timedelta(seconds=took),
                error=None if error is None else f"{type(error).__name__}: {error}",
            )
        )

    # ------------------------------------------------------------------ keeping and ending

    async def _heartbeat(self) -> None:
        """Restart the ack timer of everything in hand, running or waiting."""
        interval = self._limits.ack_wait.total_seconds() / 3
        while not self._drained.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._drained.wait()
            for source, batch in _by_source(self._lanes):
                await source.in_progress(*batch)

    async def _drain(self, workers: Sequence[asyncio.Task[None]]) -> None:
        for work in self._lanes.waiting():
            await self._give_back(work)
        _, late = await asyncio.wait(workers, timeout=self._options.grace.total_seconds())
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for work in self._lanes.waiting():
            await self._give_back(work)

    async def _give_back(self, work: Work) -> None:
        self._lanes.drop(work)
        # The last delivery is left to its timer and the sweeper: a nak would end it here.
        last = 0 < self._limits.max_deliver <= work.incoming.deliveries
        if work.source is not None and not last:
            await work.source.nak(work.incoming, delay=timedelta(0))

    async def _sit_out(self, reason: str) -> None:
        self._outages += 1
        self._pause("database", reason)
        await self._stopped_within(_OUTAGE.delay(self._outages))

    def _pause(self, trouble: _Trouble, reason: str) -> None:
        if not self._troubles:
            self._ports.telemetry.emit(ConsumerPaused(self._durable, reason))
        self._troubles.add(trouble)

    def _resume(self, trouble: _Trouble) -> None:
        if trouble in self._troubles:
            self._troubles.remove(trouble)
            if not self._troubles:
                self._ports.telemetry.emit(ConsumerResumed(self._durable))

    async def _stopped_within(self, delay: timedelta) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay.total_seconds()):
                await self._stop.wait()
        return self._stop.is_set()


def _by_source(works: Iterable[Work]) -> Iterable[tuple[Subscription, list[Incoming]]]:
    grouped: dict[int, tuple[Subscription, list[Incoming]]] = {}
    for work in works:
        if work.source is not None:
            grouped.setdefault(id(work.source), (work.source, []))[1].append(work.incoming)
    return grouped.values()
