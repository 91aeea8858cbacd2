"""What follows a transaction: the ack, the nak and its lane, and the telling.

Owns: what the server is told of a delivery that is no dead letter. Guarantees: acknowledged only
after the commit. The confirmations of acks are awaited while the next
transactions run: what stays unconfirmed comes again, and meets the inbox.

With none unconfirmed an ack is sent at once. Otherwise acks collect until a confirmation comes, or
until there are a quarter of ``max_ack_pending``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

from seaway import logs
from seaway.consumer.burying import Burial, Burials
from seaway.consumer.calls import Failure
from seaway.consumer.lanes import Work
from seaway.consumer.outcomes import Bury, Lapsed, TryAgain, decide
from seaway.consumer.run import Run, Spawn, by_source
from seaway.consumer.trying import note
from seaway.contracts import Incoming, Subscription
from seaway.logs import without_ours
from seaway.telemetry import Delivered, HandledAs

logger = logs.logger("seaway.consumer")

Done: TypeAlias = tuple[Work, HandledAs, float]
"""A delivery that took effect, how, and in how many seconds."""


class Settler:
    """Settles one consumer's deliveries. ``spawn`` starts a task of the run."""

    def __init__(self, run: Run, spawn: Spawn) -> None:
        self._run = run
        self._spawn = spawn
        self._unasked: list[Done] = []
        self._asked = 0
        self._owed: Counter[int] = Counter()
        self._fewer = asyncio.Event()
        self.burials = Burials(run, spawn, self._tell)

    # ------------------------------------------------------------------ acknowledging

    async def acknowledge(self, done: Sequence[Done]) -> None:
        """Their transaction has committed: they are out of our hands, and their acks on their way.

        Waits while more are unconfirmed than the server would have out. Those that were parked are
        buried instead.
        """
        parked = []
        for one in done:
            if one[1] == "parked":
                parked.append(Burial(one[0], "parked", None, one[2]))
                continue
            self._run.lanes.done(one[0])
            self._owed[id(one[0].source)] += 1
            self._unasked.append(one)
        self._ask_if_due()
        for burial in parked:
            await self.burials.bury(burial)
        await self._at_most(self._run.limits.max_ack_pending)

    def _ask_if_due(self) -> None:
        most = max(1, self._run.limits.max_ack_pending // 4)
        if len(self._unasked) >= (most if self._asked else 1):
            asked, self._unasked = self._unasked, []
            self._asked += len(asked)
            self._spawn(self._ask(asked))

    async def _ask(self, asked: Sequence[Done]) -> None:
        """Acknowledge, and see it confirmed."""
        try:
            for source, batch in by_source(work for work, _, _ in asked):
                await source.ack(*batch)
        finally:
            self._asked -= len(asked)
            self._fewer.set()
            for work, outcome, took in asked:
                self._owed[id(work.source)] -= 1
                self._tell(work, outcome, took)
        self._ask_if_due()

    def owes(self, source: Subscription) -> bool:
        """Whether acks over ``source`` wait for their confirmation."""
        return self._owed[id(source)] > 0

    async def confirmed(self) -> None:
        """Return when no ack waits for its confirmation."""
        await self._at_most(0)

    async def _at_most(self, unconfirmed: int) -> None:
        while len(self._unasked) + self._asked > unconfirmed:
            self._fewer.clear()
            await self._fewer.wait()

    # ------------------------------------------------------------------ failures

    async def failed(self, failure: Failure) -> None:
        """Its transaction was rolled back."""
        run, work, error = self._run, failure.work, failure.error
        without_ours(error)  # For the log, and for the letter.
        if isinstance(error, Lapsed):
            logger.warning("%s: %s is left to the sweeper: %s", run.durable, work.place, error)
            run.lanes.done(work)
            return
        step = decide(
            error, deliveries=work.deliveries, limits=run.limits, policy=run.options.retry
        )
        run.heard.failed(work, error, step)
        match step:
            case Bury(reason):
                await self.burials.bury(Burial(work, reason, error, failure.took))
            case TryAgain(delay):
                if not work.noted:
                    await note(run, work)
                # Held first: without a delay it may be back before the nak returns.
                patience = delay + run.limits.ack_wait
                run.lanes.hold(work, run.now() + patience.total_seconds())
                await work.source.nak(work.incoming, delay=delay)
                self._tell(work, "retried", failure.took, error)

    # ------------------------------------------------------------------ giving back

    async def give_back(self, works: Sequence[Work]) -> None:
        """Have others be given what is in hand and was not started, at once."""
        for work in works:
            self._run.lanes.drop(work)
        for source, batch in by_source(works):
            await self.refuse(source, batch)

    async def refuse(self, source: Subscription, batch: Sequence[Incoming]) -> None:
        """The same for what was not taken in."""
        most = self._run.limits.max_deliver
        for incoming in batch:
            # The last delivery is left to its timer and the sweeper: a nak would end it here.
            if not 0 < most <= incoming.deliveries:
                await source.nak(incoming, delay=timedelta(0))

    def _tell(
        self, work: Work, outcome: HandledAs, took: float, error: BaseException | None = None
    ) -> None:
        incoming = work.incoming
        said = None if error is None else f"{type(error).__name__}: {logs.first_line(error)}"
        self._run.ports.telemetry.emit(
            Delivered(
                stream=incoming.stream,
                consumer=self._run.durable,
                event_id=work.event_id,
                subject=incoming.message.subject,
                outcome=outcome,
                deliveries=work.deliveries,
                took=timedelta(seconds=took),
                error=said,
            )
        )
