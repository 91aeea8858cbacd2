"""What follows a transaction: the ack, or the nak and a wait, or the dead letter and then the ack.

    committed ──> ack
    failed ──────> nak, its lane awaits it
      └─ put off for long ──> stored where the server sends it later ──> ack
    to be buried ──> the inbox decides ──store──> letter ──> the inbox knows ──> ack
                      └─ not taken: kept in hand and alive, its lane waits, others go on;
                         tried again

Owns: what the server is told of deliveries, and those that are to be letters. Guarantees:
acknowledged only after the commit, or after the queue has the letter; what cannot be stored holds
up its key alone, and is told of. The confirmations of acks are awaited while the next transactions
run: what stays unconfirmed comes again, and meets the inbox.

With none unconfirmed an ack is sent at once. Otherwise acks collect until a confirmation comes, or
until there are a quarter of ``max_ack_pending``.

What waits for its letter takes one of the server's ``max_ack_pending`` places, and so does what
comes behind it: that bounds how many there can be, also where the queue takes nothing at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from seaway import logs
from seaway.consumer.calling import Done, Failure
from seaway.consumer.lanes import InHand, by_source
from seaway.consumer.outcomes import Bury, Heard, Lapsed, TryAgain, decide, is_put_off
from seaway.consumer.standing import Ended, await_return, note
from seaway.consumer.state import OUTAGE, Spawn, State
from seaway.contracts import DeadLetterReason, Incoming, Subscription
from seaway.errors import ConfigError, SeawayError, StoreRefused, StoreUnavailable
from seaway.inbox.letters import note_put_off, note_stored, to_letter
from seaway.inbox.places import note_stored_now
from seaway.logs import without_ours
from seaway.naming import dlq_stream, stream_context
from seaway.telemetry import DeadLettered, Delivered, HandledAs
from seaway.waiting import set_within

logger = logs.logger("seaway.consumer")

_DECIDED = "a process decided that it becomes a letter, and may have ended before that was stored"
_AT_A_TIME = 10
_NOTED_EVERY = timedelta(milliseconds=500)
"""Among how many that wait the pauses are as long as for one."""


class Settler:
    """Settles one consumer's deliveries. ``spawn`` starts a task beside its workers."""

    def __init__(self, state: State, spawn: Spawn) -> None:
        self._state = state
        self._spawn = spawn
        self._unasked: list[Done] = []
        self._asked: list[list[Done]] = []
        self._fewer = asyncio.Event()
        self.heard = Heard(state.setup.durable, state.setup.handlers, state.now)
        self.burials = Burials(state, spawn, self._tell)

    # ------------------------------------------------------------------ acknowledging

    async def acknowledge(self, done: Sequence[Done]) -> None:
        """Their transaction has committed: they are out of our hands, and their acks on their way.

        Waits while more than ``max_ack_pending`` acks are unconfirmed. Those that wait behind a
        letter of their key are buried instead.
        """
        buried = []
        for one in done:
            item, outcome, took = one
            if outcome == "parked":
                buried.append(Burial(item, "parked", None, took))
                continue
            if outcome == "dead_lettered":
                buried.append(Burial(item, "exhausted", Ended(_DECIDED), took))
                continue
            if outcome == "ignored":
                self.heard.ignored(item)
            self._state.lanes.done(item)
            self._unasked.append(one)
        self._ask_if_due()
        for burial in buried:
            await self.burials.bury(burial)
        await self._at_most(self._state.limits.max_ack_pending)

    def _ask_if_due(self) -> None:
        most = max(1, self._state.limits.max_ack_pending // 4)
        if len(self._unasked) >= (most if self._asked else 1):
            asked, self._unasked = self._unasked, []
            self._asked.append(asked)
            self._spawn(self._ask(asked))

    async def _ask(self, asked: list[Done]) -> None:
        """Acknowledge, and see it confirmed."""
        try:
            for source, batch in by_source(item for item, _, _ in asked if not item.void):
                if source.gaps != self._state.looked_at(source):
                    batch = await self._still_there(source, asked)
                await source.ack(*batch)
        finally:
            self._asked.remove(asked)
            self._fewer.set()
            for item, outcome, took in asked:
                self._tell(item, outcome, took)
        self._ask_if_due()

    async def _still_there(self, source: Subscription, asked: list[Done]) -> list[Incoming]:
        """After a gap the places of what came before it may be others'; those that are not."""
        if not await self._state.sure(source):
            return []
        return [item.incoming for item, _, _ in asked if item.source is source and not item.void]

    def owes(self, source: Subscription) -> bool:
        """Whether acks over ``source`` wait for their confirmation."""
        return any(
            item.source is source for batch in (self._unasked, *self._asked) for item, _, _ in batch
        )

    async def confirmed(self) -> None:
        """Return when no ack waits for its confirmation."""
        await self._at_most(0)

    async def _at_most(self, unconfirmed: int) -> None:
        while len(self._unasked) + sum(map(len, self._asked)) > unconfirmed:
            self._fewer.clear()
            await self._fewer.wait()

    # ------------------------------------------------------------------ failures

    async def failed(self, failure: Failure) -> None:
        """Its transaction was rolled back."""
        state, item, error = self._state, failure.item, failure.error
        setup, limits = state.setup, state.limits
        without_ours(error)  # For the log, and for the letter.
        if isinstance(error, Lapsed):
            logger.warning("%s: %s is left to the sweeper: %s", setup.durable, item.place, error)
            state.lanes.done(item)
            return
        step = decide(error, deliveries=item.deliveries, limits=limits, policy=setup.retry)
        self.heard.failed(item, error, step)
        match step:
            case Bury(reason):
                await self.burials.bury(Burial(item, reason, error, failure.took))
            case TryAgain(delay):
                if not (is_put_off(error) and await self._put_off(item, delay, error)):
                    if not item.noted:
                        await note(state, item)
                    # Awaited first: without a delay it may be back before the nak returns.
                    await_return(state, item, delay)
                    if not item.void:
                        await item.source.nak(item.incoming, delay=delay)
                self._tell(item, "retried", failure.took, error)

    async def _put_off(self, item: InHand, delay: timedelta, error: BaseException) -> bool:
        """Have the server send it later, and acknowledge; whether that was done. It takes no place
        of ``max_ack_pending`` then, and the later ones of its key wait for it as they do behind a
        letter: not in anybody's hand (ADR 0030)."""
        state, setup, incoming = self._state, self._state.setup, item.incoming
        if item.void or (setup.ordered and not (setup.keys.kept and setup.store)):
            return False
        why = await setup.dead_letters.put_off(item.counted(), after=delay, error=error)
        if not why and setup.store is not None:
            try:
                await note_put_off(setup.store, incoming, waits=setup.ordered)
            except (StoreUnavailable, StoreRefused) as failure:
                why = str(failure)  # It comes twice then, and takes effect once.
        if why:
            self.heard.not_put_off(why)
            return False
        setup.keys.doubt()
        if not item.void and await state.sure(item.source) and not item.void:
            await item.source.ack(incoming)
        state.lanes.done(item)
        return True

    # ------------------------------------------------------------------ giving back

    async def give_back(self, items: Sequence[InHand]) -> None:
        """Have others be given what is in hand and was not started, at once."""
        for item in items:
            self._state.lanes.drop(item)
        for source, batch in by_source(items):
            await self.refuse(source, batch)

    async def refuse(self, source: Subscription, batch: Sequence[Incoming]) -> None:
        """The same for what was not taken in."""
        for incoming in batch:
            # The last delivery is left to its timer and the sweeper: a nak would end it here.
            if not self._state.limits.is_last(incoming.deliveries):
                await source.nak(incoming, delay=timedelta(0))

    def _tell(
        self, item: InHand, outcome: HandledAs, took: float, error: BaseException | None = None
    ) -> None:
        said = None if error is None else f"{type(error).__name__}: {logs.first_line(error)}"
        self._state.setup.telemetry.emit(
            Delivered(
                stream=item.incoming.stream,
                consumer=self._state.setup.durable,
                event_id=item.event_id,
                subject=item.incoming.message.subject,
                outcome=outcome,
                deliveries=item.deliveries,
                took=timedelta(seconds=took),
                error=said,
                raised=error,
            )
        )


@dataclass(slots=True, eq=False)
class Burial:
    """A delivery that is to be a letter, and how far that has come."""

    item: InHand
    reason: DeadLetterReason
    error: BaseException | None
    took: float
    decided: bool = False
    """Whether the inbox knows of it."""
    needed: bool = True
    """Whether there is a letter to be stored."""
    letter: int | None = None
    attempts: int = 0
    due: float = 0.0
    why: str = ""
    """Why it could not be stored the last time."""
    parks: bool = False
    """Whether the inbox has a row of it, behind which others may wait."""

    def __post_init__(self) -> None:
        self.parks = self.parks or self.reason == "parked"


Tell = Callable[[InHand, HandledAs, float, BaseException | None], None]


class Burials:
    """The letters of one consumer. ``tell`` says how a delivery ended."""

    def __init__(self, state: State, spawn: Spawn, tell: Tell) -> None:
        self._state = state
        self._durable = state.setup.durable
        self._spawn = spawn
        self._tell = tell
        self._unstored: list[Burial] = []
        self._trying: asyncio.Task[None] | None = None
        self._noting: asyncio.Task[None] | None = None
        self._last: tuple[int, InHand] | None = None
        """The last letter that is not noted yet, and of what."""
        self._news = asyncio.Event()

    async def bury(self, burial: Burial) -> None:
        """Store the letter, then acknowledge; where it is not taken, go on trying meanwhile."""
        # One after the other: what the queue did not take a moment ago keeps no worker waiting.
        if not self._unstored and await self._tried(burial):
            return
        self._state.lanes.stick(burial.item)
        self._unstored.append(burial)
        self._say()
        self._news.set()
        if self._trying is None or self._trying.done():
            self._trying = self._spawn(self._try_again())

    async def end(self, until: float) -> None:
        """The consumer stops: what waits is as if it had not been started. An attempt that is under
        way may last ``until``."""
        self._news.set()
        if tasks := [one for one in (self._trying, self._noting) if one is not None]:
            await asyncio.wait(tasks, timeout=max(0.0, until - self._state.now()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._state.lanes.put_back(burial.item for burial in self._unstored)
        self._unstored.clear()
        self._say()

    async def _try_again(self) -> None:
        """Until nothing waits, or the consumer stops."""
        state = self._state
        while self._unstored and not state.stop.is_set():
            self._news.clear()
            due = min(self._unstored, key=lambda burial: burial.due)
            if (left := due.due - state.now()) > 0:
                await set_within(timedelta(seconds=left), state.stop, self._news)
                continue
            if await self._tried(due):
                self._unstored.remove(due)
                # The queue may take the others as well.
                for burial in self._unstored:
                    burial.due = 0.0
                state.go_on()
            self._say()

    async def _tried(self, burial: Burial) -> bool:
        """Whether the letter is stored and the message acknowledged."""
        state, item = self._state, burial.item
        try:
            await self._store(burial)
        except ConfigError:
            raise
        except Exception as error:
            # Not acknowledged, and kept alive by the heartbeat: on its last delivery a nak would
            # lose it to everyone but the sweeper.
            burial.attempts += 1
            pause = OUTAGE.delay(burial.attempts) * (1 + len(self._unstored) // _AT_A_TIME)
            burial.due = state.now() + pause.total_seconds()
            burial.why = logs.first_line(error) or type(error).__name__
            if burial.attempts == 1:
                logger.warning(
                    "%s: %s:%d holds up its key until its dead letter is stored: %s",
                    *(self._durable, *item.place, burial.why),
                    exc_info=None if isinstance(error, SeawayError) else error,
                )
            return False
        if not item.void and await state.sure(item.source) and not item.void:
            await item.source.ack(item.incoming)
        state.lanes.done(item)
        self._told(burial)
        return True

    async def _store(self, burial: Burial) -> None:
        """The letter, and the rows that tell of it."""
        setup, item = self._state.setup, burial.item
        if not burial.decided:
            await self._decide(burial)
        if burial.needed and burial.letter is None:
            try:
                burial.letter = await setup.dead_letters.store(
                    item.counted(), reason=burial.reason, error=burial.error
                )
            except ConfigError as error:
                # About this message, not about the application.
                raise SeawayError(str(error)) from error
        if burial.letter is not None and setup.store is not None:
            parks = setup.parks or burial.parks
            await note_stored(setup.store, item.incoming, burial.letter, parks=parks)
        if burial.letter is not None and setup.notes is not None:
            self._last = burial.letter, item
            if self._noting is None or self._noting.done():
                self._noting = self._spawn(self._note_soon())

    async def _note_soon(self) -> None:
        """Note the last letter, of many in a row twice a second: the queue may lose its end."""
        setup = self._state.setup
        while self._last is not None and setup.notes is not None:
            await set_within(_NOTED_EVERY, self._state.stop)
            (letter, item), self._last = self._last, None
            queue = dlq_stream(stream_context(item.incoming.stream))
            with contextlib.suppress(SeawayError):  # The sweeper notes it some seconds later.
                await note_stored_now(setup.broker.admin, setup.notes, queue, letter, item.event_id)

    async def _decide(self, burial: Burial) -> None:
        setup = self._state.setup
        if setup.store is not None:
            incoming = burial.item.incoming
            parks = setup.parks or burial.parks
            reason = await to_letter(setup.store, incoming, burial.reason, parks=parks)
            burial.needed, burial.reason = reason is not None, reason or burial.reason
        burial.decided = True

    def _told(self, burial: Burial) -> None:
        item, error = burial.item, burial.error
        if burial.letter is None:
            self._tell(item, "already_processed", 0.0, None)
            return
        kind, said = ("", "") if error is None else (type(error).__name__, logs.first_line(error))
        self._state.setup.telemetry.emit(
            DeadLettered(
                *(item.incoming.stream, self._durable, item.event_id, burial.reason, kind, said),
                correlation_id=item.incoming.correlation_id,
            )
        )
        outcome: HandledAs = "parked" if burial.reason == "parked" else "dead_lettered"
        self._tell(item, outcome, burial.took, error)

    def _say(self) -> None:
        """What is held up, in one line however many there are."""
        state, telemetry = self._state, self._state.setup.telemetry
        part, about = f"consumer {self._durable}", "dead letters"
        tried = next((burial for burial in self._unstored if burial.why), None)
        if tried is None:
            telemetry.going_on(part, about)
            return
        stream, stream_seq = tried.item.place
        more = f" and {len(self._unstored) - 1} more" if len(self._unstored) > 1 else ""
        full = ""
        source, most = tried.item.source, state.limits.max_ack_pending
        if state.lanes.count(source) >= most and not state.lanes.moving(source):
            full = f"; with what is behind them they fill max_ack_pending ({most}): nothing comes"
        telemetry.waiting(
            part,
            about,
            f"no dead letter can be stored of {stream}:{stream_seq}{more}, which holds up its key: "
            f"{tried.why}; it is tried again{full}",
        )
