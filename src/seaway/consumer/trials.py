"""An event once more through its consumer's whole call path, outside of any delivery.

    event ──> the transaction of a delivery: inbox row, dependencies, middleware, handler
                tried: what a commit would be refused for is looked for ──> ROLLBACK
                again: its old inbox row goes, a new one comes ───────────> COMMIT

It is the consumer's own code that runs, ``working.Transactor``, over an inbox whose transactions
end in another way. Nothing is known of a stream here, and nothing is settled.

Owns: those two ends. Guarantees: of what is tried the database keeps nothing, whatever the handler
did in its transaction (``Delivery.tried`` tells a handler that does more than that); what is
handled again is handled once in a run, however often that is killed and begun anew, since a row of
the run is written in the same transaction.

Not found out, since only a commit tells: on SQLite, deferred foreign keys; anywhere, what another
transaction does in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeAlias, cast

from seaway import logs
from seaway.consumer.calling import Caller
from seaway.consumer.handlers import Added, Delivery
from seaway.consumer.lanes import InHand
from seaway.consumer.outcomes import Bury, decide, is_downstream
from seaway.consumer.state import Limits, Setup, State
from seaway.consumer.working import Transactor
from seaway.contracts import (
    DeadLetterReason,
    InboxStore,
    InboxTransaction,
    Incoming,
    Subscription,
    ThreadInbox,
)
from seaway.databases.tasks import Turns
from seaway.events import RawEvent, event_type_of
from seaway.inbox.threads import Threads

Verdict: TypeAlias = Literal["effect", "letter", "failed", "nothing"]
"""``effect``: its handler returned, or said ``AlreadyProcessed``; ``letter``: it was refused for
good; ``failed``: it would be tried again; ``nothing``: no handler takes it."""


class Written(NamedTuple):
    """An event that a handler added with ``delivery.add``."""

    subject: str
    key: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one event."""

    verdict: Verdict
    took: float = 0.0
    """Seconds of its handler."""
    error: Exception | None = None
    """What its handler raised, or what its commit would be refused for."""
    reason: DeadLetterReason | None = None
    """Of a letter, or of the one that it would be in the end: ``exhausted``."""
    place: str = ""
    """``file:line`` of the user's own code where the error came from."""
    written: Sequence[Written] = field(default=())
    repeated: bool = False
    """It had been handled again in this run before, and was passed over."""

    @property
    def said(self) -> str:
        """The error in one line; empty where there is none."""
        if self.error is None:
            return ""
        text = logs.first_line(self.error)
        if isinstance(self.error, TimeoutError) and not text:
            text = "it did not end in time"
        kind = type(self.error).__name__
        return f"{kind}: {text}" if text else kind


class Trials:
    """Events tried, or handled again, one a call. Calls may run beside each other: keeping events
    of one key in order is the caller's. Made by ``Consumer.trials``."""

    def __init__(self, setup: Setup, *, run: str | None) -> None:
        self._durable = setup.durable
        self._written: dict[str, list[Written]] = {}
        self._repeated: set[str] = set()
        self._policy = setup.retry
        self._state = state = State(self._ending(setup, run), asyncio.Event())
        state.limits = Limits(timedelta(seconds=30), -1, 1)
        self.caller = Caller(setup.outbox, self._delivery if run is None else Delivery)
        self._transactor = Transactor(state, self.caller)

    @property
    def deadline(self) -> timedelta:
        """How long a handler may run."""
        return self._state.deadline

    async def __call__(self, incoming: Incoming) -> Tried:
        """What comes of ``incoming``, as a first delivery to this consumer.

        ``StoreUnavailable`` where the database is away: nothing happened, try it again.
        ``ConfigError`` for a handler that ends its transaction itself: what it had done by then is
        committed. Cancelled, it is rolled back.
        """
        # Counted as the first: later ones ask the inbox whether they have become letters.
        incoming = replace(incoming, consumer=self._durable, deliveries=1)
        item = InHand(incoming, cast(Subscription, None))
        try:
            results = await self._transactor.transact([item])
            written = self._written.get(item.event_id, ())
            repeated = item.event_id in self._repeated
        finally:
            self._written.pop(item.event_id, None)
            self._repeated.discard(item.event_id)
        for _, outcome, took in results.done:
            verdict: Verdict = "nothing" if outcome == "ignored" else "effect"
            return Tried(verdict, took, written=written, repeated=repeated)
        for failure in results.failed:
            return self._failed(item, failure.error, failure.took)
        assert results.outage is not None
        if is_downstream(results.outage, self._policy):
            return self._failed(item, results.outage, 0.0)
        raise results.outage

    def _failed(self, item: InHand, error: Exception, took: float) -> Tried:
        step = decide(error, deliveries=1, limits=self._state.limits, policy=self._policy)
        found = self._state.setup.handlers.find(item.subject)
        home = "" if found is None else str(getattr(found.written, "__module__", ""))
        file, line = logs.innermost(error, home)
        place = f"{file}:{line}" if file else ""
        if isinstance(step, Bury):
            return Tried("letter", took, error, step.reason, place)
        return Tried("failed", took, error, "exhausted", place)

    def _ending(self, setup: Setup, run: str | None) -> Setup:
        """``setup`` with transactions that end as they are to."""
        store = setup.store
        assert store is not None
        setup = replace(setup, parks=False, batch=1, notes=None)
        if (threads := setup.threads) is not None:
            assert threads.inbox is not None
            inbox = cast(ThreadInbox, _Inbox(threads.inbox, run, self._repeated))
            mine = Threads(setup.durable, inbox)
            mine.patience = threads.patience
            setup = replace(setup, threads=mine)
        return replace(setup, store=cast(InboxStore, _Inbox(store, run, self._repeated)))

    def _delivery(self, incoming: Incoming, *given: Any) -> Delivery:
        # Anew each time: a conflict with another transaction has it run again.
        found = TriedDelivery(incoming, *given)
        self._written[found.event_id] = found.written
        return found

    async def close(self) -> None:
        """End its threads."""
        if self._state.setup.threads is not None:
            await self._state.setup.threads.close()


