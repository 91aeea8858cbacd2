"""What follows a transaction: the ack, the nak and its lane, the dead letter, and the telling.

Owns: what the server is told of a delivery. Guarantees: acknowledged only after the commit, or
after the dead letter queue has the letter. The confirmations of acks are awaited while the next
transactions run: what stays unconfirmed comes again, and meets the inbox.

Acks leave at once while none is unconfirmed; later ones wait for that confirmation, so that they
leave together, but no more of them than a quarter of what the server lets out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

from seaway import logs
from seaway.consumer.breaker import OUTAGE
from seaway.consumer.calls import Failure
from seaway.consumer.lanes import Work
from seaway.consumer.outcomes import Bury, Lapsed, Step, TryAgain, decide
from seaway.consumer.parking import note_failure, note_letter
from seaway.consumer.run import Run, Spawn, by_source
from seaway.contracts import DeadLetterReason, Incoming, Subscription
from seaway.errors import StoreRefused, TransientError
from seaway.telemetry import DeadLettered, Delivered, HandledAs

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

    # ------------------------------------------------------------------ acknowledging

    async def acknowledge(self, done: Sequence[Done]) -> None:
        """Their transaction has committed: they are out of our hands, and their acks on their way.

        Waits while more are unconfirmed than the server would have out, and for the letters of
        those that were parked.
        """
        parked = []
        for one in done:
            if one[1] == "parked":
                parked.append(one)
                continue
            self._run.lanes.done(one[0])
            self._owed[id(one[0].source)] += 1
            self._unasked.append(one)
        self._ask_if_due()
        for work, outcome, took in parked:
            if await self._bury(work, "parked", None):
                self._tell(work, outcome, took)
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
            for source, batch in by_source((work for work, _, _ in asked), self._run.open):
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
        incoming, source = work.incoming, work.source
        if isinstance(error, Lapsed):
            logger.warning("%s: %s is left to the sweeper: %s", run.durable, work.place, error)
            run.lanes.done(work)
            return
        step = decide(
            error, deliveries=incoming.deliveries, limits=run.limits, policy=run.options.retry
        )
        if isinstance(step, Bury) and (source is not None or run.options.parks):
            # Also what was read from the stream, where the later ones of its key are to wait.
            if await self._bury(work, step.reason, error):
                self._tell(work, "dead_lettered", failure.took, error)
            return
        if source is None:
            self._unowned_failed(work, step)
            return
        match step:
            case TryAgain(delay):
                logger.debug("%s: %s comes again: %r", run.durable, incoming.event_id, error)
                # Held first: without a delay it may be back before the nak returns.
                self._hold(work, delay + run.limits.ack_wait)
                await source.nak(incoming, delay=delay)
                self._tell(work, "retried", failure.took, error)

    def _unowned_failed(self, work: Work, step: Step) -> None:
        """Read from the stream, so nobody's to ack or nak: the server will deliver it in time."""
        match step:
            case TryAgain(delay):
                self._hold(work, delay)
            case Bury():
                # Whoever is given it will bury it, and give it the letter.
                self._run.lanes.done(work)

    def _hold(self, work: Work, patience: timedelta) -> None:
        self._run.lanes.hold(work, self._run.now() + patience.total_seconds())

    async def _bury(
        self, work: Work, reason: DeadLetterReason, error: BaseException | None
    ) -> bool:
        """Whether the letter is stored and the message acknowledged. Tries until it is stopped."""
        run, incoming, attempt = self._run, work.incoming, 0
        letter: int | None = None
        while True:
            try:
                if letter is None and await self._is_to_be_buried(work, reason):
                    letter = await run.ports.dead_letters.store(
                        incoming, reason=reason, error=error
                    )
                if letter is not None and run.ports.store is not None:
                    await note_letter(run.ports.store, incoming, letter, parks=run.options.parks)
                break
            except StoreRefused as refusal:
                # Its letter is stored: no row stands beside it, and none is needed for its effect.
                logger.warning("%s: %s is noted in no row: %s", run.durable, work.place, refusal)
                break
            except TransientError as failure:
                # Not acknowledged, and kept alive by the heartbeat: on its last delivery a nak
                # would lose it to everyone but the sweeper.
                attempt += 1
                run.breaker.pause("dead letters", f"a dead letter waits: {failure}")
                if await run.stopped_within(OUTAGE.delay(attempt)):
                    run.lanes.put_back([work])
                    return False
        run.breaker.resume("dead letters")
        for source, batch in by_source([work], run.open):
            await source.ack(*batch)
        run.lanes.done(work)
        if letter is not None:
            kind, said = ("", "") if error is None else (type(error).__name__, first_line(error))
            run.ports.telemetry.emit(
                DeadLettered(incoming.stream, run.durable, incoming.event_id, reason, kind, said)
            )
        else:
            self._tell(work, "already_processed", 0.0)
        return letter is not None

    async def _is_to_be_buried(self, work: Work, reason: DeadLetterReason) -> bool:
        """Let the later events of its key know of it where they wait behind it; false where it has
        taken effect after all."""
        store = self._run.ports.store
        if store is None or not self._run.options.parks or reason == "parked":
            return True
        try:
            # The row before the letter: nobody can redrive or discard what has no row yet.
            return await note_failure(store, work.incoming, work.key)
        except StoreRefused as refusal:
            # No event of such a key can be handled, so none overtakes it.
            logger.warning("%s: nothing waits for %s: %s", self._run.durable, work.place, refusal)
            return True

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
        self._run.ports.telemetry.emit(
            Delivered(
                stream=incoming.stream,
                consumer=self._run.durable,
                event_id=incoming.event_id,
                subject=incoming.message.subject,
                outcome=outcome,
                deliveries=incoming.deliveries,
                took=timedelta(seconds=took),
                error=None if error is None else f"{type(error).__name__}: {first_line(error)}",
            )
        )


def first_line(error: BaseException) -> str:
    """What the error says, as much as a log line may hold of it; a hostile ``str`` says nothing."""
    try:
        line, *_ = str(error).strip().splitlines() or [""]
    except Exception:
        return ""
    return "".join(char if char.isprintable() else " " for char in line[:200])
