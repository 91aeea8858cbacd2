"""Calls of handlers: deliveries grouped into calls, each call made, and parted where it failed.

Owns: who is called with what; until when, ``deadlines`` says. Guarantees: a delivery is never moved
before an earlier one of its key, nor is it when calls are parted; a handler that is cancelled may
take longer to end; one that lets a foreign cancellation escape has failed, and does not end its
worker. Plain handlers are called here too, in the thread that carries their transaction: past its
deadline that one cannot commit.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from seaway.consumer.deadlines import Deadline, Deadlines, ThreadDeadline
from seaway.consumer.handlers import Delivery, HandlerTable, Registration, require_written
from seaway.consumer.lanes import InHand
from seaway.contracts import InboxTransaction, OutboxWriter
from seaway.errors import AlreadyProcessed, ConfigError, DecodeError
from seaway.events import Chain, continued
from seaway.inbox.threads import Carried
from seaway.inside import Inside
from seaway.telemetry import HandledAs
from seaway.waiting_events import Place

_OUTSIDE = nullcontext()
"""Without a database nobody asks for a transaction's handle."""


class Call(NamedTuple):
    """A handler and the deliveries it is called with: one, or for a batch handler several."""

    registration: Registration
    items: tuple[InHand, ...]


Group: TypeAlias = Sequence[Call]
"""Calls that share a transaction."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that failed, by whose fault, and after how many seconds."""

    item: InHand
    error: Exception
    took: float = 0.0


Done: TypeAlias = tuple[InHand, HandledAs, float]
"""A delivery that took effect, how, and in how many seconds."""


@dataclass(slots=True)
class Attempt:
    """Who was at work, since when, what went wrong there, and what had ended well before."""

    at: int = 0
    began: float = 0.0
    item: InHand | None = None
    error: Exception | None = None
    done: list[Done] = field(default_factory=list)
    begun: bool = False
    """Whether there was a transaction at all."""
    conflicts: int = 0
    again: bool = False
    """Whether it was run again, alone, since others may have been the cause."""

    def take_over(self, run: Attempt) -> None:
        """What became of ``run``, which a thread may not be done with."""
        self.at, self.began, self.item = run.at, run.began, run.item
        self.error, self.done, self.begun = run.error, list(run.done), run.begun


# ---------------------------------------------------------------------- grouped, and parted


def plan(
    items: Iterable[InHand], handlers: HandlerTable, *, ordered: bool
) -> tuple[list[Group | Failure], list[InHand]]:
    """``items`` grouped into calls, to be made in turn; and those that nobody takes.

    What cannot be read is a failure in its place. A batch handler gets what it takes in one list,
    as far as no event of the same key and of another handler lies between.
    """
    steps: list[Group | Failure] = []
    ignored: list[InHand] = []
    calls: list[Call] = []
    open_calls: dict[int, int] = {}
    last_of_key: dict[str, int] = {}
    for item in items:
        registration = handlers.find(item.subject)
        if registration is None:
            ignored.append(item)
            continue
        try:
            item.read_headers()
        except DecodeError as error:
            if calls:
                steps.append(calls)
            steps.append(Failure(item, error))
            calls, open_calls, last_of_key = [], {}, {}
            continue
        at = open_calls.get(id(registration)) if registration.takes_lists else None
        if at is not None and (not ordered or last_of_key.get(item.key, at) <= at):
            calls[at] = Call(registration, (*calls[at].items, item))
        else:
            at = open_calls[id(registration)] = len(calls)
            calls.append(Call(registration, (item,)))
        last_of_key[item.key] = at
    if calls:
        steps.append(calls)
    return steps, ignored


def around(
    group: Group, at: int, item: InHand | None, failure: Failure | None
) -> list[Group | Failure]:
    """``group`` parted where its call number ``at`` failed: what is before, the call, what is
    after.

    ``item``: which delivery of the call it was, where that is known. ``failure``: what to put in
    its place; otherwise it is tried by itself.
    """
    call = group[at]
    place = 0 if item is None else call.items.index(item)
    end = len(call.items) if item is None else place + 1
    before = [*group[:at], *_calls(call, call.items[:place])]
    after = [*_calls(call, call.items[end:]), *group[at + 1 :]]
    middle: Group | Failure = failure or _calls(call, call.items[place:end])
    return [step for step in (before, middle, after) if step]


def halves(group: Group) -> list[Group | Failure]:
    """``group``, of two deliveries or more, parted in the middle."""
    if len(group) > 1:
        middle = len(group) // 2
        return [group[:middle], group[middle:]]
    (call,) = group
    middle = len(call.items) // 2
    return [_calls(call, call.items[:middle]), _calls(call, call.items[middle:])]


def without_keys(group: Group, keys: set[str]) -> tuple[Group, list[InHand]]:
    """``group`` without the deliveries of these ``keys``; and those."""
    left, out = [], []
    for call in group:
        out += [item for item in call.items if item.key in keys]
        left += _calls(call, tuple(item for item in call.items if item.key not in keys))
    return left, out


def items_of(group: Group) -> list[InHand]:
    """Its deliveries, in order."""
    return [item for call in group for item in call.items]


def _calls(call: Call, items: tuple[InHand, ...]) -> list[Call]:
    return [Call(call.registration, items)] if items else []


# ---------------------------------------------------------------------- called


