"""What a worker does: from the lanes through one transaction, inbox rows and handlers, to settling.

    taken ──one transaction: claim, handlers, commit──> settled
              │ one of them failed: all is rolled back
              └─> what was before it, itself, what comes after it: each in a transaction of its own

Owns: when work begins, transactions, and who is to blame where one fails. Knows nothing of the
server: what is to be told to it, ``settling`` decides. Guarantees: what took effect committed with
its inbox row; a delivery is blamed only for what its handler says of it, or for failing alone;
where something is away, nobody. A consumer whose handlers never wait leaves the event loop to
others between two transactions.

What the database refuses is an outage only where a transaction of our own is refused as well: a
delivery's statement may run into a timeout, a lock or a limit that nobody else meets.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from seaway.consumer.callables import place_of
from seaway.consumer.calling import (
    Attempt,
    Caller,
    Done,
    Failure,
    Group,
    around,
    halves,
    items_of,
    plan,
    without_keys,
)
from seaway.consumer.lanes import InHand
from seaway.consumer.outcomes import Lapsed, is_downstream, is_verdict
from seaway.consumer.settling import Settler
from seaway.consumer.standing import (
    Decided,
    away,
    away_in,
    given_up,
    look_after,
    must_be_alone,
    note,
    set_aside,
    unless_decided,
)
from seaway.consumer.state import State
from seaway.contracts import InboxTransaction
from seaway.errors import ConfigError, SessionLost, StoreUnavailable, TransactionConflict
from seaway.inbox.threads import Abandoned, Carried, Threads
from seaway.waiting import set_within

_SLICE_SECONDS = 0.0005
_MOMENT_SECONDS = 0.25
_POLL_SECONDS = 5.0
_CONFLICTS = 4
"""How often a transaction that met another one is run again at once."""
_FALLS = 3
"""After this many outages that began during its transaction a delivery counts as failed: one that
brings the database down would be tried for ever otherwise."""


@dataclass(slots=True)
class Results:
    """How each delivery ended that was to be worked on."""

    done: list[Done] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    kept: list[InHand] = field(default_factory=list)
    """Neither: behind a failed one of their key, or something is away. In order."""
    outage: Exception | None = None
    """What is away."""


class Workers:
    """The workers of one consumer."""

    def __init__(self, state: State, settler: Settler, caller: Caller) -> None:
        self._state = state
        self._settler = settler
        self._transactor = Transactor(state, caller)
        self._slice_ends = math.inf
        self._noting = asyncio.Lock()

    async def work(self) -> None:
        """One worker, until after the stop nothing is left to start, or something is away."""
        state, setup = self._state, self._state.setup
        while not (state.stop.is_set() and state.breaker.troubled):
            state.wake.clear()
            if state.lanes.awaits and not state.stop.is_set():
                await look_after(state, state.now())
            items = state.lanes.take(state.breaker.allowance(setup.batch, now=state.now()))
            if items:
                self._begin_slice()
                await self._process(items)
                if state.now() > self._slice_ends:
                    await asyncio.sleep(0)
                continue
            if state.last:
                return
            await set_within(timedelta(seconds=self._patience()), state.wake)

    def _begin_slice(self) -> None:
        """Of the event loop's present turn, unless another worker has begun one; over with it."""
        if self._slice_ends == math.inf:
            self._slice_ends = self._state.now() + _SLICE_SECONDS
            asyncio.get_running_loop().call_soon(self._end_slice)

    def _end_slice(self) -> None:
        self._slice_ends = math.inf

    def _patience(self) -> float:
        """Seconds until there may be something to start that nobody wakes a worker for."""
        state = self._state
        if state.breaker.open and (left := state.breaker.pause_left(now=state.now())):
            return min(left, _MOMENT_SECONDS)
        return _MOMENT_SECONDS if state.breaker.open or state.lanes.awaits else _POLL_SECONDS

    async def _process(self, items: list[InHand]) -> None:
        """One transaction for all of them; afterwards each is settled, awaited, or put back."""
        state, began = self._state, self._state.now()
        probe = state.breaker.begin()
        try:
            if state.breaker.database_away and not await self._database_is_back():
                state.lanes.put_back(items)
                return
            results = await self._try(items)
            self._note(results)
        except BaseException:
            state.lanes.put_back(items)
            raise
        finally:
            if probe:
                state.breaker.probed()
        state.pace.note(state.now() - began, len(items))
        state.lanes.put_back(results.kept)
        await self._settler.acknowledge(results.done)
        for failure in results.failed:
            await self._settler.failed(failure)
        state.go_on()

    async def _try(self, items: list[InHand]) -> Results:
        state, item = self._state, items[0]
        if item.suspect and not item.noted and state.setup.handlers.handles(item.subject):
            # One at a time: a try that is noted while another delivery runs alone would be counted
            # if that one ended the process.
            async with self._noting:
                if state.lanes.isolating:
                    return Results(kept=items)
                item.tries, item.noted = await note(state, item), True
                if (error := await given_up(state, item)) is not None:
                    return Results(failed=[Failure(item, error)])
                if must_be_alone(state, item):
                    state.lanes.isolate(item)
                    return Results()
        return await self._transactor.transact(items)

    async def _database_is_back(self) -> bool:
        """Found out by a transaction of our own: no delivery is spent on it."""
        breaker = self._state.breaker
        found = await self._transactor.away()
        if found is None:
            breaker.resume("database")
            return True
        breaker.trip("database", str(found), now=self._state.now())
        return False

    def _note(self, results: Results) -> None:
        """Tell the breaker what was found."""
        breaker, error, now = self._state.breaker, results.outage, self._state.now()
        if error is None:
            if breaker.troubled and any(outcome == "handled" for _, outcome, _ in results.done):
                breaker.resume("downstream")
        elif is_downstream(error, self._state.setup.retry):
            after = getattr(error, "after", None)
            breaker.trip("downstream", str(error), now=now, after=after)
        else:
            breaker.trip("database", str(error), now=now)


