"""The simulated service: its events, and the changes that it is going to make.

Owns: the event classes, and the plan of transactions that follows from a seed. Pure; touches no
database. Guarantees: the same number of cases and the same seed give the same plan, so that a run
that was killed goes on where its database says it stopped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias

from seaway.demo.log import XES, Columns, read_log
from seaway.events import RawEvent, Registry, event
from seaway.naming import EventSubject

CONTEXT = "sea"

_registry = Registry()
"""Of its own: an application that has a ``CaseCreated`` too must not meet this one."""

Attempt: TypeAlias = Literal["once", "rolled_back", "savepoint"]
"""How a change is made: at once; or after a first attempt that a rollback (of the transaction, of
a savepoint inside it) undoes, as when a person's form fails half way and is sent again."""


@event(context=CONTEXT, registry=_registry)
@dataclass(frozen=True, slots=True)
class CaseCreated:
    """Somebody applied. ``postcode`` is as the applicant wrote it."""

    case_id: str
    applicant: str
    postcode: str


@event(context=CONTEXT, registry=_registry)
@dataclass(frozen=True, slots=True)
class TaskOpened:
    """A task of the case waits for somebody."""

    case_id: str
    task: str


@event(context=CONTEXT, registry=_registry)
@dataclass(frozen=True, slots=True)
class TaskCompleted:
    """A task was done."""

    case_id: str
    task: str
    minutes: int


@event(context=CONTEXT, registry=_registry)
@dataclass(frozen=True, slots=True)
class CaseClosed:
    """The case is decided."""

    case_id: str
    decision: Literal["granted", "refused"]


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one case: its new status, and the events that tell of it, in order."""

    case_id: str
    status: str
    events: tuple[object, ...]
    attempt: Attempt = "once"


_NAMES = ("Ada", "Björn", "Chen", "Dario", "Edda", "Fatima", "Grace", "Hugo", "Ines", "Jun")
_TASKS = ("check_papers", "ask_for_advice", "inspect_site", "assess_costs")
_TASK_COMPLETED = str(EventSubject(CONTEXT, "task_completed"))
_IN_PROGRESS = 20
_ROLLED_BACK_SHARE = 0.04
_SAVEPOINT_SHARE = 0.02
_FOREIGN_POSTCODE_SHARE = 0.02
_SPELLED_OUT_SHARE = 0.01


def case_changes(cases: int, seed: int) -> Iterator[Change]:
    """The changes to ``cases`` simulated cases, a few cases being in progress at any time.

    Lazily, in the order in which they are to be made; each case's own changes keep their order.
    """
    rng = random.Random(seed)
    waiting = iter(range(1, cases + 1))
    in_progress: list[Iterator[Change]] = []
    while True:
        while len(in_progress) < _IN_PROGRESS and (number := next(waiting, None)) is not None:
            in_progress.append(_case(number, random.Random(f"{seed}/{number}")))
        if not in_progress:
            return
        chosen = rng.randrange(len(in_progress))
        change = next(in_progress[chosen], None)
        if change is None:
            in_progress[chosen] = in_progress[-1]
            in_progress.pop()
        else:
            yield change


def _case(number: int, rng: random.Random) -> Iterator[Change]:
    case_id = f"case-{number:06d}"
    tasks = rng.sample(_TASKS, rng.randint(1, 3))
    foreign = rng.random() < _FOREIGN_POSTCODE_SHARE
    created = CaseCreated(
        case_id,
        rng.choice(_NAMES),
        f"{'D-' if foreign else ''}{rng.randrange(10_000, 99_999)}",
    )
    opened = (TaskOpened(case_id, task) for task in tasks)
    yield Change(case_id, "open", (created, *opened), _attempt(rng))
    for task in tasks[:-1]:
        yield Change(case_id, "in_progress", (_completed(case_id, task, rng),), _attempt(rng))
    decision: Literal["granted", "refused"] = "granted" if rng.random() < 0.7 else "refused"
    last = (_completed(case_id, tasks[-1], rng), CaseClosed(case_id, decision))
    yield Change(case_id, "closed", last, _attempt(rng))


def _attempt(rng: random.Random) -> Attempt:
    chance = rng.random()
    if chance < _ROLLED_BACK_SHARE:
        return "rolled_back"
    return "savepoint" if chance < _ROLLED_BACK_SHARE + _SAVEPOINT_SHARE else "once"


def _completed(case_id: str, task: str, rng: random.Random) -> object:
    minutes = rng.randint(1, 240)
    done = TaskCompleted(case_id, task, minutes)
    if rng.random() >= _SPELLED_OUT_SHARE:
        return done
    # A writer with a bug: bytes that do not validate as the event that their subject names.
    wrong = {"case_id": case_id, "task": task, "minutes": f"about {minutes}"}
    return RawEvent(_TASK_COMPLETED, json.dumps(wrong).encode())


def repaired(payload: bytes) -> bytes | None:
    """The payload with its minutes as a number; ``None`` where nothing is to be repaired."""
    try:
        content = json.loads(payload)
        minutes = content["minutes"]
        if not isinstance(minutes, str):
            return None
        content["minutes"] = int(minutes.removeprefix("about "))
    except (ValueError, KeyError, TypeError):
        return None
    return json.dumps(content).encode()


def log_changes(
    path: Path, event_names: Mapping[str, str], columns: Columns = XES
) -> Iterator[Change]:
    """One change a row of the log, in its order; the whole row is the event's payload."""
    subjects = {
        activity: str(EventSubject(CONTEXT, name, 1)) for activity, name in event_names.items()
    }
    for row in read_log(path, columns):
        raw = RawEvent(subjects[row.activity], row.payload, occurred_at=row.occurred_at)
        yield Change(row.case_id, row.activity, (raw,))


def transactions(changes: Iterable[Change], size: int) -> Iterator[tuple[Change, ...]]:
    """``changes`` in groups of ``size`` (the last may be smaller), each to be one transaction."""
    source = iter(changes)
    while group := tuple(islice(source, size)):
        yield group
