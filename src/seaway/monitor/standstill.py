"""What stands still, and why: events that wait, processes that say they wait, idle durables. Pure.

Owns: judging progress. A process that waits says so itself (``contracts.Notice``); where none
does, what the server knows of a durable and the outbox's oldest event tell it from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from seaway.contracts import ConsumerInfo, Notice, OutboxEntry, StreamInfo
from seaway.errors import ConfigError
from seaway.monitor.findings import Finding, State, judge
from seaway.monitor.snapshot import Snapshot
from seaway.naming import context_of, events_stream
from seaway.words import counted, human_duration

OUTBOX_AGE_WARNING_SECONDS, OUTBOX_AGE_CRITICAL_SECONDS = 60, 600
WAITING_CRITICAL_SECONDS = 600
IDLE_WARNING_SECONDS, IDLE_CRITICAL_SECONDS = 60, 600
_TWO_LOOKS_SECONDS = 1.0


def waiting(snapshot: Snapshot) -> Iterator[Finding]:
    """What live processes say that they wait for: one finding for each part and thing."""
    waits: dict[tuple[str, str], list[Notice]] = {}
    for notice in snapshot.processes or ():
        if notice.live and notice.waits:
            waits.setdefault((notice.part, notice.about), []).append(notice)
    for (part, about), told in sorted(waits.items()):
        longest = max(told, key=lambda one: one.lasts)
        others = len({one.process for one in told}) - 1
        where = shown(longest) + (f" and {others} more" if others else "")
        lasts = longest.lasts.total_seconds()
        yield judge(
            "waiting",
            f"{part}/{about}",
            max(lasts, 0.001),
            0,
            WAITING_CRITICAL_SECONDS,
            f"{part} waits for {about}, for {human_duration(longest.lasts)}: {longest.reason}",
            f"mend that, and it goes on by itself; more in the log of {where}",
        )


def outbox(snapshot: Snapshot) -> Iterator[Finding]:
    """How long the oldest event has waited, and what holds it up."""
    if snapshot.outbox is None:
        return
    backlog, age = snapshot.outbox, snapshot.outbox_age_seconds
    held = ", behind a parked event of its key" if backlog.oldest_held else ""
    yield judge(
        "outbox_age",
        "outbox",
        age,
        OUTBOX_AGE_WARNING_SECONDS,
        OUTBOX_AGE_CRITICAL_SECONDS,
        f"{counted(backlog.count, 'event waits', 'events wait')}, the oldest for {age:.0f} s{held}",
        _what_publishes(snapshot),
    )


def _what_publishes(snapshot: Snapshot) -> str:
    if snapshot.outbox is not None and snapshot.outbox.oldest_held:
        return "seaway outbox list --parked; seaway outbox retry"
    if snapshot.processes is None:
        return "is a relay running? seaway relay; seaway outbox status"
    return _explained("relay", snapshot.processes) or "no relay says that it runs: seaway relay"


def why_events_wait(
    entries: Sequence[OutboxEntry], processes: Sequence[Notice], *, held: bool
) -> list[str]:
    """For each of ``entries``, in outbox order, what holds it up; empty where nobody knows.

    ``held``: events wait behind a parked one of their key.
    """
    waits = sorted(
        (one for one in processes if one.part == "relay" and one.live and one.waits),
        key=lambda one: one.lasts,
    )
    said = {one.about: one.reason for one in waits}
    runs = any(one.part == "relay" and one.live for one in processes)
    parked: dict[str, str] = {}
    found = []
    for entry in entries:
        if entry.parked_at is not None:
            parked.setdefault(entry.key, entry.event_id)
            found.append(entry.last_error or "")
        elif held and entry.key in parked:
            found.append(f"waits behind {parked[entry.key]}, the parked one of its key")
        else:
            told = said.get(_stream_of(entry)) or said.get("outbox") or entry.last_error
            found.append(told or ("" if runs else "no relay says that it runs: seaway relay"))
    return found


def _stream_of(entry: OutboxEntry) -> str:
    try:
        return events_stream(context_of(entry.message.subject))
    except ConfigError:  # A subject of another program's making.
        return ""


def consumers(snapshot: Snapshot, unmoved: Mapping[tuple[str, str], float]) -> Iterator[Finding]:
    """Each durable that has something to do, and whether it gets on.

    ``unmoved``: for how many seconds a watcher has seen nothing happen to it.
    """
    for consumer in snapshot.consumers:
        found = _progress(consumer, snapshot, unmoved.get(consumer.key, 0.0))
        if found is not None:
            yield found


def _progress(consumer: ConsumerInfo, snapshot: Snapshot, unmoved: float) -> Finding | None:
    where = f"{consumer.stream}/{consumer.durable}"
    pending, held = consumer.num_pending, consumer.num_ack_pending
    full = consumer.max_ack_pending is not None and held >= consumer.max_ack_pending
    if not consumer.pulled or not (pending or full):
        return None
    if consumer.paused_until is not None:
        until = f"{consumer.paused_until:%Y-%m-%dT%H:%M:%SZ}"
        message = f"{where} is paused until {until}, {counted(pending, 'message')} pending"
        return _told(where, message, "it goes on by itself then")
    part, idle_for = f"consumer {consumer.durable}", _idle_seconds(consumer)
    why = _explained(part, snapshot.processes or ())
    if consumer.never_pulled and not why:
        message = f"nobody has ever taken from {where}, {counted(pending, 'message')} pending"
        return _told(where, message, snapshot.ways_without.get(consumer.key, "start its consumer"))
    if held:
        idle = max(unmoved, idle_for or 0.0)
        limit = max(IDLE_WARNING_SECONDS, consumer.ack_wait.total_seconds())
        message = (
            f"{where} holds {counted(held, 'message')} and gets on with none, {pending} pending"
        )
        look = "see whether its handlers hang: its log"
    elif consumer.num_waiting:
        idle, limit = unmoved, IDLE_WARNING_SECONDS
        message = f"{where} gives nothing out, {counted(pending, 'message')} pending"
        look = f"seaway consumer info {consumer.stream} {consumer.durable}"
    else:
        idle, limit = max(unmoved, idle_for or 0.0), IDLE_WARNING_SECONDS
        if idle_for is None and unmoved >= _TWO_LOOKS_SECONDS:
            idle = max(idle, limit + unmoved)  # The server has forgotten since when: restarted.
        message = f"nobody takes from {where}, {counted(pending, 'message')} pending"
        look = "no process here says that it runs this consumer: start it"
    # Only what surely lasts is critical: its messages may have come just now.
    certain = max(unmoved, _surely_idle_seconds(consumer, snapshot.stream(consumer.stream)))
    critical = IDLE_CRITICAL_SECONDS if not held and certain > IDLE_CRITICAL_SECONDS else None
    return judge("consumer_standstill", where, idle, limit, critical, message, why or look)


def _idle_seconds(consumer: ConsumerInfo) -> float | None:
    """For how long nothing has been delivered or acknowledged; ``None``: not known."""
    return _between(consumer.last_active_at, consumer.asked_at)


def _surely_idle_seconds(consumer: ConsumerInfo, stream: StreamInfo | None) -> float:
    """For how long it has surely had something to do and not done it: nothing came since."""
    idle = _idle_seconds(consumer)
    quiet = _between(stream.last_at if stream else None, consumer.asked_at)
    return 0.0 if quiet is None else quiet if idle is None else min(idle, quiet)


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    if earlier is None or later is None:
        return None
    return max(0.0, (later - earlier).total_seconds())


def _told(subject: str, message: str, next_move: str) -> Finding:
    return Finding("consumer_standstill", subject, State.OK, message, next_move=next_move)


def _explained(part: str, processes: Sequence[Notice]) -> str:
    """What the processes with this part say, or that they are silent; empty: there are none."""
    ours = [one for one in processes if one.part == part]
    live = [one for one in ours if one.live]
    if waits := [one for one in live if one.waits]:
        longest = max(waits, key=lambda one: one.lasts)
        return f"{part} waits for {longest.about}: {longest.reason}"
    if live:
        return f"{part} runs on {shown(live[0])} and says of nothing that it waits for: see its log"
    if ours:
        last = min(ours, key=lambda one: one.silent)
        gone = human_duration(last.silent)
        return f"{part} has not been heard of for {gone}, last on {shown(last)}: start it again"
    return ""


def shown(notice: Notice) -> str:
    """The process for people: ``host:pid``."""
    return notice.process.rpartition(":")[0] or notice.process