class Transactor:
    """One consumer's transactions."""

    def __init__(self, state: State, caller: Caller) -> None:
        self._state = state
        self._setup = state.setup
        self._caller = caller

    async def transact(self, items: Sequence[InHand]) -> Results:
        """Work on all of them, in one transaction unless something fails.

        Raises only what no retry can mend: a handler that ends the transaction itself, a database
        that is not as it should be.
        """
        ordered = self._setup.ordered
        steps, ignored = plan(items, self._setup.handlers, ordered=ordered)
        results = Results(done=[(item, "ignored", 0.0) for item in ignored])
        steps.reverse()
        failed_keys: set[str] = set()
        while steps:
            step = steps.pop()
            if isinstance(step, Failure):
                if results.outage is not None or step.item.key in failed_keys:
                    results.kept.append(step.item)
                    continue
                results.failed.append(step)
                if ordered:
                    failed_keys.add(step.item.key)
            elif results.outage is not None:
                results.kept += items_of(step)
            else:
                if failed_keys:
                    step, behind = without_keys(step, failed_keys)
                    results.kept += behind
                if step:
                    steps += reversed(await self._together(step, results))
        return results

    async def _together(self, group: Group, results: Results) -> list[Group | Failure]:
        """One transaction for all of ``group``; where it failed, what to do instead."""
        attempt, began = Attempt(), self._state.now()
        while True:
            try:
                await self._transaction(group, attempt)
            except Decided:
                continue
            except StoreUnavailable as error:
                if await self._runs_again(group, attempt, error, results):
                    continue
                if results.outage is not None:
                    return []
                return await self._instead(group, attempt, attempt.error or error, began, results)
            except Exception as error:
                return await self._instead(group, attempt, error, began, results)
            results.done += attempt.done
            return []

    async def _transaction(self, group: Group, attempt: Attempt) -> None:
        store, threads = self._setup.store, self._setup.threads
        attempt.done, attempt.begun, attempt.error = [], False, None
        if threads is not None:
            await self._in_a_thread(group, attempt, threads)
        elif store is None:
            await self._caller.call_all(group, attempt, within=self._state.deadline)
        else:
            async with store.transaction() as tx:
                await self._within(tx, group, attempt)

    async def _in_a_thread(self, group: Group, attempt: Attempt, threads: Threads) -> None:
        """The same for plain handlers."""
        run, inbox = Attempt(), threads.inbox

        async def work(carried: Carried[None]) -> None:
            if inbox is None:
                within = self._state.deadline
                await self._caller.call_all(group, run, within=within, carried=carried)
                return
            async with inbox.transaction() as tx:
                with carried.through(tx):
                    await self._within(tx, group, run, carried)

        try:
            await threads.carry(work)
        except Abandoned as error:
            attempt.take_over(run)
            attempt.error = error
            raise
        except BaseException:
            attempt.take_over(run)
            raise
        attempt.take_over(run)

    async def _within(
        self,
        tx: InboxTransaction,
        group: Group,
        attempt: Attempt,
        carried: Carried[None] | None = None,
    ) -> None:
        """The body of the transaction ``tx``."""
        durable, items = self._setup.durable, items_of(group)
        attempt.begun = True
        aside = await set_aside(self._state, tx, items)
        wanted = [item for item in items if item.place not in aside]
        fresh = await tx.claim_many(durable, [item.event_id for item in wanted])
        wanted = [item for item in wanted if item.event_id in fresh]
        again = [item for item in wanted if self._state.comes_again(item)]
        await unless_decided(self._state, tx, again)
        if again:  # How often they were tried counts no more.
            await tx.release(durable, [item.event_id for item in again])
        await self._caller.call_all(
            *(group, attempt),
            within=self._state.deadline,
            tx=tx,
            fresh=fresh,
            aside=aside,
            carried=carried,
        )
        if any(self._state.lapsed(item) for item in items):
            raise Lapsed("its last delivery was not kept alive")
        late = [item for item in wanted if item not in again and self._state.left(item)]
        await unless_decided(self._state, tx, late)

    async def away(self) -> StoreUnavailable | None:
        """See ``standing.away``; also where plain handlers' transactions come from."""
        setup = self._setup
        found = await away(setup.store, setup.durable)
        if found is None and (threads := setup.threads) is not None and threads.inbox is not None:
            found = await away_in(threads, threads.inbox, setup.durable)
        return found

    # ------------------------------------------------------------------ where one fails

    async def _instead(
        self, group: Group, attempt: Attempt, error: Exception, began: float, results: Results
    ) -> list[Group | Failure]:
        """What to do instead of ``group``, which failed with ``error``."""
        if error is attempt.error:
            if self._setup.store is not None:
                return await self._blame(group, attempt, self._state.now() - began, results)
            # Nothing is rolled back here, so each call has its own outcome.
            results.done += attempt.done
            call, after = group[attempt.at : attempt.at + 1], group[attempt.at + 1 :]
            attempt.at = 0
            steps = await self._blame(call, attempt, self._state.now() - attempt.began, results)
            return [*steps, after] if after else steps
        if isinstance(error, ConfigError):
            if attempt.begun and type(error) is ConfigError:
                whose = ", ".join(
                    sorted({f"handler {place_of(one.registration.code)}" for one in group})
                )
                raise ConfigError(f"consumer {self._setup.durable}: {whose}: {error}") from error
            raise error
        # Refused as a whole, at the commit say.
        if len(items := items_of(group)) > 1:
            return halves(group)
        return [Failure(items[0], error, self._state.now() - began)]

    async def _runs_again(
        self, group: Group, attempt: Attempt, error: StoreUnavailable, results: Results
    ) -> bool:
        """Whether ``group``, which met what may be an outage, is run again at once. Otherwise that
        is an outage, and in ``results``, or it is the failure of one of its deliveries."""
        if attempt.error is not None and is_verdict(attempt.error):
            return False
        if isinstance(error, TransactionConflict) and attempt.conflicts < _CONFLICTS:
            attempt.conflicts += 1
            return True
        store, items = self._setup.store, items_of(group)
        if store is None:
            return False
        # If no transaction could even be opened, no delivery is at fault, and a probe would tell no
        # more.
        found = await self.away() if attempt.begun else error
        if found is not None:
            results.outage = found
            if attempt.begun and len(items) == 1 and items[0].fell() >= _FALLS:
                items[0].falls = 0
                results.failed.append(Failure(items[0], attempt.error or error))
            else:
                results.kept += items
            return False
        if len(items) > 1 or attempt.again or not _may_be_anothers(error, attempt):
            return False
        attempt.again = True
        return True

    async def _blame(
        self, group: Group, attempt: Attempt, took: float, results: Results
    ) -> list[Group | Failure]:
        """A handler raised ``attempt.error``, and all is rolled back."""
        at, item, error = attempt.at, attempt.item, attempt.error
        assert error is not None
        call = group[at]
        if is_downstream(error, self._setup.retry):
            # What came before it can take effect all the same.
            before = group[:at]
            steps = await self._together(before, results) if before else []
            results.outage = results.outage or error
            for step in (*steps, group[at:]):
                results.kept += [step.item] if isinstance(step, Failure) else items_of(step)
            return []
        if item is None and len(call.items) == 1:
            item = call.items[0]
        alone = len(group) == 1 and len(call.items) == 1
        if item is not None and (alone or is_verdict(error)):
            return around(group, at, item, Failure(item, error, took))
        if len(group) > 1:
            return around(group, at, None, None)
        return halves(group)


def _may_be_anothers(error: StoreUnavailable, attempt: Attempt) -> bool:
    """Whether an error that only this delivery met may be absent when it is run again: a session
    ends with its server or by an administrator's hand, and no handler raised what our own
    statements met. A handler that was cancelled for its time may have cost it its session."""
    if attempt.error is None:
        return not isinstance(error, TransactionConflict)
    return isinstance(error, SessionLost) and not isinstance(attempt.error, TimeoutError)
