"""What becomes a dead letter, and what cannot become one now.

    failed ──store──> letter ──> the inbox knows ──> ack
               └─ not taken: kept in hand and alive, its key waits, others go on; tried again ─┘

Owns: the deliveries that are to be letters. Guarantees: acknowledged only after the queue has the
letter; what cannot be stored holds up its key alone, and is told of.

What is kept takes one of the server's ``max_ack_pending`` places, and so does what comes behind it:
that bounds how many there can be, also where the queue takes nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from seaway import logs
from seaway.consumer.breaker import OUTAGE
from seaway.consumer.lanes import Work
from seaway.consumer.parking import note_failure, note_letter
from seaway.consumer.run import Run, Spawn
from seaway.contracts import DeadLetterReason
from seaway.errors import ConfigError, SeawayError, StoreRefused
from seaway.telemetry import DeadLettered, HandledAs
from seaway.waiting import set_within

logger = logs.logger("seaway.consumer")

_AT_A_TIME = 10
"""Among how many that wait the pauses are as long as for one."""


@dataclass(slots=True, eq=False)
class Burial:
    """A delivery that is to be a letter, and how far that has come."""

    work: Work
    reason: DeadLetterReason
    error: BaseException | None
    took: float
    letter: int | None = None
    attempts: int = 0
    due: float = 0.0
    why: str = ""
    """Why it could not be stored the last time."""

    @property
    def outcome(self) -> HandledAs:
        """As what the delivery ends."""
        return "parked" if self.reason == "parked" else "dead_lettered"


Tell = Callable[[Work, HandledAs, float, BaseException | None], None]


class Burials:
    """The letters of one run. ``spawn`` starts a task of it, ``tell`` says how a delivery ended."""

    def __init__(self, run: Run, spawn: Spawn, tell: Tell) -> None:
        self._run = run
        self._spawn = spawn
        self._tell = tell
        self._waiting: list[Burial] = []
        self._trying: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def bury(self, burial: Burial) -> None:
        """Store the letter, then acknowledge; where it is not taken, go on trying meanwhile."""
        # One after the other: what the queue did not take a moment ago keeps no worker waiting.
        if not self._waiting and await self._tried(burial):
            return
        self._run.lanes.stick(burial.work)
        self._waiting.append(burial)
        self._say()
        self._news.set()
        if self._trying is None or self._trying.done():
            self._trying = self._spawn(self._try_again())

    async def end(self, until: float) -> None:
        """The run stops: what waits is as if it had not been started. An attempt that is under way
        may last ``until``."""
        if self._trying is not None:
            self._news.set()
            await asyncio.wait([self._trying], timeout=max(0.0, until - self._run.now()))
            self._trying.cancel()
            await asyncio.gather(self._trying, return_exceptions=True)
        self._run.lanes.put_back(burial.work for burial in self._waiting)
        self._waiting.clear()
        self._say()

    async def _try_again(self) -> None:
        """Until nothing waits, or the run stops."""
        run = self._run
        while self._waiting and not run.stop.is_set():
            self._news.clear()
            due = min(self._waiting, key=lambda burial: burial.due)
            if (left := due.due - run.now()) > 0:
                await set_within(timedelta(seconds=left), run.stop, self._news)
                continue
            if await self._tried(due):
                self._waiting.remove(due)
                # The queue may take the others as well.
                for burial in self._waiting:
                    burial.due = 0.0
                run.go_on()
            self._say()

    async def _tried(self, burial: Burial) -> bool:
        """Whether the letter is stored and the message acknowledged."""
        run, work = self._run, burial.work
        try:
            await self._store(burial)
        except ConfigError:
            raise
        except Exception as error:
            # Not acknowledged, and kept alive by the heartbeat: on its last delivery a nak would
            # lose it to everyone but the sweeper.
            burial.attempts += 1
            pause = OUTAGE.delay(burial.attempts) * (1 + len(self._waiting) // _AT_A_TIME)
            burial.due = run.now() + pause.total_seconds()
            burial.why = logs.first_line(error) or type(error).__name__
            if burial.attempts == 1:
                logger.warning(
                    "%s: %s:%d holds up its key until its dead letter is stored: %s",
                    *(run.durable, *work.place, burial.why),
                    exc_info=None if isinstance(error, SeawayError) else error,
                )
            return False
        await work.source.ack(work.incoming)
        run.lanes.done(work)
        self._told(burial)
        return True

    async def _store(self, burial: Burial) -> None:
        """The letter, and the rows that tell of it."""
        run, incoming = self._run, burial.work.incoming
        if burial.letter is None and await self._is_to_be_buried(burial):
            try:
                burial.letter = await run.ports.dead_letters.store(
                    burial.work.counted(), reason=burial.reason, error=burial.error
                )
            except ConfigError as error:
                # About this message, not about the application.
                raise SeawayError(str(error)) from error
        if burial.letter is not None and run.ports.store is not None:
            parks = run.options.parks
            try:
                await note_letter(run.ports.store, incoming, burial.letter, parks=parks)
            except StoreRefused as refusal:
                # Its letter is stored: no row stands beside it, and none is needed for its effect.
                place = burial.work.place
                logger.warning("%s: %s is noted in no row: %s", run.durable, place, refusal)

    async def _is_to_be_buried(self, burial: Burial) -> bool:
        """Let the later events of its key know of it where they wait behind it; false where it has
        taken effect after all."""
        store, work = self._run.ports.store, burial.work
        if store is None or not self._run.options.parks or burial.reason == "parked":
            return True
        try:
            # The row before the letter: nobody can redrive or discard what has no row yet.
            return await note_failure(store, work.incoming, work.key)
        except StoreRefused as refusal:
            # No event of such a key can be handled, so none overtakes it.
            logger.warning("%s: nothing waits for %s: %s", self._run.durable, work.place, refusal)
            return True

    def _told(self, burial: Burial) -> None:
        run, work, error = self._run, burial.work, burial.error
        if burial.letter is None:
            self._tell(work, "already_processed", 0.0, None)
            return
        incoming = work.incoming
        kind, said = ("", "") if error is None else (type(error).__name__, logs.first_line(error))
        run.ports.telemetry.emit(
            DeadLettered(
                *(incoming.stream, run.durable, incoming.event_id, burial.reason, kind, said),
                correlation_id=incoming.correlation_id,
            )
        )
        self._tell(work, burial.outcome, burial.took, error)

    def _say(self) -> None:
        """What is held up, in one line however many there are."""
        run, part = self._run, f"consumer {self._run.durable}"
        tried = [burial for burial in self._waiting if burial.why]
        if not tried:
            run.ports.telemetry.going_on(part, "dead letters")
            return
        stream, stream_seq = tried[0].work.place
        more = f" and {len(self._waiting) - 1} more" if len(self._waiting) > 1 else ""
        full = ""
        source, most = tried[0].work.source, run.limits.max_ack_pending
        if run.lanes.count(source) >= most and not run.lanes.moving(source):
            full = f"; with what is behind them they fill max_ack_pending ({most}): nothing comes"
        run.ports.telemetry.waiting(
            part,
            "dead letters",
            f"no dead letter can be stored of {stream}:{stream_seq}{more}, which holds up its key: "
            f"{tried[0].why}; it is tried again{full}",
        )
