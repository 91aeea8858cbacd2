"""What differs between two stations, singly: only of minutes whose tallies differ.

A sent event has a place, so outbox and stream are gone through side by side, ``CHUNK`` places at a
time. What a durable must have done with is asked for by id. Before anything is told it is asked for
again: a relay may have healed it, an operator redriven it in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from seaway.contracts import Broker, Store, StoredMessage
from seaway.contracts.audit import Committed, place_of
from seaway.databases.tallies import MINUTE_MS, OTHERS, Tally, millisecond
from seaway.dead_letters import Letter
from seaway.history.findings import MOST, Finding, Kind, Report, moment_of
from seaway.history.reading import spans
from seaway.history.stations import Taker, between, in_chunks, is_copy, queues
from seaway.inbox.letters import letter_row

if TYPE_CHECKING:
    from seaway.history.audit import Audit, Progress, Seen

_IDS = 1000
_HELD = 100_000
"""Of what has no counterpart in its place, so many are looked for elsewhere on the stream."""


def _written(event_id: str, stored: StoredMessage | None = None) -> datetime | None:
    at = millisecond(event_id)
    if at is not None:
        return moment_of(at)
    return None if stored is None else stored.stored_at


def _differing(
    one: Mapping[int, Tally], other: Mapping[int, Tally], since: int
) -> dict[int, Tally]:
    """By bucket, both together where they are not the same."""
    found = {}
    for bucket in one.keys() | other.keys():
        left, right = one.get(bucket, Tally()), other.get(bucket, Tally())
        if not left.same(right) and (bucket == OTHERS or bucket * MINUTE_MS >= since):
            found[bucket] = left.plus(right)
    return found


# ------------------------------------------------------------------------------- the outbox


@dataclass(slots=True)
class _Apart:
    """What was met on one side and not in the same place on the other."""

    sent: dict[str, int] = field(default_factory=dict)
    stored: dict[str, list[StoredMessage]] = field(default_factory=dict)
    more: int = 0
    """Sent ones that were too many to be held."""


async def outbox(
    broker: Broker,
    store: Store,
    seen: Seen,
    sent: Mapping[int, Tally],
    report: Report,
    reader: str,
    progress: Progress,
) -> None:
    """Compare a stream with what was sent to it."""
    name = seen.info.name
    differing = _differing(seen.read.sums(seen.first_sent, seen.last), sent, seen.since_sent)
    if not differing:
        return
    apart, window = _Apart(), seen.read.window
    ranges = spans(differing.values(), seen.first_sent, seen.last)
    total = sum(last - first + 1 for first, last in ranges)
    with progress(f"comparing {name}", total) as advance:
        for first, last in ranges:
            chunks = in_chunks(broker.admin, name, first, last, reader)
            async with aclosing(chunks) as pages:
                async for low, high, stored in pages:
                    places = {
                        place_of(one): one.event_id
                        for one in await store.sent_places(name, low, high)
                        if window.bucket(one.event_id) in differing
                    }
                    for each in stored:
                        if is_copy(each) or window.bucket(each.event_id) not in differing:
                            continue
                        if places.get(each.stream_seq) == each.event_id:
                            del places[each.stream_seq]
                        else:
                            apart.stored.setdefault(each.event_id, []).append(each)
                    for place, event_id in places.items():
                        if len(apart.sent) < _HELD:
                            apart.sent[event_id] = place
                        else:
                            apart.more += 1
                    advance(high - low + 1)
    await _missing(broker, store, seen, apart, report)
    await _unexpected(broker, store, seen, apart, report)


async def copies(broker: Broker, store: Store, seen: Seen, report: Report) -> None:
    """Of what was sent again on purpose, what was never committed."""
    there = {
        event_id: one
        for event_id, one in seen.read.copies.items()
        if one.stream_seq >= seen.first_sent
    }
    for ids in _some(there):
        known = await store.committed(ids)
        unknown = []
        for event_id in ids:
            at = millisecond(event_id)
            if event_id not in known and (at is None or at >= seen.since_sent):
                unknown.append(there[event_id])
        await _foreign(broker, store, seen, unknown, report)


async def _missing(broker: Broker, store: Store, seen: Seen, apart: _Apart, report: Report) -> None:
    name = seen.info.name
    lacking = [one for one in apart.sent if one not in apart.stored]
    if not lacking and not apart.more:
        return
    now = await broker.admin.stream(name)
    if now is None or now.max_messages_per_subject is not None:
        why = "it keeps so many events of a subject" if now is not None else "it is gone"
        report.notes.append(f"{name}: what it lacks cannot be told, since {why}")
        return
    for ids in _some(lacking):
        known = await store.committed(ids)
        for event_id in ids:
            row = known.get(event_id)
            place = apart.sent[event_id]
            if row is None or row.stream != name or row.stream_seq == 0:
                continue  # Forgotten since, or given up.
            lost = row.stream_seq < 0
            if not lost and (row.stream_seq != place or place < now.first_seq):
                continue  # Healed, or dropped by the stream, since.
            note = "its stream has lost it; the relay is to publish it again"
            if not lost:
                there = None
                if report.counts["missing", name, ""] < MOST:
                    there = await broker.admin.get(name, place)
                if there is not None and there.event_id == event_id:
                    continue
                note = "its place holds nothing"
                if there is not None:
                    note = f"its place holds {there.event_id}"
                elif place > now.last_seq:
                    note = "its place lies beyond the stream's end"
            report.add(
                Finding(
                    kind="missing",
                    stream=name,
                    event_id=event_id,
                    stream_seq=place,
                    note=note,
                    at=_written(event_id),
                )
            )
    report.counts["missing", name, ""] += apart.more


async def _unexpected(
    broker: Broker, store: Store, seen: Seen, apart: _Apart, report: Report
) -> None:
    for ids in _some(apart.stored):
        known = await store.committed(ids)
        unknown = [each for one in ids if one not in known for each in apart.stored[one]]
        await _foreign(broker, store, seen, unknown, report)
        both = [one for one in known if len(_places(seen, apart.stored[one], known[one])) > 1]
        again = await store.committed(both) if both else {}
        for event_id, row in again.items():
            await _twice(broker, seen, apart.stored[event_id], row, report)


async def _foreign(
    broker: Broker, store: Store, seen: Seen, found: Sequence[StoredMessage], report: Report
) -> None:
    """What no outbox had when it was asked, and has not now, and that is still there."""
    if not found:
        return
    known = await store.committed(list({one.event_id for one in found}))
    for each in found:
        if each.event_id in known:
            continue
        many = report.counts["foreign", seen.info.name, ""] >= MOST
        if many or await _there(broker, each):
            at = _written(each.event_id, each)
            report.add(_of(each, "foreign", at, "this database's outbox never had it"))


async def _twice(
    broker: Broker, seen: Seen, stored: Sequence[StoredMessage], row: Committed, report: Report
) -> None:
    """What was seen in more places than one, and is: a stream that went back in between, and was
    given again what it lost, has had it in both at no time."""
    name, event_id = seen.info.name, stored[0].event_id
    places = _places(seen, stored, row)
    if report.counts["twice", name, ""] < MOST:
        places = {one for one in places if await _holds(broker, name, one, event_id)}
    if len(places) > 1:
        text = ", ".join(map(str, sorted(places)))
        at = _written(event_id, stored[0])
        report.add(_of(stored[-1], "twice", at, f"in the places {text}"))


def _places(seen: Seen, stored: Sequence[StoredMessage], row: Committed) -> set[int]:
    """Where it was seen, and where the outbox has it."""
    own = row.stream == seen.info.name and row.stream_seq > 0
    return {one.stream_seq for one in stored} | ({row.stream_seq} if own else set())


def _of(stored: StoredMessage, kind: Kind, at: datetime | None, note: str) -> Finding:
    return Finding(
        kind=kind,
        stream=stored.stream,
        event_id=stored.event_id,
        stream_seq=stored.stream_seq,
        subject=stored.message.subject,
        note=note,
        at=at,
    )


# ------------------------------------------------------------------------------- the inbox


@dataclass(slots=True)
class _Wanted:
    """What a durable must have done with, in the minutes that differ."""

    taker: Taker
    subjects: Collection[str]
    buckets: Collection[int]
    first: int
    batch: dict[str, StoredMessage] = field(default_factory=dict)

    def takes(self, one: StoredMessage, bucket: int) -> bool:
        return (
            bucket in self.buckets
            and self.first <= one.stream_seq <= self.taker.floor
            and one.message.subject in self.subjects
        )


async def inbox(
    broker: Broker,
    store: Store,
    seen: Seen,
    done: Mapping[str, Mapping[int, Tally]],
    audit: Audit,
    report: Report,
    progress: Progress,
) -> None:
    """Compare a stream with what its durables whose inbox is here have done."""
    wanted: list[_Wanted] = []
    tallies: list[Tally] = []
    for taker in seen.takers:
        figures = seen.here.get(taker.durable)
        if figures is None:
            continue
        subjects = await _handled(store, seen, taker, audit)
        first = max(taker.first, seen.first_done)
        expected = seen.read.sums(taker.first, taker.floor, subjects=subjects)
        figures.events = sum(one.events for one in expected.values())
        have = done.get(taker.durable, {})
        differing = {
            bucket: one
            for bucket, one in expected.items()
            if (bucket == OTHERS or bucket * MINUTE_MS >= seen.since_done)
            and not one.same(have.get(bucket, Tally()))
        }
        if differing:
            wanted.append(_Wanted(taker, set(subjects), set(differing), first))
            tallies += differing.values()
    if not wanted:
        return
    name, window = seen.info.name, seen.read.window
    last = max(one.taker.floor for one in wanted)
    ranges = spans(tallies, min(one.first for one in wanted), min(last, seen.last))
    lacking: dict[str, dict[str, StoredMessage]] = {one.taker.durable: {} for one in wanted}
    total = sum(last - first + 1 for first, last in ranges)
    with progress(f"comparing inboxes with {name}", total) as advance:
        for first, last in ranges:
            source = between(broker.admin, name, first, last, audit.reader)
            async with aclosing(source) as messages:
                async for each in messages:
                    advance(1)
                    if is_copy(each):
                        continue
                    bucket = window.bucket(each.event_id)
                    for one in wanted:
                        if one.takes(each, bucket):
                            one.batch[each.event_id] = each
                            if len(one.batch) >= _IDS:
                                await _ask(store, one, seen, lacking, report)
        for one in wanted:
            await _ask(store, one, seen, lacking, report)
    await _no_effect(broker, store, seen, lacking, audit, report)


async def _handled(store: Store, seen: Seen, taker: Taker, audit: Audit) -> list[str]:
    """The subjects that it handles, as far as that can be told."""
    figures, handles = seen.here[taker.durable], audit.handled_by(taker.durable)
    waits = seen.queues.waits(taker.durable)
    found = []
    for subject in filter(taker.takes, seen.read.subjects):
        if handles is not None:
            known = handles(subject)
        else:
            ids = seen.read.samples(taker, subject)
            known = not ids or not waits.isdisjoint(ids)
            known = known or bool(await store.claimed(taker.durable, ids))
        if known:
            found.append(subject)
        else:
            sums = seen.read.sums(taker.first, taker.floor, subjects=[subject])
            if count := sum(one.events for one in sums.values()):
                figures.ignored[subject] = count
    return found


async def _ask(
    store: Store,
    one: _Wanted,
    seen: Seen,
    lacking: Mapping[str, dict[str, StoredMessage]],
    report: Report,
) -> None:
    ids, batch = list(one.batch), dict(one.batch)
    one.batch.clear()
    if not ids:
        return
    durable = one.taker.durable
    has = await store.claimed(durable, ids)
    waits = seen.queues.waits(durable)
    for event_id in ids:
        if event_id not in has and event_id not in waits:
            if len(lacking[durable]) < MOST:
                lacking[durable][event_id] = batch[event_id]
            else:
                report.counts["no_effect", seen.info.name, durable] += 1


async def _no_effect(
    broker: Broker,
    store: Store,
    seen: Seen,
    lacking: Mapping[str, dict[str, StoredMessage]],
    audit: Audit,
    report: Report,
) -> None:
    """Asked once more, since a letter may have been redriven while the queues were read."""
    suspects = [durable for durable, found in lacking.items() if found]
    if not suspects:
        return
    again = await queues(broker, seen.context, suspects, audit.reader)
    for durable in suspects:
        messages = lacking[durable]
        waits = again.waits(durable)
        for ids in _some(messages):
            has = await store.claimed(durable, ids)
            rows = {one: letter_row(durable, messages[one].place, one)[1] for one in ids}
            noted = list(rows.values())
            dropped = await store.claimed(f"{durable} letters discarded", noted)
            stored = await store.claimed(f"{durable} letters stored", noted)
            for event_id in ids:
                row = rows[event_id]
                if event_id in has or event_id in waits or row in dropped:
                    continue
                each = messages[event_id]
                report.add(
                    Finding(
                        kind="no_effect",
                        stream=seen.info.name,
                        consumer=durable,
                        event_id=event_id,
                        stream_seq=each.stream_seq,
                        subject=each.message.subject,
                        note="its letter was stored, and is not there any more"
                        if row in stored
                        else "the durable has acknowledged it",
                        at=_written(event_id, each),
                    )
                )


# ------------------------------------------------------------------------------- letters


async def letters(broker: Broker, store: Store, seen: Seen, report: Report) -> None:
    """Letters of events that have their effect, or that there are none of."""
    name, since = seen.info.name, seen.read.window.since
    for durable in seen.here:
        mine = [one for one in seen.queues.letters if one.consumer == durable]
        for ids in _some([one.event_id for one in mine]):
            has = await store.claimed(durable, ids)
            for one in mine:
                if one.event_id in has and await _there(broker, one.stored):
                    report.add(_letter(one, "effect_and_letter", name, "redriven and handled"))
    for one in seen.queues.letters:
        at = millisecond(one.event_id)
        if one.event_id in seen.read.marked or (at is not None and at < since):
            continue
        if at is None and (one.stream != name or one.stream_seq < seen.first_sent):
            continue
        if await store.committed([one.event_id]):
            continue  # Its stream has lost it, which is told there.
        if (
            one.stream == name
            and one.has_place
            and await _holds(broker, name, one.stream_seq, one.event_id)
        ):
            continue
        if await _there(broker, one.stored):
            note = one.problem or f"{one.stream}:{one.stream_seq} does not hold it"
            report.add(_letter(one, "letter_without_event", name, note))


async def _there(broker: Broker, stored: StoredMessage) -> bool:
    return await _holds(broker, *stored.place, stored.event_id)


async def _holds(broker: Broker, stream: str, stream_seq: int, event_id: str) -> bool:
    found = await broker.admin.get(stream, stream_seq)
    return found is not None and found.event_id == event_id


def _letter(one: Letter, kind: Kind, stream: str, note: str) -> Finding:
    return Finding(
        kind=kind,
        stream=stream,
        consumer=one.consumer,
        event_id=one.event_id,
        subject=one.subject,
        letter=one.id,
        note=note,
        at=_written(one.event_id),
    )


def _some(ids: Iterable[str]) -> Iterable[Sequence[str]]:
    every = list(ids)
    for start in range(0, len(every), _IDS):
        yield every[start : start + _IDS]
