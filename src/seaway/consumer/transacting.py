"""Inbox rows and handlers in one transaction; who is to blame where it fails.

    calls ──one transaction──> committed
              │ one of them failed: all is rolled back
              └─> what was before it, itself, what comes after it: each in a transaction of its own

Owns: transactions, and the blame. Knows nothing of the server: what is to be told to it,
``settling`` decides. Guarantees: what took effect committed with its inbox row; a delivery is
blamed only for what its handler says of it, or for failing alone; where something is away, nobody.

What the database refuses is an outage only where a transaction of our own is refused as well: a
delivery's statement may run into a timeout, a lock or a limit that nobody else meets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from seaway.consumer.calling import call_handler
from seaway.consumer.calls import (
    Call,
    Failure,
    Part,
    around,
    halves,
    plan,
    works_of,
)
from seaway.consumer.lanes import Work
from seaway.consumer.outcomes import Lapsed, is_downstream, is_verdict
from seaway.consumer.parking import take_turns
from seaway.consumer.probing import away
from seaway.consumer.run import Run
from seaway.consumer.settling import Done
from seaway.contracts import InboxTransaction
from seaway.errors import ConfigError, SessionLost, StoreUnavailable, TransactionConflict
from seaway.parked import Place, letter_rows
from seaway.telemetry import HandledAs

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
    kept: list[Work] = field(default_factory=list)
    """Neither: behind a failed one of their key, or something is away. In order."""
    outage: Exception | None = None
    """What is away."""
    reached: bool = False
    """Whether the database has answered."""


@dataclass(slots=True)
class _Attempt:
    """Who was at work, since when, what went wrong there, and what had ended well before."""

    at: int = 0
    began: float = 0.0
    work: Work | None = None
    error: Exception | None = None
    done: list[Done] = field(default_factory=list)
    begun: bool = False
    """Whether there was a transaction at all."""
    conflicts: int = 0
    again: bool = False
    """Whether it was run again, alone, since others may have been the cause."""


class Transactor:
    """Works on one consumer's deliveries."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def transact(self, works: Sequence[Work]) -> Results:
        """Work on all of them, in one transaction unless something fails.

        Raises only what no retry can mend: a handler that ends the transaction itself, a database
        that is not as it should be.
        """
        ordered = self._run.options.ordered
        planned = plan(works, self._run.handlers, ordered=ordered)
        for work in planned.ignored:
            self._run.heard.ignored(work.incoming)
        results = Results(done=[(work, "ignored", 0.0) for work in planned.ignored])
        steps = planned.steps[::-1]
        failed_keys: set[str] = set()
        while steps:
            step = steps.pop()
            if isinstance(step, Failure):
                if results.outage is not None or step.work.key in failed_keys:
                    results.kept.append(step.work)
                    continue
                results.failed.append(step)
                if ordered:
                    failed_keys.add(step.work.key)
            elif results.outage is not None:
                results.kept += works_of(step)
            elif part := _without(step, failed_keys, results):
                steps += reversed(await self._together(part, results))
        return results

    async def _together(self, part: Part, results: Results) -> list[Part | Failure]:
        """One transaction for all of ``part``; where it failed, what to do instead."""
        attempt, began = _Attempt(), self._run.now()
        while True:
            try:
                await self._transaction(part, attempt)
            except StoreUnavailable as error:
                if await self._runs_again(part, attempt, error, results):
                    continue
                if results.outage is not None:
                    return []
                return await self._instead(part, attempt, attempt.error or error, began, results)
            except Exception as error:
                results.reached = True
                return await self._instead(part, attempt, error, began, results)
            results.reached = True
            results.done += attempt.done
            return []

    async def _instead(
        self, part: Part, attempt: _Attempt, error: Exception, began: float, results: Results
    ) -> list[Part | Failure]:
        """What to do instead of ``part``, which failed with ``error``."""
        if error is attempt.error:
            if self._run.ports.store is not None:
                return await self._blame(part, attempt, self._run.now() - began, results)
            # Nothing is rolled back here, so each call has its own outcome.
            results.done += attempt.done
            call, after = part[attempt.at : attempt.at + 1], part[attempt.at + 1 :]
            attempt.at = 0
            steps = await self._blame(call, attempt, self._run.now() - attempt.began, results)
            return [*steps, after] if after else steps
        if isinstance(error, ConfigError):
            raise error
        # Refused as a whole, at the commit say.
        if len(works := works_of(part)) > 1:
            return halves(part)
        return [Failure(works[0], error, self._run.now() - began)]

    async def _runs_again(
        self, part: Part, attempt: _Attempt, error: StoreUnavailable, results: Results
    ) -> bool:
        """Whether ``part``, which met what may be an outage, is run again at once. Otherwise that
        is an outage, and in ``results``, or it is the failure of one of its deliveries."""
        if attempt.error is not None and is_verdict(attempt.error):
            results.reached = True
            return False
        if isinstance(error, TransactionConflict) and attempt.conflicts < _CONFLICTS:
            attempt.conflicts += 1
            return True
        if self._run.ports.store is None:
            return False
        # If no transaction could even be opened, no delivery is at fault, and a probe would tell no
        # more.
        found = await away(self._run) if attempt.begun else error
        works = works_of(part)
        if found is not None:
            results.outage = found
            if attempt.begun and len(works) == 1 and works[0].fell() >= _FALLS:
                works[0].falls = 0
                results.failed.append(Failure(works[0], attempt.error or error))
            else:
                results.kept += works
            return False
        results.reached = True
        if len(works) > 1 or attempt.again or not _may_be_anothers(error, attempt):
            return False
        attempt.again = True
        return True

    async def _blame(
        self, part: Part, attempt: _Attempt, took: float, results: Results
    ) -> list[Part | Failure]:
        """A handler raised ``attempt.error``, and all is rolled back."""
        at, work, error = attempt.at, attempt.work, attempt.error
        assert error is not None
        call = part[at]
        if is_downstream(error, self._run.options.retry):
            # What came before it can take effect all the same.
            before = [part[:at]] if at else []
            steps = await self._together(before[0], results) if before else []
            results.outage = results.outage or error
            for step in (*steps, part[at:]):
                results.kept += [step.work] if isinstance(step, Failure) else works_of(step)
            return []
        if work is None and len(call.works) == 1:
            work = call.works[0]
        alone = len(part) == 1 and len(call.works) == 1
        if work is not None and (alone or is_verdict(error)):
            return around(part, at, work, Failure(work, error, took))
        if len(part) > 1:
            return around(part, at, None, None)
        return halves(part)

    async def _transaction(self, part: Part, attempt: _Attempt) -> None:
        store = self._run.ports.store
        attempt.done, attempt.begun, attempt.error = [], False, None
        if store is None:
            return await self._call_all(part, None, set(), {}, attempt)
        async with store.transaction() as tx:
            attempt.begun = True
            aside: dict[Place, HandledAs] = {}
            if self._run.options.parks:
                aside = await take_turns(tx, works_of(part))
            if old := [work for work in works_of(part) if self._run.comes_again(work.incoming)]:
                aside = await self._without_letter(tx, old) | aside
            ids = [work.event_id for work in works_of(part) if work.place not in aside]
            fresh = await tx.claim_many(self._run.durable, ids)
            if handled := [work.event_id for work in old if work.place not in aside]:
                await tx.release(self._run.durable, handled)  # How often they were tried is over.
            await self._call_all(part, tx, fresh, aside, attempt)
            for work in works_of(part):
                if self._run.lapsed(work):
                    raise Lapsed("its last delivery was not kept alive")
        return None

    async def _without_letter(
        self, tx: InboxTransaction, works: Sequence[Work]
    ) -> dict[Place, HandledAs]:
        """Keep letters from being written for them in this transaction; those that have one."""
        consumer, rows = letter_rows(self._run.durable, (work.incoming for work in works))
        fresh = await tx.claim_many(consumer, list(rows))
        return {place: "already_processed" for row, place in rows.items() if row not in fresh}

    async def _call_all(
        self,
        part: Part,
        tx: InboxTransaction | None,
        fresh: set[str],
        aside: Mapping[Place, HandledAs],
        attempt: _Attempt,
    ) -> None:
        now, done = self._run.now, attempt.done
        for at, call in enumerate(part):
            wanted: Sequence[Work] = call.works
            if tx is not None and not (wanted := _unclaimed(call.works, fresh, aside, done)):
                continue
            attempt.at, attempt.began = at, now()
            try:
                events = []
                for work in wanted:
                    attempt.work = work
                    events.append(call.registration.read(work))
                attempt.work = None
                handled = await call_handler(self._run, call.registration, wanted, events, tx)
            except Exception as error:
                attempt.error = error
                raise
            took = now() - attempt.began
            outcome: HandledAs = "handled" if handled else "already_processed"
            done += [(work, outcome, took) for work in wanted]


