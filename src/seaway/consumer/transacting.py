"""Inbox row and handler in one transaction; who is to blame where it fails.

Owns: calling handlers. Knows nothing of the server: what is to be told to it, ``settling`` decides.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

from seaway import headers as h
from seaway.chain import chained
from seaway.consumer.delivery import Delivery
from seaway.consumer.handlers import HandlerTable
from seaway.consumer.lanes import Work
from seaway.consumer.run import Run
from seaway.consumer.settling import Done
from seaway.contracts import InboxTransaction, Incoming
from seaway.errors import AlreadyProcessed, ConfigError, StoreUnavailable
from seaway.naming import original_subject
from seaway.telemetry import HandledAs


@dataclass(slots=True)
class Results:
    """How each delivery of a transaction ended."""

    done: list[Done] = field(default_factory=list)
    failed: list[tuple[Work, BaseException, float]] = field(default_factory=list)
    skipped: list[Work] = field(default_factory=list)
    """Behind an earlier event of their key that has just failed."""

    def add(self, other: Results) -> None:
        """Take over what another one says."""
        self.done += other.done
        self.failed += other.failed
        self.skipped += other.skipped


class Transactor:
    """Works on one consumer's deliveries."""

    def __init__(self, run: Run, handlers: HandlerTable) -> None:
        self._run = run
        self._handlers = handlers

    async def transact(self, works: list[Work]) -> Results:
        began = self._run.now()
        results = Results()
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
                took = self._run.now() - began
                return Results(failed=[(works[0], error, took)])
        results = Results()
        for work in works:
            if self._is_behind_a_failure(work, results):
                results.skipped.append(work)
            else:
                results.add(await self.transact([work]))
        return results

    async def _try_together(self, works: list[Work], results: Results) -> None:
        store = self._run.ports.store
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

    def _is_behind_a_failure(self, work: Work, results: Results) -> bool:
        return self._run.options.ordered and any(
            work.key == one.key for one, _, _ in results.failed
        )

    async def _attempt(
        self,
        work: Work,
        tx: InboxTransaction | None,
        inner: AbstractAsyncContextManager[None],
        results: Results,
    ) -> None:
        if self._is_behind_a_failure(work, results):
            results.skipped.append(work)
            return
        began = self._run.now()
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
            results.failed.append((work, error, self._run.now() - began))
        else:
            results.done.append((work, outcome, self._run.now() - began))

    async def _handle(self, incoming: Incoming, tx: InboxTransaction | None) -> HandledAs:
        message = incoming.message
        subject = original_subject(message.subject)
        registration = self._handlers.find(subject)
        if registration is None:
            return "ignored"
        metadata = h.Metadata.decode(
            message.headers, fallback_id=f"{incoming.stream}:{incoming.stream_seq}"
        )
        if tx is not None and not await tx.claim(self._run.durable, metadata.event_id):
            return "already_processed"
        event = registration.read(subject, message, metadata)
        delivery = Delivery(
            event_id=metadata.event_id,
            subject=subject,
            stream=incoming.stream,
            stream_seq=incoming.stream_seq,
            consumer=self._run.durable,
            deliveries=incoming.deliveries,
            correlation_id=metadata.correlation_id,
            causation_id=metadata.causation_id,
            key=metadata.key,
            occurred_at=metadata.occurred_at,
            stored_at=incoming.stored_at,
            headers=message.headers,
            redriven=subject != message.subject,
            _tx=None if tx is None else tx.handle,
            _outbox=self._run.ports.outbox,
        )
        with chained(
            metadata.correlation_id,
            metadata.event_id,
            traceparent=metadata.traceparent,
            tracestate=metadata.tracestate,
        ):
            try:
                async with asyncio.timeout(self._run.deadline.total_seconds()):
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