class TriedDelivery(Delivery):
    """One that is rolled back, and remembers what was added."""

    __slots__ = ("written",)

    def __init__(self, incoming: Incoming, *given: Any) -> None:
        super().__init__(incoming, *given)
        self.written: list[Written] = []

    @property
    def tried(self) -> bool:
        """See ``Delivery.tried``."""
        return True

    def add(self, *events: object, key: str | None = None, **more: Any) -> Added:
        """See ``Delivery.add``."""
        added = super().add(*events, key=key, **more)
        for one in events:
            if isinstance(one, RawEvent):
                self.written.append(Written(one.subject, key or one.key, one.payload))
            else:
                known = event_type_of(one)
                self.written.append(Written(str(known.subject), key, known.encode(one)))
        return added


def run_rows(consumer: str, run: str) -> str:
    """Under what the inbox notes which events a run has handled again."""
    return f"{consumer} again {run}"


# ------------------------------------------------------------------- how transactions end


class _Undone(Exception):
    """Has a transaction rolled back that went well."""


class _Inbox:
    """An inbox whose transactions take no event for handled, and are rolled back; those of a
    ``run`` are committed. For async and for plain handlers."""

    def __init__(
        self, inner: InboxStore | ThreadInbox, run: str | None, repeated: set[str]
    ) -> None:
        self._inner: Any = inner
        self._run = run
        self._repeated = repeated

    @property
    def turns(self) -> Turns | None:
        found: Turns | None = self._inner.turns
        return found

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self._undone() if self._run is None else self._kept(self._run)

    @asynccontextmanager
    async def _undone(self) -> AsyncIterator[Any]:
        with suppress(_Undone):
            async with self._inner.transaction() as tx:
                yield _Anew(tx)
                await tx.check()
                raise _Undone

    @asynccontextmanager
    async def _kept(self, run: str) -> AsyncIterator[Any]:
        async with self._inner.transaction() as tx:
            yield _Once(tx, run, self._repeated)

    async def claimed(self, consumer: str, event_ids: Collection[str]) -> set[str]:
        found: set[str] = await self._inner.claimed(consumer, event_ids)
        return found

    async def close(self) -> None:
        await self._inner.close()


class _Anew:
    """A transaction in which events are claimed as if they never had been."""

    def __init__(self, tx: InboxTransaction) -> None:
        self._tx = tx

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        await self._tx.unclaim(consumer, event_ids)
        return await self._tx.claim_many(consumer, event_ids)


class _Once(_Anew):
    """The same, once in a run."""

    def __init__(self, tx: InboxTransaction, run: str, repeated: set[str]) -> None:
        super().__init__(tx)
        self._run = run
        self._repeated = repeated

    async def claim_many(self, consumer: str, event_ids: Sequence[str]) -> set[str]:
        new = await self._tx.claim_many(run_rows(consumer, self._run), event_ids)
        self._repeated.update(set(event_ids) - new)
        return await super().claim_many(consumer, sorted(new)) if new else set()
