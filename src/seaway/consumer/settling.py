"""What follows a transaction: the ack, the nak and its lane, the dead letter, and the telling.

Owns: what the server is told of a delivery. Guarantees: acknowledged only after the commit, or
after the dead letter queue has the letter.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

from seaway.consumer.lanes import Work
from seaway.consumer.outcomes import Bury, Keep, Step, TryAgain, decide
from seaway.consumer.run import OUTAGE, Run, by_source
from seaway.errors import TransientError
from seaway.telemetry import DeadLettered, Delivered, HandledAs

logger = logging.getLogger("seaway.consumer")

Done: TypeAlias = tuple[Work, HandledAs, float]
"""A delivery that took effect, how, and in how many seconds."""


class Settler:
    """Settles one consumer's deliveries."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def acknowledge(self, done: Sequence[Done]) -> None:
        """Their transaction has committed."""
        try:
            for source, batch in by_source(work for work, _, _ in done):
                # What stays unconfirmed comes again, and meets the inbox.
                await source.ack(*batch)
        finally:
            for work, outcome, took in done:
                self._run.lanes.done(work)
                self._tell(work, outcome, took)

    async def failed(self, work: Work, error: BaseException, took: float) -> None:
        """Its transaction was rolled back."""
        run, incoming, source = self._run, work.incoming, work.source
        step = decide(error, deliveries=incoming.deliveries, limits=run.limits, backoff=run.backoff)
        if source is None:
            self._unowned_failed(work, step)
            return
        match step:
            case Bury():
                if await self._bury(work, step, error):
                    self._tell(work, "dead_lettered", took, error)
            case TryAgain(delay):
                logger.debug("%s: %s comes again: %r", run.durable, incoming.event_id, error)
                # Held first: without a delay it may be back before the nak returns.
                self._hold(work, delay + run.limits.ack_wait)
                await source.nak(incoming, delay=delay)
                self._tell(work, "retried", took, error)
            case Keep():
                run.lanes.put_back([work])

    async def give_back(self) -> None:
        """Everything that is in hand and was not started, at once."""
        run = self._run
        for work in run.lanes.waiting():
            run.lanes.drop(work)
            # The last delivery is left to its timer and the sweeper: a nak would end it here.
            last = 0 < run.limits.max_deliver <= work.incoming.deliveries
            if work.source is not None and not last:
                await work.source.nak(work.incoming, delay=timedelta(0))

    def _unowned_failed(self, work: Work, step: Step) -> None:
        """Read from the stream, so nobody's to ack or nak: the server will deliver it in time."""
        match step:
            case TryAgain(delay):
                self._hold(work, delay)
            case Keep():
                self._run.lanes.put_back([work])
            case Bury():
                # Whoever is given it will bury it, and give it the letter.
                self._run.lanes.done(work)

    def _hold(self, work: Work, patience: timedelta) -> None:
        self._run.lanes.hold(work, self._run.now() + patience.total_seconds())

    async def _bury(self, work: Work, step: Bury, error: BaseException) -> bool:
        """Whether the letter is stored and the message acknowledged. Tries until it is stopped."""
        run, incoming, attempt = self._run, work.incoming, 0
        while True:
            try:
                await run.ports.dead_letters.store(incoming, reason=step.reason, error=error)
                break
            except TransientError as failure:
                # Not acknowledged, and kept alive by the heartbeat: on its last delivery a nak
                # would lose it to everyone but the sweeper.
                attempt += 1
                run.pause("dead letters", f"a dead letter cannot be stored: {failure}")
                if await run.stopped_within(OUTAGE.delay(attempt)):
                    run.lanes.put_back([work])
                    return False
        run.resume("dead letters")
        if work.source is not None:
            await work.source.ack(incoming)
        run.lanes.done(work)
        run.ports.telemetry.emit(
            DeadLettered(
                incoming.stream, run.durable, incoming.event_id, step.reason, type(error).__name__
            )
        )
        return True

    def _tell(
        self, work: Work, outcome: HandledAs, took: float, error: BaseException | None = None
    ) -> None:
        incoming = work.incoming
        self._run.ports.telemetry.emit(
            Delivered(
                stream=incoming.stream,
                consumer=self._run.durable,
                event_id=incoming.event_id,
                subject=incoming.message.subject,
                outcome=outcome,
                deliveries=incoming.deliveries,
                took=timedelta(seconds=took),
                error=None if error is None else f"{type(error).__name__}: {error}",
            )
        )