def _may_be_anothers(error: StoreUnavailable, attempt: _Attempt) -> bool:
    """Whether an error that only this delivery met may be absent when it is run again: a session
    ends with its server or by an administrator's hand, and no handler raised what our own
    statements met. A handler that was cancelled for its time may have cost it its session."""
    if attempt.error is None:
        return not isinstance(error, TransactionConflict)
    return isinstance(error, SessionLost) and not isinstance(attempt.error, TimeoutError)


def _unclaimed(
    works: Sequence[Work], fresh: set[str], aside: Mapping[Place, HandledAs], done: list[Done]
) -> list[Work]:
    """Those to be handled now; the others are ``done``."""
    wanted = []
    for work in works:
        if work.place in aside:
            done.append((work, aside[work.place], 0.0))
        elif work.event_id in fresh:
            # Of two deliveries of one event, the first.
            fresh.discard(work.event_id)
            wanted.append(work)
        else:
            done.append((work, "already_processed", 0.0))
    return wanted


def _without(part: Part, failed_keys: set[str], results: Results) -> Part:
    """``part`` without what is behind a failed one of its key, which is kept."""
    if not failed_keys:
        return part
    left = []
    for call in part:
        results.kept += [work for work in call.works if work.key in failed_keys]
        works = tuple(work for work in call.works if work.key not in failed_keys)
        if works:
            left.append(Call(call.registration, works))
    return left