class Caller:
    """Calls the handlers of one consumer."""

    def __init__(
        self, outbox: OutboxWriter | None, made: Callable[..., Delivery] = Delivery
    ) -> None:
        """``made``: makes what handlers are given beside the events, as ``Delivery`` does."""
        self._outbox = outbox
        self._made = made
        self._now = asyncio.get_running_loop().time
        self.deadlines = Deadlines()

    async def call_all(
        self,
        group: Group,
        attempt: Attempt,
        *,
        within: timedelta,
        tx: InboxTransaction | None = None,
        fresh: Collection[str] = (),
        aside: Mapping[Place, HandledAs] | None = None,
        carried: Carried[None] | None = None,
    ) -> None:
        """Call the handlers of ``group`` in turn, each for so long at the most; what has become of
        each delivery is put into ``attempt``. Raises what one of them raises.

        In a transaction ``tx``: with those deliveries only whose events are ``fresh`` there, and
        that are not set ``aside``. ``carried``: plain handlers, in its thread; then it never
        suspends.
        """
        now, done, seconds, left = self._now, attempt.done, within.total_seconds(), set(fresh)
        handle = None if tx is None else tx.handle
        task = asyncio.current_task() if carried is None else None
        for at, call in enumerate(group):
            if tx is not None:
                wanted = _unclaimed(call.items, left, aside or {}, done)
                if not wanted:
                    continue
                call = Call(call.registration, wanted)
            attempt.at, attempt.began = at, now()
            try:
                events = []
                for item in call.items:
                    attempt.item = item
                    events.append(call.registration.read(item))
                attempt.item = None
                until = attempt.began + seconds
                deliveries = deliveries_of(call, handle, self._outbox, self._made)
                with _OUTSIDE if tx is None else Inside(handle):
                    if task is not None:
                        deadline = Deadline(self.deadlines, task, until)
                        handled = await _call(call, events, deliveries, deadline)
                    else:
                        assert carried is not None
                        carried.about = call.registration
                        limit = ThreadDeadline(self.deadlines, until, carried)
                        handled = call_plain(call, events, deliveries, limit)
            except Exception as error:
                attempt.error = error
                raise
            took = now() - attempt.began
            outcome: HandledAs = "handled" if handled else "already_processed"
            done += [(item, outcome, took) for item in call.items]


def deliveries_of(
    call: Call,
    handle: Any,
    outbox: OutboxWriter | None,
    made: Callable[..., Delivery] = Delivery,
) -> list[Delivery]:
    """What its handler is given beside the events."""
    if not call.registration.takes_lists:
        (item,) = call.items
        return [made(item.counted(), item.metadata, handle, outbox)]
    return [
        made(item.counted(), item.metadata, handle, outbox, _chain(item)) for item in call.items
    ]


def _unclaimed(
    items: Sequence[InHand], fresh: set[str], aside: Mapping[Place, HandledAs], done: list[Done]
) -> tuple[InHand, ...]:
    """Those to be handled now; the others are ``done``."""
    wanted = []
    for item in items:
        if item.place in aside:
            done.append((item, aside[item.place], 0.0))
        elif item.event_id in fresh:
            # Of two deliveries of one event, the first.
            fresh.discard(item.event_id)
            wanted.append(item)
        else:
            done.append((item, "already_processed", 0.0))
    return tuple(wanted)


async def _call(
    call: Call, events: list[Any], deliveries: list[Delivery], deadline: Deadline
) -> bool:
    """True if the handler handled them, false if it raised ``AlreadyProcessed``.

    ``events``: those of the call's deliveries. Raises what the handler raises, ``TimeoutError``
    past its deadline.
    """
    registration = call.registration
    # Not 0: until Python 3.13 a TaskGroup that failed in an earlier handler is counted for ever.
    cancelling = deadline.task.cancelling()
    try:
        with deadline:
            if registration.takes_lists:
                await registration.handler(events, deliveries)
            else:
                with continued(_chain(call.items[0])):
                    await registration.handler(events[0], deliveries[0])
    except AlreadyProcessed:
        return False
    except asyncio.CancelledError as error:
        if deadline.task.cancelling() > cancelling:
            raise
        # Not our cancellation: it would end this worker without a word.
        raise RuntimeError("the handler awaited something that was cancelled") from error
    for delivery in deliveries:
        require_written(delivery)
    return True


def call_plain(
    call: Call,
    events: list[Any],
    deliveries: list[Delivery],
    deadline: AbstractContextManager[None],
) -> bool:
    """The same in a thread."""
    registration = call.registration
    try:
        with deadline:
            if registration.takes_lists:
                given = registration.handler(events, deliveries)
            else:
                with continued(_chain(call.items[0])):
                    given = registration.handler(events[0], deliveries[0])
    except AlreadyProcessed:
        return False
    except StopIteration as error:
        # A coroutine, as is what calls us, would take it for its own end.
        raise RuntimeError("the handler raised StopIteration") from error
    except Exception:
        raise
    except BaseException as error:
        # Meant for a process or a task, it would end neither, but the thread.
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
    if inspect.isawaitable(given):
        if inspect.iscoroutine(given):
            given.close()
        raise ConfigError(
            "the handler is a plain function and returned something to be awaited",
            hint="write it as async def, or have it return nothing",
        )
    return True


def _chain(item: InHand) -> Chain:
    found = item.metadata
    return Chain(found.correlation_id, found.event_id, found.traceparent, found.tracestate)
