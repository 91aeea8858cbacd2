"""What a run of redrives did, and what has become of its letters by now. Looking only.

A run that waited for outcomes has noted them. Of what was only sent it is looked now: in the inbox,
in the queue and in the stream of redrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from seaway.contracts import Broker, Run, RunItem, Store
from seaway.dead_letters import DeadLetters
from seaway.errors import NotFound, TransientError
from seaway.headers import format_time
from seaway.mending.runs import FATES, KIND
from seaway.mending.watching import Watch, sent_of


@dataclass(slots=True)
class PastRun:
    """``items``: its letters with what is known of them. ``unknown``: why that is not all."""

    run: Run
    items: Sequence[RunItem]
    unknown: str = ""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By consumer, letters by what became of them; ``sent``: nothing is known yet."""

    def __post_init__(self) -> None:
        for one in self.items:
            self.counts.setdefault(one.consumer, Counter())[one.state] += 1

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return run_json(self.run) | {
            "consumers": {name: dict(some) for name, some in sorted(self.counts.items())},
            "unknown": self.unknown or None,
            "letters": [
                {
                    "id": one.item,
                    "event_id": one.event_id,
                    "consumer": one.consumer,
                    "became": one.state,
                    "detail": one.detail,
                }
                for one in self.items
            ],
        }


def run_json(run: Run) -> dict[str, Any]:
    """A run as it is noted."""
    times = {"begun_at": run.begun_at, "changed_at": run.changed_at, "ended_at": run.ended_at}
    return {
        "run": run.run,
        "about": run.about,
        "by": run.by,
        "state": run.state,
        "plan": dict(run.plan),
        "progress": dict(run.progress),
        **{name: None if at is None else format_time(at) for name, at in times.items()},
    }


async def past_run(
    store: Store, run: str, broker: Broker | None, letters: DeadLetters | None
) -> PastRun:
    """One run. Without ``broker``, or where it is away, ``sent`` is all that is said of what was
    sent and not waited for. ``NotFound`` where there is none of that id."""
    found = await store.run(run)
    if found is None or found.kind != KIND:
        raise NotFound(f"there is no run {run}: seaway dlq runs")
    items: list[RunItem] = []
    while page := await store.run_items(run, after=items[-1].item if items else ""):
        items += page
    if not any(one.state == "sent" for one in items):
        return PastRun(found, items)
    if broker is None or letters is None:
        return PastRun(found, items, "the server is not reached")
    try:
        return PastRun(found, await _by_now(store, found, items, broker, letters))
    except TransientError as error:
        return PastRun(found, items, str(error))


async def _by_now(
    store: Store, run: Run, items: Sequence[RunItem], broker: Broker, letters: DeadLetters
) -> Sequence[RunItem]:
    if run.plan.get("to") == "all":
        return items
    watch = Watch(broker, letters, store, run.plan.get("ends", {}))
    for one in items:
        if one.state == "sent":
            watch.expect(sent_of(one))
    fates = {one.sent.id: one for one in await watch.look()}
    return [
        one._replace(state=fates[one.item].became, detail=fates[one.item].detail)
        if one.item in fates
        else one
        for one in items
    ]


def sent_count(run: Run) -> int:
    """How many letters it has sent, as it says itself."""
    return int(run.progress.get("sent", 0))


def known_count(run: Run) -> int:
    """Of how many of them it knows what became."""
    return sum(int(run.progress.get(one, 0)) for one in FATES)
