"""Which handler is called with what, and where a failed transaction is parted. Pure.

Owns: deliveries grouped into calls. Guarantees: a delivery is never moved before an earlier one of
its key, nor is it when calls are parted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seaway.consumer.handlers import HandlerTable, Registration
from seaway.consumer.lanes import Work
from seaway.errors import DecodeError


class Call(NamedTuple):
    """A handler and the deliveries it is called with: one, or for a batch handler several."""

    registration: Registration
    works: tuple[Work, ...]


Part = Sequence[Call]
"""Calls that share a transaction."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A delivery that failed, by whose fault, and after how many seconds."""

    work: Work
    error: Exception
    took: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with some deliveries: in turn the ``steps``; nobody takes the ``ignored``."""

    steps: list[Part | Failure]
    ignored: list[Work]


def plan(works: Iterable[Work], handlers: HandlerTable, *, ordered: bool) -> Plan:
    """Group ``works`` into calls. What cannot be read is a failure in its place.

    A batch handler gets what it takes in one list, as far as no event of the same key and of
    another handler lies between.
    """
    made = Plan([], [])
    calls: list[Call] = []
    open_calls: dict[int, int] = {}
    last_of_key: dict[str, int] = {}
    for work in works:
        registration = handlers.find(work.subject)
        if registration is None:
            made.ignored.append(work)
            continue
        try:
            work.read_headers()
        except DecodeError as error:
            if calls:
                made.steps.append(calls)
            made.steps.append(Failure(work, error))
            calls, open_calls, last_of_key = [], {}, {}
            continue
        at = open_calls.get(id(registration)) if registration.takes_lists else None
        if at is not None and (not ordered or last_of_key.get(work.key, at) <= at):
            calls[at] = Call(registration, (*calls[at].works, work))
        else:
            at = open_calls[id(registration)] = len(calls)
            calls.append(Call(registration, (work,)))
        last_of_key[work.key] = at
    if calls:
        made.steps.append(calls)
    return made


def around(part: Part, at: int, work: Work | None, failure: Failure | None) -> list[Part | Failure]:
    """``part`` parted where its call number ``at`` failed: what is before, the call, what is after.

    ``work``: which delivery of the call it was, where that is known. ``failure``: what to put in
    its place; otherwise it is tried by itself.
    """
    call = part[at]
    place = 0 if work is None else call.works.index(work)
    end = len(call.works) if work is None else place + 1
    before = [*part[:at], *_calls(call, call.works[:place])]
    after = [*_calls(call, call.works[end:]), *part[at + 1 :]]
    middle: Part | Failure = failure or _calls(call, call.works[place:end])
    return [step for step in (before, middle, after) if step]


def halves(part: Part) -> list[Part | Failure]:
    """``part``, of two deliveries or more, parted in the middle."""
    if len(part) > 1:
        middle = len(part) // 2
        return [part[:middle], part[middle:]]
    (call,) = part
    middle = len(call.works) // 2
    return [_calls(call, call.works[:middle]), _calls(call, call.works[middle:])]


def works_of(part: Part) -> list[Work]:
    """Its deliveries, in order."""
    return [work for call in part for work in call.works]


def _calls(call: Call, works: tuple[Work, ...]) -> list[Call]:
    return [Call(call.registration, works)] if works else []
